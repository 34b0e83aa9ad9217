"""`demo`: the whole walk on the embedded default, and what it showed."""

from typing import TYPE_CHECKING, Annotated

import typer

from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.cli.rotate import phase_line
from keyrotation_pipeline.fieldcrypto.compiled import codec_in_use, is_native

if TYPE_CHECKING:
    from keyrotation_pipeline.demo.run import DemoOutcome

CLIENTS = 20_000


def demo(
    *,
    rows: Annotated[
        int, typer.Option("--rows", min=1, help="Clients of a new clinic; each has two appointments.")
    ] = CLIENTS,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Rotate the keys of an invented clinic, start to end.

    An embedded PostgreSQL, an application that writes to it all the while, and the proof. Each time once more.
    """
    # The demo brings SQLAlchemy, which would double the time that every other command takes to start.
    from keyrotation_pipeline.demo.run import run_demo  # noqa: PLC0415

    say = output.note if as_json else output.line
    if not is_native():
        say(codec_in_use())
    with reporting(quiet=as_json) as report:
        outcome = run_demo(config, rows, report, say, lambda record, seconds: say(phase_line(record, seconds)))
    if as_json:
        output.document(outcome.as_facts())
    else:
        _tell(outcome)
    if not outcome.holds:
        raise typer.Exit(1)


def _tell(outcome: "DemoOutcome") -> None:
    rotation, application = outcome.rotation, outcome.application
    output.line()
    for count in outcome.counts:
        new = count.values_by_version.get(rotation.target, 0)
        old = sum(count.values_by_version.values()) - new
        fence = ", ".join(map(str, count.fenced_against))
        output.line(f"  {count.table.name!s:<14}{new:,} values under {rotation.target}, {old:,} older; refuses {fence}")
    states = ", ".join(f"{key.version} {key.state} ({key.fingerprint[:16]})" for key in outcome.keys)
    output.line(f"  {'keys':<14}{states}")
    output.line(
        f"  {'application':<14}{application['writes']:,} writes and {application['reads']:,} reads meanwhile: "
        f"{application['errors']} errors, {application['lost_writes']} lost writes, "
        f"slowest request {application['slowest_milliseconds']:.0f} ms"
    )
    output.line()
    if not outcome.holds:
        output.line("The proof does NOT hold; see the figures above and `keyrotation status`.", style="bold red")
        return
    output.line(
        f"Every value of these columns is under {rotation.target}, {rotation.source} is archived, nothing was lost.",
        style="bold green",
    )
    output.line("Next:")
    output.line("  keyrotation status    the database, its keys and its tables now")
    output.line("  keyrotation up        the same rotation as assets in Dagster's UI")
    output.line(f"  keyrotation demo      once more, {rotation.target} to {rotation.target.next()}")
