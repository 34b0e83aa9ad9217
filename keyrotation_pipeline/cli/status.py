"""`status`: where everything stands, for a person at 3 a.m., for cron and for programs."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.assurance.status import overview
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.blind_spots import BlindSpots
from keyrotation_pipeline.model.status import SHOWN_FINGERPRINT_CHARS, RotationStatus, Status, TableStatus
from keyrotation_pipeline.ports.pipeline import Pipeline

WATCH_SECONDS = 2.0
MINUTE_SECONDS = 60
HOUR_SECONDS = 3600


def status(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until interrupted.", show_default=False)
    ] = False,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="Exit with 1 if anything is overdue, blocked or stale.", show_default=False),
    ] = False,
    count: Annotated[bool, typer.Option("--count", help="Count all values anew.", show_default=False)] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show keys, tables, the rotation, and what to type next."""
    declared = settings.load(config)
    with assembly.open_pipeline(declared, actor=actor()) as pipeline:
        if count:
            pipeline.ledger.save_counts(pipeline.database.count(pipeline.tables))
        shown = _show(pipeline, as_json=as_json)
        while watch:
            pipeline.clock.sleep(WATCH_SECONDS)
            if sys.stdout.isatty():
                output.console().clear()
            shown = _show(pipeline, as_json=as_json)
    if exit_code and shown.attention:
        raise typer.Exit(1)


def _show(pipeline: Pipeline, *, as_json: bool) -> Status:
    shown = overview(pipeline)
    if as_json:
        output.document(shown.as_json())
    else:
        _as_text(shown, pipeline.database.blind_spots())
    sys.stdout.flush()
    return shown


def _as_text(shown: Status, blind_spots: BlindSpots) -> None:
    minutes = output.minutes
    output.heading(f"{shown.database}  {minutes(shown.generated_at)} UTC")
    output.line()
    output.line(f"Primary   {shown.primary or 'none'}, next rotation due by {minutes(shown.next_rotation_due)}")
    if shown.next_rotation_rule is not None:
        output.line(f"          {shown.next_rotation_rule}")
    for key in shown.key_versions:
        output.line(f"Key       {key.version!s:<4} {key.state:<15} {key.fingerprint[:SHOWN_FINGERPRINT_CHARS]}")
    output.line(f"Backup    {minutes(shown.last_backup)}; proven to restore {minutes(shown.last_recovery_test)}")
    output.line(f"Audit     {shown.audit.seq:,} events, head {shown.audit.hash[:SHOWN_FINGERPRINT_CHARS]}")
    output.line()
    _show_tables(shown)
    output.line(f"Not searched: {'; '.join(map(str, blind_spots.unsearched))}")
    output.line()
    _show_rotation(shown.rotation)
    for each in shown.incidents:
        told = f"{each.incident.id}, {each.incident.type}, {each.incident.status}; {each.clock_in_words}"
        output.line(f"Incident  {told}", style="bold red")
    for listed in shown.other_requests:
        request, missing = listed.request, ", ".join(listed.missing) or "nobody"
        output.line(f"Request   {request.id}, {request.action} of {request.source}; not signed by {missing}")
    for sentence in shown.attention:
        output.line(f"Attention {sentence}", style="bold red")
    for sentence in shown.warnings:
        output.line(f"Warning   {sentence}", style="yellow")


def _show_tables(shown: Status) -> None:
    versions = sorted(
        {version for table in shown.tables for version in table.values_by_version}.union(
            key.version for key in shown.key_versions
        )
    )
    output.table(
        ("Table", "Rows", *output.names(versions), "Unencrypted", "Unreadable", "Fenced against", "Counted"),
        [_table_row(table, versions) for table in shown.tables],
    )


def _table_row(table: TableStatus, versions: Sequence[KeyVersion]) -> tuple[object, ...]:
    count, fenced = table.count, ", ".join(output.names(table.fenced_against)) or "-"
    if count is None:
        return (table.table.name, *("-" * (len(versions) + 3)), fenced, output.minutes(None))
    values = (table.values_by_version.get(version, "-") for version in versions)
    counted = output.minutes(count.counted_at)
    return (table.table.name, count.rows, *values, count.unencrypted, count.unreadable, fenced, counted)


def _show_rotation(rotation: RotationStatus | None) -> None:
    if rotation is None:
        output.line('Rotation  none is open; the next begins with: keyrotation request --reason "…"')
        return
    walk = rotation.walk
    output.line(f"Rotation  {walk.id}, {walk.kind}, {walk.source} to {walk.target}")
    eta = "" if rotation.eta_seconds is None else f", about {_duration(rotation.eta_seconds)} of rows left"
    output.line(f"          phase {rotation.phase}, {rotation.progress:.0%}{eta}")
    output.line(f"          approvals {len(walk.approvals)} of {rotation.approvals_required}")
    if rotation.pace:
        output.line(f"          pace: {rotation.pace}")
    if walk.blocked_by:
        output.line(f"          blocked: {walk.blocked_by}")
    if rotation.waiting_for:
        output.line(f"          waits: {rotation.waiting_for}")
    else:
        output.line(f"          next: keyrotation rotate {walk.id}")


def _duration(seconds: int) -> str:
    if seconds < MINUTE_SECONDS:
        return f"{seconds} s"
    if seconds < HOUR_SECONDS:
        return f"{seconds // MINUTE_SECONDS} min"
    return f"{seconds // HOUR_SECONDS} h {seconds % HOUR_SECONDS // MINUTE_SECONDS:02d} min"
