"""Renders the console's pages. Each is one HTML page that needs no script, and loads nothing but its own two files."""

from datetime import UTC, datetime

from keyrotation_pipeline.console.evidence import evidence_of
from keyrotation_pipeline.console.gathering import Console, Signed, signatures
from keyrotation_pipeline.console.headline import Tone
from keyrotation_pipeline.console.look import one_look
from keyrotation_pipeline.console.walk_view import StepView, finished_steps, steps_of
from keyrotation_pipeline.errors import IncidentError, RequestError
from keyrotation_pipeline.incidents.report import incident_report
from keyrotation_pipeline.model.backups import BACKUP_STALE_AFTER, TEST_OVERDUE_AFTER
from keyrotation_pipeline.model.fleet_summary import FleetSummary, databases_of
from keyrotation_pipeline.model.progress import duration
from keyrotation_pipeline.model.requests import Request, Walk
from keyrotation_pipeline.model.status import Status
from keyrotation_pipeline.monitoring.status import past_requests
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.templates import render, whole_dates

REFRESH_SECONDS = 5


def front_page(shown: Console, overview_path: str | None) -> bytes:
    """The first page.

    Args:
        overview_path: of Dagster's first page on this server; None: Dagster is not served here.
    """
    return _render(
        "console/front.html.j2",
        overview_path,
        shown=shown,
        status=shown.status,
        now=shown.status.generated_at,
        stale_hours=int(BACKUP_STALE_AFTER.total_seconds() // 3600),
        test_days=TEST_OVERDUE_AFTER.days,
    )


def error_page(sentence: str, at: datetime, overview_path: str | None) -> bytes:
    """The page that is shown where nothing can be read: one sentence that says why and what to do."""
    return _render("console/error.html.j2", overview_path, sentence=sentence, now=at)


def _render(template: str, overview_path: str | None, **values: object) -> bytes:
    page = render(
        template,
        overview_path=overview_path,
        refresh_seconds=REFRESH_SECONDS,
        ago=_ago,
        clock=_clock,
        day=_day,
        tones=Tone,
        **values,
    )
    return page.encode()


def _ago(at: datetime | None, now: datetime) -> str:
    return "never" if at is None else f"{duration((now - at).total_seconds())} ago"


def _clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%H:%M:%S}"


def _day(at: datetime | None) -> str:
    return "unknown" if at is None else whole_dates(f"{at.astimezone(UTC):%Y-%m-%d %H:%M}")


def request_page(pipeline: Pipeline, request_id: str, overview_path: str | None) -> bytes | None:
    """One request: its text, who has signed, the line for each officer, its steps; None: there is no such request.

    Of a rotation that is over, also what it has proved, and the reports that were written since.
    """
    with one_look(pipeline) as look:
        try:
            request = pipeline.ledger.request(request_id)
        except RequestError:
            return None
        status, ledger = look.status, pipeline.ledger
        pending = next((each for each in status.requests if each.request.id == request.id), None)
        past = next((each for each in past_requests(ledger) if each.request.id == request.id), None)
        signed = _signed_before(ledger, request.id) if pending is None else signatures(ledger, pending)
        return _render(
            "console/request.html.j2",
            overview_path,
            request=request,
            text=ledger.approval_text(request.id).decode(),
            pending=pending,
            past=past,
            signed=tuple(signed),
            steps=_steps(status, request),
            evidence=None if past is None else evidence_of(ledger, request.id),
            now=status.generated_at,
            database=status.database,
        )


def _steps(status: Status, request: Request) -> tuple[StepView, ...]:
    if status.rotation is not None and status.rotation.walk.id == request.id:
        return steps_of(status.rotation)
    return finished_steps(request) if isinstance(request, Walk) and request.is_over else ()


def _signed_before(ledger: Ledger, request_id: str) -> list[Signed]:
    roster = ledger.pinned_roster()
    return [
        Signed((roster.name_of(each.officer) if roster else None) or each.officer, each.signed_at)
        for each in ledger.signatures(request_id)
    ]


def databases_page(pipeline: Pipeline, overview_path: str | None) -> bytes | None:
    """Each database of a fleet: how far it is, when it was asked, what it needs; None: there is only one."""
    with one_look(pipeline) as look:
        status = look.status
        if not status.members:
            return None
        return _render(
            "console/databases.html.j2",
            overview_path,
            summary=FleetSummary.of(status).in_words,
            databases=databases_of(status),
            now=status.generated_at,
            database=status.database,
        )


def incident_page(pipeline: Pipeline, incident_id: str, overview_path: str | None) -> bytes | None:
    """One incident as `keyrotation incident report` has it; None: there is no such incident."""
    try:
        report = incident_report(pipeline, incident_id)
    except IncidentError:
        return None
    return _render(
        "console/incident.html.j2",
        overview_path,
        report=report,
        now=pipeline.clock.now(),
        database=pipeline.environment.identity().name,
    )
