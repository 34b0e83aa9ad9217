"""Requests, backups and incidents in sentences, for the body of the report; every value comes from the report."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.incidents import IncidentType
from keyrotation_pipeline.model.requests import RequestAction, RequestStatus, Step
from keyrotation_pipeline.reporting.answers import retired_by
from keyrotation_pipeline.reporting.incidents_in_audit import IncidentReported, NoticeGiven
from keyrotation_pipeline.reporting.sections import STEPS, TRIGGERS, Approval, Decided, KeyLife, RecoveryTested
from keyrotation_pipeline.reporting.wording import lasting, listed

_ACTIONS: Mapping[str, str] = {
    RequestAction.ROTATE: "rotation from {source} to {target}",
    RequestAction.ROLLBACK: "rollback from {source} to {target}",
    RequestAction.DECRYPT: "decryption of columns, and rollback from {source} to {target}",
    RequestAction.RECONCILE: "reconciliation of a restored database, with {source} as the primary",
    RequestAction.DESTROY: "destruction of {source}",
    RequestAction.POLICY: "change of officers, quorum or recipients",
    RequestAction.REPLACE_KEY: "replacement of the key {source}, which decrypts no value",
}
_STATUS: Mapping[str, str] = {
    RequestStatus.REQUESTED: "requested, and not begun",
    RequestStatus.RUNNING: "under way",
    RequestStatus.PAUSED: "paused",
    RequestStatus.CANCELLED: "cancelled",
    RequestStatus.FINISHED: "finished",
}
_SEVERAL = 2
_STRAIGHT = str.maketrans({"“": '"', "”": '"'})
_ONE_NAME = re.compile(r"[\w@'-]+([ .][\w@'-]+)*")


def heading(request: Decided) -> str:
    """What was asked for, and how it stands: ``Routine rotation from v1 to v2, finished``."""
    known = _ACTIONS.get(request.action)
    what = request.action if known is None else known.format(source=request.source, target=request.target)
    kind = f"{request.type} " if RequestAction(request.action).walks else ""
    return f"{capital(f'{kind}{what}')}, {_STATUS.get(request.status, request.status)}"


def account(request: Decided) -> Iterator[str]:
    """What became of a request, a sentence each."""
    incident = f" for incident {request.incident}" if request.incident else ""
    who = account_name(request.requested_by)
    yield f"Requested on {at(request.requested_at)} by {who}{incident}. Reason: {quoted(request.reason)}."
    yield _approved(request)
    yield from _carried_out(request)
    if request.retirement:
        yield from _evidence(request)
    elif request.action == RequestAction.ROTATE and request.status == RequestStatus.FINISHED:
        yield f"No evidence for the retirement of {request.source} is on record."
    if request.steps and request.status == RequestStatus.FINISHED:
        row = f"was completed on {at(request.documented_at)}" if request.documented_at else "is not complete"
        yield f"Its row in the procedure's key rotation audit table {row}."
    if request.not_read_again:
        yield f"{capital(request.not_read_again)}."
    for each in request.later_findings:
        gone = "a still later reading found nothing any more" if each.gone else "no later reading has found it gone"
        yield f"Later, on {at(each.at)}, {each.said} (event {each.seq}); {gone}."


def _approved(request: Decided) -> str:
    needed = f"{counted(request.required, 'officer')} must sign"
    if not request.approvals:
        return f"{needed}; nobody has."
    enough = len({each.fingerprint for each in request.approvals}) >= request.required
    state = "" if enough else ", which is not enough"
    return f"{needed}; signed by {signers(request.approvals)}{state}. Each signature is good over the exact text."


def signers(approvals: Sequence[Approval]) -> str:
    """Officers by name and fingerprint, with the time of their signature."""
    named = [f"{each.officer} ({each.fingerprint}) on {at(each.signed_at)}" for each in approvals]
    return f"{', '.join(named[:-1])} and {named[-1]}" if len(named) >= _SEVERAL else "".join(named)


def _carried_out(request: Decided) -> Iterator[str]:
    if request.started_at is None:
        yield "It has not begun." if request.status != RequestStatus.CANCELLED else "It never began."
        return
    rows = (
        "" if request.records_reencrypted is None else f"; {counted(request.records_reencrypted, 'row')} re-encrypted"
    )
    if request.finished_at is None:
        yield f"It began on {at(request.started_at)} and has not ended{rows}."
        return
    took = lasting((request.finished_at - request.started_at).total_seconds())
    yield f"It began on {at(request.started_at)} and ended on {at(request.finished_at)}, after {took}{rows}."


def _evidence(request: Decided) -> Iterator[str]:
    if (found := retired_by(request)) is None:
        yield "What is recorded as the evidence for its retirement is incomplete; appendix B has it as it stands."
        return
    versions = listed(map(str, found.fenced_against))
    by = found.identified_by
    refused = by.refused(versions) if by.refuses_writers else f"new values under {versions}"
    gone, tables = ", ".join(map(str, found.taken_from_applications)), listed(found.tables)
    yield (
        f"Before {gone} was withdrawn from the applications, {found.old_values:,} of {counted(found.values, 'value')} "
        f"in {tables} were found under it, on {at(found.proven_at)}{by.remark}. The database refuses "
        f"{refused}, and {found.target} is backed up in {found.target_backup}."
    )
    if found.not_searched:
        yield f"That search did not cover: {'; '.join(found.not_searched)}."
    if found.not_seen:
        yield f"Copies of the database that it could not see: {'; '.join(found.not_seen)}."


def quoted(text: str) -> str:
    """Somebody's words in quotation marks, out of which they cannot lead."""
    return f"“{text.translate(_STRAIGHT)}”"


def account_name(name: str) -> str:
    """The name of an account; in quotation marks where it could be read as more than that."""
    return name if _ONE_NAME.fullmatch(name) else quoted(name)


def step(name: str) -> str:
    """A step in words."""
    return capital(STEPS[Step(name)] if name in set(Step) else name.replace("_", " "))


def trigger(incident: IncidentReported) -> str:
    """The type of an incident as the policy has it."""
    known = set(IncidentType)
    return capital(TRIGGERS[IncidentType(incident.type)] if incident.type in known else incident.type.replace("_", " "))


def notice(given: NoticeGiven) -> str:
    """Whether a notice that was given was due, and in time."""
    if given.last_date is None:
        return "not asked for by the decision in force"
    return f"{'late' if given.sent_on > given.last_date else 'in time'}, at the latest {given.last_date}"


def encrypted(key: KeyLife) -> Iterator[str]:
    """The spans in which a version encrypted, and since when somebody has declared that it did."""
    if not key.cryptoperiods:
        yield "never"
    for each in key.cryptoperiods:
        yield f"{at(each.since, 'unknown')} to {at(each.until, 'now')}"
    for age in key.declared:
        yield f"in use since {at(age.since)}, as {account_name(age.by)} declared on {at(age.at)}"


def objective(tested: RecoveryTested | None, name: str, stated: int | None) -> str:
    """A recovery objective next to what the newest passed test measured."""
    wanted = "not stated" if stated is None else lasting(stated)
    if tested is None:
        return f"no test yet; objective {wanted}"
    took, allowed = (
        (tested.rto_seconds, tested.rto_allowed_seconds)
        if name == "RTO"
        else (tested.rpo_seconds, tested.rpo_allowed_seconds)
    )
    then = "no objective" if allowed is None else f"objective {lasting(allowed)}"
    now = f", and {wanted} by now" if stated is not None and stated != allowed else ""
    return f"{lasting(took)} on {at(tested.at)}; {then}{now}"


def at(time: datetime | None, otherwise: str = "–", *, seconds: bool = False) -> str:
    """A moment to the minute, or to the second, in UTC."""
    shown = "%Y-%m-%d %H:%M:%S UTC" if seconds else "%Y-%m-%d %H:%M UTC"
    return time.astimezone(UTC).strftime(shown) if time else otherwise


def capital(message: str) -> str:
    """A sentence with its first letter as a capital."""
    return f"{message[:1].upper()}{message[1:]}"
