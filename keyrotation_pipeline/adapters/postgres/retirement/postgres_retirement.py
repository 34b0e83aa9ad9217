"""The two ports of a retirement on PostgreSQL: fences, and the evidence that nothing old is left behind them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.evidence import all_fences, evidence_of
from keyrotation_pipeline.adapters.postgres.evidence.evidence import Evidence
from keyrotation_pipeline.adapters.postgres.inventory.scans import unless_locked
from keyrotation_pipeline.adapters.postgres.retirement import plaintext_outside_rows, proof, search, snapshot_horizon
from keyrotation_pipeline.adapters.postgres.retirement.replicas import NONE_DECLARED, Replicas
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.plaintext_outside_rows import ServerFiles
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import MemberEvidence, Searched, SnapshotPosition, ZeroOldRows
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
        return self._evidence(table).old_rows(versions, promotion_xid)

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """See `TableFencing.fence`."""
        return self._evidence(table).fence(versions, wait=wait)

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        """See `TableFencing.unfence`."""
        self._evidence(table).lift(version)

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        """See `TableFencing.fences`."""
        with unless_locked(f"table {table.name}"):
            return self._evidence(table).fences()

    def all_fences(
        self, tables: Sequence[EncryptedTable]
    ) -> Mapping[EncryptedTable, tuple[KeyVersion, ...] | KeyRotationError]:
        """See `TableFencing.all_fences`."""
        try:
            with self.connection.transaction():
                return all_fences(self.connection, tables)
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

    def _evidence(self, table: EncryptedTable) -> Evidence:
        return evidence_of(self.connection, table, self.keys)


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

    def position(self) -> SnapshotPosition:
        """See `RetirementEvidence.position`."""
        xid = self.current_xid()
        return SnapshotPosition(xid, self.barrier())

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

    def members(
        self,
        tables: Sequence[EncryptedTable],  # noqa: ARG002
        version: KeyVersion,  # noqa: ARG002
        retired: Sequence[KeyVersion],  # noqa: ARG002
        position: SnapshotPosition,  # noqa: ARG002
        searched: Searched,  # noqa: ARG002
    ) -> Iterator[MemberEvidence]:
        """See `RetirementEvidence.members`: it is one database."""
        yield from ()

    def require_same(
        self,
        tables: Sequence[EncryptedTable],
        position: SnapshotPosition,
        evidence: Sequence[MemberEvidence],
        own: ZeroOldRows,
        retired: Sequence[KeyVersion],
        searched: Searched,
    ) -> None:
        """See `RetirementEvidence.require_same`: there is nobody to ask."""

    def plaintext_outside_rows(self, tables: Sequence[EncryptedTable], known: Collection[int]) -> ServerFiles:
        """See `RetirementEvidence.plaintext_outside_rows`."""
        return plaintext_outside_rows.look(self.connection, tables, known)
