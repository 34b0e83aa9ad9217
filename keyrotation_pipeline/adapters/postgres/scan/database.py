"""Scans a database: reads a sample of every table, one short transaction each, and classifies its values.

Values are taken from columns, elements of arrays and leaves of documents.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from keyrotation_pipeline.adapters.postgres.scan.catalog import Column, Table, elsewhere, missing_schemas, tables_of
from keyrotation_pipeline.adapters.postgres.scan.rows import Cells, read_relation
from keyrotation_pipeline.adapters.postgres.scan.session import reading, reason_of
from keyrotation_pipeline.adapters.postgres.scan.types import Kind, Reader
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.errors import ConfigurationError, DatabaseUnavailableError
from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.documents import (
    MOST_PATHS,
    Leaves,
    Path,
    leaves_of,
    looks_like_json,
    texts_in_xml,
    values_in_hstore,
)
from keyrotation_pipeline.scan.report import Finding, NotLookedAt, Place, ScanReport

Value = str | bytes
_JSON_BEGINS = (b"{", b"[")
_SPLIT = {Kind.JSON: leaves_of, Kind.XML: texts_in_xml, Kind.HSTORE: values_in_hstore}


def places_of(table: Table, read: Iterable[Cells]) -> tuple[Mapping[Place, Sequence[Value]], Sequence[str]]:
    """Returns the values of each place of a table, and the columns whose documents have too many places."""
    by_reader: defaultdict[tuple[str, int], list[Value]] = defaultdict(list)
    for cells in read:
        values = iter(cells.values)
        for column in cells.columns:
            for number, reader in enumerate(column.readers):
                by_reader[column.name, number] += _scalars(reader, next(values))
    found: dict[Place, Sequence[Value]] = {}
    cut: dict[str, None] = {}
    for column in table.columns:
        for number, reader in enumerate(column.readers):
            held = by_reader[column.name, number]
            leaves = _leaves(reader, held)
            if reader.kind not in _SPLIT:
                found[_place(table, column, reader, ())] = held
            for path, texts in leaves.by_path.items():
                found.setdefault(_place(table, column, reader, path), texts)
            if not leaves.complete:
                cut[column.name] = None
    return found, list(cut)


def _place(table: Table, column: Column, reader: Reader, path: Path) -> Place:
    return Place(table.label, column.name, (*reader.path, *path) or None, reader.elements, column.type, column.base)


def _scalars(reader: Reader, cells: Sequence[Any]) -> Iterator[Value]:
    """Yields values; text of a database without an encoding comes as bytes."""
    values = (each for cell in cells for each in cell if each is not None) if reader.elements else cells
    for value in values:
        if reader.kind is not Kind.BYTES and isinstance(value, bytes):
            yield value.decode("utf-8", "surrogateescape")
        else:
            yield value


def _leaves(reader: Reader, values: Sequence[Value]) -> Leaves:
    """Returns what is inside documents: also inside JSON that is stored as text or bytes."""
    if (split := _SPLIT.get(reader.kind)) is not None:
        return split([str(value) for value in values])
    return leaves_of([text for value in values if (text := _json_text(value)) is not None])


def _json_text(value: Value) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace") if value.startswith(_JSON_BEGINS) else None
    return value if looks_like_json(value) else None


# Of each column. A partitioned table's are shared among the partitions that are read, but each of them gives some.
DEFAULT_VALUES, _LEAST_VALUES = 1000, 50
_LARGE_CATALOG = "SET LOCAL statement_timeout = '60s'"


def scan(
    connection: Connection,
    schemas: Sequence[str] = (),
    most_values: int = DEFAULT_VALUES,
    announce: Callable[[str, int, int], None] = lambda *_: None,
    name: str = "",
    classify: Callable[[Mapping[Place, Sequence[Value]]], Iterable[Finding]] | None = None,
) -> ScanReport:
    """Scans a database in read-only transactions; leaves the session's settings as they are.

    Args:
        schemas: none: all of them.
        most_values: that are read of each column, about.
        name: of the database, as the URL has it; empty: as the connection has it.
        classify: what to make of the values of each table, which are kept nowhere; None: `classify_table`.
        announce: called with the name of each table before it is read, and how many of how many were read.

    Raises:
        ConfigurationError: a schema does not exist.
        DatabaseUnavailableError: the catalog cannot be read, or the connection was lost.
    """
    name = name or display_name(connection.info.dsn)
    try:
        with reading(connection):
            connection.execute(_LARGE_CATALOG)
            if missing := missing_schemas(connection, schemas):
                raise ConfigurationError(f"{name} has no schema {missing[0]}; correct --schema")
            tables, not_looked_at = tables_of(connection, schemas)
    except psycopg.Error as error:
        raise DatabaseUnavailableError(f"the catalog of {name} was not read: {reason_of(error)}") from None
    scanned = _Scanned(not_looked_at, classify or classify_table)
    try:
        with reading(connection):
            not_looked_at += elsewhere(connection)
    except psycopg.Error as error:
        not_looked_at.append(NotLookedAt("large objects and other databases of the server", reason_of(error)))
    for number, table in enumerate(tables):
        announce(table.label, number, len(tables))
        scanned.add(connection, table, most_values)
    return ScanReport(
        name, tuple(scanned.findings), tuple(scanned.not_looked_at), scanned.tables, scanned.columns, scanned.values,
        scanned.sampled,
    )  # fmt: skip


@dataclass
class _Scanned:
    """What was found so far."""

    not_looked_at: list[NotLookedAt]
    classify: Callable[[Mapping[Place, Sequence[Value]]], Iterable[Finding]]
    findings: list[Finding] = field(default_factory=list)
    tables: int = 0
    columns: int = 0
    values: int = 0
    sampled: int = 0

    def add(self, connection: Connection, table: Table, most_values: int) -> None:
        """Reads and classifies one table; nothing of it is kept."""
        read = self._read(connection, table, most_values)
        if not read:
            return
        places, cut = places_of(table, read)
        self.not_looked_at += [
            NotLookedAt(f"{table.label}.{column}", f"its documents have more than {MOST_PATHS} different paths")
            for column in cut
        ]
        self.findings += self.classify(places)
        self.tables += 1
        self.columns += len(table.columns)
        self.values += sum(map(len, places.values()))
        self.sampled += any(cells.sampled for cells in read)

    def _read(self, connection: Connection, table: Table, most_values: int) -> list[Cells]:
        """Reads the table's heaps, each in a transaction of its own; what cannot be read is noted."""
        share = max(_LEAST_VALUES, most_values // len(table.heaps))
        read: list[Cells] = []
        for oid, relation in table.heaps:
            label = table.label if len(table.heaps) == 1 else f"{table.label} ({relation.as_string()})"
            try:
                with reading(connection):
                    for cells in read_relation(connection, oid, relation, table.columns, min(share, most_values)):
                        read.append(cells)
                        self._note(label, cells)
            except psycopg.Error as error:
                self.not_looked_at.append(NotLookedAt(label, reason_of(error)))
        return read

    def _note(self, label: str, cells: Cells) -> None:
        for column in cells.too_large:
            self.not_looked_at.append(NotLookedAt(f"{label}.{column}", "each of its values is too large"))
        if cells.no_row:
            self.not_looked_at.append(NotLookedAt(label, "there was no row in a sample of its blocks"))
