"""Cancelling a request, as long as nothing needs what it has made."""

from contextlib import ExitStack

from keyrotation_pipeline.model.requests import Request, RequestStatus, Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline

# No step may be running while a request is cancelled.
STEPS_BEFORE_ROWS = (Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT)


def cancel(pipeline: Pipeline, request: Request) -> None:
    """Cancel a request, and withdraw its key if one was made; that version is never used again. Repeatable.

    Raises:
        RequestError: writes may have moved to the new key; then the way out is forward.
        BlockedError: one of its steps is running.
    """
    with ExitStack() as held:
        for step in STEPS_BEFORE_ROWS:
            held.enter_context(pipeline.ledger.lock(f"{request.id}/{step}"))
        request = pipeline.ledger.request(request.id)
        if request.status is RequestStatus.CANCELLED:
            return
        withdraw = pipeline.actions[request.action].withdraw
        # One that waits to supersede another has made and changed nothing, and its key is not its own.
        if withdraw is not None and isinstance(request, Walk) and not request.waits_to_supersede:
            withdraw(pipeline, request)
        else:
            pipeline.ledger.set_status(request.id, RequestStatus.CANCELLED)
