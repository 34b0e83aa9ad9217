"""Opens a request of any action: its id, dates and texts, and the check that no other request blocks it."""

import os
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from keyrotation_pipeline.errors import ApprovalError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import require_plain
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.request_events import ServerSeen
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, RotationType, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Action, Pipeline

# Longer than an incident's deadlines: a late emergency must continue, and not wait for signatures again.
EMERGENCY_STANDS = timedelta(days=7)
# The cryptoperiod: a rotation planned for later than that would be the one after the next.
LONGEST_WAIT = timedelta(days=366)
LONGEST_NAME_CHARS = 255
LONGEST_REASON_CHARS = 1000

Kind = TypeVar("Kind", Request, Walk)


def new_request(
    kind: type[Kind],
    pipeline: Pipeline,
    action: Action[Pipeline],
    *,
    source: KeyVersion,
    fingerprint: str,
    target: KeyVersion,
    reason: str,
    requested_by: str,
    incident: str | None = None,
    start_by: datetime | None = None,
    finish_by: datetime | None = None,
    not_before: datetime | None = None,
    supersedes: str | None = None,
    manual: bool = False,
) -> Kind:
    """Builds a new request of any action, with a 128-bit random id, anchored at the audit's head; not stored yet.

    Before a walk begins, the audit has where the database runs.

    Args:
        fingerprint: of the source, 64 hex digits.
        incident: makes it an emergency: signatures are valid for seven days, longer than an incident's 48 hours.
        start_by: aware; default by action, counted from `not_before` if that is given.
        finish_by: likewise.
        not_before: aware, of a later day; nothing starts before, though it may be signed.
        manual: people carry it out, and the conductor does not start its steps.

    Raises:
        RequestError: the given dates are impossible, or an emergency is to be left to people.
    """
    if manual and incident is not None:
        raise RequestError(
            "an emergency runs against its clock, so the conductor carries it out; request it without --manual"
        )
    if action.name.walks:
        note_server(pipeline)
    head, now = pipeline.ledger.head(), pipeline.clock.now()
    earliest = None if not_before is None else _not_before(not_before, now, emergency=incident is not None)
    start, finish = _dates(action, earliest or now, start_by, finish_by, emergency=incident is not None)
    return kind(
        id=os.urandom(16).hex(),
        type=RotationType.ROUTINE if incident is None else RotationType.EMERGENCY,
        action=action.name,
        source=source,
        source_fingerprint=fingerprint,
        target=target,
        reason=reason,
        incident=incident,
        requested_by=requested_by,
        requested_at=now,
        start_by=start,
        finish_by=finish,
        audit_head=(head.seq, head.hash),
        status=RequestStatus.REQUESTED,
        approvals=(),
        supersedes=supersedes,
        not_before=earliest,
        manual=manual,
    )


def note_server(pipeline: Pipeline) -> None:
    """Records where the databases run, unless a walk is under way; of a member that does not answer, what is known."""
    if pipeline.ledger.current() or pipeline.ledger.waiting():
        return
    state, server = pipeline.ledger.replayed(), pipeline.environment.server()
    known = {name: each for name, each in state.member_servers.items() if name in pipeline.members}
    members = known | {name: each.server for name, each in pipeline.environment.members().items()}
    if (state.server, state.member_servers) != (server, members):
        pipeline.ledger.append(ServerSeen(server, members))


def pending(ledger: Ledger, action: RequestAction) -> tuple[Request, ...]:
    """The open requests of an action, newest first."""
    return tuple(each for each in ledger.requests() if each.action is action and not each.is_over)


def require_texts(reason: str, requested_by: str, incident: str | None) -> None:
    """Refuses texts that two people could read differently, or that are too long to be stored.

    Raises:
        ApprovalError: names which, and why.
    """
    for name, text, longest in (
        ("Reason", reason, LONGEST_REASON_CHARS),
        ("Requested by", requested_by, LONGEST_NAME_CHARS),
        ("Incident", "none" if incident is None else incident, LONGEST_NAME_CHARS),
    ):
        require_plain(name, text)
        if not text:
            raise ApprovalError(f"{name} is empty; write it in one plain line")
        if len(text) > longest:
            raise ApprovalError(f"{name} has {len(text)} characters; write it with at most {longest}")


def require_none_waiting(ledger: Ledger, *, emergency: bool = False, but: Request | None = None) -> None:
    """Refuses to open a request while one waits to undo another or to take it over.

    Args:
        emergency: the new request is one. An emergency and a routine request may wait at the same time: a flag, which
            opens the former, must not block the latter.
        but: the new request, where it is open already.

    Raises:
        RequestError: names it.
    """
    kind = RotationType.EMERGENCY if emergency else RotationType.ROUTINE
    for waiting in ledger.requests():
        if not waiting.action.walks or not waiting.waits_to_supersede or waiting.type is not kind:
            continue
        if but is not None and waiting.id == but.id:
            continue
        raise RequestError(
            f"request {waiting.id} ({waiting.action} {waiting.source} to {waiting.target}) waits for its start; "
            f"approve it with `keyrotation approve {waiting.id}`, or cancel it"
        )


def _not_before(not_before: datetime, now: datetime, *, emergency: bool) -> datetime:
    """The earliest start, in UTC and to the second, as in the signed text."""
    shown = f"--not-before {utc_minute(not_before)}"
    if emergency:
        raise RequestError("an emergency starts as soon as it is signed; request it without --not-before")
    if not_before <= now:
        raise RequestError(f"{shown} has passed; give a later one, or request without it to start at once")
    if not_before > now + LONGEST_WAIT:
        raise RequestError(f"{shown} is more than {LONGEST_WAIT.days} days away; give an earlier one, and sign it then")
    return not_before.astimezone(UTC).replace(microsecond=0)


def _dates(
    action: Action[Pipeline],
    earliest: datetime,
    start_by: datetime | None,
    finish_by: datetime | None,
    *,
    emergency: bool,
) -> tuple[datetime, datetime]:
    """The dates by which a request must start and finish, to the second.

    Args:
        earliest: when it may start.
    """
    finish = finish_by or earliest + (EMERGENCY_STANDS if emergency else action.finish_within)
    start = start_by or min(finish, earliest + (EMERGENCY_STANDS if emergency else action.start_within))
    if not earliest < start <= finish:
        raise RequestError("a request starts after now and finishes after its start; correct the two dates")
    # As the signed text shows them.
    return start.replace(microsecond=0), finish.replace(microsecond=0)
