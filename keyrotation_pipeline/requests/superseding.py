"""Succession: a request starts, and the one that it supersedes ends with the very same commit.

A rollback supersedes the rotation that it undoes. A continuation supersedes a request whose signatures have run out
after its key became the primary: it asks for the same, and goes on where that one stands.
"""

from collections.abc import Iterator
from contextlib import ExitStack

from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.model.request import WALK, Request, RequestStatus, Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.holding_still import standstill
from keyrotation_pipeline.requests.roster import pinned_roster

# Evidence is never taken over: the proof, and whatever follows it, is done anew.
TAKEN_OVER = frozenset(WALK[: WALK.index(Step.ROWS) + 1])


def begin(pipeline: Pipeline, rotation: Walk) -> Walk:
    """Start an authorised request; gives it back as it then stands.

    Raises:
        RequestError: what it was to supersede was cancelled, or needs no continuation any more.
        BlockedError: a step of that is still running.
    """
    with ExitStack() as held:
        former = _stopped(pipeline, rotation, held)
        with pipeline.ledger.transaction():
            if former is not None and not former.is_over:
                pipeline.ledger.set_status(former.id, RequestStatus.CANCELLED, by=rotation.id)
            pipeline.ledger.set_status(rotation.id, RequestStatus.RUNNING)
            if former is not None and former.action == rotation.action:
                _take_over(pipeline, former, rotation)
            pipeline.ledger.write_rotation_audit(pipeline.ledger.walk(rotation.id), 0, None)
    return pipeline.ledger.walk(rotation.id)


def lineage(pipeline: Pipeline, rotation: Walk) -> Iterator[Walk]:
    """A request, and those that it took over, newest first: all ask for the same."""
    yield rotation
    if rotation.supersedes is not None:
        former = pipeline.ledger.walk(rotation.supersedes)
        if former.action == rotation.action:
            yield from lineage(pipeline, former)


def taking_over(pipeline: Pipeline, request: Request) -> str:
    """How the sentence begins by which a request takes another over; empty where it takes none over."""
    former = None if request.supersedes is None else pipeline.ledger.request(request.supersedes)
    if former is None or former.action != request.action:
        return ""
    return f"take over {former.action} {former.id} where it stands: "


def next_up(pipeline: Pipeline) -> Walk | None:
    """The request to work at: one that waits to supersede another as soon as it is signed, else the unfinished one."""
    waiting, current = pipeline.ledger.waiting(), pipeline.ledger.current()
    if waiting is None:
        return current
    ready = len(waiting.approvals) >= pinned_roster(pipeline).required and pipeline.clock.now() <= waiting.start_by
    return waiting if ready or current is None else current


def _stopped(pipeline: Pipeline, rotation: Walk, held: ExitStack) -> Walk | None:
    """The request that is superseded, standing still until `held` is left; None if there is none."""
    if rotation.supersedes is None:
        return None
    former = pipeline.ledger.walk(rotation.supersedes)
    if former.status is RequestStatus.RUNNING:
        pipeline.ledger.set_status(former.id, RequestStatus.PAUSED, by=rotation.id)
    if not former.is_over:
        held.enter_context(standstill(pipeline, former))
        # It may have ended while it was waited for.
        former = pipeline.ledger.walk(former.id)
    if former.status is RequestStatus.CANCELLED:
        raise RequestError(f"rotation {former.id} was cancelled; run `keyrotation cancel {rotation.id}` too")
    if former.status is RequestStatus.FINISHED and former.action == rotation.action:
        raise RequestError(f"rotation {former.id} is finished; run `keyrotation cancel {rotation.id}`")
    return former


def _take_over(pipeline: Pipeline, former: Walk, rotation: Walk) -> None:
    for record in former.steps:
        if record.step in TAKEN_OVER:
            pipeline.ledger.finish_step(rotation.id, record)
    if former.promotion_xid is not None:
        pipeline.ledger.set_promotion(rotation.id, former.promotion_xid)
