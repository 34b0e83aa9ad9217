"""Every command: where its code is, its line in `keyrotation --help`, and the application that runs them.

A command's module is imported only when that command is run, so that start-up stays fast. An expected failure is one
sentence on stderr.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand, TyperGroup

from keyrotation_pipeline.assembly import host
from keyrotation_pipeline.assembly.failures import message_of
from keyrotation_pipeline.fieldcrypto.compiled import codec_in_use


@dataclass(frozen=True, slots=True)
class Command:
    """One command, or group of commands.

    Args:
        module: in this package.
        attribute: of the module: a function, or a `typer.Typer`.
        summary: the first paragraph of its docstring, or of the group's help.
    """

    module: str
    attribute: str
    summary: str

    def load(self, name: str) -> click.Command:
        """Import the command."""
        found = getattr(import_module(f"keyrotation_pipeline.cli.{self.module}"), self.attribute)
        if isinstance(found, typer.Typer):
            group = typer.main.get_group(found)
            group.name = name
            return group
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        alone.command(name)(found)
        return typer.main.get_command(alone)


# In the order of `keyrotation --help`. A summary fits into one line of 80 columns.
SECTIONS = {
    "Set up": {
        "demo": Command("demo", "demo", "Rotate the keys of an invented clinic, start to end."),
        "scan": Command("scan", "scan", "Show what is encrypted in a database, and by what."),
        "probe": Command("probe", "probe", "Find the format in which keys open a column's values."),
        "init": Command("initialise", "init", "Set up configuration, home, schema, officers and keys."),
        "up": Command("up", "up", "Serve Dagster's UI and execute approved rotations."),
        "docs": Command("docs", "docs", "Show the pages of this version, or copy them with deploy/."),
    },
    "Rotate": {
        "preflight": Command("inspect", "preflight", "Check everything that a rotation needs."),
        "request": Command("requests", "request", "Open a rotation for officers to sign; prints its id."),
        "rehearse": Command("backups", "rehearse_command", "Run a rotation on a copy of the newest backup."),
        "rotate": Command("rotate", "rotate", "Run the next phases of an approved rotation."),
        "pace": Command("requests", "pace_command", "Show or set how fast a running rotation goes."),
        "pause": Command("requests", "pause", "Pause a rotation."),
        "resume": Command("requests", "resume", "Resume a paused rotation."),
        "cancel": Command("requests", "cancel", "Cancel a request that has written nothing yet."),
        "rollback": Command("requests", "rollback_command", "Open a request to undo a rotation; prints its id."),
    },
    "Approve": {
        "requests": Command("requests", "requests", "List pending requests: who has signed, who has not."),
        "approve": Command("requests", "approve", "Show what to sign and how, or add a signature."),
        "confirm": Command("requests", "confirm", "Show which rollout to sign and how, or add a signature."),
        "policy": Command("signed_changes", "policy_command", "Pin the officers that keyrotation.toml now names."),
    },
    "Watch": {
        "console": Command("console", "console", "Serve the page where people look, read-only."),
        "status": Command("status", "status", "Show keys, tables, the rotation, and what to type next."),
        "metrics": Command("status", "metrics", "Print the status in OpenMetrics text, for Prometheus."),
        "rollout": Command("inspect", "rollout", "Show which application instance reads and writes what."),
        "history": Command("history", "history", "List past requests, or show what happened to one."),
    },
    "Protect": {
        "backup": Command("backups", "backup", "Back up all keys and the database at one moment."),
        "recovery-test": Command("recovery", "recovery_test_command", "Prove that the newest backup restores."),
        "restore-key": Command("recovery", "restore_key_command", "Restore lost keys from backups, or survey them."),
        "restore-database": Command("backups", "restore_database_command", "Restore a backup into a new database."),
        "recover": Command("recover", "recover_command", "Restore everything from backups and the recovery key."),
        "reconcile": Command("signed_changes", "reconcile_command", "Reconcile a restored database, or lost fences."),
        "replace-key": Command("signed_changes", "replace_key_command", "Replace an imported key that is wrong."),
        "reseal": Command("signed_changes", "reseal_command", "Seal stored keys under the configured wrapping key."),
        "exec": Command("exec", "exec_command", "Start a program with opened keys in its environment."),
        "destroy": Command("signed_changes", "destroy_command", "Remove a key that nothing needs any more."),
    },
    "Incident": {
        "incident": Command("incident", "app", "Incidents: the emergency rotation against the clock."),
    },
    "Inspect": {
        "inventory": Command("inspect", "inventory", "Count values by key version, and search other columns."),
        "verify": Command("inspect", "verify", "Decrypt every value with the current keys, and count."),
        "audit": Command("audit", "app", "The hash-chained audit of everything that was done."),
        "report": Command("report", "report", "Write the compliance report, or the pack for an auditor."),
    },
}  # fmt: skip
COMMANDS = {name: command for section in SECTIONS.values() for name, command in section.items()}


class WholeGroup(TyperGroup):
    """A group whose help cuts no command's summary."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with the whole first paragraph of its help."""
        del ctx
        longest = max(map(len, self.commands))
        for title, names in self.sections().items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{longest}}", _summary(self.commands[name])) for name in names])

    def sections(self) -> Mapping[str, Iterable[str]]:
        """Names of commands by the heading that they stand under."""
        return {"Commands": self.commands}


def _summary(command: click.Command) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())


class LazyGroup(WholeGroup):
    """A group that lists all commands, and imports only the one that is run."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  what typer passes
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=each.summary) for name, each in COMMANDS.items()}

    def sections(self) -> Mapping[str, Iterable[str]]:
        """As above."""
        return SECTIONS

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command that is run."""
        name, listed, rest = super().resolve_command(ctx, args)
        if listed is None or listed.name is None:
            return name, listed, rest
        return name, COMMANDS[listed.name].load(listed.name), rest

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:  # noqa: ANN401  click's own
        """Parse what stands before the command."""
        with usage_in_json():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  what a command returns
        """Parse and run the command."""
        with usage_in_json():
            return super().invoke(ctx)


@contextmanager
def usage_in_json() -> Iterator[None]:
    """Print wrong usage as one line of JSON where JSON was asked for."""
    try:
        yield
    except click.UsageError as wrong:
        if not wants_json():
            raise
        from keyrotation_pipeline.cli.output import refuse  # noqa: PLC0415  --help and --version need none of it

        refuse(wrong.format_message(), as_json=True)
        raise SystemExit(wrong.exit_code) from None


def wants_json() -> bool:
    """Whether what was typed asks for JSON, even where it could not be parsed."""
    return "--json" in sys.argv[1:]


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
    host.harden_process()
    try:
        # For every command; those that open the database also wipe restored keys.
        host.wipe_abandoned_keys()
        app()
    except Exception as error:
        if (message := message_of(error)) is None:
            raise
        from keyrotation_pipeline.cli.output import refuse  # noqa: PLC0415  --help and --version need none of it

        refuse(message, as_json=wants_json())
        raise SystemExit(1) from None
