"""The engine behind its port."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from keyrotation_pipeline.adapters.postgres import preflight
from keyrotation_pipeline.adapters.postgres.engine import speed
from keyrotation_pipeline.adapters.postgres.engine.cleared_indexes import clear_indexes
from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all, decrypt_spans
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, WorkerSettings
from keyrotation_pipeline.adapters.postgres.engine.shard import is_one_shard, reencrypt_shard
from keyrotation_pipeline.adapters.postgres.engine.traversal import sweep
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.audit.event_signatures import VouchedEvents
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.environment import Speed
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.tables import EncryptedTable, Shard


@dataclass(frozen=True)
class PostgresRewriting:
    """`TableRewriting` over PostgreSQL 14 to 18.

    Args:
        connection: the control connection, shared with the ledger.
        connect: opens a further connection.
        workers: how worker processes are started; without it, there are none.
        vouched: says which events count that pause and pace a rotation, as of now; without it, all.
    """

    connection: Connection
    connect: Callable[[], Connection] = field(repr=False)  # it may hold a password
    limits: Limits
    workers: WorkerSettings | None = None
    vouched: Callable[[], VouchedEvents] | None = None

    def speed(self, tables: Sequence[EncryptedTable], ring: KeyRing, target: KeyVersion) -> tuple[Speed, ...]:
        """See `TableRewriting.speed`."""
        return speed.measure(self.connect, tables, ring, target, self.limits)

    def reencrypt_shard(
        self, request: str, shard: Shard, ring: KeyRing, target: KeyVersion, report: Report
    ) -> Rewritten:
        """See `TableRewriting.reencrypt_shard`."""
        preflight.require_unchanged(self.connection, request, shard.table, target)
        return reencrypt_shard(self.connect, request, shard, ring, target, report, self._limits(), self.workers)

    def is_one_shard(self, request: str, table: EncryptedTable) -> bool:
        """See `TableRewriting.is_one_shard`."""
        return is_one_shard(self.connection, request, table, self.limits)

    def sweep(self, request: str, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, wait: bool) -> Rewritten:
        """See `TableRewriting.sweep`."""
        preflight.require_unchanged(self.connection, request, table, target)
        return sweep(self.connect, request, table, ring, target, self._limits(), wait=wait)

    def clear_indexes(self, request: str, table: EncryptedTable, target: KeyVersion, report: Report) -> int:
        """See `TableRewriting.clear_indexes`."""
        preflight.require_unchanged(self.connection, request, table, target)
        return clear_indexes(self.connect, request, table, target, report, self._limits())

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report, request: str = "") -> DecryptedCount:
        """See `TableRewriting.decrypt_all`."""
        return decrypt_all(self.connect, table, ring, report, self._limits(), request)

    def decrypt_spans(
        self,
        table: EncryptedTable,
        spans: Sequence[PageSpan],
        ring: KeyRing,
        report: Report,
        should_continue: Callable[[], bool],
    ) -> int:
        """See `TableRewriting.decrypt_spans`."""
        return decrypt_spans(self.connect, table, spans, ring, report, self.limits, should_continue)

    def _limits(self) -> Limits:
        return self.limits if self.vouched is None else replace(self.limits, vouched=self.vouched())
