"""`demo`: a whole rotation on the embedded PostgreSQL, and its result."""

import shlex
import shutil
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.cli.rotate import phase_line
from keyrotation_pipeline.demo.run import DemoOutcome, run_demo
from keyrotation_pipeline.fieldcrypto.compiled import codec_in_use, is_native
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.formats.registry import FORMATS


class DemoFormat(StrEnum):
    """The formats that the demo's clinic can store."""

    NATIVE = NATIVE.name
    FERNET = FERNET.name


# The MAC of a Fernet token takes longer to verify: with these each demo takes half a minute.
CLIENTS = {DemoFormat.NATIVE: 20_000, DemoFormat.FERNET: 8_000}


def demo(
    *,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows",
            min=1,
            help="Clients of a new clinic, each with two appointments. Default: 20,000; of Fernet 8,000.",
        ),
    ] = None,
    values: Annotated[DemoFormat, typer.Option("--format", help="Format of the clinic's values.")] = DemoFormat.NATIVE,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Rotate the keys of an invented clinic, start to end.

    Uses an embedded PostgreSQL and an application that keeps writing to it, and ends with the proof. Each run rotates
    the same demo once more. With `--format fernet`, the application is one of MultiFernet.
    """
    say = output.note if as_json else output.line
    if not is_native():
        say(codec_in_use())
    with reporting(quiet=as_json) as report:
        outcome = run_demo(
            config,
            rows or CLIENTS[values],
            report,
            say,
            lambda record, seconds: say(phase_line(record, seconds)),
            FORMATS[values],
        )
    lines = [*_facts(outcome), *(_next(outcome, config, values) if outcome.holds else ())]
    output.show(None, outcome.as_facts(), lines, as_json=as_json)
    if not outcome.holds:
        raise typer.Exit(1)


def _facts(outcome: DemoOutcome) -> Iterator[output.Line]:
    rotation, application = outcome.rotation, outcome.application
    yield ""
    for count in outcome.counts:
        new = count.values_by_version.get(rotation.target, 0)
        old = sum(count.values_by_version.values()) - new
        fence = ", ".join(map(str, count.fenced_against))
        yield f"  {count.table.name!s:<14}{new:,} values under {rotation.target}, {old:,} older; refuses {fence}"
    states = ", ".join(f"{key.version} {key.state} ({key.fingerprint[:16]})" for key in outcome.keys)
    yield f"  {'keys':<14}{states}"
    for evidence in {count.table.format.identified_by.evidence for count in outcome.counts}:
        yield f"  {'proof':<14}{evidence}"
    shown = "refused, and nothing of its row shown" if outcome.old_value_refused else "ACCEPTED"
    yield f"  {'old value':<14}one from before, under {rotation.source}, written now: {shown}"
    yield (
        f"  {'application':<14}{application['writes']:,} writes and {application['reads']:,} reads meanwhile: "
        f"{application['errors']} errors, {application['lost_writes']} lost writes, "
        f"slowest request {application['slowest_milliseconds']:.0f} ms"
    )
    yield ""
    if not outcome.holds:
        yield output.Text("The proof does NOT hold; see the figures above and `keyrotation status`.", output.BAD)
        return
    under = f"Every value of these columns is under {rotation.target}"
    yield output.Text(f"{under}, {rotation.source} is archived, nothing was lost.", "bold green")


def _next(outcome: DemoOutcome, config: Path | None, values: DemoFormat) -> Iterator[output.Line]:
    """Three commands to try, which work as they are printed where the demo was typed."""
    option = "" if config is None else f" --config {shlex.quote(str(config))}"
    again = "demo" if values is DemoFormat.NATIVE else f"demo --format {values}"
    now = outcome.rotation.target
    yield "Next:"
    for command, what in (
        ("status", "the database, its keys and its tables now"),
        ("up", "the same rotation as assets in Dagster's UI"),
        (again, f"once more, {now} to {now.next()}"),
    ):
        yield output.Text(f"  {_program()} {command}{option}", whole=True)
        yield f"      {what}"


def _program() -> str:
    """This program, as the user's shell finds it from here."""
    here, project = Path.cwd(), Path(sys.prefix).parent
    by_uv = settings.started_by_uv()
    if by_uv and project in {here, *here.parents}:
        return "uv run keyrotation"
    found = None if by_uv else shutil.which("keyrotation")
    if found is not None and Path(found).samefile(sys.argv[0]):
        return "keyrotation"
    return shlex.quote(sys.argv[0])
