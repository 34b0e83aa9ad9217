"""What a command imports before it begins: whoever types it waits for that."""

import subprocess
import sys

import pytest
from typer.core import TyperCommand

from keyrotation_pipeline.cli.commands import COMMANDS
from keyrotation_pipeline_tests.acceptance.command import imports

SLOW = {"cryptography", "psycopg", "pydantic", "rich"}
# Forks, so that each module is the first of ours to be imported: a circle of imports shows at some beginnings only.
EACH_FIRST = """
import importlib, os, sys
import cryptography.hazmat.primitives.ciphers.aead, psycopg, pydantic, rich.console, typer
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name} cannot be the first that is imported")
"""


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("--version",)], ids=" ".join)
def test_help_and_version_wait_for_no_slow_library(arguments: tuple[str, ...]) -> None:
    imported = imports(*arguments)
    assert SLOW & imported == set()
    assert "keyrotation_pipeline.cli.commands" in imported


def test_at_the_end_the_collector_passes_over_what_was_imported() -> None:
    """Whoever typed the command waits for its end, too: without this it takes a tenth of a second of `status`."""
    end = "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() / len(gc.get_objects())))"
    command = "from keyrotation_pipeline.cli import main; sys.argv = ['keyrotation', '--version']; main()"
    done = subprocess.run([sys.executable, "-c", f"{end}\n{command}"], stdout=subprocess.PIPE, check=True)
    assert float(done.stdout.split()[-1]) > 100


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    listed = COMMANDS[name]
    command = listed.load(name)
    assert command.name == name
    assert command.help is not None
    assert " ".join(command.help.partition("\n\n")[0].split()) == listed.summary
    assert command.get_short_help_str(60) == TyperCommand(name, help=listed.summary).get_short_help_str(60)


def test_each_command_can_be_the_first_thing_that_is_imported() -> None:
    modules = sorted({f"keyrotation_pipeline.cli.{each.module}" for each in COMMANDS.values()})
    places = [f"keyrotation_pipeline.assembly.{name}" for name in ("pipeline", "alerts", "services")]
    done = subprocess.run([sys.executable, "-c", EACH_FIRST, *modules, *places], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
