"""Progress of an open rotation and of the rows of each table; and the ETA, the same wherever it is shown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

from keyrotation_pipeline.audit.events import AuditEntry, entries, recorded
from keyrotation_pipeline.model import eta
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.progress import IN_AN_EMERGENCY, PaceSet, Rewritten, ShardProgress, TableProgress
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.request_events import GROW_WITH_ROWS, StatusChanged
from keyrotation_pipeline.model.requests import WALK, RequestAction, RequestStatus, RotationType, Step, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline


def progress_and_eta(pipeline: Pipeline, walk: Walk, counts: Sequence[TableCount]) -> tuple[float, int | None]:
    """Progress, 0 to 1; and the remaining seconds, None where it is not running."""
    if walk.started_at is None:
        return 0.0, None
    far = _so_far(pipeline, walk, counts)
    running = walk.status is RequestStatus.RUNNING and walk.blocked_by is None
    return round(eta.progress(far), 4), round(eta.seconds_left(far)) if running else None


def seconds_left(pipeline: Pipeline, request: str) -> int | None:
    """The remaining seconds of a rotation, as `status` has them."""
    return progress_and_eta(pipeline, pipeline.ledger.walk(request), pipeline.ledger.counts(pipeline.tables))[1]


def as_long_as_last_time(pipeline: Pipeline, walk: Walk) -> float | None:
    """Seconds from the rows to the end, by the last finished rotation of this type; None: there is none.

    What grows with the values is scaled to the last counts.
    """
    before, values_before = _before(pipeline.ledger, walk)
    if not before or not values_before:
        return None
    values = sum(sum(count.values_by_version.values()) for count in pipeline.ledger.counts(pipeline.tables))
    ratio = values / values_before
    return sum(seconds * (ratio if step in GROW_WITH_ROWS else 1.0) for step, seconds in before.items())


def _so_far(pipeline: Pipeline, walk: Walk, counts: Sequence[TableCount]) -> eta.Sofar:
    records = {step: record for step in WALK if (record := walk.done(step)) is not None}
    began = walk.started_at or pipeline.clock.now()
    promoted, rewritten = records.get(Step.PRIMARY_KEY_ROLLOUT), records.get(Step.ROWS)
    before, values_before = _before(pipeline.ledger, walk)
    walked = pipeline.ledger.shard_progress(walk.id)
    usual = IN_AN_EMERGENCY if walk.type is RotationType.EMERGENCY else pipeline.pace
    return eta.Sofar(
        now=pipeline.clock.now(),
        emergency=walk.type is RotationType.EMERGENCY,
        values=sum(sum(count.values_by_version.values()) for count in counts),
        rows=sum(count.rows for count in counts),
        done=frozenset(records),
        share=_share(pipeline, walk, counts, walked),
        rows_began_at=promoted.finished_at if promoted else None,
        rows_ended_at=rewritten.finished_at if rewritten else None,
        step_began_at=max((record.finished_at for record in records.values()), default=began),
        usual=usual,
        paces=tuple((entry.at, usual.as_set(pace)) for entry, pace in _paces(pipeline.ledger, walk)),
        at_once=max(1, len(pipeline.ledger.held_locks(f"{walk.id}/{Step.ROWS}"))),
        at_work_seconds=sum(each.seconds for each in walked) or None,
        idle=tuple(_pauses(pipeline, walk)),
        seconds_before=before,
        values_before=values_before,
    )


def _paces(ledger: Ledger, walk: Walk) -> Iterator[tuple[AuditEntry, PaceSet]]:
    for entry in entries(ledger, EventKind.PACE_SET, request=walk.id):
        if isinstance(pace := entry.fact(), PaceSet):
            yield entry, pace


def _share(pipeline: Pipeline, rotation: Walk, counts: Sequence[TableCount], walked: Sequence[ShardProgress]) -> float:
    """The share of all rows processed, 0 to 1; a table is weighted by the cost of its rows, as last counted."""
    if rotation.done(Step.ROWS):
        return 1.0
    weights = {str(count.table.name): eta.weight(count) for count in counts}
    pages, done = _pages(walked), rotation.done_shards()
    passed = total = 0.0
    for table in pipeline.tables:
        name, weight = str(table.name), weights.get(str(table.name), 1)
        shards = [1.0 if (name, shard) in done else pages.get((name, shard), 0.0) for shard in range(pipeline.shards)]
        passed += weight * sum(shards) / len(shards)
        total += weight
    return passed / total


def _pages(walked: Sequence[ShardProgress]) -> Mapping[tuple[str, int], float]:
    return {(each.table, each.shard): each.done_pages / each.total_pages for each in walked if each.total_pages}


def _pauses(pipeline: Pipeline, walk: Walk) -> Iterator[tuple[datetime, datetime]]:
    """Each pause, from its start until the walk was resumed."""
    changes = list(recorded(pipeline.ledger, StatusChanged, walk.id))
    for one, following in pairwise(changes):
        if one.after is RequestStatus.PAUSED:
            yield one.at, following.at
    if changes and changes[-1].after is RequestStatus.PAUSED:
        yield changes[-1].at, pipeline.clock.now()


def _before(ledger: Ledger, walk: Walk) -> tuple[Mapping[Step, float], int]:
    """Seconds of each step from the rows on in the last finished rotation of this type, and its values."""
    for last in ledger.requests():
        if not isinstance(last, Walk) or (last.kind, last.status) != (walk.kind, RequestStatus.FINISHED):
            continue
        if last.action is not RequestAction.ROTATE:
            continue  # a rollback ends with other steps
        ended = {step: record.finished_at for step in WALK if (record := last.done(step)) is not None}
        proof = last.done(Step.ZERO_OLD_ROWS_PROOF)
        if proof is not None:
            steps = pairwise(WALK[WALK.index(Step.PRIMARY_KEY_ROLLOUT) :])
            took = {two: (ended[two] - ended[one]).total_seconds() for one, two in steps if {one, two} <= set(ended)}
            return took, read(Proven, proof.facts).values_decrypted
    return {}, 0


def tables_progress(pipeline: Pipeline, walk: Walk, tables: Sequence[EncryptedTable]) -> tuple[TableProgress, ...]:
    """Progress of each table, from the recorded shards and the running ones."""
    walked: dict[str, dict[int, ShardProgress]] = {}
    for each in pipeline.ledger.shard_progress(walk.id):
        walked.setdefault(each.table, {})[each.shard] = each
    records = walk.done_shards()
    return tuple(
        _progress(records, str(table.name), pipeline.shards, walked.get(str(table.name), {})) for table in tables
    )


def together(name: str, parts: Sequence[TableProgress]) -> TableProgress:
    """The progress of several tables as one."""
    if len(parts) == 1:
        return replace(parts[0], table=name)
    running = [each.rows_per_second for each in parts if each.rows_per_second is not None and each.running]
    return TableProgress(
        name,
        sum(each.shards_done for each in parts),
        sum(each.shards for each in parts),
        sum(each.share for each in parts) / len(parts),
        sum(each.rows for each in parts),
        round(sum(running), 1) if running else None,
        any(each.running for each in parts),
    )


def _progress(
    records: Mapping[tuple[str | None, int | None], StepRecord],
    name: str,
    shards: int,
    walked: Mapping[int, ShardProgress],
) -> TableProgress:
    finished = {index: record for index in range(shards) if (record := records.get((name, index)))}
    done = [read(Rewritten, record.facts) for record in finished.values()]
    running = [each for index, each in walked.items() if index not in finished and each.total_pages]
    share = (len(done) + sum(each.done_pages / each.total_pages for each in running)) / shards
    rows = sum(each.rows for each in done) + sum(each.rows for each in running)
    return TableProgress(name, len(done), shards, share, rows, _pace(done, running), any(each.rows for each in running))


def _pace(done: list[Rewritten], running: list[ShardProgress]) -> float | None:
    if now := sum(each.rows_per_second for each in running):
        return round(now, 1)
    seconds = sum(each.seconds for each in done)
    return round(sum(each.rows for each in done) / seconds, 1) if seconds > 0 else None
