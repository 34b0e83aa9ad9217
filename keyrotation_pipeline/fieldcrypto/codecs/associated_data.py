"""Associated data by template: ``{table}|{column}|{id}`` binds a value to its column and to its row's `id`.

A value that is bound is read with its associated data in hex before it, ``<hex>:<value>``, both by one statement.
"""

import re
from binascii import Error as HexError
from binascii import a2b_hex, b2a_hex
from dataclasses import dataclass
from functools import lru_cache

from keyrotation_pipeline.errors import InvalidLayoutError

TABLE, COLUMN = "table", "column"
# In place of the hex: a column of the row is NULL, so there is nothing to bind to. No hex has this character.
UNKNOWN = "-"
AFTER = ":"
_FIELD = re.compile(r"\{([^{}]*)\}")
_HOW = 'write it as in "{table}|{column}|{id}"'


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the associated data: a text, or the name of the column of the row that holds it."""

    text: str
    in_row: bool = False


class AssociatedData:
    """How an application makes the associated data of each value.

    Args:
        template: text in which `{table}` stands for the declared table without its schema, `{column}` for the column of
            the value, and any other name for the text of that column in the same row.

    Raises:
        InvalidLayoutError: a brace without its partner or without a name, or text that cannot be seen.
    """

    def __init__(self, template: str) -> None:
        literals, names = _FIELD.split(template)[::2], _FIELD.findall(template)
        if any(set("{}") & set(each) for each in literals) or not all(names):
            raise InvalidLayoutError(f"aad {template!r} has a brace that names no column; {_HOW}")
        if not template.isprintable() or not template:
            raise InvalidLayoutError(f"aad {template!r} is empty or has text that cannot be seen; {_HOW}")
        self._literals, self._names = literals, names
        self.row_columns = tuple(dict.fromkeys(name for name in names if name not in {TABLE, COLUMN}))

    def pieces(self, table: str, column: str) -> tuple[Piece, ...]:
        """Returns the parts of the data of a column's values, in order."""
        known = {TABLE: Piece(table), COLUMN: Piece(column)}
        found = [Piece(self._literals[0])]
        for name, literal in zip(self._names, self._literals[1:], strict=True):
            found += [known.get(name, Piece(name, in_row=True)), Piece(literal)]
        return tuple(each for each in found if each.text)


@lru_cache(maxsize=64)
def associated_data(template: str) -> AssociatedData:
    """Returns a parsed template; see `AssociatedData`."""
    return AssociatedData(template)


def joined(data: bytes | None, value: bytes) -> bytes:
    """Returns a value as it is read; `data`: None, if a column that it needs is NULL."""
    return (UNKNOWN.encode() if data is None else b2a_hex(data)) + AFTER.encode() + value


def divided(value: bytes) -> tuple[bytes | None, bytes]:
    """Returns the associated data of a value that was read so, and the value as it is stored; no data, no value."""
    written, _, stored = value.partition(AFTER.encode())
    try:
        return a2b_hex(written), stored
    except (HexError, ValueError):
        return None, stored
