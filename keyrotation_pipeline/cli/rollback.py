"""`rollback`, `pause`, `resume`: stopping a rotation, and undoing it."""

import sys
from typing import Annotated

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, RequestId, actor
from keyrotation_pipeline.requests import control
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.requests.roster import pinned_roster
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

    The rotation is paused from here on. Once two officers have signed, `keyrotation rotate` takes everything back.
    """
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        undone = pipeline.ledger.walk(request_id)
        opened = rollback.open_rollback(pipeline, undone, reason=reason, requested_by=actor())
        required = pinned_roster(pipeline).required
        database = pipeline.database.identity().name
    if as_json:
        content = {"database": database, "id": opened.id, "undoes": undone.id}
        output.document({**content, "from": str(opened.source), "to": str(opened.target)})
        return
    output.note(
        f"{database}: rollback of {undone.id}, {opened.source} to {opened.target}, start by "
        f"{output.minutes(opened.start_by)} UTC"
    )
    output.note(
        f"{required} officers approve it with: "
        f"keyrotation approve {opened.id} --text | gpg -ab | keyrotation approve {opened.id} --signature -"
    )
    sys.stdout.write(f"{opened.id}\n")


def pause(request_id: RequestId, *, config: Config = None, as_json: Json = False) -> None:
    """Stop a rotation where it stands."""
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        rotation = pipeline.ledger.walk(request_id)
        control.pause(pipeline, rotation)
        database = pipeline.database.identity().name
    if as_json:
        output.document({"database": database, "id": rotation.id, "status": "paused"})
        return
    output.heading(database)
    output.line(f"rotation {rotation.id} is paused; go on with: keyrotation resume {rotation.id}")


def resume(request_id: RequestId, *, config: Config = None, as_json: Json = False) -> None:
    """Let a paused rotation go on."""
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        rotation = pipeline.ledger.walk(request_id)
        control.resume(pipeline, rotation)
        rotation = pipeline.ledger.walk(rotation.id)
        database = pipeline.database.identity().name
    if as_json:
        output.document({"database": database, "id": rotation.id, "status": str(rotation.status)})
        return
    output.heading(database)
    output.line(f"rotation {rotation.id} goes on at {phase_of(rotation)}: keyrotation rotate {rotation.id}")
