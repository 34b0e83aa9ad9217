"""The tables of a round: plain, partitioned or inherited, with values next to columns that nobody encrypts."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import psycopg

from keyrotation_pipeline_tests.fuzzing.columns import Column, Row, Stored
from keyrotation_pipeline_tests.fuzzing.formats import Format, Keys
from keyrotation_pipeline_tests.fuzzing.native_values import Where
from keyrotation_pipeline_tests.fuzzing.search_index import SearchIndex

PARTS = 3


class Kind(Enum):
    """How a table is stored."""

    PLAIN = "plain"
    PARTITIONED = "partitioned"
    INHERITED = "inherited"


@dataclass(frozen=True)
class Table:
    """A table with encrypted columns.

    Args:
        rows: how many it begins with.
        index: of its first column, where there is one.
    """

    name: str
    kind: Kind
    columns: tuple[Column, ...]
    rows: int
    index: SearchIndex | None = None

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(slot for column in self.columns for slot in column.slots)

    @property
    def children(self) -> tuple[str, ...]:
        """The relations that hold rows, but for a parent of inheritance."""
        return () if self.kind is Kind.PLAIN else tuple(f"{self.name}_{part}" for part in range(PARTS))

    def place(self, slot: str, row: int) -> Where:
        (column,) = (column for column in self.columns if slot in column.slots)
        return Where(self.name, column.label(slot), str(row))

    def created(self) -> list[str]:
        """The statements that create it."""
        own = ["id bigint", "part int NOT NULL", "number int", "note text", "mark text NOT NULL"]
        columns = ", ".join([*own, *(column.ddl for column in self.columns), *(self.index.ddl if self.index else ())])
        if self.kind is Kind.PARTITIONED:
            whole = f"CREATE TABLE {self.name} ({columns}, PRIMARY KEY (id, part)) PARTITION BY LIST (part)"
            parts = enumerate(self.children)
            return [whole, *(f"CREATE TABLE {c} PARTITION OF {self.name} FOR VALUES IN ({p})" for p, c in parts)]
        whole = f"CREATE TABLE {self.name} ({columns}, PRIMARY KEY (id))"
        return [whole, *(f"CREATE TABLE {c} (PRIMARY KEY (id)) INHERITS ({self.name})" for c in self.children)]

    def declared(self, form: Format) -> str:
        columns = ", ".join(column.declared for column in self.columns)
        index = f"indexes = [{self.index.declared}]\n" if self.index else ""
        return f'[[tables]]\nname = "{self.name}"\ncolumns = [{columns}]\n{index}{form.table}'

    def sealed(self, keys: Keys, row: int, values: Mapping[str, str | None]) -> dict[str, Stored | None]:
        return {slot: keys.seal(text, self.place(slot, row)) for slot, text in values.items()}

    def insert(
        self,
        connection: psycopg.Connection[Any],
        row: int,
        mark: str,
        keys: Keys,
        state: "State",
        into: str | None = None,
    ) -> None:
        """Inserts a row, into a child of an inherited table or into the relation that is named."""
        stored = self.sealed(keys, row, state.values)
        own = [("id", row), ("mark", mark), *((name, state.others[name]) for name in ("part", "number", "note"))]
        for column in self.columns:
            own += column.inserted({slot: stored[slot] for slot in column.slots}, state.others.get(column.name))
        if self.index:
            own += self.index.computed(self.name, keys, state.values)
        target = into or (self.children[state.others["part"]] if self.kind is Kind.INHERITED else self.name)
        names, places = ", ".join(name for name, _ in own), ", ".join("%s" for _ in own)
        connection.execute(f"INSERT INTO {target} ({names}) VALUES ({places})".encode(), [value for _, value in own])

    def assignments(
        self, keys: Keys, row: int, values: Mapping[str, str | None], others: Mapping[str, Any]
    ) -> tuple[str, list[Any]]:
        """What follows SET for some of a row's values and other columns."""
        stored, parts = self.sealed(keys, row, values), []
        for column in self.columns:
            if given := {slot: stored[slot] for slot in column.slots if slot in stored}:
                parts += column.assigned(given)
        documents = {column.name for column in self.columns if column.type == "jsonb"}
        for name, value in others.items():
            seen = f"{name} = jsonb_set({name}, '{{seen}}', to_jsonb(%s::int))" if name in documents else f"{name} = %s"
            parts.append((seen, [value]))
        if self.index and self.index.of in values:
            parts += [(f"{name} = %s", [value]) for name, value in self.index.computed(self.name, keys, values)]
        return ", ".join(text for text, _ in parts), [value for _, given in parts for value in given]

    def state(self, row: Row, keys: Keys) -> "State":
        """What a row holds; raises NotReadableError where a value does not open."""
        values: dict[str, str | None] = {}
        others = {name: row[name] for name in ("part", "number", "note")}
        for column in self.columns:
            for slot, stored in column.read(row).items():
                values[slot] = keys.open(stored, self.place(slot, row["id"]))
            if (other := column.other(row)) is not None:
                others[column.name] = other
        return State(values, others)


@dataclass(frozen=True)
class State:
    """What a row holds, in clear.

    Args:
        others: what nobody encrypts, by column.
    """

    values: Mapping[str, str | None]
    others: Mapping[str, Any]
