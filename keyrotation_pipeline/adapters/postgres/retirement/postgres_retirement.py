"""The two ports of a retirement on PostgreSQL: fences, and the evidence that nothing old is left behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psycopg

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys, publish_missing, required
from keyrotation_pipeline.adapters.postgres.inventory import counts, key_markers, retired_signing_keys
from keyrotation_pipeline.adapters.postgres.inventory.scans import unless_locked
from keyrotation_pipeline.adapters.postgres.retirement import fences, proof, search, snapshot_horizon
from keyrotation_pipeline.adapters.postgres.retirement.replicas import NONE_DECLARED, Replicas
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.formats.identified_by import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import Searched, SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows


@dataclass(frozen=True)
class PostgresFencing:
    """`TableFencing` over PostgreSQL 14 to 18.

    Args:
        keys: for tables whose values under current keys SQL cannot tell apart.
    """

    connection: Connection
    keys: CurrentKeys | None = None

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """See `TableFencing.old_rows`."""
        publish_missing(self.connection, table, self.keys)
        by = table.format.identified_by
        # Of a MAC: a version that may still encrypt, before its promotion or before the rows are re-encrypted.
        is_early = by is IdentifiedBy.MAC and retired_signing_keys.missing(self.connection, versions)
        if by is IdentifiedBy.DECRYPT or is_early:
            keys = required(self.keys, table)
            found = keys.old_rows(table, versions, promotion_xid)
            if by is not IdentifiedBy.DECRYPT or not table.indexes:
                return found
            return replace(found, unindexed=counts.unindexed_rows(self.connection, table, keys.ring().primary))
        found = counts.old_rows(self.connection, table, versions, promotion_xid)
        return replace(found, unindexed=counts.unindexed_rows(self.connection, table)) if table.indexes else found

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """See `TableFencing.fence`."""
        if table.format.identified_by is IdentifiedBy.MAC and self.keys is not None:
            # A fence that was lifted took the half with it, and a restored database may have none.
            missing = retired_signing_keys.missing(self.connection, versions)
            retired_signing_keys.store(self.connection, table.format, self.keys.ring(), missing)
        if self.keys is not None and key_markers.are_stored(table.format):
            key_markers.publish(self.connection, table.format, self.keys.ring())
        return fences.fence_of(table.format).fence(self.connection, table, versions, wait=wait)

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        """See `TableFencing.unfence`."""
        fences.fence_of(table.format).unfence(self.connection, table, version)

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        """See `TableFencing.fences`."""
        with unless_locked(f"table {table.name}"):
            return fences.fence_of(table.format).fences(self.connection, table)

    def all_fences(
        self, tables: Sequence[EncryptedTable]
    ) -> Mapping[EncryptedTable, tuple[KeyVersion, ...] | KeyRotationError]:
        """See `TableFencing.all_fences`."""
        try:
            with self.connection.transaction():
                return fences.all_fences(self.connection, tables)
        except psycopg.errors.LockNotAvailable:
            return {table: self._fences_or_why_not(table) for table in tables}

    def _fences_or_why_not(self, table: EncryptedTable) -> tuple[KeyVersion, ...] | KeyRotationError:
        try:
            with self.connection.transaction():
                return self.fences(table)
        except KeyRotationError as error:
            return error

    def sessions(self, table: EncryptedTable) -> tuple[str, ...]:
        """See `TableFencing.sessions`."""
        return snapshot_horizon.sessions(self.connection, table)


@dataclass(frozen=True)
class PostgresEvidence:
    """`RetirementEvidence` over PostgreSQL 14 to 18.

    Args:
        connection: the control connection, shared with the ledger so that evidence and records commit together.
        replicas: what the configuration says of standbys and subscribers.
        keys: for tables whose values SQL cannot tell apart.
    """

    connection: Connection
    replicas: Replicas = NONE_DECLARED
    keys: CurrentKeys | None = None

    def barrier(self) -> str:
        """See `RetirementEvidence.barrier`."""
        return snapshot_horizon.barrier(self.connection)

    def snapshot_blockers(self, position: SnapshotPosition) -> tuple[str, ...]:
        """See `RetirementEvidence.snapshot_blockers`."""
        return snapshot_horizon.blockers(self.connection, position.xid, position.lsn, self.replicas)

    def current_xid(self) -> int:
        """See `RetirementEvidence.current_xid`."""
        return snapshot_horizon.current_xid(self.connection)

    def search(
        self, tables: Sequence[EncryptedTable], version: KeyVersion, retired: Sequence[KeyVersion], report: Report
    ) -> Searched:
        """See `RetirementEvidence.search`."""
        return search.search(self.connection, tables, version, retired, report, self.keys)

    def zero_old_rows(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        position: SnapshotPosition,
        searched: Searched | None = None,
    ) -> ZeroOldRows:
        """See `RetirementEvidence.zero_old_rows`."""
        return proof.zero_old_rows(
            self.connection, tables, version, retired, position, self.replicas, searched, self.keys
        )
