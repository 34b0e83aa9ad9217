"""Tables of HTML: every text is escaped, lists and objects become lists and tables instead of JSON."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

NARROW_COLUMNS = 2
# A moment of time is never broken in the middle, and neither is a word beside long texts.
SHORT_CHARS = 20


class Html(str):
    """What is HTML already, and not escaped again."""

    __slots__ = ()


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table with a heading; without rows a sentence that says so. A cell is a text, or `Html`.

    Each cell also bears its column's name: on a narrow screen each row of a wide table is shown as a card.
    """
    listed = ["".join(map(_cell, columns, row)) for row in rows]
    if not listed:
        return Html(f"<p>None: {escape(columns[0].lower())}.</p>")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{row}</tr>\n" for row in listed)
    wide = ' class="wide"' if len(columns) > NARROW_COLUMNS else ""
    return Html(f"<table{wide}><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>")


def shown(value: object) -> Html:
    """Any plain JSON for people: a list as a list, objects as tables."""
    if isinstance(value, Mapping):
        return table(("What", "Value"), [(_words(name), shown(each)) for name, each in sorted(value.items())])
    if isinstance(value, list | tuple):
        return _listed(value)
    if value is None:
        return Html("–")
    if isinstance(value, bool):
        return Html("yes" if value else "no")
    return Html(escape(f"{value:,}" if isinstance(value, int | float) else str(value)))


def _listed(values: Sequence[object]) -> Html:
    if not values:
        return Html("none")
    if all(isinstance(each, Mapping) for each in values):
        objects = [each for each in values if isinstance(each, Mapping)]
        names = list(dict.fromkeys(name for each in objects for name in each))
        return table([_words(name) for name in names], [[shown(each.get(name)) for name in names] for each in objects])
    if len(values) == 1:
        return shown(values[0])
    return Html(f"<ul>{''.join(f'<li>{shown(each)}</li>' for each in values)}</ul>")


def _cell(column: str, value: str) -> str:
    if isinstance(value, Html):
        return f'<td data-of="{escape(column)}">{value}</td>'
    unbroken = ' class="short"' if len(value) <= SHORT_CHARS else ""
    return f'<td data-of="{escape(column)}"{unbroken}>{escape(value)}</td>'


def _words(name: object) -> str:
    return str(name).replace("_", " ")
