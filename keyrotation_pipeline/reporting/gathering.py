"""The compliance report, gathered from the verified audit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile

from keyrotation_pipeline.audit.chain import verify_chain
from keyrotation_pipeline.audit.events import entry_of
from keyrotation_pipeline.audit.history import HistoryEntry, LedgerState, whole_history
from keyrotation_pipeline.audit.verify import refusal_of, verify_everything
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import AuditEvent, EventKind, Note
from keyrotation_pipeline.model.backup_events import AuditTimestamped, BackupIncomplete, BackupRekeyed
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.key_events import (
    KeyActivationDeclared,
    KeyRegistered,
    KeyStateChanged,
    RecoveryTestFailed,
)
from keyrotation_pipeline.model.keys import KeyRecord, KeyState, rotation_due
from keyrotation_pipeline.model.request_events import SignatureAdded
from keyrotation_pipeline.model.requests import Request, Step, Walk
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.timestamps import TimestampAuthority
from keyrotation_pipeline.reporting.compliance import (
    Approval,
    AuditVerified,
    BackupTaken,
    ComplianceReport,
    Decided,
    FinishedStep,
    IncidentTold,
    KeyLife,
    OfficerOnRoster,
    Period,
    Policy,
    RecoveryTested,
    Span,
    TimeStamped,
)
from keyrotation_pipeline.rotation.report import records_reencrypted

BreachOf = Callable[[Incident, Sequence[HistoryEntry]], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """The report, and the whole audit that it was made of."""

    report: ComplianceReport
    events: tuple[AuditEvent, ...]


def gather(pipeline: Pipeline, breach_of: BreachOf, period: Period | None = None) -> ReportEvidence:
    """Verify the audit as a whole, then read the report from it.

    Args:
        period: None: of all of it.
        breach_of: the breach decision of an incident by the audit's events, in sentences.

    Raises:
        AuditError: the audit does not verify, so that nothing can be reported from it; or it is empty in that period.
    """
    events = verified_events(pipeline)
    return ReportEvidence(report_of(events, pipeline.signatures, pipeline.timestamps, breach_of, period), events)


def verified_events(pipeline: Pipeline) -> tuple[AuditEvent, ...]:
    """The whole audit, verified with its anchors, tables and signatures; raises as `gather`."""
    verified = verify_everything(pipeline)
    with pipeline.ledger.snapshot():
        events = tuple(pipeline.ledger.events())
    verify_chain(events, [verified])  # what others appended meanwhile follows what was verified
    if not events:
        raise AuditError("the audit is empty, so there is nothing to report; run `keyrotation init`")
    return events


def report_of(
    events: Sequence[AuditEvent],
    signatures: SignatureVerifier,
    authority: TimestampAuthority | None,
    breach_of: BreachOf,
    period: Period | None = None,
) -> ComplianceReport:
    """The report of a verified chain, which is not empty; raises as `gather`."""
    told, replayed = whole_history(_up_to(period, events), signatures.verify_as_of)
    newest, since, approvals = told[-1], _since(period, told), _approvals(told)
    # What happened in the period, and requests that are not over.
    within = [each for each in told if each.at >= since]
    moved = {each.request for each in within}
    decided = [each for each in replayed.requests.values() if each.id in moved or not each.is_over]
    every = replayed.incidents.by_id.values()
    incidents = [each for each in every if each.closed_at is None or each.closed_at >= since]
    return ComplianceReport(
        generated_at=newest.at,
        database=newest.entry.database,
        audit=AuditVerified(replayed.head.seq, replayed.head.hash),
        policy=_policy(replayed, told),
        keys=tuple(_key(record, told) for _, record in sorted(replayed.keys.items())),
        requests=tuple(_decided(each, tuple(approvals.get(each.id, ()))) for each in decided),
        backups=tuple(each for each in _backups(told, replayed) if each.at >= since),
        recovery_tests=tuple(tested for each in within if (tested := _recovery_test(each)) is not None),
        incidents=tuple(_incident(each, breach_of(each, told)) for each in incidents),
        since=told[0].at,
        timestamps=tuple(_time_stamps(told, within, authority)),
        period=period,
    )


def _up_to(period: Period | None, events: Sequence[AuditEvent]) -> Sequence[AuditEvent]:
    if period is None or period.until is None:
        return events
    until = period.until
    if not (before := list(takewhile(lambda each: entry_of(each).at < until, events))):
        raise AuditError(f"the audit begins on {entry_of(events[0]).at:%Y-%m-%d %H:%M} UTC; give a later --to")
    return before


def _since(period: Period | None, told: Sequence[HistoryEntry]) -> datetime:
    if period is None or period.since is None:
        return told[0].at
    if period.since > told[-1].at:
        raise AuditError(f"the newest event is of {told[-1].at:%Y-%m-%d %H:%M} UTC; give an earlier --from")
    return period.since


def _policy(replayed: LedgerState, told: Sequence[HistoryEntry]) -> Policy:
    roster = replayed.roster or Roster(0, (), ())
    active = next((each.version for each in replayed.keys.values() if each.state is KeyState.ACTIVE), None)
    records, requests = tuple(replayed.keys.values()), tuple(replayed.requests.values())
    due = rotation_due(active, records, requests, _declared(told)) if active else None
    return Policy(
        required=roster.required,
        officers=tuple(OfficerOnRoster(each.name, each.fingerprint) for each in roster.officers),
        recipients=roster.recipients,
        next_rotation_due=due.at if due else None,
        rule=due.rule if due else None,
    )


def _declared(told: Sequence[HistoryEntry]) -> Mapping[KeyVersion, datetime]:
    facts = (each.fact for each in told if each.kind == EventKind.KEY_ACTIVATION_DECLARED)
    return {fact.version: fact.activated_at for fact in facts if isinstance(fact, KeyActivationDeclared)}


def _key(record: KeyRecord, told: Sequence[HistoryEntry]) -> KeyLife:
    return KeyLife(
        version=str(record.version),
        state=str(record.state),
        fingerprint=record.fingerprint,
        created_at=record.created_at,
        declared_since=_declared(told).get(record.version),
        cryptoperiods=tuple(_cryptoperiods(record.version, told)),
    )


def _cryptoperiods(version: KeyVersion, told: Sequence[HistoryEntry]) -> list[Span]:
    """Each time from becoming active to becoming anything else."""
    spans: list[Span] = []
    since: datetime | None = None
    for entry in told:
        match entry.fact:
            case KeyRegistered(version=named, state=after, created_at=at) if named == version:
                moment = at
            case KeyStateChanged(version=named, after=after) if named == version:
                moment = entry.at
            case _:
                continue
        if since is not None and after is not KeyState.ACTIVE:
            spans.append(Span(since, moment))
        since = (since or moment) if after is KeyState.ACTIVE else None
    return spans if since is None else [*spans, Span(since, None)]


def _approvals(told: Sequence[HistoryEntry]) -> dict[str, list[Approval]]:
    """Every signature, and why one does not count."""
    found = dict[str, list[Approval]]()
    for entry in told:
        if isinstance(added := entry.fact, SignatureAdded):
            name = entry.roster.name_of(added.officer) if entry.roster else None
            refusal = None if entry.fault is None else f"it {entry.fault}"
            approval = Approval(name or "not on the roster", added.officer, added.signed_at, refusal)
            found.setdefault(entry.request or "", []).append(approval)
    return found


def _decided(request: Request, approvals: tuple[Approval, ...]) -> Decided:
    walk = request if isinstance(request, Walk) else None
    retired = walk.done(Step.RETIRED_KEY) if walk else None
    steps = sorted(walk.steps, key=lambda each: (each.finished_at, each.step)) if walk else ()
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
        approvals=approvals,
        steps=tuple(FinishedStep(str(each.step), each.finished_at) for each in steps if each.table is None),
        records_reencrypted=records_reencrypted(walk) if walk else None,
        retirement=dict(retired.facts) if retired else {},
    )


def _backups(told: Sequence[HistoryEntry], replayed: LedgerState) -> tuple[BackupTaken, ...]:
    compromised = {str(each.version) for each in replayed.keys.values() if each.state is KeyState.COMPROMISED}
    facts = (each.fact for each in told if each.kind == EventKind.BACKUP_REKEYED)
    replaced = {fact.made_from: fact.manifest for fact in facts if isinstance(fact, BackupRekeyed)}
    return tuple(
        replace(
            taken,
            compromised=tuple(sorted(compromised.intersection(taken.compromised))),
            replaced_by=replaced.get(taken.manifest or ""),
        )
        for each in told
        if (taken := _backup(each)) is not None
    )


def _backup(entry: HistoryEntry) -> BackupTaken | None:
    """One backup, in whose `compromised` is every key that it has to do with."""
    match entry.fact:
        case Note(kind=EventKind.BACKUP_MADE, facts=facts):
            keys, places = tuple(facts.get("keys", ())), tuple(facts.get("places", ()))
            touched = (*keys, *facts.get("dump_needs", ()))
            return BackupTaken(entry.at, facts.get("set"), keys, bool(facts.get("dump")), places, (), touched)
        case BackupRekeyed() as made:
            target = (str(made.target),)
            return BackupTaken(entry.at, made.manifest, target, True, made.places, made.failures, target)  # noqa: FBT003
        case BackupIncomplete() as made:
            has_dump = any(name.startswith("database-") for name in made.files)
            return BackupTaken(entry.at, made.manifest, (), has_dump, made.places, made.failures)
        case _:
            return None


def _recovery_test(entry: HistoryEntry) -> RecoveryTested | None:
    match entry.fact:
        case Note(kind=EventKind.RECOVERY_TEST_PASSED, facts=facts):
            allowed = facts.get("objectives", {})
            return RecoveryTested(
                entry.at,
                str(facts.get("place", "")),
                None,
                rto_seconds=facts.get("rto_seconds"),
                rto_allowed_seconds=allowed.get("rto_seconds"),
                rpo_seconds=facts.get("rpo_seconds"),
                rpo_allowed_seconds=allowed.get("rpo_seconds"),
            )
        case RecoveryTestFailed() as failed:
            return RecoveryTested(entry.at, failed.place, failed.reason)
        case _:
            return None


def _time_stamps(
    told: Sequence[HistoryEntry], within: Sequence[HistoryEntry], authority: TimestampAuthority | None
) -> Iterator[TimeStamped]:
    unverified = "not verified: no certificate is named in [audit] timestamp_certificates"
    for entry in within:
        if isinstance(stamped := entry.fact, AuditTimestamped):
            refusal = unverified if authority is None else refusal_of(authority, stamped)
            at = told[stamped.seq - 1].at  # seqs are gapless from 1, and it was verified that this one is there
            yield TimeStamped(stamped.seq, stamped.hash, at, stamped.stamped_at, stamped.authority, refusal)


def _incident(incident: Incident, breach: tuple[str, ...]) -> IncidentTold:
    return IncidentTold(
        id=incident.id,
        type=str(incident.type),
        status=str(incident.status),
        description=incident.description,
        versions=tuple(map(str, incident.versions)),
        discovered_at=incident.discovered_at,
        acknowledged_at=incident.acknowledged_at,
        closed_at=incident.closed_at,
        request=incident.request,
        breach=breach,
    )
