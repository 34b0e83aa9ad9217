"""`status` and `metrics`: the state of keys, tables and rotations, for people, cron, Nagios and Prometheus."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Never

import psycopg
import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.failures import message_of
from keyrotation_pipeline.assembly.home import ui_address
from keyrotation_pipeline.assembly.host import system_time, wait
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, Verbose, actor
from keyrotation_pipeline.cli.output import field
from keyrotation_pipeline.console.headline import Tone, headline
from keyrotation_pipeline.errors import DatabaseUnavailableError, KeyRotationError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.incidents.assessing import unsettled_in_words
from keyrotation_pipeline.model.audit import instant, names
from keyrotation_pipeline.model.environment import BlindSpots
from keyrotation_pipeline.model.fleet_summary import FleetSummary, TableInFleet, tables_in_fleet
from keyrotation_pipeline.model.progress import about_left
from keyrotation_pipeline.model.requests import Request, Step, Walk
from keyrotation_pipeline.model.status import (
    NO_BACKUP_KNOWN,
    SHOWN_FINGERPRINT_CHARS,
    Heartbeat,
    RotationStatus,
    Status,
    TableStatus,
)
from keyrotation_pipeline.monitoring.members import ask_due, blind_spots
from keyrotation_pipeline.monitoring.metrics import in_open_metrics, metrics_of
from keyrotation_pipeline.monitoring.scheduler_health import conductor_at_work
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.inventory import count_again

MINUTE_SECONDS, HOUR_SECONDS, DAY_SECONDS = 60, 3600, 86400
_TONES = {Tone.FAILED: output.BAD, Tone.WAITING: "yellow"}  # waiting is not a failure


def lines(
    shown: Status,
    blind_spots: BlindSpots,
    heartbeats: Sequence[Heartbeat],
    address: str | None,
    *,
    last: Request | None = None,
    verbose: bool = False,
) -> Iterator[output.Line]:
    """The lines below the heading: what is the case and what to do first, as on the console.

    Args:
        heartbeats: of Dagster's sensors, the last of each.
        address: of Dagster's UI, without its token; None: not known.
        last: the request that ended last.
        verbose: whether everything that is not searched is named, and why the rotation waits in full.
    """
    now, said = shown.generated_at, headline(shown, last)
    yield field("Now", said.sentence, _TONES.get(said.tone))
    if said.next is not None:
        yield field("Next", said.next)
    yield ""
    due = f"next rotation due by {output.minutes(shown.next_rotation_due)}"
    due = "under which nothing is encrypted" if shown.primary == PLAINTEXT else due
    yield field("Primary", f"{shown.primary or 'none'}, {due}")
    if shown.next_rotation_rule is not None:
        yield field("", shown.next_rotation_rule)
    for key in shown.key_versions:
        yield f"Key       {key.version!s:<4} {key.state:<15} {key.fingerprint[:SHOWN_FINGERPRINT_CHARS]}"
    if (sealed := shown.wrapping_key) is not None and (verbose or sealed.origin.exposed):
        yield field("Sealed by", f"{sealed.name}: {sealed.origin}; asked {age(sealed.asked_at, now)}")
    held = f", holds {', '.join(names(shown.last_backup_versions))}" if shown.last_backup_versions else ""
    # A place that does not answer, or a lost home, says nothing about what was made.
    made = NO_BACKUP_KNOWN if shown.last_backup is None else age(shown.last_backup, now)
    yield field("Backup", f"{made}{held}; {_proven(shown, now)}")
    if shown.rehearsal is not None:
        yield field("Rehearsed", f"{age(shown.rehearsal.at, now)}: {shown.rehearsal.in_words}")
    yield field("Audit", f"{shown.audit.seq:,} events, head {shown.audit.hash[:SHOWN_FINGERPRINT_CHARS]}")
    yield ""
    yield from _tables(shown, each_database=verbose or not shown.members)
    yield output.Text(not_searched(blind_spots, verbose=verbose), indent=0)
    yield ""
    for label, text in _rotation(shown, conductor_in_words(heartbeats, now, address), verbose=verbose):
        yield field(label, text)
    yield from _others(shown, said_first=said.of, verbose=verbose)


def not_searched(blind_spots: BlindSpots, *, verbose: bool) -> str:
    """How many kinds of places were not searched for undeclared values, or which."""
    if verbose:
        return f"Not searched: {'; '.join(map(str, blind_spots.unsearched))}"
    return f"{len(blind_spots.unsearched)} places were not searched: `keyrotation status --verbose` names them"


def _proven(shown: Status, now: datetime) -> str:
    """Whether backups are proven to restore: a test that failed since is what counts."""
    if shown.recovery_test_failed is None:
        passed = shown.last_recovery_test
        return "never proven to restore" if passed is None else f"proven to restore {age(passed, now)}"
    before = "" if shown.last_recovery_test is None else f" (passed before, {age(shown.last_recovery_test, now)})"
    return f"NOT proven to restore: the recovery test failed {age(shown.recovery_test_failed, now)}{before}"


def _others(shown: Status, *, said_first: str | None, verbose: bool) -> Iterator[output.Text]:
    if shown.members:
        summary = FleetSummary.of(shown)
        asked = (
            "not all were asked" if summary.asked_at is None else f"asked {age(summary.asked_at, shown.generated_at)}"
        )
        yield field("Fleet", f"{summary.in_words}; {asked}")
    for name, place in shown.members.items() if verbose else ():
        answer = shown.answers.get(name)
        asked = "never" if answer is None else age(answer.asked_at, shown.generated_at)
        yield field("Member", f"{name}: {place}; asked {asked}")
    for each in shown.incidents:
        said = f"{each.incident.id}, {each.incident.type}, {each.incident.status}; {each.clock_in_words}"
        yield field("Incident", said, output.BAD)
    for listed in shown.other_requests:
        request, missing = listed.request, ", ".join(listed.missing) or "nobody"
        yield field("Request", f"{request.id}, {request.action} of {request.source}; not signed by {missing}")
    for contact in shown.contacts:
        yield field("Contact", str(contact))
    for message in shown.attention_in_short:
        if message != said_first:
            yield field("Attention", message, output.BAD)
    for message in shown.warnings:
        yield field("Warning", message, "yellow")


def age(at: datetime | None, now: datetime) -> str:
    """``never``, ``40 s ago``, ``3 h ago``, ``12 days ago``: short enough for a column."""
    if at is None:
        return "never"
    seconds = max((now - at).total_seconds(), 0.0)
    for size, unit in ((2 * DAY_SECONDS, "days"), (HOUR_SECONDS, "h"), (MINUTE_SECONDS, "min")):
        if seconds >= size:
            return f"{seconds // min(size, DAY_SECONDS):.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def conductor_in_words(heartbeats: Sequence[Heartbeat], now: datetime, address: str | None) -> str | None:
    """Say that Dagster's conductor looks after rotations now, and where to see it; None: not as far as is known."""
    look = conductor_at_work(heartbeats, now)
    if look is None:
        return None
    place = f"; see {address}" if address else ""
    return f"its conductor was active {age(look.at, now)}{place}"


def _tables(shown: Status, *, each_database: bool) -> Iterator[output.Line]:
    used = sorted({version for table in shown.tables for version, held in table.values_by_version.items() if held})
    faults = [
        (title, name)
        for title, name in (("Unencrypted", "unencrypted"), ("Unreadable", "unreadable"))
        if any(table.count and getattr(table.count, name) for table in shown.tables)
    ]
    named, now = [name for _, name in faults], shown.generated_at
    rows = (
        [_row(table, used, named, now) for table in shown.tables]
        if each_database
        else [_row_of_fleet(table, used, named, now) for table in tables_in_fleet(shown.tables)]
    )
    titles = ("Table", "Rows", *names(used), *(title for title, _ in faults), "Refuses", "Counted")
    yield output.Table(titles, rows)
    counted = [table.count.counted_at for table in shown.tables if table.count]
    if shown.empty_versions and counted:
        versions = ", ".join(names(shown.empty_versions))
        yield output.Text(
            f"No value under {versions} when last counted, {age(min(counted), shown.generated_at)}.", indent=0
        )
    moving = shown.rotation is not None and shown.rotation.phase == Step.PRIMARY_KEY_ROLLOUT
    if shown.not_counted_since and not moving:  # while applications move, each count is out of date at once
        versions = ", ".join(names(shown.not_counted_since))
        yield output.Text(
            f"Tables were not counted since {versions} became the primary; run `keyrotation status --count`.", indent=0
        )


def _row(
    table: TableStatus, versions: Sequence[KeyVersion], faults: Sequence[str], now: datetime
) -> tuple[object, ...]:
    count, refused = table.count, ", ".join(names(table.fenced_against))
    fenced = table.table.format.identified_by.refused(refused) if refused else "-"
    if count is None:
        return (table.table.name, "-", *("-" * (len(versions) + len(faults))), fenced, "never")
    values = (table.values_by_version.get(version, 0) for version in versions)
    wrong = (getattr(count, name) for name in faults)
    return (table.table.name, count.rows, *values, *wrong, fenced, age(count.counted_at, now))


def _row_of_fleet(
    table: TableInFleet, versions: Sequence[KeyVersion], faults: Sequence[str], now: datetime
) -> tuple[object, ...]:
    values = (table.values_by_version.get(version, 0) for version in versions)
    wrong = (getattr(table, name) for name in faults)
    name = f"{table.name} ({table.databases} databases)" if table.databases > 1 else table.name
    counted = "not all" if table.counted_at is None else age(table.counted_at, now)
    return (name, table.rows, *values, *wrong, table.refuses, counted)


def _rotation(shown: Status, conductor: str | None, *, verbose: bool) -> Iterator[tuple[str, str]]:
    if (rotation := shown.rotation) is None:
        yield "Rotation", 'none is open; the next begins with `keyrotation request --reason "…"`'
        return
    walk = rotation.walk
    yield "Rotation", f"{walk.id}, {walk.kind}, {walk.source} to {walk.target}"
    yield "", f"{rotation.step_in_words}, {rotation.progress:.0%}{about_left(rotation.eta_seconds)}"
    yield "", f"approvals {len(walk.approvals)} of {rotation.approvals_required}{_unsigned(shown, walk)}"
    if rotation.pace:
        yield "", f"pace: {rotation.pace}"
    if rotation.pending is not None and rotation.is_slowed:
        yield "", str(rotation.pending)
    elif rotation.pending is not None:
        if rotation.blocked_by:  # which is what stands at the top
            yield "", f"waits: {rotation.waiting_for}"
        if verbose and rotation.pending.details:
            yield "", rotation.pending.details
        return
    if (work := _work(rotation, conductor)) is not None:
        yield "", work


def _unsigned(shown: Status, walk: Walk) -> str:
    """Who has not signed yet, while more must."""
    pending = next((each for each in shown.requests if each.request.id == walk.id), None)
    if pending is None or len(pending.signed_by) >= pending.required:
        return ""
    return f"; not signed by {', '.join(pending.missing)}"


def _work(rotation: RotationStatus, conductor: str | None) -> str | None:
    """Who works at a rotation that waits for nothing; None: nobody."""
    walk = rotation.walk
    if rotation.at_work:
        since = f" since {output.minutes(walk.started_at)} UTC" if walk.started_at else ""
        return f"in progress{since}" + (f": Dagster runs it, {conductor}" if conductor else "")
    return f"no process works at it now; Dagster has to start one, {conductor}" if conductor else None


WATCH_SECONDS = 2.0


def status(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it every two seconds, until interrupted.", show_default=False)
    ] = False,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="Exit with 1 if anything is overdue, blocked or stale.", show_default=False),
    ] = False,
    nagios: Annotated[
        bool,
        typer.Option(
            "--nagios",
            help="Print one line with performance data, and exit with 0, 1, 2 or 3.",
            show_default=False,
        ),
    ] = False,
    count: Annotated[bool, typer.Option("--count", help="Count all values again.", show_default=False)] = False,
    verbose: Verbose = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show keys, tables, the rotation, and what to type next."""
    if nagios:
        if watch or exit_code or as_json:
            raise typer.BadParameter("give it alone, or with --count", param_hint="--nagios")
        raise typer.Exit(check(partial(_take, config, count=count)))
    declared = settings.load(config)
    with _opened(declared, count=count) as pipeline:
        shown = _show(pipeline, declared, verbose=verbose, as_json=as_json)
    if watch:
        _watch(declared, verbose=verbose, as_json=as_json)
    if exit_code and shown.attention:
        raise typer.Exit(1)


@contextmanager
def _opened(declared: settings.Settings, *, count: bool) -> Iterator[Pipeline]:
    with open_pipeline(declared, actor=actor()) as pipeline:
        if count:
            count_again(pipeline)
            ask_due(pipeline, afresh=True)
        yield pipeline
        with suppress(KeyRotationError):  # which what is shown says
            pipeline.rollout.forget()


def _take(config: Path | None, *, count: bool) -> Status:
    declared = settings.load(config)
    with _opened(declared, count=count) as pipeline:
        return status_now(pipeline, declared)


def _watch(declared: settings.Settings, *, verbose: bool, as_json: bool) -> Never:
    """Show it repeatedly; wait for a server that restarts meanwhile, and say that it is unavailable."""
    while True:
        with suppress(psycopg.OperationalError):
            try:
                with open_pipeline(declared, actor=actor()) as pipeline:
                    while True:
                        pipeline.clock.sleep(WATCH_SECONDS)
                        if sys.stdout.isatty():
                            output.console().clear()
                        _show(pipeline, declared, verbose=verbose, as_json=as_json)
            except DatabaseUnavailableError as error:
                output.note(f"{output.seconds(system_time())} {error}; trying again")
        wait(WATCH_SECONDS)


def status_now(pipeline: Pipeline, declared: settings.Settings) -> Status:
    """The status that every form of it shows; members of a fleet are asked where that was a while ago."""
    with suppress(PreflightError):  # a database that takes no writes now is shown all the same
        ask_due(pipeline, by_person=True)
    return replace(overview(pipeline, duties=unsettled_in_words(pipeline)), contacts=declared.contact_list)


def _show(pipeline: Pipeline, declared: settings.Settings, *, verbose: bool, as_json: bool) -> Status:
    shown = status_now(pipeline, declared)
    heading = f"{shown.database}  {output.minutes(shown.generated_at)} UTC"
    output.show(heading, shown.as_json(), _lines(pipeline, declared, shown, verbose=verbose), as_json=as_json)
    sys.stdout.flush()
    return shown


def _lines(pipeline: Pipeline, declared: settings.Settings, shown: Status, *, verbose: bool) -> Iterator[output.Line]:
    """The text output; only this asks the database for what is not searched."""
    seen, heartbeats = blind_spots(pipeline.environment, shown.answers.values()), pipeline.heartbeats.last()
    last = next((each for each in pipeline.ledger.requests() if each.is_over), None)
    yield from lines(shown, seen, heartbeats, ui_address(declared.home), last=last, verbose=verbose)


class Service(IntEnum):
    """The state of a service; its value is the exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def check(take: Callable[[], Status]) -> Service:
    """Print the line for a status, or why there is none.

    Args:
        take: takes the status.
    """
    try:
        shown = take()
    except Exception as error:  # noqa: BLE001  a plugin that ends with 1 would be taken for a warning
        service, said = Service.UNKNOWN, message_of(error) or f"a defect ({type(error).__name__})"
    else:
        service, said = _state(shown), f"{_message(shown)} | {' '.join(_performance(shown))}"
    output.line(output.Text(f"KEYROTATION {service.name} - {said}", whole=True))
    return service


def _state(shown: Status) -> Service:
    if shown.attention:
        return Service.CRITICAL
    return Service.WARNING if shown.warnings else Service.OK


def _message(shown: Status) -> str:
    """The first thing to know; without the character behind which performance data begin."""
    first, *more = [*shown.attention, *shown.warnings] or [_calm(shown)]
    others = f" ({len(more)} more: keyrotation status)" if more else ""
    return f"{shown.database}: {first}{others}".replace("|", "/")


def _calm(shown: Status) -> str:
    if shown.rotation is None:
        return f"primary {shown.primary}, no rotation is open"
    walk = shown.rotation.walk
    return f"{walk.kind} {walk.source} to {walk.target}, {shown.rotation.step_in_words}, {shown.rotation.progress:.0%}"


def _performance(shown: Status) -> Iterator[str]:
    """``label=value[unit];warning;critical;minimum;maximum``."""
    yield f"attention={len(shown.attention)};;0;0"
    yield f"warnings={len(shown.warnings)};0;;0"
    yield f"incidents={len(shown.incidents)};;;0"
    yield f"audit_seq={shown.audit.seq};;;0"
    for label, at in (("backup_age", shown.last_backup), ("recovery_test_age", shown.last_recovery_test)):
        if at is not None:
            yield f"{label}={(shown.generated_at - at).total_seconds():.0f}s;;;0"
    if (rotation := shown.rotation) is not None:
        yield f"rotation_progress={rotation.progress:.2%};;;0;100"
        yield f"approvals={len(rotation.walk.approvals)};;;0;{rotation.approvals_required}"
        if rotation.eta_seconds is not None:
            yield f"rotation_eta={rotation.eta_seconds}s;;;0"


def metrics(*, config: Config = None, as_json: Json = False) -> None:
    """Print the status in OpenMetrics text, for Prometheus.

    It counts and decrypts nothing. `keyrotation up` serves the same under /metrics.
    """
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        shown = status_now(pipeline, declared)
    if as_json:
        listed = [metric.as_json() for metric in metrics_of(shown)]
        output.document({"database": shown.database, "generated_at": instant(shown.generated_at), "metrics": listed})
    else:
        output.content(in_open_metrics(shown))
