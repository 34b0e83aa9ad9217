"""Implements the database port: each method calls one function of the module responsible."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import psycopg

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all, decrypt_spans
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, WorkerSettings
from keyrotation_pipeline.adapters.postgres.engine.shard import is_one_shard, rewrite_shard
from keyrotation_pipeline.adapters.postgres.engine.traversal import sweep
from keyrotation_pipeline.adapters.postgres.inventory import (
    catalog_search,
    counts,
    page_readings,
    quarantine,
    relations,
    rolling_search,
    samples,
)
from keyrotation_pipeline.adapters.postgres.inventory.catalog_search import unsearched
from keyrotation_pipeline.adapters.postgres.retirement import fence, proof, search, snapshot_horizon
from keyrotation_pipeline.adapters.postgres.retirement.replicas import NONE_DECLARED, Replicas, write_down
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.errors import BlockedError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.key_trial import KeyTrial
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.proof import DecryptedCount, Moment, Searched, ZeroOldRows
from keyrotation_pipeline.model.tables import (
    BlindSpots,
    CheckNames,
    DatabaseIdentity,
    EncryptedTable,
    FoundColumn,
    OldRows,
    Problem,
    QuarantinedValue,
    Shard,
    Speed,
    Surroundings,
    TableCount,
    TableName,
)

_IDENTITY = """
SELECT (SELECT system_identifier::text FROM pg_control_system()),
       (SELECT rolname FROM pg_roles WHERE rolname = current_user AND rolsuper)
"""


@dataclass(frozen=True)
class PostgresDatabase:
    """`CiphertextDatabase` over PostgreSQL 14 to 18.

    Args:
        connection: the control connection, shared with the ledger so that evidence and records commit together.
        connect: opens a further connection, for the engine.
        workers: how the engine starts worker processes; None: it starts none.
        replicas: the configured standbys and subscribers.
    """

    url: str = field(repr=False)  # it and `connect` may hold a password
    connection: Connection
    connect: Callable[[], Connection] = field(repr=False)
    limits: Limits
    workers: WorkerSettings | None = None
    replicas: Replicas = NONE_DECLARED

    def identity(self) -> DatabaseIdentity:
        """Returns the database's identity."""
        row = self.connection.execute(_IDENTITY).fetchone()
        identifier, superuser = row or ("unknown", None)
        return DatabaseIdentity(display_name(self.url), str(identifier), None if superuser is None else str(superuser))

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        """See `CiphertextDatabase.preflight`."""
        from keyrotation_pipeline.adapters.postgres import preflight  # noqa: PLC0415  not needed to look around

        write_down(self.connection)
        return preflight.preflight(self.connection, tables, target)

    def check_names(self) -> CheckNames:
        """See `CiphertextDatabase.check_names`."""
        from keyrotation_pipeline.adapters.postgres import preflight  # noqa: PLC0415  as above

        return preflight.names()

    def surroundings(self, tables: Sequence[EncryptedTable]) -> Surroundings:
        """See `CiphertextDatabase.surroundings`."""
        from keyrotation_pipeline.adapters.postgres.preflight import server  # noqa: PLC0415  as above

        return server.surroundings(self.connection, tables)

    def speed(self, tables: Sequence[EncryptedTable], ring: KeyRing, target: KeyVersion) -> tuple[Speed, ...]:
        """See `CiphertextDatabase.speed`."""
        from keyrotation_pipeline.adapters.postgres.engine import speed  # noqa: PLC0415  as above

        return speed.measure(self.connect, tables, ring, target, self.limits)

    def count(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """See `CiphertextDatabase.count`."""
        return counts.count(self.connection, tables)

    def discover(self, tables: Sequence[EncryptedTable]) -> tuple[FoundColumn, ...]:
        """See `CiphertextDatabase.discover`."""
        return rolling_search.search_everything(self.connection, tables)

    def definitions_found(self) -> tuple[FoundColumn, ...]:
        """See `CiphertextDatabase.definitions_found`."""
        return tuple(catalog_search.in_definitions(self.connection))

    def undeclared_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """See `CiphertextDatabase.undeclared_spans`."""
        with _unless_locked("a table"), self.connection.transaction():  # one transaction for all relations
            return tuple(rolling_search.spans(self.connection, tables))

    def search_spans(
        self, tables: Sequence[EncryptedTable], spans: Sequence[PageSpan], go_on: Callable[[], bool]
    ) -> int:
        """See `CiphertextDatabase.search_spans`."""
        return rolling_search.search_spans(self.connection, tables, spans, go_on, self.limits.duty_cycle)

    def unsearched_since(self) -> datetime | None:
        """See `CiphertextDatabase.unsearched_since`."""
        return rolling_search.unsearched_since(self.connection)

    def blind_spots(self) -> BlindSpots:
        """See `CiphertextDatabase.blind_spots`."""
        return BlindSpots(unsearched(self.connection), gone=self.replicas.gone)

    def rewrite_shard(self, request: str, shard: Shard, ring: KeyRing, target: KeyVersion, report: Report) -> Rewritten:
        """See `CiphertextDatabase.rewrite_shard`."""
        from keyrotation_pipeline.adapters.postgres import preflight  # noqa: PLC0415  as above

        preflight.require_unchanged(self.connection, request, shard.table, target)
        return rewrite_shard(self.connect, request, shard, ring, target, report, self.limits, self.workers)

    def is_one_shard(self, request: str, table: EncryptedTable) -> bool:
        """See `CiphertextDatabase.is_one_shard`."""
        return is_one_shard(self.connection, request, table, self.limits)

    def sweep(self, request: str, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, wait: bool) -> Rewritten:
        """See `CiphertextDatabase.sweep`."""
        from keyrotation_pipeline.adapters.postgres import preflight  # noqa: PLC0415  as above

        preflight.require_unchanged(self.connection, request, table, target)
        return sweep(self.connect, request, table, ring, target, self.limits, wait=wait)

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """See `CiphertextDatabase.old_rows`."""
        return counts.old_rows(self.connection, table, versions, promotion_xid)

    def rows_seen(self, table: EncryptedTable, version: KeyVersion, seconds: float) -> int | None:
        """See `CiphertextDatabase.rows_seen`."""
        return counts.rows_seen(self.connection, table, version, seconds)

    def written_rows(self, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
        """See `CiphertextDatabase.written_rows`."""
        return counts.written_rows(self.connection, tables)

    def quarantine(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        """See `CiphertextDatabase.quarantine`."""
        return quarantine.load(self.connection, tables)

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report, request: str = "") -> DecryptedCount:
        """See `CiphertextDatabase.decrypt_all`."""
        return decrypt_all(self.connect, table, ring, report, self.limits, request)

    def page_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """See `CiphertextDatabase.page_spans`."""
        with _unless_locked("a declared table"):
            return tuple(page_readings.spans(self.connection, tables))

    def decrypt_spans(
        self,
        table: EncryptedTable,
        spans: Sequence[PageSpan],
        ring: KeyRing,
        report: Report,
        go_on: Callable[[], bool],
    ) -> int:
        """See `CiphertextDatabase.decrypt_spans`."""
        return decrypt_spans(self.connect, table, spans, ring, report, self.limits, go_on)

    def unread_since(self, tables: Sequence[EncryptedTable]) -> Mapping[str, datetime]:
        """See `CiphertextDatabase.unread_since`."""
        return page_readings.oldest(self.connection, [str(table.name) for table in tables])

    def decrypt_sample(
        self, table: EncryptedTable, ring: KeyRing, values: int, wanted: Mapping[str, Collection[KeyVersion]]
    ) -> KeyTrial:
        """See `CiphertextDatabase.decrypt_sample`."""
        return samples.decrypt_sample(self.connection, table, ring, values, wanted)

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """See `CiphertextDatabase.fence`."""
        return fence.fence(self.connection, table, versions, wait=wait)

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        """See `CiphertextDatabase.unfence`."""
        fence.unfence(self.connection, table, version)

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        """See `CiphertextDatabase.fences`."""
        with _unless_locked(f"table {table.name}"):
            return fence.fences(self.connection, table)

    def all_fences(
        self, tables: Sequence[EncryptedTable]
    ) -> Mapping[EncryptedTable, tuple[KeyVersion, ...] | KeyRotationError]:
        """See `CiphertextDatabase.all_fences`."""
        try:
            with self.connection.transaction():
                return fence.all_fences(self.connection, tables)
        except psycopg.errors.LockNotAvailable:
            return {table: self._fences_or_why_not(table) for table in tables}

    def _fences_or_why_not(self, table: EncryptedTable) -> tuple[KeyVersion, ...] | KeyRotationError:
        try:
            with self.connection.transaction():
                return self.fences(table)
        except KeyRotationError as error:
            return error

    def has_table(self, name: TableName) -> bool:
        """See `CiphertextDatabase.has_table`."""
        return relations.exists(self.connection, name)

    def sessions(self, table: EncryptedTable) -> tuple[str, ...]:
        """See `CiphertextDatabase.sessions`."""
        return snapshot_horizon.sessions(self.connection, table)

    def barrier(self) -> str:
        """See `CiphertextDatabase.barrier`."""
        return snapshot_horizon.barrier(self.connection)

    def snapshot_blockers(self, moment: Moment) -> tuple[str, ...]:
        """See `CiphertextDatabase.snapshot_blockers`."""
        return snapshot_horizon.blockers(self.connection, moment.xid, moment.lsn, self.replicas)

    def current_xid(self) -> int:
        """See `CiphertextDatabase.current_xid`."""
        return snapshot_horizon.current_xid(self.connection)

    def search(
        self, tables: Sequence[EncryptedTable], version: KeyVersion, retired: Sequence[KeyVersion], report: Report
    ) -> Searched:
        """See `CiphertextDatabase.search`."""
        return search.search(self.connection, tables, version, retired, report)

    def zero_old_rows(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        moment: Moment,
        searched: Searched | None = None,
    ) -> ZeroOldRows:
        """See `CiphertextDatabase.zero_old_rows`."""
        return proof.zero_old_rows(self.connection, tables, version, retired, moment, self.replicas, searched)


@contextmanager
def _unless_locked(what: str) -> Iterator[None]:
    """Wraps size queries: the server returns no size of a relation that another session has locked."""
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        raise BlockedError(
            f"{what} is locked by another session; wait until that has ended, then run this again"
        ) from None
