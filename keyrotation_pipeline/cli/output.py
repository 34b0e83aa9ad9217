"""Prints the results of commands: text that starts with the database, or one JSON object; progress on stderr.

Whatever is printed may come from outside: hidden characters are printed as escapes.
"""

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.audit import instant, names
from keyrotation_pipeline.model.visible_text import is_hidden, visible

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 200
LABEL_CHARS, ROOMY_CHARS = 10, 100
BAD = "bold red"

__all__ = [
    "BAD", "Line", "Table", "Text", "console", "content", "document", "field", "heading", "instant", "line", "minutes",
    "names", "note", "seconds", "show", "to_sign",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """A line with a style, or one that a terminal may break between words.

    Args:
        indent: of the lines after the first, where it is wrapped; None: never wrapped.
    """

    text: str
    style: str | None = None
    indent: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Aligned columns; numbers to the right."""

    columns: Sequence[str]
    rows: Iterable[Sequence[object]]


Line = str | Text | Table
Document = Mapping[str, Any]


def console(*, stderr: bool = False) -> "Console":
    """A console that prints text literally; in a pipe or file it does not wrap lines at 80 columns."""
    from rich.console import Console  # noqa: PLC0415  JSON output does not need rich

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, markup=False, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def show(database: str | None, value: Document | Sequence[Document], lines: Iterable[Line], *, as_json: bool) -> None:
    """Print a result: the value as JSON, else the database's name and the lines.

    Args:
        database: the connected one; None: its name was already printed.
    """
    if as_json:
        document(value)
        return
    if database is not None:
        heading(database)
    for each in lines:
        line(each)


def document(value: Document | Sequence[Document]) -> None:
    """One JSON object, or a list of them, on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    shown = "".join(json.dumps(each)[1:-1] if each != "\n" and is_hidden(each) else each for each in text)
    sys.stdout.write(f"{shown}\n")


def heading(database: str) -> None:
    """The first line of every text."""
    line(Text(database, "bold"))


def line(shown: Line = "") -> None:
    """One line on stdout, or the lines of a table."""
    match shown:
        case Table():
            _print_table(shown)
        case Text(text, style, indent):
            for each in [text] if indent is None else _broken(text, indent):
                _print(each, style)
        case str():
            _print(shown, None)


def field(label: str, text: str, style: str | None = None) -> Text:
    """``Label     text``; on a terminal wrapped between words, aligned with the text."""
    return Text(f"{label:<{LABEL_CHARS}}{text}", style, LABEL_CHARS)


def note(text: str) -> None:
    """Print one line on stderr, apart from the result."""
    sys.stderr.write(f"{visible(text)}\n")


def content(text: str) -> None:
    """Print a whole document on stdout: as it is into a pipe or file, without hidden characters on a terminal."""
    sys.stdout.write(visible(text, keep="\n\t") if sys.stdout.isatty() else text)


def show_list(head: Mapping[str, Any], name: str, listed: Iterable[str]) -> None:
    """Print one JSON object whose last field is a list that is never held in memory.

    Args:
        listed: JSON objects, one per line.
    """
    sys.stdout.write(json.dumps(head, indent=2).removesuffix("\n}") + f',\n  "{name}": [')
    before = "\n"
    for each in listed:
        sys.stdout.write(f"{before}    {each.rstrip()}")
        before = ",\n"
    sys.stdout.write("\n  ]\n}\n")


def to_sign(text: bytes) -> None:
    """Print the exact bytes that officers sign, in which everybody sees the same.

    Raises:
        ApprovalError: the text, which may be read from the database, has hidden characters.
    """
    if is_hidden(text.decode().replace("\n", "")):
        raise ApprovalError(
            "the text to sign has characters that can hide or reorder others; do not sign it, and run "
            "`keyrotation audit verify`"
        )
    sys.stdout.buffer.write(text)


def minutes(at: datetime | None) -> str:
    """``2026-11-24 15:30``, in UTC, as times are printed in text."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}" if at else "never"


def seconds(at: datetime) -> str:
    """The same to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _print(text: str, style: str | None) -> None:
    text = visible(text)
    if style is None:
        # Not by a second console, which would write into the bars of `progress`.
        sys.stdout.write(f"{text}\n")
        return
    from rich.text import Text as Styled  # noqa: PLC0415  as above

    console().print(Styled(text, style=style), soft_wrap=True)


def _broken(text: str, indent: int) -> list[str]:
    if not sys.stdout.isatty():
        return [text]
    # A word longer than the line, such as an id, is not broken, so that it can be copied.
    return textwrap.wrap(
        text, console().width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    ) or [""]


def _print_table(table: Table) -> None:
    from rich.table import Table as Grid  # noqa: PLC0415  as above

    listed = [[_cell(value) for value in row] for row in table.rows]
    where = console()
    gap = 3 if where.width >= ROOMY_CHARS else 2
    shown = Grid(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for index, name in enumerate(table.columns):
        numeric = bool(listed) and all(row[index].replace(",", "").isdigit() for row in listed)
        shown.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for row in listed:
        shown.add_row(*row)
    where.print(shown)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else visible(str(value))
