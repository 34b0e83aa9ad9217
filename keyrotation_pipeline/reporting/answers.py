"""Answers about the audit, officers, keys, data and incidents: each from one report, with the records it rests on."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.incidents_in_audit import IncidentReported
from keyrotation_pipeline.reporting.keys_in_audit import GENERATED, HELD
from keyrotation_pipeline.reporting.sections import Decided, TableCounted
from keyrotation_pipeline.reporting.wording import listed, when

OFFICERS_REQUIRED = 2
NO_ROTATION = "no rotation is finished"
COUNTED_WITHIN = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Record:
    """One record: a sentence about it, when it was made, and whether the statement is true by it.

    Args:
        known: False: the statement is not false by it either: it says that nobody recorded it, or looked lately.
    """

    about: str
    said: str
    at: datetime
    holds: bool = True
    known: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a statement is true, and by which records; where there are none, `remark` says what is missing.

    Args:
        applies: False: there is nothing that the statement could be about; `remark` says so.
    """

    holds: bool
    evidence: tuple[Record, ...] = ()
    remark: str = ""
    applies: bool = True


def by_records(records: Iterable[Record], missing: str = "") -> Answer:
    """A statement that is true if it is by every record, and none is missing."""
    found = tuple(records)
    return Answer(not missing and all(each.holds for each in found), found, missing)


def nothing_recorded(remark: str) -> Answer:
    """What nobody recorded is not satisfied."""
    return Answer(False, remark=remark)  # noqa: FBT003


def not_applicable(remark: str) -> Answer:
    """There is nothing yet that could be judged; it does not count as satisfied either."""
    return Answer(False, remark=remark, applies=False)  # noqa: FBT003


def audit_verified(report: ComplianceReport) -> Answer:
    """There is no report of an audit that does not verify."""
    head = report.audit
    said = f"event {head.seq} has the hash {head.head}; the chain, its anchors, tables and signatures verify"
    return Answer(True, (Record("audit", said, report.generated_at),))  # noqa: FBT003


def time_stamped(report: ComplianceReport) -> Answer:
    """Whether there are time stamps, and all verify."""
    if not report.timestamps:
        return nothing_recorded("the audit has no time stamp; set [audit] timestamp_url")
    return by_records(
        Record(
            f"time stamp of event {each.seq}",
            f"{each.authority} saw event {each.seq} ({each.head}) at {when(each.stamped_at)}, which is recorded "
            f"for {when(each.recorded_at)}: {each.refusal or 'verified'}",
            each.stamped_at,
            each.refusal is None,
        )
        for each in report.timestamps
    )


def witnessed(report: ComplianceReport) -> Answer:
    """Whether a witness has signed the audit, and none contradicts it; later events are named as not witnessed."""
    if not report.checkpoints:
        return nothing_recorded("no witness that officers have named has signed this audit; set [audit] witness")
    last = report.audit.seq
    return by_records(
        Record(
            f"checkpoint of {each.events} events",
            f"{each.witness} has signed the root {each.root} of the first {each.events} of {last} events at "
            f"{when(each.signed_at)}; {each.contradicted or 'it has not witnessed those after them'}",
            each.signed_at,
            each.contradicted is None,
        )
        for each in report.checkpoints
    )


def policy_pinned(report: ComplianceReport) -> Answer:
    """Whether a roster of at least two is pinned."""
    policy = report.policy
    if not policy.officers:
        return nothing_recorded("no officers are pinned; run `keyrotation init`")
    who = ", ".join(f"{each.name} ({each.fingerprint})" for each in policy.officers)
    said = f"{policy.required} of {who} must sign"
    return by_records([Record("roster", said, report.audit_ends_at, policy.required >= OFFICERS_REQUIRED)])


def two_officers(report: ComplianceReport) -> Answer:
    """Whether every request that began was signed by enough officers."""
    begun = [each for each in report.requests if each.started_at is not None or each.status == "finished"]
    if not begun:
        return not_applicable("no request has begun")
    return by_records(
        Record(each.id, _signed(each), each.started_at or each.requested_at, _has_enough(each)) for each in begun
    )


def _has_enough(request: Decided) -> bool:
    return len({each.fingerprint for each in request.approvals}) >= max(request.required, OFFICERS_REQUIRED)


def _no_rotation(report: ComplianceReport) -> Answer:
    """None is finished, which is in order only as long as it is shown that none is due."""
    if in_cryptoperiod(report).holds:
        return not_applicable(NO_ROTATION)
    return nothing_recorded(f"{NO_ROTATION}, and it is not shown that none is due")


def _signed(request: Decided) -> str:
    who = "; ".join(f"{each.officer} ({each.fingerprint}) at {when(each.signed_at)}" for each in request.approvals)
    return f"{request.action} {request.id} is {request.status}; signed by {who or 'nobody'}"


def procedure_reviewed(_report: ComplianceReport) -> Answer:
    """No event records it."""
    return nothing_recorded("the audit has no record of reviews; keep a signed note of the last one with this report")


def key_age_known(report: ComplianceReport) -> Answer:
    """Whether the active key was promoted here, or its age was declared."""
    if (key := report.active_key) is None:
        return nothing_recorded("no key is active; run `keyrotation init`")
    since = key.cryptoperiods[-1].since if key.cryptoperiods else None
    if key.declared:
        said = f"{key.version} has been in use since " + ", and before that since ".join(
            f"{when(each.since)}, as {each.by} declared on {when(each.at)}" for each in reversed(key.declared)
        )
    elif since is not None:
        said = f"{key.version} has been in use since {when(since)}"
    else:
        said = (
            f"{key.version} was imported on {when(key.registered_at)}, and since when it has been in use is unknown; "
            "write [keys] activated_at, and run `keyrotation init` again"
        )
    at = key.declared[-1].at if key.declared else since or key.registered_at
    return by_records([Record(key.version, said, at, since is not None, since is not None)])


def in_cryptoperiod(report: ComplianceReport) -> Answer:
    """Whether the next rotation of the active key is not overdue, and its age known."""
    due, key = report.policy.next_rotation_due, report.active_key
    if due is None or key is None:
        return nothing_recorded("no key is active; run `keyrotation init`")
    said = f"{key.version} ({key.fingerprint[:16]}) is to be replaced by {when(due)}: {report.policy.rule}"
    known = key_age_known(report).holds
    overdue = report.as_of > due
    return by_records([Record(key.version, said, report.as_of, known and not overdue, known or overdue)])


def old_keys_retired(report: ComplianceReport) -> Answer:
    """Whether every finished rotation retired its old key, and nothing read later contradicts it."""
    rotated = [each for each in report.requests if each.action == "rotate" and each.status == "finished"]
    if not rotated:
        return _no_rotation(report)
    return by_records(
        Record(
            each.id,
            _retirement(each),
            each.finished_at or each.requested_at,
            _is_clean(each),
            retired_by(each) is not None or not each.retirement,
        )
        for each in rotated
    )


def _is_clean(request: Decided) -> bool:
    """Whether the retirement found nothing, and nothing that was read later contradicts it."""
    found = retired_by(request)
    return found is not None and found.old_values == 0 and all(each.gone for each in request.later_findings)


def retired_by(request: Decided) -> KeyRetired | None:
    """The evidence of a retirement; None: there is none, or it does not say what it must."""
    with suppress(AuditError):
        return read(KeyRetired, dict(request.retirement))
    return None


def _retirement(request: Decided) -> str:
    found, what = retired_by(request), f"rotation {request.id} of {request.source}"
    if found is None:
        return f"{what} {'has incomplete evidence' if request.retirement else 'retired no key'}"
    later = "".join(
        f"; on {when(each.at)} {each.said} (event {each.seq}){', which is gone by now' if each.gone else ''}"
        for each in request.later_findings
    )
    unread = f"; {request.not_read_again}" if request.not_read_again else ""
    return (
        f"{what} to {request.target}: {counted(found.old_values, 'old value')} of {found.values:,} counted at "
        f"{when(found.proven_at)}{found.identified_by.remark}; the database refuses "
        f"{found.identified_by.refused(listed(map(str, found.fenced_against)))}; "
        f"{counted(len(found.not_searched), 'place')} not searched{unread}{later}"
    )


def rotations_documented(report: ComplianceReport) -> Answer:
    """Whether every finished rotation has its completed row."""
    finished = [each for each in report.requests if each.steps and each.status == "finished"]
    if not finished:
        return _no_rotation(report)
    return by_records(
        Record(each.id, _documented(each), each.finished_at or each.requested_at, each.documented_at is not None)
        for each in finished
    )


def _documented(request: Decided) -> str:
    row = "no completed row" if request.documented_at is None else f"a row of {when(request.documented_at)}"
    return f"{request.action} {request.id} has {row} in key_rotation_audit"


def key_access_logged(report: ComplianceReport) -> Answer:
    """Whether the report has a log of key reads."""
    access = report.access
    if access is None or access.key_reads is None:
        return nothing_recorded(
            "this report has no log of key reads; set [incidents] cloudtrail_bucket, and run "
            "`keyrotation report --from DAY`"
        )
    reads = sum(each.reads for each in access.key_reads)
    said = (
        f"{counted(reads, 'read')} by {counted(len(access.key_reads), 'reader')} from {when(access.since)} to "
        f"{when(access.until)}"
    )
    return Answer(True, (Record("key access log", said, access.until),))  # noqa: FBT003


def key_generation_known(report: ComplianceReport) -> Answer:
    """Whether the pipeline generated the active key."""
    if (key := report.active_key) is None:
        return nothing_recorded("no key is active; run `keyrotation init`")
    generated = key.origin == GENERATED
    how = "generated by the pipeline" if generated else "imported: how it was generated is not on record; rotate it"
    if key.origin == HELD:
        how = "made by the server that holds it: ask there how"
    return by_records([Record(key.version, f"{key.version} was {how}", key.registered_at, generated, generated)])


def values_encrypted(report: ComplianceReport) -> Answer:
    """Whether every table was counted lately, and only encrypted values were found."""
    tables = report.data.tables
    if not tables:
        return nothing_recorded("nothing was counted; run `keyrotation status --count`")
    missing = (*report.data.not_counted, *_dropped(report, (each.table for each in tables)))
    never = f"not counted: {listed(missing)}; declare them, and run `keyrotation status --count`" if missing else ""
    return by_records((_count(each, report.as_of) for each in tables), never)


def _count(table: TableCounted, now: datetime) -> Record:
    fresh = now - table.counted_at <= COUNTED_WITHIN
    said = (
        f"{table.table}: {sum(table.values_by_version.values()):,} encrypted, {table.unencrypted:,} unencrypted "
        f"and {counted(table.unreadable, 'unreadable value')}, counted "
        f"{when(table.counted_at)}{'' if fresh else f', more than {COUNTED_WITHIN.days} days before {when(now)}'}"
    )
    clean = not table.unencrypted and not table.unreadable
    return Record(table.table, said, table.counted_at, fresh and clean, fresh or not clean)


def _dropped(report: ComplianceReport, read: Iterable[str]) -> Iterator[str]:
    """The tables of the last retirement that are not among those that were read."""
    retirements = [each.retirement for each in report.requests if each.retirement]
    known = set(read)
    yield from (str(each) for each in (retirements[-1].get("tables") or () if retirements else ()) if each not in known)


def every_value_decrypts(report: ComplianceReport) -> Answer:
    """Whether the newest reading of every value found no failure."""
    if (last := report.data.every_value) is None:
        return nothing_recorded("nobody has read every value; run `keyrotation verify`")
    missing = [*_dropped(report, last.tables), *(t.table for t in report.data.tables if t.table not in last.tables)]
    said = (
        f"{last.by} on {when(last.at)}: {last.failures:,} of {counted(last.values, 'value')} of "
        f"{listed(last.tables)} cannot be decrypted"
    )
    rest = f"not read: {listed(dict.fromkeys(missing))}; run `keyrotation verify`" if missing else ""
    return by_records([Record("every value", said, last.at, not last.failures)], rest)


def undeclared_searched(report: ComplianceReport) -> Answer:
    """Whether the newest inventory found nothing, and nothing of a retirement is left unread."""
    if (last := report.data.undeclared) is None:
        return nothing_recorded("what is not declared was not searched; run `keyrotation inventory`")
    unread = [each.not_read_again for each in report.requests if each.not_read_again]
    said = f"searched on {when(last.at)}: " + "; ".join((*(last.findings or ("no values found",)), *unread))
    limits = f"; {counted(len(last.not_searched), 'place')} not searched"
    clean, complete = not last.findings, not unread
    return by_records(
        [Record("undeclared columns", f"{said}{limits}", last.at, clean and complete, complete or not clean)]
    )


NO_INCIDENT = "no incident is on record"


def incidents_in_time(report: ComplianceReport) -> Answer:
    """Whether every stage of every incident was reached by its time, or is not due yet."""
    records = []
    for incident in report.incidents:
        in_time, stages = True, []
        for stage in incident.stages:
            late = stage.is_late(report.as_of)
            in_time = in_time and not late
            reached = "not reached yet" if stage.reached_at is None else f"reached {when(stage.reached_at)}"
            stages.append(f"{stage.stage} due {when(stage.due_at)}, {reached}{', late' if late else ''}")
        said = f"{incident.id} ({_type_of(incident)}): {'; '.join(stages)}"
        records.append(Record(incident.id, said, incident.discovered_at, in_time))
    return by_records(records) if records else _no_incident()


def _type_of(incident: IncidentReported) -> str:
    return incident.type.replace("_", " ")


def _no_incident() -> Answer:
    return Answer(True, remark=NO_INCIDENT, applies=False)  # noqa: FBT003


def incidents_closed(report: ComplianceReport) -> Answer:
    """Whether every incident is closed."""
    if not report.incidents:
        return _no_incident()
    return by_records(
        Record(
            each.id,
            f"{each.id} ({_type_of(each)}) is {each.status}; {each.breach[0]}",
            each.discovered_at,
            each.closed_at is not None,
        )
        for each in report.incidents
    )


def notices_given(report: ComplianceReport) -> Answer:
    """Whether no notice of a breach is due."""
    if not report.incidents:
        return _no_incident()
    return by_records(
        Record(each.id, f"{each.id}: {_notices(each)}", each.discovered_at, not each.notices_due)
        for each in report.incidents
    )


def _notices(incident: IncidentReported) -> str:
    due = ", ".join(f"{each.to} by {each.last_date} ({each.rule})" for each in incident.notices_due)
    return f"due to {due}" if due else "no notice is due that nobody has reported as given"
