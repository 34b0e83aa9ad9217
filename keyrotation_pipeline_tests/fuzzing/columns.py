"""Where values stand in a row, and what a statement of the application says to read or write them there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

Stored = str | bytes | tuple[Any, Any]  # a pair: value, nonce
Row = Mapping[str, Any]
Assigned = list[tuple[str, list[Any]]]  # `column = expression`, and its parameters


@dataclass(frozen=True)
class Column:
    """A column of text or bytea with one value.

    Args:
        name: of the column; it is the name of the value's slot, too.
        type: in SQL.
    """

    name: str
    type: str = "text"

    @property
    def slots(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def ddl(self) -> str:
        return f"{self.name} {self.type}"

    @property
    def declared(self) -> str:
        return f'"{self.name}"'

    @property
    def written(self) -> tuple[str, ...]:
        """The columns for which the application needs the right to write."""
        return (self.name,)

    def label(self, slot: str) -> str:
        """The column that a value in this slot is bound to, where its format binds values."""
        return self.name

    def inserted(self, values: Mapping[str, Stored | None], other: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
        return [(self.name, self.sent(values[self.name]))]

    def assigned(self, values: Mapping[str, Stored | None]) -> Assigned:
        """Assignments of the given slots; others of the column stay."""
        return [(f"{self.name} = %s", [self.sent(values[self.name])])]

    def read(self, row: Row) -> dict[str, Stored | None]:
        return {self.name: row[self.name]}

    def other(self, row: Row) -> Any:  # noqa: ANN401  what the column holds besides values
        return None

    def sent(self, stored: Stored | None) -> Any:  # noqa: ANN401
        return stored.encode() if self.type == "bytea" and isinstance(stored, str) else stored


@dataclass(frozen=True)
class Pair(Column):
    """A value, and its nonce in a column of its own."""

    @property
    def iv(self) -> str:
        return f"{self.name}_iv"

    @property
    def ddl(self) -> str:
        return f"{self.name} {self.type}, {self.iv} text"

    @property
    def declared(self) -> str:
        return f'{{ column = "{self.name}", iv = "{self.iv}" }}'

    @property
    def written(self) -> tuple[str, ...]:
        return (self.name, self.iv)

    def inserted(self, values: Mapping[str, Stored | None], other: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
        stored = values[self.name]
        assert stored is None or isinstance(stored, tuple)
        value, nonce = stored or (None, None)
        return [(self.name, value), (self.iv, nonce)]

    def assigned(self, values: Mapping[str, Stored | None]) -> Assigned:
        return [(f"{name} = %s", [value]) for name, value in self.inserted(values, None)]

    def read(self, row: Row) -> dict[str, Stored | None]:
        value = row[self.name]
        return {self.name: None if value is None else (value, row[self.iv])}


@dataclass(frozen=True)
class Document(Column):
    """A jsonb column with values at two paths, and much else."""

    type: str = "jsonb"

    @property
    def slots(self) -> tuple[str, ...]:
        return (f"{self.name}.secrets.token", f"{self.name}.codes.0")

    @property
    def declared(self) -> str:
        return (
            f'{{ column = "{self.name}", path = ["secrets", "token"] }}, '
            f'{{ column = "{self.name}", path = ["codes", "0"] }}'
        )

    def label(self, slot: str) -> str:
        return slot

    def inserted(self, values: Mapping[str, Stored | None], other: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
        token, code = (values[slot] for slot in self.slots)
        return [(self.name, Jsonb({"secrets": {"token": token, "x": [1.50]}, "codes": [code, "open"], "seen": other}))]

    def assigned(self, values: Mapping[str, Stored | None]) -> Assigned:
        expression, parameters = self.name, []
        for slot, value in values.items():
            path = "{" + slot.removeprefix(f"{self.name}.").replace(".", ",") + "}"
            expression = f"jsonb_set({expression}, '{path}', coalesce(to_jsonb(%s::text), 'null'))"
            parameters.append(value)
        return [(f"{self.name} = {expression}", parameters)]

    def read(self, row: Row) -> dict[str, Stored | None]:
        document = row[self.name]
        return {self.slots[0]: document["secrets"]["token"], self.slots[1]: document["codes"][0]}

    def other(self, row: Row) -> Any:  # noqa: ANN401
        document = row[self.name]
        assert (document["secrets"]["x"], document["codes"][1:], len(document)) == ([1.5], ["open"], 3), "the document"
        return document["seen"]


@dataclass(frozen=True)
class Elements(Column):
    """An array of three elements, of which the second one is NULL."""

    type: str = "text[]"

    @property
    def slots(self) -> tuple[str, ...]:
        return (f"{self.name}[1]", f"{self.name}[3]")

    @property
    def declared(self) -> str:
        return f'{{ column = "{self.name}", elements = true }}'

    def inserted(self, values: Mapping[str, Stored | None], other: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
        first, third = (values[slot] for slot in self.slots)
        return [(self.name, [first, None, third])]

    def assigned(self, values: Mapping[str, Stored | None]) -> Assigned:
        if len(values) == len(self.slots):
            return [(f"{self.name} = %s::{self.type}", [self.inserted(values, None)[0][1]])]
        return [(f"{slot} = %s", [value]) for slot, value in values.items()]

    def read(self, row: Row) -> dict[str, Stored | None]:
        elements = row[self.name]
        assert (len(elements), elements[1]) == (3, None), "the array"
        return {self.slots[0]: elements[0], self.slots[1]: elements[2]}
