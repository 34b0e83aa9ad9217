"""The evidence of a retirement, from PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.retirement import proof, search, snapshot_horizon
from keyrotation_pipeline.adapters.postgres.retirement.replicas import NONE_DECLARED, Replicas
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import Moment, Searched, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable


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

    def snapshot_blockers(self, moment: Moment) -> tuple[str, ...]:
        """See `RetirementEvidence.snapshot_blockers`."""
        return snapshot_horizon.blockers(self.connection, moment.xid, moment.lsn, self.replicas)

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
        moment: Moment,
        searched: Searched | None = None,
    ) -> ZeroOldRows:
        """See `RetirementEvidence.zero_old_rows`."""
        return proof.zero_old_rows(
            self.connection, tables, version, retired, moment, self.replicas, searched, self.keys
        )
