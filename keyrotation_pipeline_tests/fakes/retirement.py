"""Fences, and the evidence of a retirement, over lists of rows."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.errors import BlockedError, FenceError, KeyRotationError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import Moment, Searched, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows
from keyrotation_pipeline_tests.fakes.database import FakeDatabase, is_unencrypted, version_of
from keyrotation_pipeline_tests.fakes.inventory import FakeInventory
from keyrotation_pipeline_tests.fakes.journal import START


@dataclass
class FakeFencing:
    """`TableFencing` over lists of rows."""

    database: FakeDatabase

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        rows = self.database.rows_under(table, versions)
        return OldRows(rows, min(self.database.stale, rows))

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        if self.fences(table) == tuple(sorted(versions)):
            return True
        if str(table.name) in self.database.in_use and not wait:
            return False
        if self.old_rows(table, versions, None).rows:
            raise ProofError(f"table {table.name} still holds old values; run it again")
        self.database.journal.note(f"fence {table.name} {', '.join(map(str, versions))}")
        self._make_fence(table, versions)
        return True

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        before = self.fences(table)
        if version in before:
            self.database.journal.note(f"unfence {table.name} {version}")
            self._make_fence(table, [each for each in before if each != version])

    def _make_fence(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> None:
        self.database.fence_state[str(table.name)] = tuple(sorted(versions))
        self.database.fence_made[str(table.name)] = self.database.xid

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        return self.database.fenced_against(table)

    def all_fences(
        self, tables: Sequence[EncryptedTable]
    ) -> Mapping[EncryptedTable, tuple[KeyVersion, ...] | KeyRotationError]:
        found: dict[EncryptedTable, tuple[KeyVersion, ...] | KeyRotationError] = {}
        for table in tables:
            try:
                found[table] = self.fences(table)
            except KeyRotationError as error:
                found[table] = error
        return found

    def sessions(self, table: EncryptedTable) -> tuple[str, ...]:
        return self.database.connected


@dataclass
class FakeEvidence:
    """`RetirementEvidence` over lists of rows."""

    database: FakeDatabase

    def barrier(self) -> str:
        return f"0/{self.database.xid:X}"

    def snapshot_blockers(self, moment: Moment) -> tuple[str, ...]:
        """The next of the prepared answers, the last one for ever; none prepared: nobody."""
        if not self.database.holders:
            return ()
        return self.database.holders.pop(0) if len(self.database.holders) > 1 else self.database.holders[0]

    def current_xid(self) -> int:
        self.database.xid += 1
        return self.database.xid

    def search(
        self, tables: Sequence[EncryptedTable], version: KeyVersion, retired: Sequence[KeyVersion], report: Report
    ) -> Searched:
        self._require_nothing_left(tables, {*retired, version}, retired)
        return Searched(
            {str(count.table.name): count.rows for count in FakeInventory(self.database).count(tables)},
            {},
            {},
            {},
            START,
        )

    def zero_old_rows(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        moment: Moment,
        searched: Searched | None = None,
    ) -> ZeroOldRows:
        self.database.proven_with.append(moment)
        versions = {*retired, version}
        self._require_nothing_left(tables, versions, retired)
        for table in tables:
            if missing := sorted(versions - set(self.database.fenced_against(table))):
                raise FenceError(f"table {table.name} is not fenced against {missing[0]}; run it again")
            if self.database.fence_made.get(str(table.name), 0) >= moment.xid:
                raise FenceError(f"the fence of table {table.name} was recreated after the proof; run it again")
        for entry in self.database.quarantined(tables):
            raise ProofError(f"table {entry.table}, column {entry.column}: 1 value(s) are in quarantine; fix them")
        if found := self.snapshot_blockers(moment):
            raise BlockedError("; ".join(found))
        values = sum(sum(count.values_by_version.values()) for count in FakeInventory(self.database).count(tables))
        names = tuple(str(table.name) for table in tables)
        return ZeroOldRows(
            version, names, 0, values, moment.lsn, START, self.database.replicas, self.database.too_large
        )

    def _require_nothing_left(
        self, tables: Sequence[EncryptedTable], versions: set[KeyVersion], retired: Sequence[KeyVersion]
    ) -> None:
        for table in tables:
            for _, column, value in self.database.cells(table):
                if version_of(value) in versions:
                    raise FenceError(f"table {table.name}, column {column}: a value is still under {version_of(value)}")
                if is_unencrypted(value):
                    raise ProofError(f"table {table.name}, column {column}: 1 value(s) are not encrypted; look again")
        if any(finding.blocks(retired) for finding in self.database.findings):
            raise ProofError("something is left; look at `keyrotation inventory`")
