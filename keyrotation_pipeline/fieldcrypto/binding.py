"""What a value is bound to: our own to its column and row, one of AES-GCM to data by a template.

In the second generation a value is bound to its column by a label, a name that both the application and the pipeline
use: ``clients.email``, or ``billing.invoices.note`` outside the schema `public`. It is what is bound, not the
catalogue's name: where a table or column is renamed, the label is declared and stays as it was.

A row is named by the text of its key, a column that never changes, as PostgreSQL writes it. It is declared from which
version on values are bound to it, so what a value is bound to follows from the version that it names.

A template such as ``{table}|{column}|{id}`` binds a value of AES-GCM to its column and to its row's `id`. What is
bound is read with its associated data in hex before it, ``<hex>:<value>``, both by one statement.
"""

import re
from binascii import Error as HexError
from binascii import a2b_hex, b2a_hex
from dataclasses import dataclass
from functools import lru_cache

from keyrotation_pipeline.errors import InvalidBindingError, InvalidLayoutError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

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
def parsed_template(template: str) -> AssociatedData:
    """Returns a parsed template; see `AssociatedData`."""
    return AssociatedData(template)


def joined(data: bytes | None, value: bytes) -> bytes:
    """Returns a value as it is read; `data`: None, if a column that it needs is NULL."""
    return (UNKNOWN.encode() if data is None else b2a_hex(data)) + AFTER.encode() + value


def data_and_value(value: bytes) -> tuple[bytes | None, bytes]:
    """Returns the associated data of a value that was read so, and the value as it is stored; no data, no value."""
    written, _, stored = value.partition(AFTER.encode())
    try:
        return a2b_hex(written), stored
    except (HexError, ValueError):
        return None, stored


_DOMAIN = b"keyrotation-value-v2\0"
LONGEST_LABEL_BYTES = 1000
_BEFORE_ROW = b"\0"  # neither a label nor a text of PostgreSQL has it


@dataclass(frozen=True, slots=True)
class Row:
    """The row of a value.

    Args:
        since: the number of the first version whose values are bound to it.
        key: the text of its key in UTF-8; None: it is not known.
    """

    since: int
    key: bytes | None


def is_bound_to_row(version: KeyVersion, since: int) -> bool:
    """Returns whether values under a version are bound to their row, too.

    Args:
        since: the number of the first version that binds them; 0: none does.
    """
    return 0 < since <= version.number and version.generation_number != 1


def default_label(schema: str | None, table: str, column: str) -> str:
    """Returns the label of a column for which none was declared.

    Raises:
        InvalidBindingError: a name with a dot, by which two columns could have the same label.
    """
    parts = [table, column] if schema in {None, "public"} else [str(schema), table, column]
    if any("." in part for part in parts):
        raise InvalidBindingError(
            f"the names of column {column} of table {table} hold a dot; declare a label for its values, in the "
            "application and in keyrotation.toml alike"
        )
    return ".".join(parts)


def checked_label(label: str) -> str:
    """Returns the label.

    Raises:
        InvalidBindingError: it is empty, too long, or not printable.
    """
    if not label or not label.isprintable() or len(label.encode(errors="replace")) > LONGEST_LABEL_BYTES:
        raise InvalidBindingError(
            f"a label has 1 to {LONGEST_LABEL_BYTES} bytes of printable characters, such as clients.email; correct it"
        )
    return label


def associated_data(version: KeyVersion, label: str | None, row: Row | None = None) -> bytes | None:
    """Returns what a value under `version` is authenticated with; None in the first generation, which binds nothing.

    Args:
        label: of the column; None: it is not known.
        row: where values of the column may be bound to their row.

    Raises:
        InvalidBindingError: the label or the key of the row is needed and not known.
    """
    if version.generation_number == 1:
        return None
    if label is None:
        raise InvalidBindingError(
            f"a value under {version} is bound to its column, which is unknown here; use EncryptedType in a table, or "
            'give it binding="table.column"'
        )
    of_column = _DOMAIN + label.encode()
    if row is None or not is_bound_to_row(version, row.since):
        return of_column
    if row.key is None:
        raise InvalidBindingError(
            f"a value of {label} under {version} is bound to its row, which is unknown here; read the column together "
            "with the row's key, without text()"
        )
    return of_column + _BEFORE_ROW + row.key


def divided(value: bytes, since: int) -> tuple[bytes, Row]:
    """Returns a stored value and its row, which were read together: the row's key in hex and a colon come first.

    Args:
        since: see `Row`.
    """
    if AFTER.encode() not in value:
        return value, Row(since, None)
    key, stored = data_and_value(value)
    return stored, Row(since, key)
