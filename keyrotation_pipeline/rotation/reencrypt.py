"""Step `rows`: re-encrypts every shard of every table to the target version, and sums them up."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from keyrotation_pipeline.errors import OutOfOrderError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.requests import Step, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, Shard
from keyrotation_pipeline.ports.database import TableFencing, TableRewriting
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.fences import STILL_REFUSED
from keyrotation_pipeline.rotation.keys import record_of, require_stored_and_backed_up

# In the facts of a first shard that covered its whole table.
_WHOLE_TABLE = "whole_table"


def reencrypt_shard(pipeline: Pipeline, rotation: Walk, shard: Shard, report: Report) -> Mapping[str, Any]:
    """Re-encrypts one shard of one table, from where it stopped. The first shard of a small table is the whole table.

    A table may grow and shrink meanwhile, and its shards run in any order and concurrently: another shard has nothing
    left only where the first one's record says so, and that says so only if no other shard was started before its end.

    Raises:
        OutOfOrderError, KeyStoreError, BackupError: the target key is not one that rows may be written under.
        BlockedError: the rotation was paused or cancelled, or the table stays locked.
    """
    ring = ring_fit_for_rows(pipeline, rotation)
    _accept_again(pipeline.fencing, rotation, shard.table)
    first = rotation.done(Step.ROWS, str(shard.table.name), 0)
    if first is not None and is_whole_table(first):
        return _nothing_left(shard, report)

    def is_whole() -> bool:
        return shard.index == 0 and shard.of > 1 and pipeline.rewriting.is_one_shard(rotation.id, shard.table)

    part = Shard(shard.table, 0, 1) if is_whole() else shard
    facts = _facts(_reencrypt(pipeline.rewriting, rotation, part, ring, report))
    return {**facts, _WHOLE_TABLE: True} if part != shard and is_whole() else facts


def _accept_again(fencing: TableFencing, rotation: Walk, table: EncryptedTable) -> None:
    """Has a table accept a rollback's target whose member did not answer when the primary went back."""
    returned = rotation.done(Step.PRIMARY_KEY_ROLLOUT)
    if returned is not None and str(table.name) in returned.facts.get(STILL_REFUSED, ()):
        fencing.unfence(table, rotation.target)
        fencing.unfence(table.of_indexes, rotation.target)


def _reencrypt(rewriting: TableRewriting, rotation: Walk, part: Shard, ring: KeyRing, report: Report) -> Rewritten:
    """Re-encrypts a part, and reports its end.

    The engine reports pages about once a second. A part may end between two reports, be rewritten as a whole by
    others (then it has fewer pages), or have no page at all.
    """
    last = Progress(Step.ROWS, _subject(part), 0, 0, "pages")

    def tell(progress: Progress) -> None:
        nonlocal last
        last = progress
        report(progress)

    done = rewriting.reencrypt_shard(rotation.id, part, ring, rotation.target, tell)
    if not last.total or last.done < last.total:
        pages = last.total or 1
        report(replace(last, done=pages, total=pages, note=f"{done.rows:,} rows"))
    return done


def is_whole_table(record: StepRecord) -> bool:
    """Whether a shard's record covers its whole table: then the other shards were recorded with it."""
    return record.facts.get(_WHOLE_TABLE) is True


def done_with(shard: Shard, record: StepRecord, report: Report) -> tuple[StepRecord, ...]:
    """The records of a table's other shards, where its first one covered the whole table."""
    if not is_whole_table(record):
        return ()
    others = (Shard(shard.table, index, shard.of) for index in range(shard.of) if index != shard.index)
    return tuple(replace(record, shard=each.index, facts=_nothing_left(each, report)) for each in others)


def _nothing_left(shard: Shard, report: Report) -> Mapping[str, Any]:
    report(Progress(Step.ROWS, _subject(shard), 1, 1, "pages"))
    return _facts(Rewritten())


def _subject(shard: Shard) -> str:
    return f"{shard.table.name} shard {shard.key}"


def close_rows(pipeline: Pipeline, rotation: Walk, report: Report) -> Mapping[str, Any]:  # noqa: ARG001
    """Sum up the shards, each of which has its own record."""
    return sum_of(record for record in rotation.steps if record.step is Step.ROWS and record.shard is not None)


def sum_of(shards: Iterable[StepRecord]) -> Mapping[str, Any]:
    """The facts of several shards together."""
    return _facts(sum((read(Rewritten, record.facts) for record in shards), Rewritten()))


def ring_fit_for_rows(pipeline: Pipeline, rotation: Walk) -> KeyRing:
    """The key ring, if rows may be written under the target: key before rows (invariant 2).

    Raises:
        OutOfOrderError: the target is not registered, compromised, or not the primary.
        KeyStoreDamagedError: the store returns a different key from the registered one.
        BackupError: no intact backup of exactly this key is in the vault.
    """
    target = rotation.target
    record = record_of(pipeline.ledger, target)
    if record is None:
        raise OutOfOrderError(
            f"no key {target} is registered; run `keyrotation rotate {rotation.id}` from its first step"
        )
    if record.state is KeyState.COMPROMISED:
        raise OutOfOrderError(
            f"{target} is compromised, so nothing is encrypted under it any more; carry out the emergency request that "
            "`keyrotation requests` shows"
        )
    stored = pipeline.keys.read()
    ring = stored.ring()
    if ring.primary != target:
        raise OutOfOrderError(
            f"the primary is {ring.primary}, not {target}, so applications may not read {target} yet; "
            f"run `keyrotation rotate {rotation.id}`"
        )
    require_stored_and_backed_up(pipeline.vault, stored, record)
    return ring


def _facts(done: Rewritten) -> Mapping[str, Any]:
    return {
        "rows": done.rows,
        "values": done.values,
        "skipped": done.skipped,
        "quarantined": done.quarantined,
        "seconds": round(done.seconds, 3),
        "rows_per_second": round(done.rows / done.seconds, 1) if done.seconds > 0 else 0.0,
    }
