"""Associated data by template: ``{table}|{column}|{id}`` binds a value to its column and to its row's `id`."""

import re
from collections.abc import Mapping
from functools import lru_cache

from keyrotation_pipeline.errors import InvalidLayoutError

TABLE, COLUMN = "table", "column"
_FIELD = re.compile(r"\{([^{}]*)\}")
_HOW = 'write it as in "{table}|{column}|{id}"'


class AssociatedData:
    """Makes the associated data of each value as the application does.

    Args:
        template: text in which `{table}` stands for the declared table without its schema, `{column}` for the column of
            the value, and any other name for the text of that column in the same row. An empty one is no data.

    Raises:
        InvalidLayoutError: a brace without its partner, or without a name.
    """

    def __init__(self, template: str) -> None:
        literals, names = _FIELD.split(template)[::2], _FIELD.findall(template)
        if any(set("{}") & set(each) for each in literals) or not all(names):
            raise InvalidLayoutError(f"associated data {template!r} has a brace that names no column; {_HOW}")
        self._literals = [literal.encode() for literal in literals]
        self._names = names
        self.row_columns = tuple(dict.fromkeys(name for name in names if name not in {TABLE, COLUMN}))

    def of(self, table: str, column: str, row: Mapping[str, bytes | None]) -> bytes | None:
        """Returns the data of one value; None: a column that it needs is NULL, so nothing was ever bound to it."""
        known: dict[str, bytes | None] = {**row, TABLE: table.encode(), COLUMN: column.encode()}
        pieces = [self._literals[0]]
        for name, literal in zip(self._names, self._literals[1:], strict=True):
            piece = known[name]
            if piece is None:
                return None
            pieces += [piece, literal]
        return b"".join(pieces)


@lru_cache(maxsize=64)
def associated_data(template: str) -> AssociatedData:
    """Returns a parsed template; see `AssociatedData`."""
    return AssociatedData(template)
