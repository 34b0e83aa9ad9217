"""What the README and docs/ have people type: every block of shell lines has a name, by which a test types it."""

import re
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[1]
PAGES = (TOP / "README.md", *sorted(TOP.glob("docs/**/*.md")))


@dataclass(frozen=True)
class Fenced:
    """A block between fences: its language, its name if it has one, and its lines."""

    page: str
    language: str
    name: str
    text: str


def fenced() -> list[Fenced]:
    """Every block of every page."""
    found = []
    for page in PAGES:
        for opening, text in re.findall(r"(?ms)^```([^\n]*)\n(.*?)^```$", page.read_text()):
            language, _, name = opening.partition(" ")
            found.append(Fenced(page.relative_to(TOP).as_posix(), language, name, text))
    return found


def code(name: str) -> str:
    """The one Python module of that name, which whoever calls this runs."""
    (found,) = [each.text for each in fenced() if (each.language, each.name) == ("python", name)]
    return found


def report_of(name: str) -> str:
    """A file of deploy/reports, by which applications report themselves."""
    return (TOP / "deploy" / "reports" / name).read_text()


def block(name: str) -> str:
    """The lines of the one block of that name; whoever calls this types them."""
    (found,) = [each.text for each in fenced() if (each.language, each.name) == ("sh", name)]
    return found
