"""The engine, in the database that a table is in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.adapters.fleet.members import Members
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.environment import Speed
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.tables import EncryptedTable, Shard


@dataclass(frozen=True)
class FleetRewriting:
    """`TableRewriting` over several databases."""

    members: Members

    def speed(self, tables: Sequence[EncryptedTable], ring: KeyRing, target: KeyVersion) -> tuple[Speed, ...]:
        """See `TableRewriting.speed`."""
        speeds = list[Speed]()
        for name, own in self.members.grouped(tables):
            if own:
                with self.members.at(name) as at:
                    speeds += at.rewriting.speed(own, ring, target)
        return tuple(speeds)

    def reencrypt_shard(
        self, request: str, shard: Shard, ring: KeyRing, target: KeyVersion, report: Report
    ) -> Rewritten:
        """See `TableRewriting.reencrypt_shard`."""
        with self.members.of(shard.table) as at:
            return at.rewriting.reencrypt_shard(request, shard, ring, target, report)

    def is_one_shard(self, request: str, table: EncryptedTable) -> bool:
        """See `TableRewriting.is_one_shard`."""
        with self.members.of(table) as at:
            return at.rewriting.is_one_shard(request, table)

    def sweep(self, request: str, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, wait: bool) -> Rewritten:
        """See `TableRewriting.sweep`."""
        with self.members.of(table) as at:
            return at.rewriting.sweep(request, table, ring, target, wait=wait)

    def clear_indexes(self, request: str, table: EncryptedTable, target: KeyVersion, report: Report) -> int:
        """See `TableRewriting.clear_indexes`."""
        with self.members.of(table) as at:
            return at.rewriting.clear_indexes(request, table, target, report)

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report, request: str = "") -> DecryptedCount:
        """See `TableRewriting.decrypt_all`."""
        with self.members.of(table) as at:
            return at.rewriting.decrypt_all(table, ring, report, request)

    def decrypt_spans(
        self,
        table: EncryptedTable,
        spans: Sequence[PageSpan],
        ring: KeyRing,
        report: Report,
        should_continue: Callable[[], bool],
    ) -> int:
        """See `TableRewriting.decrypt_spans`."""
        with self.members.of(table) as at:
            return at.rewriting.decrypt_spans(table, spans, ring, report, should_continue)
