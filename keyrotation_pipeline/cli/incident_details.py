"""Prints an incident; holds `incident amend` and `incident notice`."""

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, IncidentId, Json, actor
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.assessing import assessment_of
from keyrotation_pipeline.incidents.handling import NOTIFIED, amend, record_notice
from keyrotation_pipeline.model.audit import instant
from keyrotation_pipeline.model.breach import carried_by
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.requests import Request, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.conductor import phase_of

Actions = Annotated[
    list[str] | None,
    typer.Option("--action", metavar="TEXT", help="An action taken; may be repeated.", show_default=False),
]
Scope = Annotated[str | None, typer.Option("--scope", help="What was affected.", show_default=False)]
Impact = Annotated[str | None, typer.Option("--impact", help="Low, medium or high, and why.", show_default=False)]
RootCause = Annotated[str | None, typer.Option("--root-cause", help="For the report.", show_default=False)]
Remediation = Annotated[str | None, typer.Option("--remediation", help="For the report.", show_default=False)]
Lessons = Annotated[str | None, typer.Option("--lessons", help="For the report.", show_default=False)]


def show_changed(pipeline: Pipeline, changed: Incident, more: Sequence[str] = (), *, as_json: bool) -> None:
    """Print an incident's status after a change, then the `more` lines."""
    value = details(changed, carried_by(changed, pipeline.ledger.requests()))
    lines = [f"{changed.id} is {changed.status}", *more]
    output.show(pipeline.surroundings.identity().name, value, lines, as_json=as_json)


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
        "values_compared": [str(each.fact) for each in found.comparisons],
    }


def amend_command(
    name: IncidentId,
    scope: Scope = None,
    impact: Impact = None,
    action: Actions = None,
    root_cause: RootCause = None,
    remediation: Remediation = None,
    prevention: Annotated[
        list[str] | None,
        typer.Option("--prevention", metavar="TEXT", help="A measure against the next one; may be repeated."),
    ] = None,
    lessons: Lessons = None,
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Add facts and actions for the report.

    Works for a closed incident, too. Actions and prevention measures are added to the existing ones; any other text
    replaces the previous one.
    """
    given = {"scope": scope, "impact": impact, "root_cause": root_cause, "remediation": remediation, "lessons": lessons}
    texts = {key: value for key, value in given.items() if value is not None}
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        changed = amend(pipeline, name, actor(), texts, action or (), prevention or ())
        show_changed(pipeline, changed, as_json=as_json)


def notice_command(
    name: IncidentId,
    to: Annotated[str, typer.Option("--to", metavar="WHOM", help=f"{', '.join(NOTIFIED)}.")],
    sent_on: Annotated[str, typer.Option("--sent-on", metavar="DATE", help="The day on which it was sent.")],
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Record that a notice of a breach was sent.

    This meets its deadline (45 CFR 164.404 to 164.410).
    """
    day = _day(sent_on)
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        changed = record_notice(pipeline, name, actor(), to, day)
        notices = [each for each in assessment_of(pipeline, changed).lines() if each.startswith("Notice to ")]
        show_changed(pipeline, changed, notices, as_json=as_json)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise IncidentError("--sent-on is not a date; write it as 2026-11-24") from None
