"""What status and time alone do not show: pending requests with who has signed, and what was asked for in the past."""

from typing import Any

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.facts import instant
from keyrotation_pipeline.model.request import Request, RequestStatus, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.reporting import records_reencrypted


def pending_requests(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Every request of any action that is not over, newest first, with who of the officers has signed and who not."""
    return [_pending(pipeline, each) for each in pipeline.ledger.requests() if not each.is_over]


def past_requests(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Every request that is over, newest first: how long it took, and how many rows it re-encrypted."""
    return [_past(each) for each in pipeline.ledger.requests() if each.is_over]


def _pending(pipeline: Pipeline, request: Request) -> dict[str, Any]:
    roster = _authority(pipeline, request)
    return {
        "id": request.id,
        "action": str(request.action),
        "type": str(request.type),
        "from": str(request.source),
        "to": str(request.target),
        "reason": request.reason,
        "incident": request.incident,
        "signed_by": [roster.name_of(each) or each for each in request.approvals],
        "missing": [each.name for each in roster.officers if each.fingerprint not in request.approvals],
        "required": roster.required,
        "status": str(request.status),
        "start_by": instant(request.start_by),
        "finish_by": instant(request.finish_by),
    }


def _authority(pipeline: Pipeline, request: Request) -> Roster:
    """Whose signatures count; where none can now, whose did."""
    try:
        return pipeline.actions[request.action].authority(pipeline)
    except KeyRotationError:
        return pinned_roster(pipeline)


def _past(request: Request) -> dict[str, Any]:
    begun, ended = request.started_at, request.finished_at
    return {
        "id": request.id,
        "action": str(request.action),
        "type": str(request.type),
        "from": str(request.source),
        "to": str(request.target),
        "started_at": instant(begun),
        "finished_at": instant(ended),
        "seconds": round((ended - begun).total_seconds(), 3) if begun and ended else None,
        "rows": records_reencrypted(request) if isinstance(request, Walk) else None,
        "outcome": _outcome(request),
    }


def _outcome(request: Request) -> str:
    if isinstance(request, Walk) and request.status is RequestStatus.CANCELLED and request.steps:
        return f"{request.status} after {max(request.steps, key=lambda each: each.finished_at).step}"
    return str(request.status)
