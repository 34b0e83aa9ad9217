"""Reads a value together with the key of its row, which a column's type alone never sees.

Where a statement selects a column, SQLAlchemy asks the column's type for the expression to select. Where values are
bound to their rows, that is the row's key and the value in one text, so whatever reads the column reads both.
"""

import re
from typing import Any

from sqlalchemy import Text, cast, func, literal_column
from sqlalchemy.schema import Column, Table
from sqlalchemy.sql.elements import ColumnElement, Grouping, Label

from keyrotation_pipeline.encrypted_type.failures import unwrapped
from keyrotation_pipeline.errors import InvalidBindingError

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
        raise unwrapped(
            InvalidBindingError(
                f"values of {table.name} are bound to their row by its {name}, which {wrong}; name a column of the "
                "primary key in EncryptedType(row=…)"
            )
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
    keys = [_key_next_to(each, name) for each in _stands_for(column)]
    if source is None or not keys or any(each is None for each in keys):
        return None
    return next((each for each in source.c if list(map(id, _stands_for(each))) == list(map(id, keys))), None)


def _stands_for(column: Any) -> list[Any]:  # noqa: ANN401
    # SQLAlchemy has no public name for what a subquery's column is made of, but for all of it at once. With a label it
    # has what is labelled and the label.
    inside = [_inside(each) for each in column._proxies]  # noqa: SLF001
    return list({id(each): each for each in inside}.values())
