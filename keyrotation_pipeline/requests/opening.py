"""Requests: opened for officers to sign, and cancelled while nothing is written under the new key."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import TypeVar

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.intents import CANCEL_INTENDED
from keyrotation_pipeline.errors import ApprovalError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import require_plain
from keyrotation_pipeline.model.columns import TableCount
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.request import Request, RequestAction, RequestStatus, RotationType, Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import (
    add_approval,
    approval_text,
    pinned_roster,
    require_authorised,
    require_roster,
)
from keyrotation_pipeline.requests.inventory import require_preflight

# Whoever deals with requests finds the whole of it here.
__all__ = [
    "add_approval",
    "approval_text",
    "cancel",
    "dates",
    "open_request",
    "pinned_roster",
    "require_authorised",
    "require_none_waiting",
    "require_roster",
    "require_texts",
]

# No step may run, and be at its middle, while a request is cancelled.
STEPS_BEFORE_ROWS = (Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT)

ROUTINE_START = timedelta(days=30)
ROUTINE_FINISH = timedelta(days=90)
EMERGENCY = timedelta(hours=24)
LONGEST_NAME_CHARS = 255
LONGEST_REASON_CHARS = 1000

Kind = TypeVar("Kind", Request, Walk)


def open_request(
    pipeline: Pipeline,
    *,
    reason: str,
    requested_by: str,
    incident: str | None = None,
    start_by: datetime | None = None,
    finish_by: datetime | None = None,
) -> Walk:
    """Open a rotation from the primary to a version that was never used, for officers to sign.

    While a request is past its dates with its key the primary, what is opened is its continuation: the same again,
    which goes on where that one stands.

    Args:
        reason: one plain line; officers sign it.
        requested_by: who asks, as `key_rotation_audit.initiated_by` shows it.
        incident: makes it an emergency: to be finished within 24 hours.
        start_by: aware; default 30 days from now.
        finish_by: aware; default 90 days from now.

    Raises:
        ApprovalError: the roster differs from the pinned one, or a text has characters that could mislead.
        RequestError: another rotation is unfinished (and within its dates), there is no primary, or the dates cannot
            be right.
        PreflightError: a table cannot be rotated as it is.
        BlockedError: the database was restored to an earlier state.
    """
    require_roster(pipeline)
    require_texts(reason, requested_by, incident)
    require_consistent(pipeline)
    require_none_waiting(pipeline)
    former = _stuck(pipeline)
    if former is None:
        source = _source(pipeline)
        target, counts = _target(pipeline)
    else:
        source, target, counts = _registered(pipeline)[former.source], former.target, ()
        incident = incident or former.incident
    now = pipeline.clock.now()
    start, finish = dates(now, start_by, finish_by, emergency=incident is not None)
    rotation = drawn_up(
        Walk,
        pipeline,
        action=RequestAction.ROTATE if former is None else former.action,
        source=source.version,
        fingerprint=source.fingerprint,
        target=target,
        reason=reason,
        incident=incident,
        requested_by=requested_by,
        between=(now, start, finish),
        supersedes=None if former is None else former.id,
    )
    pipeline.ledger.open(rotation, approval_text(pipeline, rotation))
    pipeline.ledger.save_counts(counts)
    return rotation


def drawn_up(
    kind: type[Kind],
    pipeline: Pipeline,
    *,
    action: RequestAction,
    source: KeyVersion,
    fingerprint: str,
    target: KeyVersion,
    reason: str,
    requested_by: str,
    between: tuple[datetime, datetime, datetime],
    incident: str | None = None,
    supersedes: str | None = None,
) -> Kind:
    """A new request of any action, with an id of 128 random bits, anchored at the audit's present head; not stored yet.

    Args:
        fingerprint: of the source, 64 hex digits.
        between: when it is made, by when it must start, and by when it must finish; aware.
    """
    head = pipeline.ledger.head()
    made, start, finish = between
    return kind(
        id=os.urandom(16).hex(),
        type=RotationType.ROUTINE if incident is None else RotationType.EMERGENCY,
        action=action,
        source=source,
        source_fingerprint=fingerprint,
        target=target,
        reason=reason,
        incident=incident,
        requested_by=requested_by,
        requested_at=made,
        start_by=start,
        finish_by=finish,
        audit_head=(head.seq, head.hash),
        status=RequestStatus.REQUESTED,
        approvals=(),
        supersedes=supersedes,
    )


def cancel(pipeline: Pipeline, rotation: Request) -> None:
    """Give a request up, and withdraw its key if one was made; that version is never used again. Again is no change.

    Raises:
        RequestError: writes may have moved to the new key; then the way out is forward.
        BlockedError: one of its steps is running.
    """
    with ExitStack() as held:
        for step in STEPS_BEFORE_ROWS:
            held.enter_context(pipeline.ledger.lock(f"{rotation.id}/{step}"))
        rotation = pipeline.ledger.request(rotation.id)
        if rotation.status is RequestStatus.CANCELLED:
            return
        if rotation.waits_to_supersede or not isinstance(rotation, Walk):
            # It has made and changed nothing, and its key is not its own.
            pipeline.ledger.set_status(rotation.id, RequestStatus.CANCELLED)
            return
        _require_cancellable(pipeline, rotation)
        require_consistent(pipeline)
        pipeline.ledger.append(CANCEL_INTENDED, {"withdraws": str(rotation.target)}, rotation.id)
        if rotation.target in pipeline.keys.versions():
            pipeline.keys.archive(rotation.target)
        with pipeline.ledger.transaction():
            if rotation.target in _registered(pipeline):
                pipeline.ledger.set_key_state(rotation.target, KeyState.ARCHIVED, rotation.id)
            pipeline.ledger.set_status(rotation.id, RequestStatus.CANCELLED)


def _require_cancellable(pipeline: Pipeline, rotation: Walk) -> None:
    if rotation.status is RequestStatus.FINISHED:
        raise RequestError(f"rotation {rotation.id} is finished; there is nothing to cancel")
    if rotation.action == RequestAction.ROLLBACK:
        raise RequestError(
            f"the rollback {rotation.id} has begun, so it cannot be cancelled; "
            f"go on with `keyrotation rotate {rotation.id}`"
        )
    promoted = rotation.done(Step.PRIMARY_KEY_ROLLOUT) or rotation.promotion_xid is not None
    if promoted or pipeline.keys.primary() == rotation.target:
        raise RequestError(
            f"rotation {rotation.id} has made {rotation.target} the primary, so it cannot be cancelled; "
            f"go on with `keyrotation rotate {rotation.id}`, or back with `keyrotation rollback {rotation.id}`"
        )
    for count in pipeline.database.count(pipeline.tables):
        if values := count.values_by_version.get(rotation.target, 0):
            raise RequestError(
                f"table {count.table.name} holds {values} value(s) under {rotation.target}, so rotation {rotation.id} "
                "cannot be cancelled; stop what writes them and re-encrypt them first"
            )


def require_texts(reason: str, requested_by: str, incident: str | None) -> None:
    """Refuse texts that two people could read differently, or that are kept nowhere whole.

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


def require_none_waiting(pipeline: Pipeline) -> None:
    """Refuse to open a request beside one that waits to undo another or to take it over.

    Raises:
        RequestError: names it.
    """
    if (waiting := pipeline.ledger.waiting()) is not None:
        raise RequestError(
            f"request {waiting.id} ({waiting.action} {waiting.source} to {waiting.target}) waits for its start; "
            f"approve it with `keyrotation approve {waiting.id} --text`, or cancel it"
        )


def _stuck(pipeline: Pipeline) -> Walk | None:
    """The unfinished request, if only a continuation can bring it to its end; None if there is no unfinished one."""
    current = pipeline.ledger.current()
    if current is None:
        return None
    begun = current.action == RequestAction.ROLLBACK or pipeline.keys.primary() == current.target
    if begun and pipeline.clock.now() > current.finish_by:
        return current
    raise RequestError(
        f"rotation {current.id} ({current.source} to {current.target}) is not finished; "
        f"finish it with `keyrotation rotate {current.id}`, or cancel it"
    )


def _source(pipeline: Pipeline) -> KeyRecord:
    """The primary, as registered, if the key store holds exactly that key."""
    primary = pipeline.keys.primary()
    registered = _registered(pipeline)
    if primary is None or (record := registered.get(primary)) is None:
        raise RequestError("the key store has no registered primary; run `keyrotation init`")
    if pipeline.keys.get(primary).fingerprint != record.fingerprint:
        raise RequestError(
            f"the key store holds another {primary} than the registered one ({record.fingerprint[:16]}); "
            "restore that from its backup"
        )
    return record


def _registered(pipeline: Pipeline) -> dict[KeyVersion, KeyRecord]:
    records = pipeline.ledger.keys()
    return {record.version: record for record in records}


def _target(pipeline: Pipeline) -> tuple[KeyVersion, tuple[TableCount, ...]]:
    """The new version, fit for every table, and the counts that it was chosen by."""
    # The pre-flight comes before the count, which could only fail on what the pre-flight explains.
    require_preflight(pipeline, expected := _next_version(pipeline, ()))
    counts = pipeline.database.count(pipeline.tables)
    target = _next_version(pipeline, counts)
    if target != expected:
        require_preflight(pipeline, target)
    return target, counts


def _next_version(pipeline: Pipeline, counts: Sequence[TableCount]) -> KeyVersion:
    """One more than the highest number registered, stored, or seen in the data: a number is never used twice."""
    seen = set(_registered(pipeline))
    seen.update(pipeline.keys.versions(), pipeline.keys.archived())
    seen.update(version for count in counts for version in count.values_by_version)
    return max(seen).next()


def dates(
    now: datetime, start_by: datetime | None, finish_by: datetime | None, *, emergency: bool
) -> tuple[datetime, datetime]:
    """By when a request must start and be finished, to the second.

    Raises:
        RequestError: the given dates cannot be right.
    """
    finish = finish_by or now + (EMERGENCY if emergency else ROUTINE_FINISH)
    start = start_by or min(finish, now + (EMERGENCY if emergency else ROUTINE_START))
    if not now < start <= finish:
        raise RequestError("a request starts after now and finishes after its start; correct the two dates")
    # As the signed text shows them.
    return start.replace(microsecond=0), finish.replace(microsecond=0)
