"""`pace`: how fast a running rotation goes."""

from typing import Annotated

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, RequestId, actor
from keyrotation_pipeline.requests.control import pace_of, set_pace


def pace_command(
    request_id: RequestId,
    *,
    rows_per_second: Annotated[
        int | None,
        typer.Option("--rows-per-second", metavar="N", help="Rows of one shard in a second; 0: no cap."),
    ] = None,
    duty_cycle: Annotated[
        float | None,
        typer.Option("--duty-cycle", metavar="X", help="Share of its time that a worker works, 0.01 to 1."),
    ] = None,
    hours: Annotated[
        str | None, typer.Option("--hours", metavar="H", help="As 22:00-06:00 in time_zone; or always.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go as configured again.", show_default=False)] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the audit.", show_default=False)] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Set how fast a running rotation goes; without an option, show it.

    It holds within seconds, for emergencies too. What is not given stays as it was set before, or as configured.
    """
    given = {"rows_per_second": rows_per_second, "duty_cycle": duty_cycle, "hours": hours}
    changes = {name: value for name, value in given.items() if value is not None}
    if reset and changes:
        raise typer.BadParameter("give either --reset or a pace", param_hint="--reset")
    declared = settings.load(config)
    if hours is not None:
        changes["time_zone"] = declared.time_zone
    with assembly.open_pipeline(declared, actor=actor()) as pipeline:
        rotation, database = pipeline.ledger.walk(request_id), pipeline.database.identity().name
        changed = reset or changes
        pace = set_pace(pipeline, rotation, changes, reason) if changed else pace_of(pipeline, rotation)
    if as_json:
        output.document({"database": database, "id": rotation.id, "pace": None if pace is None else pace.as_json()})
        return
    output.heading(database)
    output.line(f"rotation {rotation.id} goes {pace or 'as configured'}")
