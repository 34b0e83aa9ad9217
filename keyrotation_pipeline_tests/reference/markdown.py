"""What the generated pages share."""

import re
from collections.abc import Iterable, Sequence

_NOTE = "<!-- Made by `uv run python -m keyrotation_pipeline_tests.reference`; change the code that it reads. -->"


def page_of(title: str, parts: Iterable[str]) -> str:
    """A page: its title, and its paragraphs, headings and tables."""
    return "\n\n".join((f"# {title}", _NOTE, *(part.strip("\n") for part in parts))) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, of which each cell is one line."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("|".join(("", *(f" {_cell(each)} " for each in line), "")) for line in lines)


def listing(items: Iterable[tuple[str, str]]) -> str:
    """A list: of each item its name, and what it is in one line."""
    return "\n".join(f"- {name}: {' '.join(says.split())}" for name, says in items)


def code(text: str) -> str:
    """A word or line as it is typed."""
    return f"`{text}`"


def in_markdown(text: str) -> str:
    """A docstring as Markdown, in which what stands between two backquotes stands between one, and lines are joined."""
    paragraphs = re.split(r"\n\s*\n", text.replace("``", "`").strip())
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
