"""`status`: where everything stands, for a person at 3 a.m., for cron and for programs."""

import sys
from typing import Annotated, Any

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.assurance.status import overview
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
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
        content = _show(pipeline, as_json=as_json)
        while watch:
            pipeline.clock.sleep(WATCH_SECONDS)
            if sys.stdout.isatty():
                output.console().clear()
            content = _show(pipeline, as_json=as_json)
    if exit_code and content["attention"]:
        raise typer.Exit(1)


def _show(pipeline: Pipeline, *, as_json: bool) -> dict[str, Any]:
    content = overview(pipeline)
    if as_json:
        output.document(content)
    else:
        _as_text(content)
    sys.stdout.flush()
    return content


def _as_text(content: dict[str, Any]) -> None:
    output.heading(f"{content['database']}  {output.clock(content['generated_at'])} UTC")
    output.line()
    due = output.clock(content["next_rotation_due"])
    output.line(f"Primary   {content['primary'] or 'none'}, next rotation due by {due}")
    for key in content["key_versions"]:
        output.line(f"Key       {key['version']:<4} {key['state']:<15} {key['fingerprint']}")
    proven = output.clock(content["last_recovery_test"])
    output.line(f"Backup    {output.clock(content['last_backup'])}; proven to restore {proven}")
    output.line(f"Audit     {content['audit']['seq']:,} events, head {content['audit']['head'][:16]}")
    output.line()
    _show_tables(content)
    output.line()
    _show_rotation(content["rotation"])
    for each in content["incidents"]:
        output.line(f"Incident  {each['id']}, {each['type']}, {each['status']}; {each['clock']}", style="bold red")
    for each in content["requests"]:
        if content["rotation"] is None or each["id"] != content["rotation"]["id"]:
            missing = ", ".join(each["missing"])
            output.line(
                f"Request   {each['id']}, {each['action']} of {each['from']}; not signed by {missing or 'nobody'}"
            )
    for sentence in content["attention"]:
        output.line(f"Attention {sentence}", style="bold red")


def _show_tables(content: dict[str, Any]) -> None:
    versions = [key["version"] for key in content["key_versions"]]
    others = {version for table in content["tables"] for version in table["values_by_version"]}
    versions += sorted(others.difference(versions))
    rows = [
        (
            table["table"],
            "-" if table["rows"] is None else table["rows"],
            *(table["values_by_version"].get(version, "-") for version in versions),
            "-" if table["unencrypted"] is None else table["unencrypted"],
            "-" if table["unreadable"] is None else table["unreadable"],
            ", ".join(table["fenced_against"]) or "-",
            output.clock(table["counted_at"]),
        )
        for table in content["tables"]
    ]
    output.table(("Table", "Rows", *versions, "Unencrypted", "Unreadable", "Fenced against", "Counted"), rows)


def _show_rotation(rotation: dict[str, Any] | None) -> None:
    if rotation is None:
        output.line('Rotation  none is open; the next begins with: keyrotation request --reason "…"')
        return
    output.line(f"Rotation  {rotation['id']}, {rotation['type']}, {rotation['from']} to {rotation['to']}")
    eta = "" if rotation["eta_seconds"] is None else f", about {_duration(rotation['eta_seconds'])} of rows left"
    output.line(f"          phase {rotation['phase']}, {rotation['progress']:.0%}{eta}")
    output.line(f"          approvals {rotation['approvals']} of {rotation['approvals_required']}")
    if rotation["blocked_by"]:
        output.line(f"          blocked: {rotation['blocked_by']}")
    if rotation["waiting_for"]:
        output.line(f"          waits: {rotation['waiting_for']}")
    else:
        output.line(f"          next: keyrotation rotate {rotation['id']}")


def _duration(seconds: int) -> str:
    if seconds < MINUTE_SECONDS:
        return f"{seconds} s"
    if seconds < HOUR_SECONDS:
        return f"{seconds // MINUTE_SECONDS} min"
    return f"{seconds // HOUR_SECONDS} h {seconds % HOUR_SECONDS // MINUTE_SECONDS:02d} min"
