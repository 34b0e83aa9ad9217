"""Gathers the status that the command line and Dagster show, with requests, open incidents and the last counts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain

from keyrotation_pipeline.audit.divergence import divergence, require_consistent
from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.audit.history import history
from keyrotation_pipeline.audit.incidents import alert_deliveries, incidents
from keyrotation_pipeline.audit.retirements import put_back, retirement_of
from keyrotation_pipeline.backups.key_loss import audited_primary, lost_keys
from keyrotation_pipeline.backups.rehearsal import last_rehearsal
from keyrotation_pipeline.errors import ApprovalError, AuditError, BlockedError, KeyRotationError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.wrapping_keys import WrappingKeyState
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import EventKind, counted, utc_minute, utc_second
from keyrotation_pipeline.model.breach import carried_by
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.keys import KeyRecord, StoredKeys, not_sealed
from keyrotation_pipeline.model.members import members_among
from keyrotation_pipeline.model.pending import GOING_SLOWER, PendingCode, PendingReason
from keyrotation_pipeline.model.proof import records_reencrypted
from keyrotation_pipeline.model.request_events import StatusChanged
from keyrotation_pipeline.model.requests import (
    PastRequest,
    PendingRequest,
    Request,
    RequestStatus,
    Step,
    Walk,
)
from keyrotation_pipeline.model.status import (
    Fault,
    OpenIncident,
    RotationStatus,
    Status,
    TableStatus,
)
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount
from keyrotation_pipeline.monitoring import members, rolling
from keyrotation_pipeline.monitoring.backup_status import Protection, protection
from keyrotation_pipeline.monitoring.due import DueRotation, due_rotation
from keyrotation_pipeline.monitoring.fleet import failing, returned, uncounted
from keyrotation_pipeline.monitoring.progress import progress_and_eta, tables_progress
from keyrotation_pipeline.monitoring.scheduler_health import stalled
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.approvals import authority, changed_since_signed
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.requests.control import pace_of
from keyrotation_pipeline.requests.plaintext_outside_rows import last_known
from keyrotation_pipeline.requests.policy import changed_hosts, listed_otherwise
from keyrotation_pipeline.requests.roster import require_roster, roster_of
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.requests.takeover import cannot_start, out_of_use
from keyrotation_pipeline.requests.time_stamping import unstamped
from keyrotation_pipeline.requests.witnessing import unwitnessed
from keyrotation_pipeline.requests.wrapping_key import origin_of
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.fences import fences, values_of_gone_keys
from keyrotation_pipeline.rotation.report import clock_of, rate_of

# A rejected flag is raised again, not fixed; after a while it is history.
SHOWN_FOR = timedelta(days=7)


def pending_requests(pipeline: Pipeline) -> tuple[PendingRequest, ...]:
    """Every unfinished request of any action, newest first, with which officers have signed and which have not."""
    return tuple(_pending(pipeline, each) for each in pipeline.ledger.requests() if not each.is_over)


def past_requests(ledger: Ledger) -> tuple[PastRequest, ...]:
    """Every request that is over, newest first."""
    return tuple(
        PastRequest(each, records_reencrypted(each) if isinstance(each, Walk) else None)
        for each in ledger.requests()
        if each.is_over
    )


def _pending(pipeline: Pipeline, request: Request) -> PendingRequest:
    roster = _authority(pipeline, request)
    return PendingRequest(
        request,
        signed_by=tuple(roster.name_of(each) or each for each in request.approvals),
        missing=tuple(each.name for each in roster.officers if each.fingerprint not in request.approvals),
        required=roster.required,
    )


def _authority(pipeline: Pipeline, request: Request) -> Roster:
    """The roster whose signatures count; where it cannot be determined now, the pinned one."""
    try:
        return authority(pipeline, request)
    except KeyRotationError:
        return roster_of(pipeline, request)


def incidents_now(pipeline: Pipeline, now: datetime) -> tuple[tuple[OpenIncident, ...], list[str]]:
    """Each open incident, and the sentences that must not be missed."""
    known, requests = incidents(pipeline.ledger), pipeline.ledger.requests()
    listed: list[OpenIncident] = []
    urgent: list[str] = []
    for incident in known.unfinished:
        clock = tuple(clock_of(pipeline, incident, requests))
        pace = rate_of(pipeline, incident, requests, now)
        shown = OpenIncident(incident, carried_by(incident, requests), clock, pace, now)
        listed.append(shown)
        urgent += _urgent(pipeline, shown)
    for flag, (at, reason) in known.set_aside.items():
        if now - at > SHOWN_FOR:
            continue
        urgent.append(f"flag {flag} of {utc_minute(at)} was rejected: {reason}")
    for channel, (since, reason) in alert_deliveries(pipeline.ledger).failing.items():
        urgent.append(f"alerts do not reach {channel} since {utc_minute(since)}: {reason}")
    return tuple(listed), urgent


def _urgent(pipeline: Pipeline, shown: OpenIncident) -> Iterator[str]:
    incident, carrier = shown.incident, shown.carrier
    command = f"keyrotation request --emergency {incident.id} --reason TEXT"
    if carrier is None or carrier.status is RequestStatus.CANCELLED:
        missing = "it has no emergency request yet" if carrier is None else f"its request {carrier.id} was cancelled"
        otherwise = f"{missing}; run `{command}`"
        if carrier is not None:
            otherwise += f", or if it was a false alarm, `keyrotation incident assess {incident.id}`"
        yield f"{incident.id}: {_restored(pipeline) or out_of_use(pipeline, incident) or otherwise}"
    elif (reason := cannot_start(Situation(pipeline), carrier)) is not None:
        yield f"{incident.id}: {reason} with `{command}`"
    elif carrier.status is RequestStatus.FINISHED:
        yield f"the rotation of {incident.id} is finished; close it with `keyrotation incident close {incident.id}`"
    else:
        show = f"`keyrotation incident show {incident.id}`"
        yield f"{incident.id} is {incident.status}: {shown.clock_in_words}; see {show}"


def _restored(pipeline: Pipeline) -> str | None:
    """What must be done before an emergency can be prepared, where the database was restored to an earlier state."""
    with suppress(KeyStoreError):
        if divergence(pipeline, pipeline.keys.read()):
            return "its emergency can be prepared once the restored database is reconciled; run `keyrotation reconcile`"
    return None


@dataclass(frozen=True, slots=True)
class Outside:
    """What the status takes from elsewhere than the database, where a silent place may keep it waiting."""

    situation: Situation
    protected: Protection
    wrapping: WrappingKeyState | None

    @classmethod
    def of(cls, pipeline: Pipeline) -> "Outside":
        """Asks key store, applications, wrapping key and the places of backups now."""
        protected = protection(pipeline, pipeline.ledger.keys(), pipeline.clock.now())
        situation = Situation(pipeline)
        situation.ask()
        return cls(situation, protected, pipeline.keys.wrapping_key())


def overview(pipeline: Pipeline, *, duties: Sequence[str] = (), outside: Outside | None = None) -> Status:
    """Gathers the whole status; what cannot be read is reported in `attention`, without hiding the rest.

    `warnings` has future problems: they do not count for `--exit-code`.

    Args:
        duties: what is due of closed incidents; `incidents.duties` knows.
        outside: as it was asked before a snapshot began; None: it is asked now.
    """
    outside, now = outside or Outside.of(pipeline), pipeline.clock.now()
    records, rotation, head = pipeline.ledger.keys(), takeover.current_or_next(pipeline), pipeline.ledger.head()
    counts = {count.table: count for count in pipeline.ledger.counts(pipeline.tables)}
    situation, protected = outside.situation, outside.protected
    stored, unread_keys = _stored(situation)
    primary = stored.primary if stored is not None else None
    error = _inconsistent(pipeline, stored) if stored is not None else None
    inconsistent = [] if error is None else [str(error)]
    lost = [] if stored is None else [*_unnamed(pipeline.ledger, stored), *lost_keys(pipeline.ledger, stored, records)]
    keys = [*unread_keys, *inconsistent, *lost]
    attention = [*keys, *(_of_store(pipeline.ledger, stored) if stored is not None else [])]
    due = due_rotation(situation, primary)
    overdue = _overdue(due)
    attention += overdue if due is not None and due.needs_people else []
    attention += _past_dates(rotation, now)
    attention += _blocked(situation, rotation)
    attention += _waiting(situation, rotation)
    failed: list[str] = []
    if situation.unreachable is not None:
        attention.append(str(situation.unreachable))
    else:
        instances = situation.instances
        attention += returned(pipeline, stored, rotation, instances) if stored is not None else []
        attention += uncounted(pipeline, stored, instances)
        attention += (failed := list(failing(instances, now)))
    answers = members.answers_of(pipeline)
    fenced = fences(pipeline, members.present(pipeline.ledger, answers) if answers or pipeline.members else None)
    attention += fenced.attention()
    attention += members.problems(answers)
    attention += stalled(pipeline.heartbeats.last(), now)
    attention += unstamped(pipeline, now)
    attention += unwitnessed(pipeline.ledger, now)
    attention += [*changed_hosts(pipeline), *listed_otherwise(pipeline.listed)]
    attention += outside.wrapping.problems if outside.wrapping is not None else ()
    attention += rolling.overdue(pipeline, answers.values(), now)
    # A recipient's certificate that has ended is said already where it is an officer's.
    attention += [each for each in protected.attention if not any(said.endswith(f": {each}") for said in attention)]
    open_incidents, urgent = incidents_now(pipeline, now)
    attention += [*urgent, *duties]
    attention += [
        message for table in pipeline.tables for message in count_problems(table, counts.get(table), records, now)
    ]
    said = members.grouped if pipeline.members else tuple[str, ...]
    empty, not_counted_since = empty_versions(pipeline, primary, records, counts)
    return Status(
        generated_at=now,
        database=pipeline.environment.identity().name,
        members=members_among(pipeline.hosts),
        answers=answers,
        key_versions=records,
        primary=primary,
        tables=tuple(
            table_status(table, counts.get(table), records, fenced.by_table.get(str(table.name), ()))
            for table in pipeline.tables
        ),
        rotation=_rotation(situation, rotation, counts, inconsistent) if rotation else None,
        last_backup=protected.last_backup,
        last_backup_versions=protected.backup_versions,
        last_recovery_test=protected.last_recovery_test,
        recovery_test_failed=protected.recovery_test_failed,
        backup_signer=pipeline.backup_signer,
        incidents=open_incidents,
        requests=pending_requests(pipeline),
        audit=head,
        next_rotation_due=due.due.at if due else None,
        next_rotation_rule=due.due.rule if due else None,
        attention=tuple(said(dict.fromkeys(attention))),
        alerted=frozenset([*failed, *urgent, *duties]),
        warnings=tuple(
            said(
                (
                    *(each for each in overdue if each not in attention),
                    *protected.warnings,
                    *fenced.warnings(),
                    *members.not_asked(pipeline.members, answers, now),
                    *unread(pipeline.ledger),
                    *_plaintext(pipeline),
                )
            )
        ),
        empty_versions=empty,
        not_counted_since=not_counted_since,
        rehearsal=last_rehearsal(pipeline.ledger, primary, pipeline.members),
        wrapping_key=origin_of(pipeline, outside.wrapping),
        faults=_faults(error, keys, failed),
    )


def _stored(situation: Situation) -> tuple[StoredKeys | None, list[str]]:
    """The stored keys, read once for all checks, since the store may be remote; else None, and why not."""
    try:
        return situation.stored, []
    except KeyStoreError as error:
        return None, [str(error)]


def _faults(error: KeyRotationError | None, keys: Sequence[str], failing_instances: Sequence[str]) -> dict[Fault, str]:
    """The first of each kind, where there is one."""
    said, of_audit = str(error), isinstance(error, AuditError)
    found = {
        Fault.AUDIT: [said] if of_audit else [],
        Fault.KEYS: [each for each in keys if not of_audit or each != said],
        Fault.APPLICATIONS: failing_instances,
    }
    return {kind: sentences[0] for kind, sentences in found.items() if sentences}


def _of_store(ledger: Ledger, stored: StoredKeys) -> list[str]:
    """What is wrong with the key store, while every key is there."""
    of_list = filter(None, (stored.undelivered, stored.foreign, not_sealed(stored.unsealed, stored.sealed_by)))
    return [*of_list, *stored.left_behind.values(), *put_back(ledger.replayed(), stored)]


def _unnamed(ledger: Ledger, stored: StoredKeys) -> Iterator[str]:
    """That there is no primary, unless its key is lost, which is said of that, and whose restore names it again."""
    known = audited_primary(ledger) if stored.primary is None else None
    if stored.primary is None and (known is None or known in stored):
        then = "run `keyrotation init`" if known is None else f"name {known} with {stored.restore(known)}"
        yield f"the key store names no primary; {then}"


def _inconsistent(pipeline: Pipeline, stored: StoredKeys) -> KeyRotationError | None:
    """Whether the database was restored or its audit tampered with: until that is settled, every change is refused."""
    try:
        require_consistent(pipeline, stored)
    except (AuditError, BlockedError, KeyStoreError) as error:
        return error
    return None


def _overdue(due: DueRotation | None) -> list[str]:
    if due is None or not due.overdue:
        return []
    return [f"a rotation was due by {utc_minute(due.due.at)}; {due.message}"]


def _named(walk: Walk) -> str:
    return f"{walk.action if walk.action.goes_back else 'rotation'} {walk.id}"


def _past_dates(rotation: Walk | None, now: datetime) -> list[str]:
    if rotation is not None and now > rotation.finish_by:
        return [f"{_named(rotation)} was to be finished by {utc_minute(rotation.finish_by)}"]
    if rotation is not None and rotation.started_at is None and now > rotation.start_by:
        return [f"{_named(rotation)} was to start by {utc_minute(rotation.start_by)}; cancel it"]
    return []


def _blocked(situation: Situation, rotation: Walk | None) -> list[str]:
    pipeline = situation.pipeline
    failure = rotation.failure if rotation else None
    messages = [f"{_named(rotation)} is blocked: {failure}"] if rotation and failure else []
    if rotation and rotation.rollout_pending:
        # Its wait timed out, and nothing retries it; this disappears once the applications are there.
        reason = runner.pending(situation, rotation)
        messages += [f"{_named(rotation)} timed out waiting: {reason}"] if reason else []
    elif rotation and rotation.started_at is None:
        reason = runner.pending(situation, rotation)
        # It is signed and due, but does not start before the applications are there.
        messages += [f"{_named(rotation)} cannot begin: {reason}"] if reason and reason.is_of_applications else []
    try:
        require_roster(pipeline)
    except KeyRotationError as error:
        if str(error) != failure:
            messages.append(str(error))
    named = pipeline.signatures.certificates()
    messages += [each.unusable for each in named if each.unusable is not None and not each.encrypts]
    return messages


def _waiting(situation: Situation, rotation: Walk | None) -> list[str]:
    """A second request next to the one that is shown, which will undo that one or take it over."""
    waiting = situation.pipeline.ledger.waiting()
    if waiting is None or rotation is None or waiting.id == rotation.id:
        return []
    reason = runner.pending(situation, waiting, to_start=True)
    return [f"{waiting.action} {waiting.id} of {waiting.source} to {waiting.target} waits: {reason}"]


def _rotation(
    situation: Situation, walk: Walk, counts: Mapping[EncryptedTable, TableCount], inconsistent: Sequence[str]
) -> RotationStatus:
    pipeline = situation.pipeline
    pace = pace_of(pipeline.ledger, walk)
    far, eta_seconds = progress_and_eta(pipeline, walk, tuple(counts.values()))
    return RotationStatus(
        walk=walk,
        phase=phase_of(walk),
        approvals_required=roster_of(pipeline, walk).required,
        progress=far,
        eta_seconds=eta_seconds,
        pending=_inconsistent_first(inconsistent) or _pending_reason(situation, walk),
        at_work=bool(pipeline.ledger.held_locks(f"{walk.id}/")),
        pace=pace,
        tables=tables_progress(pipeline, walk, pipeline.tables),
    )


def _inconsistent_first(messages: Sequence[str]) -> PendingReason | None:
    return PendingReason.of(PendingCode.INCONSISTENT, "an operator", "; ".join(messages)) if messages else None


def _pending_reason(situation: Situation, rotation: Walk) -> PendingReason | None:
    """Why a rotation is not progressing now, and since when, as far as is known."""
    ledger = situation.pipeline.ledger
    if (reason := runner.pending(situation, rotation)) is not None:
        paused = rotation.status is RequestStatus.PAUSED
        changes = list(recorded(ledger, StatusChanged, rotation.id)) if paused else []
        return replace(reason, since=changes[-1].at) if changes else reason
    if waits := ledger.waits(rotation.id):
        noted = (f"{each.place}: {each.waiting_for} (since {utc_second(each.since)})" for each in waits)
        code = (
            PendingCode.SLOWED
            if all(each.waiting_for.startswith(GOING_SLOWER) for each in waits)
            else PendingCode.DATABASE
        )
        return PendingReason(code, "the database", "; ".join(noted))
    with suppress(ApprovalError, AuditError, KeyStoreError):  # each is reported on its own
        if (changed := changed_since_signed(situation, rotation)) is not None:
            return changed
    return runner.pending_people(rotation, runner.next_decision(situation, rotation))


COUNTS_STALE_AFTER = timedelta(days=7)


def count_problems(
    table: EncryptedTable, count: TableCount | None, records: Sequence[KeyRecord], now: datetime
) -> list[str]:
    """A sentence for each thing that is wrong with a table by its last count, or with the count."""
    if count is None:
        return [f"table {table.name} was never counted; run `keyrotation status --count`"]
    messages = []
    if now - count.counted_at > COUNTS_STALE_AFTER:
        messages.append(
            f"table {table.name} was last counted on {count.counted_at:%Y-%m-%d}; run `keyrotation status --count`"
        )
    if count.plaintext:
        messages.append(
            f"table {table.name} holds {counted(count.plaintext, 'value')} in {table.old_form} in "
            f"{', '.join(table.begun)}, which a rotation encrypts; run `keyrotation request` if none is open"
        )
    for number, what in ((count.unencrypted - count.plaintext, "unencrypted"), (count.unreadable, "unreadable")):
        if number:
            messages.append(
                f"table {table.name} holds {counted(number, f'{what} value')}, which block retirement; "
                "run `keyrotation inventory`"
            )
    known = {record.version for record in records}
    for version, number in count.values_by_version.items():
        if number and version not in known:
            messages.append(
                f"table {table.name} holds {counted(number, 'value')} under {version}, which nobody registered"
            )
    return [*messages, *values_of_gone_keys(count, records)]


def table_status(
    table: EncryptedTable,
    count: TableCount | None,
    records: Sequence[KeyRecord],
    fenced_against: tuple[KeyVersion, ...],
) -> TableStatus:
    """One table, with 0 for a registered version that the last count has not found."""
    values = {record.version: 0 for record in records} | count.values_by_version if count else {}
    ordered = {version: values[version] for version in sorted(values)}
    return TableStatus(table, count, ordered, fenced_against)


def empty_versions(
    pipeline: Pipeline,
    primary: KeyVersion | None,
    records: Sequence[KeyRecord],
    counts: Mapping[EncryptedTable, TableCount],
) -> tuple[tuple[KeyVersion, ...], tuple[KeyVersion, ...]]:
    """Registered versions without a value in any count, and those that became the primary after a count.

    The primary is never called empty: applications write under it.
    """
    if any(table not in counts for table in pipeline.tables) or not counts:
        return (), ()
    oldest = min(count.counted_at for count in counts.values())
    found = {version for count in counts.values() for version, held in count.values_by_version.items() if held}
    requests = pipeline.ledger.requests()
    promoted = tuple(each.version for each in records if _promoted_after(oldest, each.version, primary, requests))
    empty = tuple(each.version for each in records if each.version not in {*found, *promoted, primary})
    return empty, promoted


def _promoted_after(at: datetime, version: KeyVersion, primary: KeyVersion | None, requests: Sequence[Request]) -> bool:
    """Whether a rotation or rollback made a version the primary since, or is about to record that it did."""
    for walk in requests:
        if isinstance(walk, Walk) and walk.target == version:
            record = walk.done(Step.PRIMARY_KEY_ROLLOUT)
            if record.finished_at > at if record is not None else version == primary and not walk.is_over:
                return True
    return False


def _plaintext(pipeline: Pipeline) -> Iterator[str]:
    """What people can do about plaintext outside the live rows."""
    known = last_known(pipeline.ledger).items()
    found = {name: to_do for name, each in known if name in {"", *pipeline.members} and (to_do := tuple(each.to_do()))}
    if len(found) > members.MOST_NAMED:
        names, (first, *_) = ", ".join(name or "the home's own" for name in found), next(iter(found.values()))
        yield f"{len(found)} databases still hold plaintext outside the live rows ({names}); the first: {first}"
    else:
        yield from chain.from_iterable(found.values())


def unread(ledger: Ledger) -> Iterator[str]:
    """A sentence for each retirement of which something was not read again, until an inventory has read it."""
    retirements = history(ledger, EventKind.KEY_RETIRED)
    if not any(isinstance(each.fact, KeyRetired) and each.fact.unread for each in retirements):
        return  # searches are recorded every day, and need not be read for this
    entries = history(ledger, EventKind.KEY_RETIRED, EventKind.UNDECLARED_COLUMNS_SEARCHED)
    for rotation in dict.fromkeys(each.request for each in entries if each.kind == EventKind.KEY_RETIRED):
        retired = retirement_of(entries, rotation or "")
        if retired is not None and retired.unread is not None:
            yield retired.unread
