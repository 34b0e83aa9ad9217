"""Every command: where its code is, and what `keyrotation --help` says of it.

A module is imported when its command is meant, so that no command waits for what it does not use.
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
        says: the first paragraph of its docstring, or of the group's help.
    """

    module: str
    attribute: str
    says: str

    def load(self, name: str) -> click.Command:
        """Import it."""
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
        "Serve Dagster's UI and run its daemon, which carries approved rotations through, until Ctrl-C.",
    ),
    "init": Command("initialise", "init", "Set up configuration, home, schema, officers and keys."),
    "inventory": Command("inspect", "inventory", "Count values by key version, and search undeclared columns."),
    "status": Command("status", "status", "Show keys, tables, the rotation, and what to type next."),
    "preflight": Command(
        "inspect",
        "preflight",
        "Check all that a rotation needs: keys, backups, officers, tables, room, time.",
    ),
    "rehearse": Command(
        "backups", "rehearse_command", "Carry a rotation out on the newest backup, in a scratch server."
    ),
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
    "pause": Command("rollback", "pause", "Stop a rotation where it stands."),
    "resume": Command("rollback", "resume", "Let a paused rotation go on."),
    "pace": Command("requests", "pace_command", "Set how fast a running rotation goes; without an option, show it."),
    "cancel": Command("requests", "cancel", "Give up a rotation that has written nothing yet."),
    "policy": Command(
        "policy",
        "policy_command",
        "Change officers, threshold or recipients to what keyrotation.toml now says.",
    ),
    "rollback": Command("rollback", "rollback_command", "Open a request to undo a rotation; prints its id."),
    "verify": Command("inspect", "verify", "Decrypt every value with the current keys, and count."),
    "report": Command(
        "report",
        "report",
        "Write the compliance report: policy, keys, approvals verified anew, backups, recovery tests, incidents, "
        "audit.",
    ),
    "backup": Command("backups", "backup", "Back up all keys and the database at one moment."),
    "recovery-test": Command(
        "recovery",
        "recovery_test_command",
        "Restore the newest backup in a scratch server, and read it.",
    ),
    "restore-key": Command("recovery", "restore_key_command", "Put lost keys back from backups, or say what is lost."),
    "restore-database": Command(
        "backups",
        "restore_database_command",
        "Restore a backup beside the database, and read every value.",
    ),
    "reconcile": Command(
        "reconcile",
        "reconcile_command",
        "Mend a restored database, or put lost fences back.",
    ),
    "replace-key": Command(
        "replace_key", "replace_key_command", "Replace an imported key that opens no value by one that does."
    ),
    "destroy": Command("destroy", "destroy_command", "Remove a key that nothing needs any more."),
    "incident": Command("incident", "app", "Incidents: the emergency rotation against the clock."),
    "audit": Command("audit", "app", "The hash-chained audit of all that was done."),
}


class LazyGroup(TyperGroup):
    """A group that lists all commands, and imports the one that is typed."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  whatever typer gives
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=each.says) for name, each in COMMANDS.items()}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is typed, imported."""
        name, listed, rest = super().resolve_command(ctx, args)
        if listed is None or listed.name is None:
            return name, listed, rest
        return name, COMMANDS[listed.name].load(listed.name), rest
