"""`rollback`, `pause` and `resume`: undo, stop or continue a rotation."""

from typing import Annotated

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli.options import Config, Json, RequestId, actor
from keyrotation_pipeline.cli.output import minutes, show
from keyrotation_pipeline.cli.signing import propose
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


def pause(request_id: RequestId, *, config: Config = None, as_json: Json = False) -> None:
    """Pause a rotation."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        rotation, database = pipeline.ledger.walk(request_id), pipeline.surroundings.identity().name
        control.pause(pipeline, rotation)
    value = {"database": database, "id": rotation.id, "status": "paused"}
    line = f"rotation {rotation.id} is paused; continue with: keyrotation resume {rotation.id}"
    show(database, value, [line], as_json=as_json)


def resume(request_id: RequestId, *, config: Config = None, as_json: Json = False) -> None:
    """Resume a paused rotation."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        rotation, database = pipeline.ledger.walk(request_id), pipeline.surroundings.identity().name
        control.resume(pipeline, rotation)
        rotation = pipeline.ledger.walk(rotation.id)
    value = {"database": database, "id": rotation.id, "status": str(rotation.status)}
    line = f"rotation {rotation.id} continues at {phase_of(rotation)}: keyrotation rotate {rotation.id}"
    show(database, value, [line], as_json=as_json)
