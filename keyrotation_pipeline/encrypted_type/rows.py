"""The key of a row, which a column's type never sees: reads a value with it, and lets a text wait for it.

Where a statement selects a column, SQLAlchemy asks the column's type for the expression to select. Where values are
bound to their rows, that is the row's key and the value in one text, so whatever reads the column reads both. A text
on its way to the database is a `Waiting` until `row_writes` knows the key of its row.
"""

import re
from typing import Any

from sqlalchemy import Text, cast, func, literal_column
from sqlalchemy.schema import Column, Table
from sqlalchemy.sql.elements import ColumnElement, Grouping, Label

from keyrotation_pipeline.encrypted_type.failures import refusal
from keyrotation_pipeline.errors import InvalidBindingError
from keyrotation_pipeline.fieldcrypto.binding import Row
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

# Before a value: the length of the key, a colon, the key; or this, if the row has none.
_NO_KEY = "-:"
_KEY = re.compile(r"([0-9]+):", re.ASCII)


def with_key(column: ColumnElement[Any], name: str) -> ColumnElement[Any] | None:
    """Returns a text of the key of a row and a column's value; None where the key is not next to the column.

    Args:
        name: of the column that holds the key, in the same table.
    """
    key = _key_next_to(_inside(column), name)
    if key is None:
        return None
    text = cast(key, Text)
    before = cast(func.length(text), Text).concat(literal_column("':'")).concat(text)
    return func.coalesce(before, literal_column(f"'{_NO_KEY}'"), type_=Text).concat(cast(column, Text))


def divided(value: str) -> tuple[str | None, str]:
    """Returns the key of a row, or None, and the stored value, of a text that `with_key` made."""
    found = _KEY.match(value)
    if found is None:
        return None, value.removeprefix(_NO_KEY)
    end = found.end() + int(found[1])
    return value[found.end() : end], value[end:]


def key_column(table: Table, name: str) -> Column[Any]:
    """Returns the column of a table that holds the keys of its rows.

    Raises:
        InvalidBindingError: there is none, or it may be NULL.
    """
    found = next((each for each in table.c if each.name == name), None)
    if found is None or found.nullable:
        wrong = "is not in it" if found is None else "may be NULL"
        raise refusal(
            f"values of {table.name} are bound to their row by its {name}, which {wrong}; name a column of the "
            "primary key in EncryptedType(row=…)",
            InvalidBindingError,
        )
    return found


def _inside(element: Any) -> Any:  # noqa: ANN401
    while isinstance(element, Label | Grouping):
        element = element.element
    return element._deannotate()  # noqa: SLF001  as SQLAlchemy compares columns


def _key_next_to(column: Any, name: str) -> Any:  # noqa: ANN401
    """Returns the column with the key of the same row, from where a column is selected: of a table, alias or subquery.

    Two aliases of one table may be selected into one subquery, so the key is looked for next to the column that is
    selected there (in a union, next to each), and then outside the column that stands for exactly this key.
    """
    source = getattr(column, "table", None)
    if isinstance(source, Table):
        return key_column(source, name)
    keys = [_key_next_to(each, name) for each in stands_for(column)]
    if source is None or not keys or any(each is None for each in keys):
        return None
    return next((each for each in source.c if list(map(id, stands_for(each))) == list(map(id, keys))), None)


def stands_for(column: Any) -> list[Any]:  # noqa: ANN401
    """Returns the columns inside a subquery that a column of it stands for; of a union one of each part."""
    # SQLAlchemy has no public name for what a subquery's column is made of, but for all of it at once. With a label it
    # has what is labelled and the label.
    inside = [_inside(each) for each in column._proxies]  # noqa: SLF001
    return list({id(each): each for each in inside}.values())


class Waiting:
    """A text on its way to the database that waits for the key of its row. Never shows its content.

    Args:
        since: see `Row`.
    """

    __slots__ = ("_key", "_label", "_ring", "_since", "_stored", "_text", "name")

    def __init__(self, ring: KeyRing, text: str, label: str | None, name: str, since: int) -> None:
        self._ring, self._text, self._label, self._since = ring, text, label, since
        self.name = name
        self._key: str | None = None
        self._stored: str | None = None

    @property
    def is_bound(self) -> bool:
        """Whether the text is encrypted."""
        return self._stored is not None

    def bound_to(self, key: str) -> None:
        """Encrypts the text for a row.

        Raises:
            InvalidBindingError: it was for another row, too.
        """
        if self._stored is not None and key != self._key:
            raise refusal(f"{self} would be stored in two rows; give each row its own parameter", InvalidBindingError)
        self._key = key
        self._stored = self._stored or encrypt(self._ring, self._text, self._label, Row(self._since, key.encode()))

    @property
    def stored(self) -> str:
        """The encrypted form.

        Raises:
            InvalidBindingError: the key of the row is not known.
        """
        if self._stored is None:
            raise refusal(
                f"{self} is bound to the row's {self.name}, which the statement lacks; set {self.name} before the "
                f"INSERT (default=uuid4), write `where(table.{self.name} == key)` in an UPDATE",
                InvalidBindingError,
            )
        return self._stored

    def __repr__(self) -> str:
        return f"a value of {self._label}"
