"""Rehearses a rotation: restores the newest backup into a scratch server and runs the whole rotation there.

Of a fleet, the newest dump of each member, too, each into a server of its own; or of chosen members. Of many members a
few at a time, in rounds, each with the home's own database.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.backups.catalog import BackupContext, KeptSets, fetch, kept_sets
from keyrotation_pipeline.backups.member_dumps import dumped
from keyrotation_pipeline.backups.member_tests import newest_dump_of
from keyrotation_pipeline.backups.recovery_test import LOCK, newest_dump, recovered_keys, require_keys
from keyrotation_pipeline.backups.restore_checks import require_all_there, require_no_failure
from keyrotation_pipeline.errors import BackupError, KeyRotationError, MissingVersionError, RehearsalError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.model.audit import EventKind, Note, counted
from keyrotation_pipeline.model.backups import BackupSet, DatabaseCopy
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.request_events import RehearsalFinding, Rehearsed
from keyrotation_pipeline.model.requests import WALK, Request, RequestAction, Step
from keyrotation_pipeline.model.status import LastRehearsal
from keyrotation_pipeline.ports.backups import RecoveryKey, RestoredDump
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.recovery import RehearsalStage, Stages
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.inventory import take_inventory
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.key_checks import require_keys_open
from keyrotation_pipeline.rotation.rotate import open_request, present_key

BEFORE_THE_WALK = "request"
# Each is a server of its own, with some 50 MB and a dozen processes.
MEMBERS_AT_ONCE = 8
_OUT_OF_USE = frozenset({KeyState.ARCHIVED, KeyState.COMPROMISED})


def rehearse(
    site: BackupContext,
    key: RecoveryKey,
    stages: Stages,
    request: Request | None,
    report: Report,
    members: Sequence[str] = (),
) -> Rehearsed:
    """Run a rotation on the newest backup, record the findings, and keep nothing else.

    Args:
        key: decrypts the backup.
        request: a rotation that has not begun; None: the next one, from the present primary.
        members: of a fleet, to be rehearsed with the home's own database; none: every one.

    Raises:
        RequestError: the request is not a rotation, or has begun; or there is no such member.
        WrongKeyError: values do not decrypt with the key of their version.
        RecoveryError, BackupError: there is no backup that can be restored completely.
        BlockedError: another rehearsal or recovery test is running.
    """
    site = _of_members(site, members)
    if site.pipeline.tables[0].format.is_held_by_server:
        raise RehearsalError(
            "a rehearsal would make a real version on the server that holds the keys; rehearse in a home of its own, "
            "with another key"
        )
    source = present_key(site.pipeline).version if request is None else _source(request)
    require_keys_open(site.pipeline, site.pipeline.keys.read(), {})
    ledger, name = site.pipeline.ledger, None if request is None else request.id
    with ledger.lock(LOCK):
        ledger.append(Note(EventKind.REHEARSAL_STARTED, {"source": str(source), "recovery_key": key.label}), name)
        try:
            done = _rehearsed(site, key, stages, source, name, report)
        except KeyRotationError as error:
            failure = {"failure": type(error).__name__, "reason": str(error)}
            ledger.append(Note(EventKind.REHEARSAL_FAILED, failure), name)
            raise
        ledger.append(done, name)
        return done


def _of_members(site: BackupContext, members: Sequence[str]) -> BackupContext:
    """The same with these members alone, if any are named."""
    if unknown := [name for name in members if name not in site.members]:
        raise RequestError(
            f"{unknown[0]} is no member of this fleet; name one of {', '.join(site.members) or '[[databases]]'}"
        )
    chosen = members or tuple(site.members)
    tables = tuple(each for each in site.pipeline.tables if each.name.database in {"", *chosen})
    if not tables:
        raise RequestError("no table is in these databases; name a member that has one")
    opened = {name: opens for name, opens in site.members.items() if name in chosen}
    return replace(site, members=opened, pipeline=replace(site.pipeline, tables=tables))


def _source(request: Request) -> KeyVersion:
    if request.action is not RequestAction.ROTATE:
        raise RequestError(f"request {request.id} is not a rotation ({request.action}); rehearse a rotation")
    if request.is_over or request.started_at is not None:
        state = request.status if request.is_over else "under way"
        raise RequestError(
            f"rotation {request.id} is {state}; a rehearsal predicts a rotation, so rehearse before it begins"
        )
    return request.source


def _rehearsed(
    site: BackupContext, key: RecoveryKey, stages: Stages, source: KeyVersion, request: str | None, report: Report
) -> Rehearsed:
    place, registered = site.places[0], site.pipeline.ledger.keys()
    rows_now = sum(count.rows for count in site.pipeline.inventory.count(site.pipeline.tables))
    with site.restorer.workspace() as workspace:
        kept = kept_sets(place, site.trust)
        made, dump = newest_dump(kept, site.trust)
        keys = recovered_keys(place, made, key, registered)
        if source not in keys and source != PLAINTEXT:
            raise MissingVersionError(f"{made.name} has no key {source}; run `keyrotation backup`, then rehearse again")
        dumps = {"": dump, **{name: _newest_of(site, kept, name) for name in site.members}}
        for each in dumps.values():
            require_keys(each, keys)
        ring, members = KeyRing(_used(keys, source, registered, tuple(dumps.values())), source), list(site.members)
        walked = list[_Walked]()
        for first in range(0, max(len(members), 1), MEMBERS_AT_ONCE):
            with ExitStack() as stack:
                copies = {
                    name: stack.enter_context(_restored(site, kept, dumps[name], key, workspace))
                    for name in ("", *members[first : first + MEMBERS_AT_ONCE])
                }
                server, urls = copies[""].server, {name: each.url for name, each in copies.items()}
                walked.append(_carried_out(stack.enter_context(stages.opened(urls, ring)), stages, report))
        return _as_fact(_together(walked), server, made, dumps, source, request, rows_now)


def _newest_of(site: BackupContext, kept: KeptSets, member: str) -> DatabaseCopy:
    if member not in dumped(site.pipeline.ledger):
        raise BackupError(f"no backup of database {member} was ever made; run `keyrotation backup`")
    return newest_dump_of(site, kept, member)[1]


@contextmanager
def _restored(
    site: BackupContext, kept: KeptSets, dump: DatabaseCopy, key: RecoveryKey, workspace: Path
) -> Iterator[RestoredDump]:
    target = workspace / "dump"
    fetch(kept.place, dump.file, target)
    with site.restorer.restored(dump, target, key, durable=True) as restored:
        target.unlink()
        require_no_failure(restored, dump)
        require_all_there(restored, dump)
        yield restored


def _used(
    keys: Mapping[KeyVersion, KeyMaterial],
    source: KeyVersion,
    registered: Sequence[KeyRecord],
    dumps: Sequence[DatabaseCopy],
) -> Mapping[KeyVersion, KeyMaterial]:
    """Returns the keys without earlier ones that neither applications have nor the dumps need."""
    needed = {version for dump in dumps for version in dump.versions}
    gone = {each.version for each in registered if each.state in _OUT_OF_USE and each.version < source}
    return {
        version: key
        for version, key in keys.items()
        if version not in gone or version in needed or isinstance(key, SourceKey)
    }


@dataclass(slots=True)
class _Walked:
    """How far the rehearsal got: the target, seconds by step, and what stopped it."""

    target: KeyVersion
    seconds: dict[str, float] = field(default_factory=dict)
    findings: list[RehearsalFinding] = field(default_factory=list)


def _together(rounds: Sequence[_Walked]) -> _Walked:
    """As one: the steps that each has finished, with the home's own database in each, and what stopped any."""
    seconds = {step: sum(each.seconds.get(step, 0.0) for each in rounds) for step in rounds[0].seconds}
    finished = {step: taken for step, taken in seconds.items() if all(step in each.seconds for each in rounds)}
    findings = dict.fromkeys(finding for each in rounds for finding in each.findings)
    return _Walked(rounds[0].target, finished, list(findings))


def _carried_out(stage: RehearsalStage, stages: Stages, report: Report) -> _Walked:
    pipeline = stage.pipeline
    registered = pipeline.ledger.keys()
    walked = _Walked(pipeline.tables[0].format.next_of(max((each.version for each in registered), default=PLAINTEXT)))
    try:
        with stages.plainly():
            walk = open_request(pipeline, reason="Rehearsal", requested_by="rehearsal")
    except KeyRotationError as error:
        walked.findings.append(RehearsalFinding(BEFORE_THE_WALK, str(error)))
        walked.findings += _inventoried(pipeline, stages)
        return walked
    walked.target = walk.target
    for signature in stage.sign(pipeline.ledger.approval_text(walk.id)):
        add_approval(pipeline, walk, signature)
    try:
        with stages.plainly():
            _timed(pipeline, walk.id, walked.seconds, report)
    except KeyRotationError as error:
        step = next(step for step in WALK if step not in walked.seconds)
        walked.findings.append(RehearsalFinding(step, str(error).replace(walk.id, "ID")))
        if step is not Step.RETIRED_KEY:
            walked.findings += _inventoried(pipeline, stages)
    return walked


def _timed(pipeline: Pipeline, walk: str, seconds: dict[str, float], report: Report) -> None:
    began, step_seconds = pipeline.clock.monotonic(), 0.0
    for record in runner.run(pipeline, walk, report):
        now = pipeline.clock.monotonic()
        step_seconds += now - began
        began = now
        if record.shard is None:
            seconds[record.step] = step_seconds
            step_seconds = 0.0


def _inventoried(pipeline: Pipeline, stages: Stages) -> Iterator[RehearsalFinding]:
    """Findings that would have stopped the steps that were not reached: the retirement searches everything."""
    with suppress(KeyRotationError), stages.plainly():
        for found in take_inventory(pipeline).findings:
            values = found.values + found.near_misses
            yield RehearsalFinding(
                Step.RETIRED_KEY,
                f"{found.relation}, column {found.column}: {found.reason} ({counted(values, 'value')}); declare "
                "it under [[tables]], or remove what it holds",
            )


def _as_fact(
    walked: _Walked,
    server: str,
    made: BackupSet,
    dumps: Mapping[str, DatabaseCopy],
    source: KeyVersion,
    request: str | None,
    rows_now: int,
) -> Rehearsed:
    return Rehearsed(
        request=request,
        source=source,
        target=walked.target,
        dump=dumps[""].file.name,
        made_at=made.made_at,
        server=server,
        dump_rows=sum(content.rows for dump in dumps.values() for content in dump.tables),
        rows_now=rows_now,
        seconds={step: round(taken, 3) for step, taken in walked.seconds.items()},
        findings=tuple(walked.findings),
        members={name: dump.file.name for name, dump in dumps.items() if name},
    )


def last_rehearsal(ledger: Ledger, primary: KeyVersion | None, members: Sequence[str]) -> LastRehearsal | None:
    """The newest rehearsal, unless the primary has changed since.

    Args:
        members: of the fleet, as they are now.
    """
    last = None
    for entry in entries(ledger, EventKind.REHEARSED):
        if isinstance(fact := entry.fact(), Rehearsed) and fact.source == primary:
            last = LastRehearsal(entry.at, fact, tuple(each for each in members if each not in fact.members))
    return last
