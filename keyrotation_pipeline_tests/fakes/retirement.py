"""Fences, and the evidence of a retirement, over lists of rows."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.errors import BlockedError, FenceError, KeyRotationError, ProofError
from keyrotation_pipeline.fieldcrypto.formats.native import SEARCH_INDEX
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.plaintext_outside_rows import ServerFiles, UnchangedFiles
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import AccountedReplica, MemberEvidence, Searched, SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows
from keyrotation_pipeline_tests.fakes.database import FakeDatabase, Standby, is_unencrypted, version_of
from keyrotation_pipeline_tests.fakes.inventory import FakeInventory
from keyrotation_pipeline_tests.fakes.journal import START


@dataclass
class FakeFencing:
    """`TableFencing` over lists of rows."""

    database: FakeDatabase

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        name, written = str(table.name), self.database.written
        old = {number for number, _, value in self.database.cells(table) if version_of(value) in versions}
        since = sum(promotion_xid is not None and written.get((name, number), 0) > promotion_xid for number in old)
        return OldRows(len(old), since)

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """Two changes, as in PostgreSQL: from the first one on it refuses writes, from the second one on it counts."""
        name, wanted = str(table.name), tuple(sorted(versions))
        if table.format == SEARCH_INDEX:  # the fake has no columns of indexes
            self.database.journal.note(f"fence of indexes {name} {', '.join(map(str, wanted))}")
            self.database.index_fences[name] = wanted
            return True
        if self.fences(table) == wanted:
            return True
        if holders := self._holders(name):
            if wait:
                raise BlockedError(f"table {name} is locked by {', '.join(holders)}; wait until that ends")
            return False
        if name in self.database.in_use and not wait:
            return False
        self.database.journal.note(f"fence {name} {', '.join(map(str, wanted))}")
        self._make_fence(table, wanted)
        self.database.journal.note(f"validate {name}")
        if self.old_rows(table, wanted, None).rows:
            absent = [each for each in wanted if not self.database.rows_under(table, [each])]
            self._make_fence(table, absent)
            self.database.not_validated.discard(name)
            raise ProofError(f"table {name} still holds old values; run it again")
        self.database.not_validated.discard(name)
        return True

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        name = str(table.name)
        if table.format == SEARCH_INDEX:
            if version in (refused := self.database.index_fences.get(name, ())):
                self.database.journal.note(f"unfence of indexes {name} {version}")
                self.database.index_fences[name] = tuple(each for each in refused if each != version)
            return
        before = self.database.fence_state.get(name, ())
        if version in before:
            self.database.journal.note(f"unfence {name} {version}")
            rest = [each for each in before if each != version]
            self._make_fence(table, [] if self.old_rows(table, rest, None).rows else rest)
            self.database.not_validated.discard(name)

    def _make_fence(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> None:
        name = str(table.name)
        self.database.fence_state[name] = tuple(versions)
        self.database.fence_made[name] = self.database.next_xid()
        self.database.not_validated.add(name)

    def _holders(self, name: str) -> list[str]:
        """Who has written to the table; others have a snapshot, and have not touched it."""
        sessions = self.database.open_sessions().items()
        return [who for who, each in sessions if any(table == name for table, _, _ in each.changes)]

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        if table.format == SEARCH_INDEX:
            return self.database.index_fences.get(str(table.name), ())
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
        return _position(self.database.xid)

    def snapshot_blockers(self, moment: SnapshotPosition) -> tuple[str, ...]:
        sessions = self.database.open_sessions().items()
        old = [
            f"prepared transaction {name!r} may still bring old values; COMMIT PREPARED or ROLLBACK PREPARED it"
            if each.prepared
            else f"session {name} is in a transaction and may still see old values; wait until it ends"
            for name, each in sessions
            if each.xmin < moment.xid
        ]
        return (*old, *(_absence(each, moment) for each in self.database.standbys.values() if _lags(each, moment)))

    def current_xid(self) -> int:
        return self.database.next_xid()

    def position(self) -> SnapshotPosition:
        xid = self.current_xid()
        return SnapshotPosition(xid, self.barrier())

    def members(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        position: SnapshotPosition,
        searched: Searched,
    ) -> Iterator[MemberEvidence]:
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
        pass

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
        moment: SnapshotPosition,
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
            raise ProofError(f"table {entry.table}, column {entry.column}: 1 value in quarantine; fix them")
        if found := self.snapshot_blockers(moment):
            raise BlockedError("; ".join(found))
        values = sum(sum(count.values_by_version.values()) for count in FakeInventory(self.database).count(tables))
        names = tuple(str(table.name) for table in tables)
        return ZeroOldRows(version, names, 0, values, moment.lsn, START, self._accounted(), self.database.too_large)

    def plaintext_outside_rows(self, tables: Sequence[EncryptedTable], known: Collection[int]) -> ServerFiles:
        files = tuple(UnchangedFiles(str(table.name), {str(n): f"0/{n}"}, 8192) for n, table in enumerate(tables, 1))
        nodes = {oid: node for each in files for oid, node in each.files.items()}
        return ServerFiles((), (), files, (), nodes, _position(self.database.xid), "0/0", {}, is_archived=False)

    def _accounted(self) -> tuple[AccountedReplica, ...]:
        standbys = (
            AccountedReplica(each.name, "standby", START, START, None if each.gone else _position(each.shows.xid))
            for each in self.database.standbys.values()
        )
        return (*self.database.replicas, *standbys)

    def _require_nothing_left(
        self, tables: Sequence[EncryptedTable], versions: set[KeyVersion], retired: Sequence[KeyVersion]
    ) -> None:
        for table in tables:
            for _, column, value in self.database.cells(table):
                if version_of(value) in versions:
                    raise FenceError(f"table {table.name}, column {column}: a value is still under {version_of(value)}")
                if is_unencrypted(value):
                    raise ProofError(f"table {table.name}, column {column}: 1 unencrypted value; look again")
        if any(finding.blocks(retired) for finding in self.database.findings):
            raise ProofError("something is left; look at `keyrotation inventory`")


def _position(xid: int) -> str:
    return f"0/{xid:X}"


def _lags(standby: Standby, moment: SnapshotPosition) -> bool:
    behind = standby.shows.xid < int(moment.lsn.partition("/")[2], 16)
    return not standby.gone and (behind or not standby.connected)


def _absence(standby: Standby, moment: SnapshotPosition) -> str:
    if standby.connected:
        return f"standby {standby.name!r} has not replayed {moment.lsn}; wait until it catches up"
    return f"standby {standby.name!r} is not connected, so it may still show old values; start it again"
