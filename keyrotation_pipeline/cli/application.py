"""Assembles the commands, and prints what a user sees when one fails."""

import sys
from typing import Annotated, Any, NoReturn

import typer

from keyrotation_pipeline import assembly
from keyrotation_pipeline.cli.commands import LazyGroup
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.compiled import codec_in_use

_INSUFFICIENT_PRIVILEGE = "42501"

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
    except KeyRotationError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}; fix that, then run this again")
    except _database_errors() as error:
        if error.sqlstate == _INSUFFICIENT_PRIVILEGE:
            # Its first line names a schema, a table or a function, but nothing from a row.
            _fail(
                f"the database role lacks a right ({error.diag.message_primary}); grant it as "
                "deploy/sql/pipeline-role.sql does, then run this again"
            )
        # Its text, and a traceback that shows it, could contain row data.
        _fail(
            f"the database refused, or the connection was lost ({type(error).__name__}, SQLSTATE "
            f"{error.sqlstate or 'none'}); "
            "see its log, then run this again"
        )


def _database_errors() -> Any:  # noqa: ANN401  psycopg.Error, which has a `sqlstate`, or no class at all
    """Psycopg's errors, if the command has imported it."""
    psycopg = sys.modules.get("psycopg")
    return psycopg.Error if psycopg is not None else ()


def _fail(sentence: str) -> NoReturn:
    from keyrotation_pipeline.cli.output import note  # noqa: PLC0415  --help and --version need none of it

    note(sentence)
    raise SystemExit(1) from None
