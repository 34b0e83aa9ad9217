"""Answers about the audit, officers, keys, incidents and data: each from one report, with the records it rests on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.keys_in_audit import GENERATED
from keyrotation_pipeline.reporting.sections import Decided

OFFICERS_REQUIRED = 2
COUNTED_WITHIN = timedelta(days=7)
NO_INCIDENT = "no incident is on record"


@dataclass(frozen=True, slots=True)
class Record:
    """One record: a sentence about it, and when it was made."""

    about: str
    said: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a statement is true, and by which records; where there are none, `remark` says what is missing."""

    holds: bool
    evidence: tuple[Record, ...] = ()
    remark: str = ""


def nothing_recorded(remark: str) -> Answer:
    """What nobody recorded is not satisfied."""
    return Answer(False, remark=remark)  # noqa: FBT003


def audit_verified(report: ComplianceReport) -> Answer:
    """There is no report of an audit that does not verify."""
    head = report.audit
    said = f"event {head.seq} has the hash {head.head}; the chain, its anchors, tables and signatures verify"
    return Answer(True, (Record("audit", said, report.generated_at),))  # noqa: FBT003


def time_stamped(report: ComplianceReport) -> Answer:
    """Whether there are time stamps, and all verify."""
    if not report.timestamps:
        return nothing_recorded("the audit has no time stamp; set [audit] timestamp_url")
    records = tuple(
        Record(
            f"time stamp of event {each.seq}",
            f"{each.authority} saw event {each.seq} ({each.head}) at {when(each.stamped_at)}, which is recorded "
            f"for {when(each.recorded_at)}: {each.refusal or 'verified'}",
            each.stamped_at,
        )
        for each in report.timestamps
    )
    return Answer(all(each.refusal is None for each in report.timestamps), records)


def policy_pinned(report: ComplianceReport) -> Answer:
    """Whether a roster of at least two is pinned."""
    policy = report.policy
    if not policy.officers:
        return nothing_recorded("no officers are pinned; run `keyrotation init`")
    who = ", ".join(f"{each.name} ({each.fingerprint})" for each in policy.officers)
    said = f"{policy.required} of {who} must sign"
    return Answer(policy.required >= OFFICERS_REQUIRED, (Record("roster", said, report.audit_ends_at),))


def two_officers(report: ComplianceReport) -> Answer:
    """Whether every request that began was signed by enough officers."""
    begun = [each for each in report.requests if each.started_at is not None or each.status == "finished"]
    holds = all(
        len({by.fingerprint for by in each.approvals}) >= max(each.required, OFFICERS_REQUIRED) for each in begun
    )
    records = (Record(each.id, _signed(each), each.started_at or each.requested_at) for each in begun)
    return Answer(holds, tuple(records)) if begun else nothing_recorded("no request has begun")


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
    return Answer(since is not None, (Record(key.version, said, at),))


def in_cryptoperiod(report: ComplianceReport) -> Answer:
    """Whether the next rotation of the active key is not overdue, and its age known."""
    due, key = report.policy.next_rotation_due, report.active_key
    if due is None or key is None:
        return nothing_recorded("no key is active; run `keyrotation init`")
    said = f"{key.version} ({key.fingerprint}) is to be replaced by {when(due)}: {report.policy.rule}"
    known = key_age_known(report).holds
    return Answer(known and report.as_of <= due, (Record(key.version, said, report.as_of),))


def old_keys_retired(report: ComplianceReport) -> Answer:
    """Whether every finished rotation retired its old key, and nothing read later contradicts it."""
    rotated = [each for each in report.requests if each.action == "rotate" and each.status == "finished"]
    holds = all(
        each.retirement.get("old_values") == 0 and all(found.gone for found in each.later_findings) for each in rotated
    )
    records = (Record(each.id, _retirement(each), each.finished_at or each.requested_at) for each in rotated)
    return Answer(holds, tuple(records)) if rotated else nothing_recorded("no rotation is finished")


def _retirement(request: Decided) -> str:
    said = request.retirement
    if not said:
        return f"rotation {request.id} of {request.source} retired no key"
    later = "".join(
        f"; on {when(each.at)} {each.said} (event {each.seq}){', which is gone by now' if each.gone else ''}"
        for each in request.later_findings
    )
    unread = f"; {request.not_read_again}" if request.not_read_again else ""
    return (
        f"rotation {request.id} of {request.source} to {request.target}: {said.get('old_values')} old value(s) of "
        f"{said.get('values')} counted at {said.get('proven_at')}; the database refuses "
        f"{', '.join(map(str, said.get('fenced_against') or ())) or 'no version'}; not searched: "
        f"{'; '.join(map(str, said.get('not_searched') or ())) or 'nothing is named'}{unread}{later}"
    )


def rotations_documented(report: ComplianceReport) -> Answer:
    """Whether every finished rotation has its completed row."""
    finished = [each for each in report.requests if each.steps and each.status == "finished"]
    holds = all(each.documented_at is not None for each in finished)
    records = (Record(each.id, _documented(each), each.finished_at or each.requested_at) for each in finished)
    return Answer(holds, tuple(records)) if finished else nothing_recorded("no rotation is finished")


def _documented(request: Decided) -> str:
    row = "no completed row" if request.documented_at is None else f"a row of {when(request.documented_at)}"
    return f"{request.action} {request.id} has {row} in key_rotation_audit"


def incidents_in_time(report: ComplianceReport) -> Answer:
    """Whether every stage of every incident was reached by its time, or is not due yet."""
    holds, records = True, []
    for incident in report.incidents:
        stages = []
        for stage in incident.stages:
            late = (stage.reached_at or report.as_of) > stage.due_at
            holds = holds and not late
            reached = "not reached yet" if stage.reached_at is None else f"reached {when(stage.reached_at)}"
            stages.append(f"{stage.stage} due {when(stage.due_at)}, {reached}{', late' if late else ''}")
        said = f"{incident.id} ({incident.type}): {'; '.join(stages)}"
        records.append(Record(incident.id, said, incident.discovered_at))
    return Answer(holds, tuple(records), "" if records else NO_INCIDENT)


def incidents_closed(report: ComplianceReport) -> Answer:
    """Whether every incident is closed."""
    records = tuple(
        Record(each.id, f"{each.id} ({each.type}) is {each.status}; {'; '.join(each.breach)}", each.discovered_at)
        for each in report.incidents
    )
    holds = all(each.closed_at is not None for each in report.incidents)
    return Answer(holds, records, "" if records else NO_INCIDENT)


def notices_given(report: ComplianceReport) -> Answer:
    """Whether no notice of a breach is due."""
    due = [each for each in report.incidents if each.notices_due]
    records = (
        Record(
            each.id,
            f"{each.id}: due to {', '.join(f'{n.to} by {n.last_date} ({n.rule})' for n in each.notices_due)}",
            each.discovered_at,
        )
        for each in due
    )
    return Answer(not due, tuple(records), "" if due else "no notice is due")


def key_access_logged(report: ComplianceReport) -> Answer:
    """Whether the report has a log of key reads."""
    access = report.access
    if access is None or access.key_reads is None:
        return nothing_recorded(
            "this report has no log of key reads; set [incidents] cloudtrail_bucket, and run "
            "`keyrotation report --from DAY`"
        )
    reads = sum(each.reads for each in access.key_reads)
    said = f"{reads:,} read(s) by {len(access.key_reads)} reader(s) from {when(access.since)} to {when(access.until)}"
    return Answer(True, (Record("key access log", said, access.until),))  # noqa: FBT003


def key_generation_known(report: ComplianceReport) -> Answer:
    """Whether the pipeline generated the active key."""
    if (key := report.active_key) is None:
        return nothing_recorded("no key is active; run `keyrotation init`")
    generated = key.origin == GENERATED
    how = "generated by the pipeline" if generated else "imported: how it was generated is not on record; rotate it"
    return Answer(generated, (Record(key.version, f"{key.version} was {how}", key.registered_at),))


def values_encrypted(report: ComplianceReport) -> Answer:
    """Whether every table was counted lately, and only encrypted values were found."""
    tables = report.data.tables
    if not tables:
        return nothing_recorded("nothing was counted; run `keyrotation status --count`")
    missing = (*report.data.not_counted, *_dropped(report, (each.table for each in tables)))
    holds = not missing and all(
        not each.unencrypted and not each.unreadable and report.as_of - each.counted_at <= COUNTED_WITHIN
        for each in tables
    )
    records = tuple(
        Record(
            each.table,
            f"{each.table}: {sum(each.values_by_version.values()):,} encrypted, {each.unencrypted:,} unencrypted and "
            f"{each.unreadable:,} unreadable value(s), counted {when(each.counted_at)}",
            each.counted_at,
        )
        for each in tables
    )
    never = f"not counted: {listed(missing)}; declare them, and run `keyrotation status --count`" if missing else ""
    return Answer(holds, records, never)


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
        f"{last.by} on {when(last.at)}: {last.failures:,} of {last.values:,} value(s) of {listed(last.tables)} do not "
        "decrypt"
    )
    rest = f"not read: {listed(dict.fromkeys(missing))}; run `keyrotation verify`" if missing else ""
    return Answer(not last.failures and not missing, (Record("every value", said, last.at),), rest)


def undeclared_searched(report: ComplianceReport) -> Answer:
    """Whether the newest inventory found nothing, and nothing of a retirement is left unread."""
    if (last := report.data.undeclared) is None:
        return nothing_recorded("what is not declared was not searched; run `keyrotation inventory`")
    unread = [each.not_read_again for each in report.requests if each.not_read_again]
    said = f"searched on {when(last.at)}: " + "; ".join((*(last.findings or ("no values found",)), *unread))
    limits = f"; not searched: {'; '.join(last.not_searched) or 'nothing is named'}"
    return Answer(not last.findings and not unread, (Record("undeclared columns", f"{said}{limits}", last.at),))


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names) or "none"


def when(at: datetime) -> str:
    """A moment in a sentence."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
