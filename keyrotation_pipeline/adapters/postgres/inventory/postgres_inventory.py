"""What the columns of a database on PostgreSQL hold."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.inventory import (
    catalog_search,
    counts,
    discovery,
    page_readings,
    plaintext_copies,
    quarantine,
    relations,
    rolling_search,
    samples,
)
from keyrotation_pipeline.adapters.postgres.inventory import row_key as row_keys
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import create_tables_for
from keyrotation_pipeline.adapters.postgres.inventory.scans import unless_locked
from keyrotation_pipeline.adapters.postgres.scan.database import scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.key_trial import KeyTrial, PlaceProbe
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.plaintext_outside_rows import CopiesSought
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, QuarantinedValue, TableCount, TableName
from keyrotation_pipeline.ports.database import KeyedRow
from keyrotation_pipeline.scan.report import Finding, in_other_formats


@dataclass(frozen=True)
class PostgresInventory:
    """`TableInventory` over PostgreSQL 14 to 18.

    Args:
        duty_cycle: share of the time in which a search may keep the database busy.
        keys: for tables whose values under current keys SQL cannot tell apart.
        tables: all that are declared.
    """

    connection: Connection
    duty_cycle: float = 1.0
    keys: CurrentKeys | None = None
    tables: Sequence[EncryptedTable] = ()

    def count(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """See `TableInventory.count`."""
        return tuple(evidence_of(self.connection, table, self.keys).count() for table in tables)

    def discover(self, tables: Sequence[EncryptedTable]) -> tuple[FoundColumn, ...]:
        """See `TableInventory.discover`."""
        return rolling_search.search_everything(self.connection, tables)

    def other_formats(self) -> tuple[Finding, ...]:
        """See `TableInventory.other_formats`."""
        trees = relations.trees(self.connection, self.tables)
        declared = {
            (quoted(self.connection, relation.schema, relation.name), place.column, place.path or None)
            for table, tree in trees.items()
            for relation in (() if isinstance(tree, PreflightError) else tree)
            for place in map(table.place, table.columns)
        }
        return in_other_formats(scan(self.connection).findings, discovery.format_of_home(self.tables).name, declared)

    def definitions_found(self) -> tuple[FoundColumn, ...]:
        """See `TableInventory.definitions_found`."""
        value_format = discovery.format_of_home(self.tables)
        create_tables_for(self.connection, value_format)
        return tuple(catalog_search.in_definitions(self.connection, value_format))

    def undeclared_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """See `TableInventory.undeclared_spans`."""
        with unless_locked("a table"), self.connection.transaction():  # one, however many relations there are
            return tuple(rolling_search.spans(self.connection, tables))

    def search_spans(
        self, tables: Sequence[EncryptedTable], spans: Sequence[PageSpan], should_continue: Callable[[], bool]
    ) -> int:
        """See `TableInventory.search_spans`."""
        return rolling_search.search_spans(self.connection, tables, spans, should_continue, self.duty_cycle)

    def unsearched_since(self) -> datetime | None:
        """See `TableInventory.unsearched_since`."""
        return rolling_search.unsearched_since(self.connection)

    def rows_seen(self, table: EncryptedTable, version: KeyVersion, seconds: float) -> int | None:
        """See `TableInventory.rows_seen`."""
        return evidence_of(self.connection, table, self.keys).rows_seen(version, seconds)

    def key_markers(self, tables: Sequence[EncryptedTable]) -> Mapping[KeyVersion, str]:
        """See `TableInventory.key_markers`."""
        return evidence_of(self.connection, tables[0], self.keys).markers() if tables else {}

    def written_rows(self, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
        """See `TableInventory.written_rows`."""
        return counts.written_rows(self.connection, tables)

    def quarantine(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        """See `TableInventory.quarantine`."""
        return quarantine.load(self.connection, tables)

    def page_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """See `TableInventory.page_spans`."""
        with unless_locked("a declared table"):
            return tuple(page_readings.spans(self.connection, tables))

    def unread_since(self, tables: Sequence[EncryptedTable]) -> Mapping[str, datetime]:
        """See `TableInventory.unread_since`."""
        return page_readings.oldest(self.connection, [str(table.name) for table in tables])

    def decrypt_sample(
        self, table: EncryptedTable, ring: KeyRing, values: int, wanted: Mapping[str, Collection[KeyVersion]]
    ) -> KeyTrial:
        """See `TableInventory.decrypt_sample`."""
        return samples.decrypt_sample(self.connection, table, ring, values, wanted)

    def probe(self, table: EncryptedTable, ring: KeyRing, values: int) -> tuple[PlaceProbe, ...]:
        """See `TableInventory.probe`."""
        return samples.probe(self.connection, table, ring, values)

    def plaintext_copies(self, encrypted: Sequence[tuple[EncryptedTable, str]], ring: KeyRing) -> CopiesSought | None:
        """See `TableInventory.plaintext_copies`."""
        return plaintext_copies.search(self.connection, encrypted, ring)

    def columns(self, name: TableName) -> frozenset[str]:
        """See `TableInventory.columns`."""
        return row_keys.columns_of(self.connection, name)

    def row_key(self, table: EncryptedTable) -> tuple[str, ...]:
        """See `TableInventory.row_key`."""
        return row_keys.common_key(self.connection, table)

    def rows_by_key(self, table: EncryptedTable, key: Sequence[str]) -> Generator[KeyedRow, None, None]:
        """See `TableInventory.rows_by_key`."""
        return row_keys.rows_by_key(self.connection, table, key)
