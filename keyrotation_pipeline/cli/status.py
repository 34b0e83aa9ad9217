"""`status`: where everything stands, for a person at 3 a.m., for cron and for programs."""

import sys
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Never

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.cli import output, status_text
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.errors import DatabaseUnavailableError
from keyrotation_pipeline.incidents.obligations import unsettled_in_words
from keyrotation_pipeline.model.status import Status
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline

WATCH_SECONDS = 2.0


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
        shown = _show(pipeline, declared, as_json=as_json)
    if watch:
        _watch(declared, as_json=as_json)
    if exit_code and shown.attention:
        raise typer.Exit(1)


def _watch(declared: settings.Settings, *, as_json: bool) -> Never:
    """Show it again and again; a server that is restarted meanwhile is waited for, and said to be away."""
    import psycopg  # noqa: PLC0415  for this alone

    while True:
        with suppress(psycopg.OperationalError):
            try:
                with assembly.open_pipeline(declared, actor=actor()) as pipeline:
                    while True:
                        pipeline.clock.sleep(WATCH_SECONDS)
                        if sys.stdout.isatty():
                            output.console().clear()
                        _show(pipeline, declared, as_json=as_json)
            except DatabaseUnavailableError as error:
                output.note(f"{output.seconds(assembly.system_time())} {error}; looking again")
        assembly.wait(WATCH_SECONDS)


def _show(pipeline: Pipeline, declared: settings.Settings, *, as_json: bool) -> Status:
    shown = replace(overview(pipeline, duties=unsettled_in_words(pipeline)), contacts=declared.contact_list)
    if as_json:
        output.document(shown.as_json())
    else:
        status_text.show(
            shown, pipeline.database.blind_spots(), pipeline.ticks.last(), assembly.ui_address(declared.home)
        )
    sys.stdout.flush()
    return shown
