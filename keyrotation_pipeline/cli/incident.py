"""`incident`: handles an incident from its flag until it is closed."""

import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.alerts import access_audit, alert_channels
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.backups.remaining_copies import exposed_copies
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.commands import WholeGroup
from keyrotation_pipeline.cli.compare import compare_command
from keyrotation_pipeline.cli.incident_details import (
    Actions,
    Impact,
    Lessons,
    Remediation,
    RootCause,
    Scope,
    amend_command,
    assess_command,
    assessed,
    details,
    notice_command,
    show_changed,
    summary,
)
from keyrotation_pipeline.cli.options import Config, IncidentId, Json, actor
from keyrotation_pipeline.cli.signing import propose
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.access import AccessAudit, bars
from keyrotation_pipeline.incidents.alerts import deliver, notices
from keyrotation_pipeline.incidents.assessing import assessment_of
from keyrotation_pipeline.incidents.handling import acknowledge, amend, close, require_plain_texts
from keyrotation_pipeline.incidents.opening import open_incident, prepare
from keyrotation_pipeline.incidents.report import Section, contact_list, kept_backups, kept_report, version
from keyrotation_pipeline.model.audit import names
from keyrotation_pipeline.model.breach import Deadline, carried_by
from keyrotation_pipeline.model.incidents import Flag, IncidentType
from keyrotation_pipeline.model.records import as_json as as_json_object
from keyrotation_pipeline.model.requests import Request, Walk
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.rotation.report import clock_of, rate_of

app = typer.Typer(
    cls=WholeGroup,
    help="Incidents: the emergency rotation against the clock.",
    no_args_is_help=True,
    rich_markup_mode=None,
    suggest_commands=False,
)


@app.callback()
def incident() -> None:
    """Incidents: the emergency rotation against the clock."""


@app.command("open")
def open_command(
    type_: Annotated[str, typer.Option("--type", metavar="TYPE", help=f"One of {', '.join(IncidentType)}.")],
    description: Annotated[
        str, typer.Option("--description", help="What happened, in one plain line; officers sign it.")
    ],
    discovered_at: Annotated[
        str,
        typer.Option("--discovered-at", metavar="WHEN", help="ISO 8601, or now; without offset in time_zone."),
    ],
    scope: Scope = None,
    impact: Impact = None,
    key_version: Annotated[
        list[str] | None,
        typer.Option("--key-version", metavar="VERSION", help="Compromised version; may be repeated."),
    ] = None,
    action: Actions = None,
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Open an incident and prepare its emergency request.

    Prints the incident's id and the request's id. No key changes before officers have signed. Without --key-version the
    key that is in use, or being rotated out, counts as compromised; for unauthorized_access, server_compromise, insider
    and other, every live one does.
    """
    declared = settings.load(config)
    require_plain_texts({}, action or (), ())  # before anything is opened
    with open_pipeline(declared, actor=actor()) as pipeline:
        at = _discovered_at(discovered_at, declared.time_zone, pipeline.clock.now())
        flag = Flag("", actor(), type_, description, at, scope, impact, tuple(key_version or ()))
        opened = open_incident(pipeline, flag)
        if not as_json:
            sys.stdout.write(f"{opened.id}\n")
            sys.stdout.flush()  # it is open, even if its request then fails
        if action:
            amend(pipeline, opened.id, actor(), {}, action)
        request = prepare(pipeline, opened, actor())
        channels = alert_channels(declared, pipeline)
        for failure in deliver(pipeline, channels, notices(pipeline, channels.contacts)):
            output.note(f"alert not delivered: {failure}")
        database, versions = pipeline.environment.identity().name, names(opened.versions)
        value = {"database": database, "id": opened.id, "request": request.id, "versions": versions}
        held = f"{', '.join(versions)} counts as compromised once enough officers have signed"
        then = f"run `keyrotation rotate {request.id}`, or let `keyrotation up` do it"
        propose(pipeline, request, value, [f"{database}: {opened.id} is open; {held}"], then, as_json=as_json)


@app.command("list")
def list_command(*, config: Config = None, as_json: Json = False) -> None:
    """List every incident, the newest last."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        known, requests = incidents(pipeline.ledger), pipeline.ledger.requests()
        carriers = {each.id: carried_by(each, requests) for each in known.by_id.values()}
        database = pipeline.environment.identity().name
    rows = [
        (each.id, each.type, each.status, output.minutes(each.discovered_at), ", ".join(map(str, each.versions)),
         _carried(carriers[each.id]))
        for each in known.by_id.values()
    ]  # fmt: skip
    table = output.Table(("Incident", "Type", "Status", "Discovered", "Versions", "Request"), rows)
    rejected = [
        f"rejected   flag {flag}, {output.minutes(at)}: {reason}" for flag, (at, reason) in known.set_aside.items()
    ]
    value = [summary(each, carriers[each.id]) for each in known.by_id.values()]
    output.show(database, value, [table, *rejected], as_json=as_json)


@app.command()
def show(name: IncidentId, *, config: Config = None, as_json: Json = False) -> None:
    """Show one incident against its clock."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        found = incidents(pipeline.ledger).incident(name)
        requests, now = pipeline.ledger.requests(), pipeline.clock.now()
        clock, pace = clock_of(pipeline, found, requests), rate_of(pipeline, found, requests, now)
        carrier, database = carried_by(found, requests), pipeline.environment.identity().name
        assessment = assessment_of(pipeline, found)
    shown, stages = details(found, carrier), [each.as_json(now) for each in clock]
    value = {**shown, "stages": stages, "pace": str(pace) if pace else None, **assessed(assessment)}
    lines = [*_details(shown), *(f"{each.stage.replace('_', ' '):<22}{_left(each, now)}" for each in clock)]
    lines += [] if pace is None else [f"rows: {pace}"]
    lines += [f"{output.seconds(at)} UTC  {message}" for at, message in assessment.history]
    output.show(database, value, [*lines, *assessment.lines()], as_json=as_json)


def _details(shown: dict[str, Any]) -> Iterator[str]:
    for label, value in shown.items():
        if value or label == "request":
            text = (", " if label == "versions" else "; ").join(value) if isinstance(value, list) else value
            yield f"{label.replace('_', ' '):<16}{text or 'none is prepared yet'}"


app.command("assess")(assess_command)
app.command("amend")(amend_command)
app.command("notice")(notice_command)
app.command("compare")(compare_command)


@app.command()
def access(name: IncidentId, *, config: Config = None, as_json: Json = False) -> None:
    """Show who read the key and records meanwhile.

    From CloudTrail and the application's audit, unusual readers first.
    """
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        found = access_audit(declared, incidents(pipeline.ledger).incident(name), pipeline)
        database = pipeline.environment.identity().name
    output.show(database, as_json_object(found), _accesses(found), as_json=as_json)


def _accesses(found: AccessAudit) -> Iterator[output.Line]:
    yield f"from {output.minutes(found.since)} to {output.minutes(found.until)} UTC"
    if found.key_reads is None:
        yield "reads of the key are not checked: name [incidents] cloudtrail_bucket"
    else:
        rows = [(output.seconds(each.at), each.who, each.address, each.event, each.refused or "given", each.agent)
                for each in found.key_reads]  # fmt: skip
        yield output.Table(("Key read at", "By", "From", "Event", "Outcome", "Agent"), rows)
        yield from bars(found)
    if found.record_reads is None:
        yield "reads of records are not checked: name [incidents] audit_events_table"
    else:
        reads = [(each.reads, each.who, each.address, each.resource_type, each.event_type,
                  output.minutes(each.first_at), output.minutes(each.last_at))
                 for each in found.record_reads]  # fmt: skip
        yield output.Table(("Reads", "By", "From", "Of", "Event", "First", "Last"), reads)


@app.command()
def ack(name: IncidentId, *, config: Config = None, as_json: Json = False) -> None:
    """Acknowledge an incident, so that nobody else is called."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        show_changed(pipeline, acknowledge(pipeline, name, actor()), as_json=as_json)


@app.command("close")
def close_command(
    name: IncidentId,
    root_cause: RootCause = None,
    remediation: Remediation = None,
    lessons: Lessons = None,
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Close an incident whose rotation is over.

    Or whose request was cancelled, such as after a false alarm.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        texts = {"root_cause": root_cause, "remediation": remediation, "lessons": lessons}
        show_changed(pipeline, close(pipeline, name, actor(), **texts), as_json=as_json)


@app.command()
def report(
    name: IncidentId,
    *,
    number: Annotated[int | None, typer.Option("--version", metavar="N", help="An earlier stored version.")] = None,
    html: Annotated[bool, typer.Option("--html", help="An HTML page instead of Markdown.", show_default=False)] = False,
    file: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write it there; never overwrites a file.", show_default=False),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Print the incident report, from the audit.

    It has the source procedure's form. Its content is stored in the audit under a number; any change gives the next
    number.
    """
    output.require_new(file)
    declared = settings.load(config)
    with open_backups(declared, actor=actor()) as site:
        pipeline, behind = site.pipeline, list[Section]()
        written = kept_report(pipeline, name) if number is None else version(pipeline.ledger, name, number)
        if number is None:
            behind += [contact_list(declared.contact_list)] if declared.contacts else []
            behind += [kept_backups(exposed_copies(site, incidents(pipeline.ledger).incident(name).versions))]
    text = written.html if html else written.markdown
    text += "".join(each.html() if html else each.markdown() for each in behind)
    if file is not None:
        output.write_new(file, text.encode())
    if as_json:
        where = None if file is None else str(file)
        about = {"incident": written.incident, "number": written.number, "written": where}
        output.document({**about, "format": "html" if html else "markdown", "text": text})
    elif file is None:
        output.content(text)
    else:
        output.note(f"written to {file}")


def _discovered_at(text: str, time_zone: str, now: datetime) -> datetime:
    if text.strip().lower() == "now":
        return now
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise IncidentError(
            "--discovered-at is not a time; write it as 2026-11-24T09:30, with an offset or in time_zone, or `now`"
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=ZoneInfo(time_zone))


def _carried(carrier: Request | None) -> str:
    return f"{carrier.id} ({phase_of(carrier)})" if isinstance(carrier, Walk) else "-"


def _left(deadline: Deadline, now: datetime) -> str:
    if deadline.reached_at is not None:
        late = " (late)" if deadline.reached_at > deadline.due_at else ""
        return f"reached {output.minutes(deadline.reached_at)} UTC{late}"
    seconds = deadline.seconds_left(now) or 0
    hours, minutes = divmod(abs(seconds) // 60, 60)
    return f"{hours} h {minutes:02d} min {'left' if seconds > 0 else 'LATE'}, due {output.minutes(deadline.due_at)} UTC"
