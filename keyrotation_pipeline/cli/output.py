"""Prints the results of commands: text that starts with the database, or one JSON object; progress on stderr.

Writes a result that is to go to a file, which must not exist yet.

Whatever is printed may come from outside: hidden characters are printed as escapes. In text an id of a request is
printed by its first digits, which commands take for it; JSON, and what `request` prints on stdout, has all of them.
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyrotation_pipeline.errors import ApprovalError, KeyRotationError
from keyrotation_pipeline.model.requests import with_short_ids
from keyrotation_pipeline.model.visible_text import is_hidden, visible

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
PIPE_WIDTH = 200
LABEL_CHARS, ROOMY_CHARS = 10, 100
BAD = "bold red"
# A command that is to be copied; and the label of a line, or its columns, under which the rest is aligned.
COMMAND = re.compile("`[^`]*`")
LABEL = re.compile(r"\s*(?:\S.*?\s{2,})?")
_GLUE = "\0"  # which `visible` leaves in no text


@dataclass(frozen=True, slots=True)
class Text:
    """A line with a style; a terminal breaks it between words, and within no command.

    Args:
        indent: of the lines after the first, where it is wrapped; None: as far as its label or columns reach.
        whole: never broken, since all of it is to be copied.
    """

    text: str
    style: str | None = None
    indent: int | None = None
    whole: bool = False


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
    """One JSON object, with its `schema`, or a list of objects, on stdout."""
    sys.stdout.write(f"{_as_json(value, indent=2)}\n")


def refuse(message: str, *, as_json: bool) -> None:
    """Print why a command fails on stderr: the sentence, or one line of JSON."""
    if as_json:
        sys.stderr.write(f"{_as_json({'error': message})}\n")
    else:
        note(message)


def _as_json(value: Document | Sequence[Document], indent: int | None = None) -> str:
    whole = {"schema": SCHEMA, **value} if isinstance(value, Mapping) else value
    text = json.dumps(whole, indent=indent, ensure_ascii=False)
    return "".join(json.dumps(each)[1:-1] if each != "\n" and is_hidden(each) else each for each in text)


def heading(database: str) -> None:
    """The first line of every text."""
    line(Text(database, "bold"))


def line(shown: Line = "") -> None:
    """One line on stdout, or the lines of a table."""
    match shown:
        case Table():
            _print_table(shown)
        case Text(text, style, indent, whole):
            for each in [printable(text)] if whole else _lines(text, indent):
                _print(each, style)
        case str():
            line(Text(shown))


def field(label: str, text: str, style: str | None = None) -> Text:
    """``Label     text``; on a terminal wrapped between words, aligned with the text."""
    return Text(f"{label:<{LABEL_CHARS}}{text}", style, LABEL_CHARS)


def note(text: str) -> None:
    """Print one line on stderr, apart from the result."""
    for each in _lines(text, None, stderr=True):
        sys.stderr.write(f"{each}\n")


def content(text: str) -> None:
    """Print a whole document on stdout: as it is into a pipe or file, without hidden characters on a terminal."""
    sys.stdout.write(visible(text, keep="\n\t") if sys.stdout.isatty() else text)


def show_list(head: Mapping[str, Any], name: str, listed: Iterable[str]) -> None:
    """Print one JSON object whose last field is a list that is never held in memory.

    Args:
        listed: JSON objects, one per line.
    """
    sys.stdout.write(json.dumps({"schema": SCHEMA, **head}, indent=2).removesuffix("\n}") + f',\n  "{name}": [')
    before = "\n"
    for each in listed:
        sys.stdout.write(f"{before}    {each.rstrip()}")
        before = ",\n"
    sys.stdout.write("\n  ]\n}\n")


def require_new(target: Path | None) -> None:
    """Refuse a file name that exists, before any work is done.

    Raises:
        KeyRotationError: the file exists.
    """
    if target is not None and (target.exists() or target.is_symlink()):
        raise taken(target)


def write_new(target: Path, content: bytes) -> None:
    """Write a file that only its owner may read.

    Raises:
        KeyRotationError: the file exists by now.
    """
    try:
        target.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise taken(target) from None
    target.write_bytes(content)


def taken(target: Path) -> KeyRotationError:
    """The error for a file that exists."""
    return KeyRotationError(f"{target} already exists; name another one with --output, or remove it first")


def show_to_sign(text: bytes) -> None:
    """Print what officers sign for reading: on a terminal broken between words, and otherwise as `to_sign` does.

    Raises:
        ApprovalError: as `to_sign`.
    """
    if not sys.stdout.isatty():
        sys.stdout.flush()
        to_sign(text)
        sys.stdout.buffer.flush()
        return
    _require_visible(text)
    for paragraph in text.decode().removesuffix("\n").split("\n"):
        for each in wrapped(paragraph, console().width, indent=2):
            _print(each, None)


def to_sign(text: bytes) -> None:
    """Print the exact bytes that officers sign, in which everybody sees the same.

    Raises:
        ApprovalError: the text, which may be read from the database, has hidden characters.
    """
    _require_visible(text)
    sys.stdout.buffer.write(text)


def _require_visible(text: bytes) -> None:
    if is_hidden(text.decode().replace("\n", "")):
        raise ApprovalError(
            "the text to sign has characters that can hide or reorder others; do not sign it, and run "
            "`keyrotation audit verify`"
        )


def minutes(at: datetime | None) -> str:
    """``2026-11-24 15:30``, in UTC, as times are printed in text."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}" if at else "never"


def seconds(at: datetime) -> str:
    """The same to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def wrapped(text: str, width: int, indent: int | None = None) -> list[str]:
    """The lines of a text in so many columns, broken between words and within no command; a longer word stays whole.

    Args:
        indent: see `Text`.
    """
    if len(text) <= width:
        return [text]
    start = len(text) - len(text.lstrip())
    if indent is None:
        label = LABEL.match(text)
        indent = label.end() if label else start
    text = COMMAND.sub(lambda found: found.group().replace(" ", _GLUE), text)
    longest = max(map(len, text.split()), default=0)
    if indent > width // 2 or indent + longest > width:
        indent = start  # so that it need not be cut, if it fits there
    broken = textwrap.wrap(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return [each.replace(_GLUE, " ") for each in broken] or [""]


def _lines(text: str, indent: int | None, *, stderr: bool = False) -> list[str]:
    """A text as lines of the terminal; in a pipe or file it stays one."""
    text = printable(text)
    stream = sys.stderr if stderr else sys.stdout
    return wrapped(text, console(stderr=stderr).width, indent) if stream.isatty() else [text]


def _print(text: str, style: str | None) -> None:
    if style is None:
        # Not by a second console, which would write into the bars of `progress`.
        sys.stdout.write(f"{text}\n")
        return
    from rich.text import Text as Styled  # noqa: PLC0415  as above

    console().print(Styled(text, style=style), soft_wrap=True)


def _print_table(table: Table) -> None:
    """Print aligned columns; on a terminal that is too narrow for their words, a block of lines for each row."""
    from rich.table import Table as Grid  # noqa: PLC0415  as above

    listed = [[_cell(value) for value in row] for row in table.rows]
    where = console()
    gap = 3 if where.width >= ROOMY_CHARS else 2
    numeric = [
        bool(listed) and all(row[index].replace(",", "").isdigit() for row in listed)
        for index in range(len(table.columns))
    ]
    room = where.width - gap * (len(table.columns) - 1)
    widths = _widths([table.columns, *listed], numeric, room)
    if sum(widths) > room and sys.stdout.isatty():
        _print_rows(table.columns, listed)
        return
    shown = Grid(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for name, width, right in zip(table.columns, widths, numeric, strict=True):
        shown.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right, width=width)
    for row in listed:
        shown.add_row(*row)
    where.width = max(where.width, sum(widths) + gap * len(widths))
    where.print(shown)


def _widths(rows: Sequence[Sequence[str]], numeric: Sequence[bool], room: int) -> list[int]:
    """Columns as wide as their contents; where that is too much, the widest shrink, down to their longest word."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    words = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    least = [width if right else word for width, word, right in zip(widths, words, numeric, strict=True)]
    while sum(widths) > room and widths != least:
        index = max((i for i in range(len(widths)) if widths[i] > least[i]), key=widths.__getitem__)
        widths[index] -= 1
    return widths


def _print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    label = max(map(len, columns)) + 2
    for number, row in enumerate(rows):
        if number:
            line()
        for name, cell in zip(columns, row, strict=True):
            line(Text(f"{name:<{label}}{cell}", indent=label))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def printable(text: str) -> str:
    """A text without hidden characters, and with short ids of requests."""
    return with_short_ids(visible(text))
