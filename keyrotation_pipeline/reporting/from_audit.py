"""Makes the compliance report from an audit that was judged: the same history and moment give the same report.

Nothing else is read: no disk, no settings, no key store, no table. So a pack's `verify.py` can make it again.
"""

import hashlib
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from keyrotation_pipeline.audit.history import HistoryEntry, LedgerState
from keyrotation_pipeline.audit.retirements import Retirement, retirement_of
from keyrotation_pipeline.audit.witnessed import faults, witnessed_in
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import EVENTS_DIFFER_BY, utc_minute
from keyrotation_pipeline.model.backup_events import (
    AuditTimestamped,
)
from keyrotation_pipeline.model.keys import active_version, rotation_due
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.proof import records_reencrypted
from keyrotation_pipeline.model.request_events import SignatureAdded
from keyrotation_pipeline.model.requests import WALK, Request, RequestAction, Step, Walk
from keyrotation_pipeline.model.witnesses import witnesses_in
from keyrotation_pipeline.reporting.backups_in_audit import (
    backups_found,
    backups_of,
    members_protected,
    recovery_tests_of,
)
from keyrotation_pipeline.reporting.checklist import checklist_of
from keyrotation_pipeline.reporting.compliance import ALGORITHM, ComplianceReport, Parameters
from keyrotation_pipeline.reporting.incidents_in_audit import incidents_of, required_for
from keyrotation_pipeline.reporting.keys_in_audit import data_read, declared_ages, key_lives, key_storage_key
from keyrotation_pipeline.reporting.sections import (
    Algorithm,
    Approval,
    AuditVerified,
    BackupTaken,
    CheckpointSigned,
    Decided,
    FinishedStep,
    LaterFinding,
    OfficerOnRoster,
    Policy,
    RecoveryTested,
    TimeStamped,
)

_WHOLE_AUDIT = Parameters()
Entries = Sequence[HistoryEntry]
Done = TypeVar("Done", bound=BackupTaken | RecoveryTested)


def compliance_report(
    history: tuple[Entries, LedgerState], generated_at: datetime, parameters: Parameters = _WHOLE_AUDIT
) -> ComplianceReport:
    """The report of a verified chain; an event with a fault counts for nothing.

    Args:
        history: as `whole_history` gives it, up to the end of the period; not empty.
        generated_at: aware.

    Raises:
        AuditError: nothing was recorded in the period, or the audit has events of after that moment.
    """
    every, state = history
    if generated_at < every[-1].at - EVENTS_DIFFER_BY:
        raise AuditError("the report would be dated before the newest event of its audit; set the clock right")
    entries = tuple(each for each in every if each.fault is None)
    since = _since(parameters, every)
    within = [each for each in entries if each.at >= since]
    moved = {each.request for each in within}
    approvals = _approvals(entries, state)
    requests = tuple(state.requests.values())
    shown = [each for each in requests if each.id in moved or not each.is_over or each is _newest_walk(requests)]
    backups, tests = backups_of(entries, state), recovery_tests_of(entries, state)
    return ComplianceReport(
        generated_at=generated_at,
        parameters=parameters,
        database=every[-1].entry.database,
        audit=AuditVerified(state.head.seq, state.head.hash),
        since=every[0].at,
        audit_ends_at=every[-1].at,
        policy=_policy(state, entries),
        keys=key_lives(entries, state.keys),
        data=data_read(entries),
        requests=tuple(_decided(each, approvals.get(each.id, ()), entries, state) for each in shown),
        backups=tuple(_with_the_newest(backups, since)),
        backups_found=backups_found(entries),
        recovery_tests=tuple(_with_the_newest(tests, since)),
        incidents=tuple(incidents_of(tuple(state.incidents.by_id.values()), since, entries, requests, approvals)),
        checklists=tuple(
            checklist_of(each, entries)
            for each in shown
            if isinstance(each, Walk) and each.action is RequestAction.ROTATE and each.started_at is not None
        ),
        timestamps=tuple(_time_stamps(every, since, parameters)),
        checkpoints=tuple(_checkpoints(every, state)),
        algorithm=_algorithm(parameters),
        key_storage_key=key_storage_key(entries, state.hosts or ()),
        members=members_protected(state.hosts or (), backups, tests),
    )


def _algorithm(parameters: Parameters) -> Algorithm:
    """What is known of the format; of another library's only its name, as reports before knew nothing of it."""
    known = parameters.stated.cryptography
    if known is None or known.format is None:
        return ALGORITHM
    return replace(ALGORITHM, cipher=f"as the format {known.format} defines", key_bits=None, nonce_bits=None)


def _since(parameters: Parameters, every: Entries) -> datetime:
    period = parameters.period
    if period is None or period.since is None:
        return every[0].at
    if period.since > every[-1].at:
        raise AuditError(f"the newest event is of {utc_minute(every[-1].at)}; give an earlier --from")
    return period.since


def _with_the_newest(done: Sequence[Done], since: datetime) -> Iterator[Done]:
    """Those since a moment; and before it the newest, and the newest good one, which say how things stand."""
    good = [each for each in done if _is_good(each)]
    kept = {id(each) for each in (*done[-1:], *good[-1:])}
    yield from (each for each in done if each.at >= since or id(each) in kept)


def _is_good(done: BackupTaken | RecoveryTested) -> bool:
    return done.is_complete if isinstance(done, BackupTaken) else done.failure is None


def _newest_walk(requests: Sequence[Request]) -> Request | None:
    """The last rotation or rollback that finished, which says how things stand."""
    ended = [(each.finished_at, each) for each in requests if isinstance(each, Walk) and each.status == "finished"]
    return max(((at, each) for at, each in ended if at is not None), key=lambda pair: pair[0], default=(None, None))[1]


def _policy(state: LedgerState, entries: Entries) -> Policy:
    roster = state.roster or Roster(0, (), ())
    active = active_version(state.keys.values())
    declared = {version: ages[-1].since for version, ages in declared_ages(entries).items()}
    records, requests = tuple(state.keys.values()), tuple(state.requests.values())
    due = rotation_due(active, records, requests, declared) if active else None
    return Policy(
        required=roster.required,
        officers=tuple(OfficerOnRoster(each.name, each.fingerprint) for each in roster.officers),
        recipients=roster.recipients,
        next_rotation_due=due.at if due else None,
        rule=due.rule if due else None,
    )


def _approvals(entries: Entries, state: LedgerState) -> dict[str, tuple[Approval, ...]]:
    """The good signatures on each request."""
    unverified, found = {each.seq for each in state.unverified}, dict[str, tuple[Approval, ...]]()
    for entry in entries:
        if isinstance(added := entry.fact, SignatureAdded) and entry.request and entry.seq not in unverified:
            rosters = (entry.roster, *(roster for _, roster, _ in reversed(state.rosters)))
            names = (roster.name_of(added.officer) for roster in rosters if roster)
            name = next((name for name in names if name), "not on the roster")
            approval = Approval(name, added.officer, added.signed_at)
            found[entry.request] = (*found.get(entry.request, ()), approval)
    return found


def _decided(request: Request, approvals: tuple[Approval, ...], entries: Entries, state: LedgerState) -> Decided:
    walk = request if isinstance(request, Walk) else None
    retired = walk.done(Step.RETIRED_KEY) if walk else None
    after = retirement_of(entries, request.id)
    steps = sorted(walk.steps, key=lambda each: (each.finished_at, WALK.index(each.step))) if walk else ()
    row = state.audit_rows.get(request.id)
    return Decided(
        id=request.id,
        action=str(request.action),
        type=str(request.type),
        source=str(request.source),
        target=str(request.target),
        reason=request.reason,
        incident=request.incident,
        requested_by=request.requested_by,
        requested_at=request.requested_at,
        started_at=request.started_at,
        finished_at=request.finished_at,
        status=str(request.status),
        required=required_for(request, entries),
        approvals=approvals,
        steps=tuple(FinishedStep(str(each.step), each.finished_at) for each in steps if each.table is None),
        records_reencrypted=records_reencrypted(walk) if walk else None,
        documented_at=row.completion_date if row else None,
        retirement=dict(retired.facts) if retired else {},
        not_read_again=after.unread if after else None,
        later_findings=tuple(_later(after)) if after else (),
    )


def _later(retired: Retirement) -> Iterator[LaterFinding]:
    open_ones = retired.contradicted_by
    for each in retired.found:
        yield LaterFinding(each.entry.seq, each.entry.at, each.found or "", gone=each not in open_ones)


def _time_stamps(every: Entries, since: datetime, parameters: Parameters) -> Iterator[TimeStamped]:
    """Those of the period, and the newest in any case."""
    stamps = tuple(_every_time_stamp(every, parameters))
    yield from (stamp for at, stamp in stamps if at >= since or stamp is stamps[-1][1])


def _every_time_stamp(every: Entries, parameters: Parameters) -> Iterator[tuple[datetime, TimeStamped]]:
    unverified = "not verified: no certificate is named in [audit] timestamp_certificates"
    for entry in every:
        stamped = entry.fact if entry.fault is None else None
        if not isinstance(stamped, AuditTimestamped) or not 0 < stamped.seq < entry.seq:
            continue
        if (seen := every[stamped.seq - 1]).event.hash == stamped.hash:  # seqs are gapless from 1
            certificates = tuple(hashlib.sha256(b64decode(each)).hexdigest() for each in stamped.trusted)
            refusal = None if parameters.timestamps_verified else unverified
            stamp = TimeStamped(
                stamped.seq, stamped.hash, seen.at, stamped.stamped_at, stamped.authority, certificates, refusal
            )
            yield entry.at, stamp


def _checkpoints(every: Entries, state: LedgerState) -> Iterator[CheckpointSigned]:
    """The newest of each witness that officers have signed last, of the audit's present tree."""
    tree, pinned = EventTree(state.hashes), set(witnesses_in(state.hosts or ()))
    for each in witnessed_in(every, state):
        at, note = each.signed_at(state.verify_event), each.note
        is_present = each.is_signed and each.witness in pinned and each.origin == state.origin
        if is_present and at is not None and note is not None and not any(faults(each, tree, state.verify_event)):
            found = note.checkpoint
            contradicted = each.failing[1] if each.failing is not None and each.signed is not None else None
            yield CheckpointSigned(each.witness.name, found.origin, found.size, found.root.hex(), at, contradicted)
