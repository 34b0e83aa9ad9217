"""Scans a database: reads a sample of every table, one short transaction each, and classifies it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg

from keyrotation_pipeline.adapters.postgres.scan.catalog import Table, elsewhere, missing_schemas, tables_of
from keyrotation_pipeline.adapters.postgres.scan.rows import Cells, read_relation
from keyrotation_pipeline.adapters.postgres.scan.samples import places_of
from keyrotation_pipeline.adapters.postgres.scan.session import reading, reason_of
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.errors import ConfigurationError, DatabaseUnavailableError
from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.documents import MOST_PATHS
from keyrotation_pipeline.scan.findings import Finding
from keyrotation_pipeline.scan.report import NotLookedAt, ScanReport

# Of each column. A partitioned table's are shared among the partitions that are read, but each of them gives some.
DEFAULT_VALUES, _LEAST_VALUES = 1000, 50
_LARGE_CATALOG = "SET LOCAL statement_timeout = '60s'"


def scan(
    connection: Connection,
    schemas: Sequence[str] = (),
    most_values: int = DEFAULT_VALUES,
    announce: Callable[[str, int, int], None] = lambda *_: None,
) -> ScanReport:
    """Scans a database in read-only transactions; leaves the session's settings as they are.

    Args:
        schemas: none: all of them.
        most_values: that are read of each column, about.
        announce: called with the name of each table before it is read, and how many of how many were read.

    Raises:
        ConfigurationError: a schema does not exist.
        DatabaseUnavailableError: the catalog cannot be read, or the connection was lost.
    """
    name = display_name(connection.info.dsn)
    try:
        with reading(connection):
            connection.execute(_LARGE_CATALOG)
            if missing := missing_schemas(connection, schemas):
                raise ConfigurationError(f"{name} has no schema {missing[0]}; correct --schema")
            tables, not_looked_at = tables_of(connection, schemas)
    except psycopg.Error as error:
        raise DatabaseUnavailableError(f"the catalog of {name} was not read: {reason_of(error)}") from None
    scanned = _Scanned(not_looked_at)
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
        self.findings += classify_table(places)
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
