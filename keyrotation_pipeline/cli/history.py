"""`history`: past requests, or what happened to one of them, or to an incident."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.audit.events import AuditEntry, entries
from keyrotation_pipeline.audit.sentences import is_of_shard, said_by
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor, offered_requests
from keyrotation_pipeline.incidents.report import timeline_of
from keyrotation_pipeline.model.audit import counted, instant
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.model.signed_lines import quoted
from keyrotation_pipeline.monitoring.status import past_requests
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster

INCIDENT = "INC-"


def history(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="Id of a request, or its first six digits or more; or of an incident: what happened to it.",
            show_default=False,
            autocompletion=offered_requests,
        ),
    ] = None,
    *,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List past requests, or show what happened to one."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        database = pipeline.environment.identity().name
        if subject is None:
            _list(pipeline.ledger, database, as_json=as_json)
        elif subject.startswith(INCIDENT):
            _of_incident(pipeline, database, subject, as_json=as_json)
        else:
            _of_request(pipeline, database, pipeline.ledger.request(subject), as_json=as_json)


def _list(ledger: Ledger, database: str, *, as_json: bool) -> None:
    listed = past_requests(ledger)
    rows = [
        (past.request.id, f"{past.request.type} {past.request.action}", past.request.source, past.request.target,
         output.minutes(past.request.started_at), "-" if past.seconds is None else f"{past.seconds:,.0f} s",
         "-" if past.rows is None else past.rows, past.outcome)
        for past in listed
    ]  # fmt: skip
    table = output.Table(("Request", "What", "From", "To", "Started", "Took", "Rows", "Outcome"), rows)
    output.show(database, [each.as_json() for each in listed], [table], as_json=as_json)


def _of_incident(pipeline: Pipeline, database: str, name: str, *, as_json: bool) -> None:
    events = timeline_of(pipeline, name)
    value = {"database": database, "id": name, "events": [_event(at, said) for at, said in events]}
    lines = [*(_line(at, said) for at, said in events), f"more: `keyrotation incident report {name}`"]
    output.show(database, value, lines, as_json=as_json)


def _of_request(pipeline: Pipeline, database: str, request: Request, *, as_json: bool) -> None:
    found = list(entries(pipeline.ledger, request=request.id))
    names = {officer.fingerprint: officer.name for officer in pinned_roster(pipeline).officers}
    told = [(each.at, said_by(each, names), each) for each in found if not is_of_shard(each)]
    value = {
        "database": database,
        "id": request.id,
        "status": str(request.status),
        "events": [{**_event(at, said), "event": each.kind, "actor": each.actor} for at, said, each in told],
    }
    output.show(database, value, _lines(request, told, len(found) - len(told)), as_json=as_json)


def _lines(request: Request, told: list[tuple[datetime, str, AuditEntry]], shards: int) -> Iterator[output.Line]:
    what = f"{request.type} {request.action} {request.id}, {request.source} to {request.target}"
    yield f"{what}: {request.status}; {quoted(request.reason)}"
    for at, said, entry in told:
        yield _line(at, f"{said} ({entry.actor})")
    rows = f"and {counted(shards, 'shard')} of rows; " if shards else ""
    yield f"{rows}every event: `keyrotation audit log --request {request.id}`"


def _event(at: datetime, said: str) -> dict[str, str | None]:
    return {"at": instant(at), "said": said}


def _line(at: datetime, said: str) -> str:
    return f"{output.seconds(at)} UTC  {said}"
