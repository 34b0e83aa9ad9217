"""Lists every command: where its code is, and its line in `keyrotation --help`.

A command's module is imported only when that command is run, so that start-up stays fast.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
import typer
from typer.core import TyperCommand, TyperGroup


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


COMMANDS = {
    "demo": Command("demo", "demo", "Rotate the keys of an invented clinic, start to end."),
    "up": Command(
        "up",
        "up",
        "Serve Dagster's UI and run its daemon, which executes approved rotations, until Ctrl-C.",
    ),
    "init": Command("initialise", "init", "Set up configuration, home, schema, officers and keys."),
    "inventory": Command("inspect", "inventory", "Count values by key version, and search undeclared columns."),
    "status": Command("status", "status", "Show keys, tables, the rotation, and what to type next."),
    "preflight": Command(
        "inspect",
        "preflight",
        "Check everything that a rotation needs: keys, backups, officers, tables, room, time.",
    ),
    "rehearse": Command("backups", "rehearse_command", "Run a rotation on the newest backup, in a scratch server."),
    "request": Command("requests", "request", "Open a rotation for officers to sign; prints its id."),
    "approve": Command("requests", "approve", "Print the text to sign, or add an officer's signature."),
    "requests": Command("requests", "requests", "List every pending request, with who has signed it and who has not."),
    "history": Command("requests", "history", "List past rotations and other requests, with how long each took."),
    "rotate": Command("rotate", "rotate", "Run the next phases of an approved rotation."),
    "confirm": Command(
        "inspect",
        "confirm",
        "Print the text that says which rollout is done, or add an officer's signature over it.",
    ),
    "rollout": Command("inspect", "rollout", "Show which application instance reads and writes which key version."),
    "pause": Command("rollback", "pause", "Pause a rotation."),
    "resume": Command("rollback", "resume", "Resume a paused rotation."),
    "pace": Command("requests", "pace_command", "Set how fast a running rotation goes; without an option, show it."),
    "cancel": Command("requests", "cancel", "Cancel a rotation that has written nothing yet."),
    "policy": Command(
        "signed_changes",
        "policy_command",
        "Change officers, threshold, recipients or hosts to what keyrotation.toml now says.",
    ),
    "rollback": Command("rollback", "rollback_command", "Open a request to undo a rotation; prints its id."),
    "verify": Command("inspect", "verify", "Decrypt every value with the current keys, and count."),
    "report": Command(
        "report",
        "report",
        "Write the compliance report: objectives, policy, keys, approvals, backups, recovery tests, incidents, audit.",
    ),
    "backup": Command("backups", "backup", "Back up all keys and the database at one moment."),
    "recovery-test": Command(
        "recovery",
        "recovery_test_command",
        "Restore the newest backup in a scratch server, and read it.",
    ),
    "restore-key": Command("recovery", "restore_key_command", "Restore lost keys from backups, or show what is lost."),
    "restore-database": Command(
        "backups",
        "restore_database_command",
        "Restore a backup into a new database, and read every value.",
    ),
    "recover": Command(
        "recover",
        "recover_command",
        "Restore database, configuration and keys from backups and the recovery key alone.",
    ),
    "reconcile": Command(
        "signed_changes",
        "reconcile_command",
        "Reconcile a restored database, or restore lost fences.",
    ),
    "replace-key": Command(
        "signed_changes", "replace_key_command", "Replace an imported key that decrypts no value with one that does."
    ),
    "destroy": Command("signed_changes", "destroy_command", "Remove a key that nothing needs any more."),
    "incident": Command("incident", "app", "Incidents: the emergency rotation against the clock."),
    "audit": Command("audit", "app", "The hash-chained audit of everything that was done."),
    "docs": Command(
        "docs",
        "docs",
        "Show the pages of this version, or copy them with the files for Kubernetes, AWS, Helm and SQL.",
    ),
}


class LazyGroup(TyperGroup):
    """A group that lists all commands, and imports only the one that is run."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  what typer passes
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=each.summary) for name, each in COMMANDS.items()}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command that is run."""
        name, listed, rest = super().resolve_command(ctx, args)
        if listed is None or listed.name is None:
            return name, listed, rest
        return name, COMMANDS[listed.name].load(listed.name), rest
