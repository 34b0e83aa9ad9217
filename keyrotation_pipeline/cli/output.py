"""How commands print: text that begins with the database, or one JSON object; progress on stderr."""

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from keyrotation_pipeline.model.audit import instant, names

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 200
LABEL_CHARS, ROOMY_CHARS = 10, 100

__all__ = [
    "console",
    "document",
    "documents",
    "field",
    "heading",
    "instant",
    "line",
    "minutes",
    "names",
    "note",
    "seconds",
    "table",
    "wrapped",
]


def console(*, stderr: bool = False) -> "Console":
    """A console that takes text as it is; into a pipe or file it does not break lines at 80 columns."""
    from rich.console import Console  # noqa: PLC0415  what prints JSON does without rich

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, markup=False, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def line(text: str = "", *, style: str | None = None) -> None:
    """One line on stdout, never broken in the middle."""
    if style is None:
        # Not by a console, which would write past the bars of `progress` and into them.
        sys.stdout.write(f"{text}\n")
    else:
        from rich.text import Text  # noqa: PLC0415  as above

        console().print(Text(text, style=style), soft_wrap=True)


def field(label: str, text: str, *, style: str | None = None) -> None:
    """``Label     text``; on a terminal broken between words, the rest below the text."""
    wrapped(f"{label:<{LABEL_CHARS}}{text}", indent=LABEL_CHARS, style=style)


def wrapped(text: str, *, indent: int = 0, style: str | None = None) -> None:
    """A text whose lines break between words where a terminal ends; elsewhere one line."""
    width = console().width if sys.stdout.isatty() else None
    below = " " * indent
    # A word that is longer than the line, a command's id say, stays whole for whoever copies it.
    lines = (
        [text]
        if width is None
        else textwrap.wrap(text, width, subsequent_indent=below, break_long_words=False, break_on_hyphens=False)
    )
    for each in lines or [""]:
        line(each, style=style)


def heading(database: str) -> None:
    """Which database is talked to: the first line of every text."""
    line(database, style="bold")


def note(text: str) -> None:
    """One line on stderr, beside the result."""
    sys.stderr.write(f"{text}\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns; numbers to the right."""
    from rich.table import Table  # noqa: PLC0415  as above

    listed = [[_cell(value) for value in row] for row in rows]
    where = console()
    gap = 3 if where.width >= ROOMY_CHARS else 2
    shown = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for index, name in enumerate(columns):
        numeric = bool(listed) and all(row[index].replace(",", "").isdigit() for row in listed)
        shown.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for row in listed:
        shown.add_row(*row)
    where.print(shown)


def document(content: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(f"{json.dumps(content, indent=2, ensure_ascii=False)}\n")


def documents(content: Sequence[Mapping[str, Any]]) -> None:
    """One JSON list of objects on stdout."""
    sys.stdout.write(f"{json.dumps(list(content), indent=2, ensure_ascii=False)}\n")


def minutes(at: datetime | None) -> str:
    """``2026-11-24 15:30``, in UTC, as text has times."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}" if at else "never"


def seconds(at: datetime) -> str:
    """The same to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
