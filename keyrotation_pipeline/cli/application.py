"""Assembles the commands, and prints what a user sees when one fails."""

from typing import Annotated

import typer

from keyrotation_pipeline import assembly
from keyrotation_pipeline.cli.commands import LazyGroup, wants_json
from keyrotation_pipeline.cli.failures import sentence_of
from keyrotation_pipeline.fieldcrypto.compiled import codec_in_use

app = typer.Typer(
    name="keyrotation",
    cls=LazyGroup,
    help="Rotate application-level encryption keys in PostgreSQL with zero downtime, and prove that it was done.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415  nothing else needs it

        typer.echo(f"keyrotation {version('keyrotation-pipeline')}")
        typer.echo(codec_in_use())
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True, show_default=False),
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command line; an expected failure is one sentence on stderr and exit code 1."""
    assembly.harden_process()
    try:
        # For every command; those that open the database also wipe restored keys.
        assembly.wipe_abandoned_keys()
        app()
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        from keyrotation_pipeline.cli.output import refuse  # noqa: PLC0415  --help and --version need none of it

        refuse(sentence, as_json=wants_json())
        raise SystemExit(1) from None
