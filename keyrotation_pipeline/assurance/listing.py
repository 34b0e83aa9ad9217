"""What status and time alone do not show: pending requests with who has signed, and what was asked for in the past."""

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.requests import PastRequest, PendingRequest, Request, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.report import records_reencrypted


def pending_requests(pipeline: Pipeline) -> tuple[PendingRequest, ...]:
    """Every request of any action that is not over, newest first, with who of the officers has signed and who not."""
    return tuple(_pending(pipeline, each) for each in pipeline.ledger.requests() if not each.is_over)


def past_requests(pipeline: Pipeline) -> tuple[PastRequest, ...]:
    """Every request that is over, newest first."""
    return tuple(
        PastRequest(each, records_reencrypted(each) if isinstance(each, Walk) else None)
        for each in pipeline.ledger.requests()
        if each.is_over
    )


def _pending(pipeline: Pipeline, request: Request) -> PendingRequest:
    roster = _authority(pipeline, request)
    return PendingRequest(
        request,
        signed_by=tuple(roster.name_of(each) or each for each in request.approvals),
        missing=tuple(each.name for each in roster.officers if each.fingerprint not in request.approvals),
        required=roster.required,
    )


def _authority(pipeline: Pipeline, request: Request) -> Roster:
    """Whose signatures count; where none can now, whose did."""
    try:
        return pipeline.actions[request.action].authority(pipeline)
    except KeyRotationError:
        return pinned_roster(pipeline)
