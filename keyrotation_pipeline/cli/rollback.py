"""`rollback`, `pause`, `resume` and `cancel`: undo, stop or continue a rotation, or withdraw a request."""

from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli.options import Config, Json, OpenRequestId, RequestId, actor, open_walk
from keyrotation_pipeline.cli.output import minutes, show
from keyrotation_pipeline.cli.signing import propose
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.monitoring.status import pending_requests
from keyrotation_pipeline.requests import control
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.rotation import rollback


def rollback_command(
    request_id: RequestId,
    *,
    reason: Annotated[
        str, typer.Option("--reason", help="Why, in one plain line; the officers sign it.")
    ] = "the rotation is to be undone",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Open a request to undo a rotation; prints its id.

    The rotation is paused from now on. Once two officers have signed, `keyrotation rotate` undoes it.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        undone, database = pipeline.ledger.walk(request_id), pipeline.surroundings.identity().name
        opened = rollback.open_rollback(pipeline, undone, reason=reason, requested_by=actor())
        source, target = str(opened.source), str(opened.target)
        value = {"database": database, "id": opened.id, "undoes": undone.id, "from": source, "to": target}
        what = f"{database}: rollback of {undone.id}, {source} to {target}, start by {minutes(opened.start_by)} UTC"
        propose(pipeline, opened, value, [what], as_json=as_json)


def pause(request_id: OpenRequestId = None, *, config: Config = None, as_json: Json = False) -> None:
    """Pause a rotation."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        rotation, database = open_walk(pipeline, request_id), pipeline.surroundings.identity().name
        control.pause(pipeline, rotation)
    value = {"database": database, "id": rotation.id, "status": "paused"}
    line = f"rotation {rotation.id} is paused; continue with `keyrotation resume {rotation.id}`"
    show(database, value, [line], as_json=as_json)


def resume(request_id: OpenRequestId = None, *, config: Config = None, as_json: Json = False) -> None:
    """Resume a paused rotation."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        rotation, database = open_walk(pipeline, request_id), pipeline.surroundings.identity().name
        control.resume(pipeline, rotation)
        rotation = pipeline.ledger.walk(rotation.id)
    value = {"database": database, "id": rotation.id, "status": str(rotation.status)}
    line = f"rotation {rotation.id} continues at {phase_of(rotation)}: `keyrotation rotate {rotation.id}`"
    show(database, value, [line], as_json=as_json)


def cancel(request_id: RequestId, *, config: Config = None, as_json: Json = False) -> None:
    """Cancel a request that has written nothing yet.

    Says what it was: its action, versions, phase and signatures. A key that was made for it is withdrawn.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        request, database = pipeline.ledger.request(request_id), pipeline.surroundings.identity().name
        pending = next((each for each in pending_requests(pipeline) if each.request.id == request.id), None)
        control.cancel(pipeline, request)
    source, target = str(request.source), str(request.target)
    value: dict[str, Any] = {
        "database": database, "id": request.id, "phase": "cancelled", "action": str(request.action),
        "type": str(request.type), "from": source, "to": target, "before": None,
    }  # fmt: skip
    what = f"{request.type} {request.action} {request.id}, {source} to {target}, {request.reason!r}"
    if pending is None:
        show(database, value, [what, "was cancelled before"], as_json=as_json)
        return
    phase = phase_of(request) if isinstance(request, Walk) else str(request.status)
    signed = list(pending.signed_by)
    value["before"] = {"phase": phase, "signed_by": signed, "approvals_required": pending.required}
    by = f" ({', '.join(signed)})" if signed else ""
    lines = [what, f"was {phase}, with {len(signed)} of {pending.required} signatures{by}", "is cancelled"]
    show(database, value, lines, as_json=as_json)
