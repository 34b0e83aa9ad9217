"""Every help text on a terminal of 80 columns: grouped, whole, and a plain sentence each."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from keyrotation_pipeline.cli.commands import COMMANDS, SECTIONS, WholeGroup, app

KEYROTATION = Path(sys.executable).parent / "keyrotation"
COLUMNS = 80
LISTS = ((), ("incident",), ("audit",))


def help_of(*command: str) -> list[str]:
    """The lines of a command's help, as typed."""
    done = subprocess.run(
        [KEYROTATION, *command, "--help"], env={**os.environ, "COLUMNS": str(COLUMNS)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_commands_stand_in_groups_in_the_order_of_the_work() -> None:
    headings = [line.strip(" :") for line in help_of() if line.endswith(":")]
    assert headings == ["Options", "Set up", "Rotate", "Approve", "Watch", "Protect", "Incident", "Inspect"]
    assert list(SECTIONS) == headings[1:]


@pytest.mark.parametrize("group", LISTS, ids=lambda each: " ".join(each) or "keyrotation")
def test_no_command_is_cut_or_broken_in_a_list(group: tuple[str, ...]) -> None:
    commands = COMMANDS[group[0]].load(group[0]) if group else get_command(app)
    assert isinstance(commands, WholeGroup)
    shown = help_of(*group)
    lines = dict(re.findall(r"(?m)^  (\S+) +(.*)$", "\n".join(shown)))
    for name, command in commands.commands.items():
        summary = " ".join((command.help or "").partition("\n\n")[0].split())
        assert lines[name] == summary
        assert summary.endswith(".")
        assert len(summary.split(". ")) == 1
    assert max(map(len, shown)) < COLUMNS
    assert not [line for line in shown[1:] if line.endswith("...")]
