"""An incident as commands print it, and the options that several of them take."""

from typing import Annotated, Any

import typer

from keyrotation_pipeline.cli import output
from keyrotation_pipeline.model.audit import instant
from keyrotation_pipeline.model.breach import carried_by
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.requests import Request, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.conductor import phase_of

Actions = Annotated[
    list[str] | None,
    typer.Option("--action", metavar="TEXT", help="An action taken; may be given again.", show_default=False),
]
RootCause = Annotated[str | None, typer.Option("--root-cause", help="For the report.", show_default=False)]
Remediation = Annotated[str | None, typer.Option("--remediation", help="For the report.", show_default=False)]
Lessons = Annotated[str | None, typer.Option("--lessons", help="For the report.", show_default=False)]


def show_changed(pipeline: Pipeline, changed: Incident, *, as_json: bool) -> None:
    """Print how an incident stands after a change."""
    if as_json:
        output.document(details(changed, carried_by(changed, pipeline.ledger.requests())))
        return
    output.heading(pipeline.database.identity().name)
    output.line(f"{changed.id} is {changed.status}")


def summary(found: Incident, carrier: Request | None) -> dict[str, Any]:
    """The object of `incident list --json`."""
    return {
        "id": found.id,
        "type": str(found.type),
        "status": str(found.status),
        "discovered_at": instant(found.discovered_at),
        "request": carrier.id if carrier is not None else None,
        "versions": output.names(found.versions),
    }


def details(found: Incident, carrier: Request | None) -> dict[str, Any]:
    """The object of `incident show --json`, without the clock and the assessment."""
    return {
        **summary(found, carrier),
        "phase": phase_of(carrier) if isinstance(carrier, Walk) else None,
        "description": found.description,
        "scope": found.scope,
        "impact": found.impact,
        "reported_by": found.reported_by,
        "opened_at": instant(found.opened_at),
        "acknowledged_at": instant(found.acknowledged_at),
        "acknowledged_by": found.acknowledged_by,
        "closed_at": instant(found.closed_at),
        "closed_by": found.closed_by,
        "actions": list(found.actions),
        "root_cause": found.root_cause,
        "remediation": found.remediation,
        "prevention": list(found.prevention),
        "lessons": found.lessons,
        "notices_sent": [f"{each.to} on {each.sent_on}" for each in found.notices],
    }
