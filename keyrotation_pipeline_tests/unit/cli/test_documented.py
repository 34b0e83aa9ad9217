"""What the pages tell people to type exists: every command, and every option of it."""

import re
from pathlib import Path

import click
import pytest
from typer.main import get_command

from keyrotation_pipeline.cli.commands import COMMANDS, LazyGroup, app

TOP = Path(__file__).parents[3]
PAGES = sorted(path.relative_to(TOP).as_posix() for path in (TOP / "README.md", *TOP.glob("docs/**/*.md")))
# In code, a line or a word of it; up to what a shell would take as the end of the command.
TYPED = re.compile(r"(?:^|[`(|;&$] *)(?:uv run )?keyrotation ((?:[a-z-]+|--[a-z])[^`\n|;&#)>]*)", re.MULTILINE)
COMMON = {"--help", "--version", "--install-completion", "--show-completion"}


def typed_on(page: str) -> list[str]:
    """Command lines of a page, without `keyrotation`."""
    text = (TOP / page).read_text()
    code = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL) + re.findall(r"`[^`\n]+`", text)
    return [line for each in code for line in TYPED.findall(each)]


def problem_of(line: str) -> str | None:
    """What of a command line does not exist."""
    words = line.partition(" -- ")[0].split()  # then comes another program
    if words[0].startswith("--"):
        return None if words[0] in COMMON else f"keyrotation {words[0]}"
    if words[0] not in COMMANDS:
        return f"keyrotation {words[0]}"
    command, path = COMMANDS[words[0]].load(words[0]), [words[0]]
    if isinstance(command, click.Group):
        if len(words) < 2:
            return None  # the group itself is spoken of
        if words[1] not in command.commands:
            return f"keyrotation {words[0]} {words[1]}"
        command, path = command.commands[words[1]], words[:2]
    known = {option for parameter in command.params for option in parameter.opts} | COMMON
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0].rstrip(",.:]") not in known]
    return f"{' '.join(path)}: {', '.join(unknown)}" if unknown else None


def test_every_command_and_option_of_a_page_exists() -> None:
    lines = {(page, line) for page in PAGES for line in typed_on(page)}
    assert [(page, problem) for page, line in lines if (problem := problem_of(line))] == []


def test_every_command_is_documented() -> None:
    reported = {line.split()[0] for page in PAGES for line in typed_on(page)}
    group = get_command(app)
    assert isinstance(group, LazyGroup)
    everywhere = "".join((TOP / page).read_text() for page in PAGES)
    assert {name for name in group.commands if name not in reported and f"`{name}" not in everywhere} == set()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("rotat ID", "keyrotation rotat"),
        ("incident opn --type x", "keyrotation incident opn"),
        ("rotate ID --throuh rows", "rotate: --throuh"),
        ("rotate ID --through rows", None),
        ("incident assess ID --affected Ohio=5", None),
    ],
)
def test_what_does_not_exist_is_found(line: str, says: str | None) -> None:
    assert problem_of(line) == says
