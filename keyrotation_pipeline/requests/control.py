"""Pauses, resumes, paces or cancels a request; and locks all its steps."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import ApprovalError, BlockedError, RequestError
from keyrotation_pipeline.model.incidents import plain_text
from keyrotation_pipeline.model.progress import PaceSet
from keyrotation_pipeline.model.requests import WALK, Request, RequestStatus, Step, Walk
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import require_authorised
from keyrotation_pipeline.requests.conductor import Task


def pause(ledger: Ledger, rotation: Walk) -> None:
    """Pauses a rotation: no further step starts, and re-encryption stops within a second. Repeatable.

    Raises:
        RequestError: it is over, or a rollback that only waits for its signatures.
    """
    rotation = ledger.walk(rotation.id)
    if rotation.status is RequestStatus.PAUSED:
        return
    _require_unfinished(rotation, "pause")
    if rotation.waits_to_supersede:
        raise RequestError(
            f"request {rotation.id} has not started; withdraw it with `keyrotation cancel {rotation.id}`"
        )
    ledger.set_status(rotation.id, RequestStatus.PAUSED)


def resume(ledger: Ledger, rotation: Walk) -> bool:
    """Resumes a paused rotation; returns False for one that is not paused, which is unchanged.

    Raises:
        RequestError: it is over.
    """
    rotation = ledger.walk(rotation.id)
    _require_unfinished(rotation, "resume")
    if rotation.status is RequestStatus.PAUSED:
        status = RequestStatus.RUNNING if rotation.started_at else RequestStatus.REQUESTED
        ledger.set_status(rotation.id, status)
        return True
    return False


def _require_unfinished(rotation: Walk, what: str) -> None:
    if rotation.is_over:
        raise RequestError(
            f"rotation {rotation.id} is {rotation.status}; there is nothing to {what}, see `keyrotation status`"
        )


def pace_of(ledger: Ledger, rotation: Walk) -> PaceSet | None:
    """The pace that was last set for a rotation; None: never set, so the configured one."""
    return next(reversed(list(recorded(ledger, PaceSet, rotation.id))), None)


def set_pace(ledger: Ledger, rotation: Walk, changes: Mapping[str, Any], reason: str | None) -> PaceSet:
    """Sets some parts of the pace, and leaves the others as set before; the engine follows within seconds.

    Args:
        changes: parts of `PaceSet` by name; empty: everything is as configured again.

    Raises:
        RequestError, ConfigurationError: a part is invalid, or the rotation is over.
        IncidentError: the reason is not one plain line.
    """
    rotation = ledger.walk(rotation.id)
    if rotation.is_over:
        raise RequestError(f"rotation {rotation.id} is {rotation.status}; see `keyrotation status` for one that runs")
    if reason is not None:
        plain_text("reason", reason)
    former = pace_of(ledger, rotation) if changes else None
    pace = PaceSet(**{**asdict(former or PaceSet()), **changes, "reason": reason}).checked()
    ledger.append(pace, rotation.id)
    return pace


# No step may be running while a request is cancelled.
STEPS_BEFORE_ROWS = (Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT)


def cancel(pipeline: Pipeline, request: Request) -> None:
    """Cancels a request, and withdraws its key if one was made; that version is never used again. Repeatable.

    Raises:
        RequestError: writes may have moved to the new key, so it can only be finished or rolled back; or it has begun,
            and running it again completes it.
        BlockedError: it, or one of its steps, is running.
    """
    action = pipeline.actions[request.action]
    with ExitStack() as held:
        for name in (f"{request.id}/{step}" for step in STEPS_BEFORE_ROWS) if action.lock is None else (action.lock,):
            held.enter_context(pipeline.ledger.lock(name))
        request = pipeline.ledger.request(request.id)
        if request.status is RequestStatus.CANCELLED:
            return
        withdraw = action.withdraw
        if withdraw is None:
            _require_nothing_begun(pipeline, request)
        # One that waits to supersede another has made and changed nothing, and its key is not its own.
        if withdraw is not None and isinstance(request, Walk) and not request.waits_to_supersede:
            withdraw(pipeline, request)
        else:
            pipeline.ledger.set_status(request.id, RequestStatus.CANCELLED)


def _require_nothing_begun(pipeline: Pipeline, request: Request) -> None:
    """Refuses to leave a destruction, or another key's arrival, half done while its signatures count."""
    if request.status is not RequestStatus.RUNNING:
        return
    try:
        require_authorised(pipeline, request, pipeline.keys.read())
    except (ApprovalError, RequestError):
        return  # nobody can complete it any more, but another request of its kind does
    command = pipeline.actions[request.action].command(request)
    raise RequestError(
        f"{request.action} {request.id} has begun, so it cannot be cancelled; run `{command}`, which completes it"
    )


# The engine stops on a pause within a second; other steps end by themselves, or time out here.
PATIENCE_SECONDS = 15.0
PAUSE_SECONDS = 0.5


@contextmanager
def hold_all_steps(pipeline: Pipeline, rotation: Request) -> Iterator[None]:
    """Locks every step and shard of a request that may not start a new one: it is paused, or over.

    Raises:
        BlockedError: a step is still running; names who runs it.
    """
    until = pipeline.clock.monotonic() + PATIENCE_SECONDS
    with ExitStack() as held:
        for task in _tasks(pipeline):
            take_lock(pipeline, held, f"{rotation.id}/{task}", until)
        yield


def _tasks(pipeline: Pipeline) -> Iterator[Task]:
    yield from map(Task, WALK)
    for table in pipeline.tables:
        yield from (Task(Step.ROWS, Shard(table, index, pipeline.shards)) for index in range(pipeline.shards))


def take_lock(pipeline: Pipeline, held: ExitStack, name: str, until: float) -> None:
    """Takes a lock of the ledger until `held` is closed, and waits for it until a moment of the monotonic clock.

    Raises:
        BlockedError: another process has it for longer; names who.
    """
    patience_seconds = until - pipeline.clock.monotonic()
    for _ in attempts(pipeline.clock, pause_seconds=PAUSE_SECONDS, patience_seconds=patience_seconds):
        try:
            held.enter_context(pipeline.ledger.lock(name))
        except BlockedError as blocked:
            refusal = blocked
        else:
            return
    raise refusal
