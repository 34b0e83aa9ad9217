"""Pause and resume: one person may stop a rotation at any time, since standing still harms nothing."""

from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline


def pause(pipeline: Pipeline, rotation: Walk) -> None:
    """Begin no further step of a rotation; re-encryption stops within a second. Repeatable.

    Raises:
        RequestError: it is over, or a rollback that only waits for its signatures.
    """
    rotation = pipeline.ledger.walk(rotation.id)
    if rotation.status is RequestStatus.PAUSED:
        return
    _require_unfinished(rotation, "pause")
    if rotation.waits_to_supersede:
        raise RequestError(
            f"request {rotation.id} has not started; withdraw it with `keyrotation cancel {rotation.id}`"
        )
    pipeline.ledger.set_status(rotation.id, RequestStatus.PAUSED)


def resume(pipeline: Pipeline, rotation: Walk) -> None:
    """Let a paused rotation go on where it stands; one that is not paused is left as it is.

    Raises:
        RequestError: it is over.
    """
    rotation = pipeline.ledger.walk(rotation.id)
    _require_unfinished(rotation, "resume")
    if rotation.status is RequestStatus.PAUSED:
        status = RequestStatus.RUNNING if rotation.started_at else RequestStatus.REQUESTED
        pipeline.ledger.set_status(rotation.id, status)


def _require_unfinished(rotation: Walk, what: str) -> None:
    if rotation.is_over:
        raise RequestError(
            f"rotation {rotation.id} is {rotation.status}; there is nothing to {what}, see `keyrotation status`"
        )
