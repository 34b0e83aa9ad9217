"""The pages of the reference are those that the code makes, and name everything that there is."""

import click
import pytest

from keyrotation_pipeline.cli.commands import COMMANDS
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline_tests.acceptance.documents import FIELDS
from keyrotation_pipeline_tests.reference.commands import commands
from keyrotation_pipeline_tests.reference.pages import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_as_the_code_makes_it(name: str) -> None:
    written = (FOLDER / f"{name}.md").read_text()
    assert PAGES[name]() == written, (
        "run `uv run python -m keyrotation_pipeline_tests.reference`, and read the difference"
    )


def test_nothing_else_is_in_the_reference() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(PAGES)


def test_every_command_and_event_is_named() -> None:
    page, events = PAGES["commands"](), PAGES["events"]()
    assert all(f"- `{name}" in page for name in COMMANDS)
    assert all(f"`{kind}`" in events for kind in EventKind)


def test_the_fields_of_every_json_are_listed() -> None:
    typed = {name for name, command in commands() if any(each.name == "as_json" for each in command.params)}
    assert typed <= set(FIELDS)


def test_every_argument_and_option_says_what_it_is() -> None:
    silent = {f"{name} {each.name}" for name, command in commands() for each in command.params if not described(each)}
    assert silent == set()


def described(parameter: click.Parameter) -> bool:
    return bool(getattr(parameter, "help", None))
