"""The commands, put together; and what a user sees when one fails."""

import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import psycopg
import typer

from keyrotation_pipeline import assembly
from keyrotation_pipeline.assembly.backups import wipe_keys_of_killed_tests
from keyrotation_pipeline.cli import (
    audit,
    backups,
    demo,
    destroy,
    incident,
    initialise,
    inspection,
    pace,
    policy,
    preflight,
    reconcile,
    recovery,
    report,
    requests,
    restore_database,
    rollback,
    rollout,
    rotate,
    status,
    up,
)
from keyrotation_pipeline.errors import KeyRotationError

app = typer.Typer(
    name="keyrotation",
    help="Rotate application-level encryption keys in PostgreSQL with zero downtime, and prove that it was done.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(up.up)
app.command()(initialise.init)
app.command()(inspection.inventory)
app.command()(status.status)
app.command()(preflight.preflight)
app.command()(requests.request)
app.command()(requests.approve)
app.command("requests")(requests.requests)
app.command()(requests.history)
app.command()(rotate.rotate)
app.command()(rollout.confirm)
app.command()(rollout.rollout)
app.command()(rollback.pause)
app.command()(rollback.resume)
app.command("pace")(pace.pace_command)
app.command()(requests.cancel)
app.command("policy")(policy.policy_command)
app.command("rollback")(rollback.rollback_command)
app.command()(inspection.verify)
app.command()(report.report)
app.command()(backups.backup)
app.command("recovery-test")(recovery.recovery_test_command)
app.command("restore-key")(recovery.restore_key_command)
app.command("restore-database")(restore_database.restore_database_command)
app.command("reconcile")(reconcile.reconcile_command)
app.command("destroy")(destroy.destroy_command)
app.add_typer(incident.app, name="incident")
app.add_typer(audit.app, name="audit")


def _show_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"keyrotation {version('keyrotation-pipeline')}")
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
        # Whatever the command is; those that open the database wipe restored ones, too.
        wipe_keys_of_killed_tests()
        app()
    except KeyRotationError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}; mend that, then run this again")
    except psycopg.Error as error:
        # Its text, and a traceback that shows it, could hold what a row holds.
        _fail(
            f"the database refused or was lost ({type(error).__name__}, SQLSTATE {error.sqlstate or 'none'}); "
            "see its log, then run this again"
        )


def _fail(sentence: str) -> NoReturn:
    sys.stderr.write(f"{sentence}\n")
    raise SystemExit(1) from None
