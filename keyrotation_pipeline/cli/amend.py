"""`incident amend` and `incident notice`: what people know of an incident, did about it, and told whom."""

from datetime import date
from typing import Annotated

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.incident_details import Actions, Lessons, Remediation, RootCause, show_changed
from keyrotation_pipeline.cli.options import Config, IncidentId, Json, actor
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.assessing import assessment_of
from keyrotation_pipeline.incidents.handling import NOTIFIED, amend, record_notice


def amend_command(
    name: IncidentId,
    scope: Annotated[str | None, typer.Option("--scope", help="What was reached.", show_default=False)] = None,
    impact: Annotated[
        str | None, typer.Option("--impact", help="Low, medium or high, and why.", show_default=False)
    ] = None,
    action: Actions = None,
    root_cause: RootCause = None,
    remediation: Remediation = None,
    prevention: Annotated[
        list[str] | None,
        typer.Option("--prevention", metavar="TEXT", help="A measure against the next one; may be given again."),
    ] = None,
    lessons: Lessons = None,
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Add what you know and did, for the report; of a closed incident too.

    Actions and prevention measures are added to those there are; any other text takes the place of the one before.
    """
    given = {"scope": scope, "impact": impact, "root_cause": root_cause, "remediation": remediation, "lessons": lessons}
    texts = {key: value for key, value in given.items() if value is not None}
    declared = settings.load(config)
    with assembly.open_pipeline(declared, actor=actor()) as pipeline:
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
    """Record that a notice of a breach was sent (45 CFR 164.404 to 164.410), which meets its deadline."""
    day = _day(sent_on)
    declared = settings.load(config)
    with assembly.open_pipeline(declared, actor=actor()) as pipeline:
        changed = record_notice(pipeline, name, actor(), to, day)
        lines = assessment_of(pipeline, changed).lines()
        show_changed(pipeline, changed, as_json=as_json)
    if not as_json:
        for line in lines:
            if line.startswith("Notice to "):
                output.line(line)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise IncidentError("--sent-on is no day; write it as 2026-11-24") from None
