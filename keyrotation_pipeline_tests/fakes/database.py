"""Tables as lists of rows."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from keyrotation_pipeline.errors import (
    BlockedError,
    FenceError,
    InvalidKeyError,
    KeyRotationError,
    PreflightError,
    ProofError,
)
from keyrotation_pipeline.fieldcrypto.defect import NOT_A_VALUE, Defect, DefectKind
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion, looks_encrypted
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.key_trial import ColumnTrial, KeyTrial
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.proof import AccountedReplica, DecryptedCount, Moment, Searched, ZeroOldRows
from keyrotation_pipeline.model.tables import (
    NEVER_SEARCHED,
    BlindSpots,
    CheckNames,
    DatabaseIdentity,
    Disk,
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
    Wal,
)
from keyrotation_pipeline_tests.fakes.clock import FakeClock
from keyrotation_pipeline_tests.fakes.journal import START, Journal

AMPLE = Surroundings(10 * 2**20, Disk("/data", 2**40), Wal(2**30, ()), (), prints_rows=False)


@dataclass
class FakeDatabase:
    """`CiphertextDatabase` over lists of rows. A cell is ``"v1:text"``, ``""``, None, or anything else (unencrypted).

    It passes the same contract suite as PostgreSQL. What is unencrypted or `unreadable` is in quarantine at once.

    Args:
        locked: (table, row number) of rows that no sweep gets hold of.
        in_use: tables that somebody is at, as autovacuum is.
        noted: the one span of each table that holds rows; a row is a page.
        searched: one span of each relation elsewhere.
        too_large: what is not read again in the retiring transaction.
        unreadable: (table, row number, column) of values that do not decrypt.
        fence_state: what each table's validated fence names.
        fence_made: the transaction id that made each fence.
        stale: rows counted as written since promotion.
        writes: rows that each table's statistics name as written.
        small: names of tables that are one shard.
        begun: whether a table of a request was begun as one shard.
        slow: names of tables that are not counted in a few seconds.
        sealed_under: fingerprint of the key that opens the values of a version; absent: that of the ring does.
    """

    rows: dict[str, list[dict[str, str | None]]]
    journal: Journal = field(default_factory=Journal)
    clock: FakeClock = field(default_factory=FakeClock)
    noted: dict[str, PageSpan] = field(default_factory=dict)
    searched: dict[str, PageSpan] = field(default_factory=dict)
    locked: set[tuple[str, int]] = field(default_factory=set)
    in_use: set[str] = field(default_factory=set)
    too_large: tuple[str, ...] = ()
    unreadable: set[tuple[str, int, str]] = field(default_factory=set)
    fence_state: dict[str, tuple[KeyVersion, ...]] = field(default_factory=dict)
    fence_made: dict[str, int] = field(default_factory=dict)
    findings: tuple[FoundColumn, ...] = ()
    problems: tuple[Problem, ...] = ()
    holders: list[tuple[str, ...]] = field(default_factory=list)
    connected: tuple[str, ...] = ()
    stale: int = 0
    writes: int = 0
    xid: int = 1000
    decrypted: list[str] = field(default_factory=list)
    unseen: BlindSpots = field(default_factory=lambda: BlindSpots(NEVER_SEARCHED))
    replicas: tuple[AccountedReplica, ...] = ()
    proven_with: list[Moment] = field(default_factory=list)
    around: Surroundings = AMPLE
    small: frozenset[str] = frozenset()
    begun: dict[tuple[str, str], bool] = field(default_factory=dict)
    slow: frozenset[str] = frozenset()
    sealed_under: dict[KeyVersion, str] = field(default_factory=dict)

    def identity(self) -> DatabaseIdentity:
        return DatabaseIdentity("clinic@localhost", "7000000000000000001")

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        return self.problems

    def check_names(self) -> CheckNames:
        return CheckNames(("takes_writes",), ("tables_are_readable", "types_hold_text"))

    def surroundings(self, tables: Sequence[EncryptedTable]) -> Surroundings:
        return self.around

    def speed(self, tables: Sequence[EncryptedTable], ring: KeyRing, target: KeyVersion) -> tuple[Speed, ...]:
        return tuple(Speed(str(table.name), 10, 100.0) for table in tables)

    def count(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        return tuple(self._count(table) for table in tables)

    def _count(self, table: EncryptedTable) -> TableCount:
        by_column: dict[str, dict[KeyVersion, int]] = {column: {} for column in table.columns}
        totals: dict[KeyVersion, int] = {}
        for _, column, value in self._cells(table):
            version = version_of(value)
            if version is not None:
                by_column[column][version] = by_column[column].get(version, 0) + 1
                totals[version] = totals.get(version, 0) + 1
        unencrypted = Counter(column for _, column, value in self._cells(table) if is_unencrypted(value))
        near_misses = sum(is_unencrypted(value) and looks_encrypted(value or "") for _, _, value in self._cells(table))
        empty = sum(value == "" for _, _, value in self._cells(table))
        return TableCount(
            table, len(self.rows[str(table.name)]), totals, empty, unencrypted.total(), near_misses,
            len(self.quarantine([table])), self.fences(table), self.clock.now(), by_column, dict(unencrypted),
        )  # fmt: skip

    def _cells(self, table: EncryptedTable) -> Iterator[tuple[int, str, str | None]]:
        for number, row in enumerate(self.rows[str(table.name)]):
            for column in table.columns:
                yield number, column, row.get(column)

    def discover(self, tables: Sequence[EncryptedTable]) -> tuple[FoundColumn, ...]:
        self.search_spans(tables, self.undeclared_spans(tables), lambda: True)
        return self.findings

    def definitions_found(self) -> tuple[FoundColumn, ...]:
        return ()

    def undeclared_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        for name in ("notes", *(each.relation for each in self.findings)):
            now = self.clock.now()
            self.searched.setdefault(name, PageSpan(name, name, 0, 2048, 1, 8192, now, read=False))
        return tuple(self.searched.values())

    def search_spans(
        self, tables: Sequence[EncryptedTable], spans: Sequence[PageSpan], go_on: Callable[[], bool]
    ) -> int:
        for span in (each for each in spans if go_on()):
            found = {each.column: each.values for each in self.findings if each.relation == span.relation}
            self.searched[span.relation] = replace(span, since=self.clock.now(), read=True, found=found)
        return len(spans)

    def unsearched_since(self) -> datetime | None:
        return min((span.since for span in self.searched.values()), default=None)

    def blind_spots(self) -> BlindSpots:
        return self.unseen

    def rewrite_shard(self, request: str, shard: Shard, ring: KeyRing, target: KeyVersion, report: Report) -> Rewritten:
        name = str(shard.table.name)
        self.begun[request, name] = self.begun.get((request, name), shard.of == 1) and shard.of == 1
        total = len(self.rows[name])
        share = range(total * shard.index // shard.of, total * (shard.index + 1) // shard.of)
        return self._rewrite(shard.table, target, share, f"shard {shard.index} of {shard.of}, {shard.table.name}")

    def is_one_shard(self, request: str, table: EncryptedTable) -> bool:
        return self.begun.get((request, str(table.name)), str(table.name) in self.small)

    def sweep(self, request: str, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, wait: bool) -> Rewritten:
        every = range(len(self.rows[str(table.name)]))
        return self._rewrite(table, target, every, f"sweep {table.name}{' waiting' if wait else ''}")

    def _rewrite(self, table: EncryptedTable, target: KeyVersion, share: range, entry: str) -> Rewritten:
        for problem in self.problems:
            if problem.fatal:
                raise PreflightError(problem.sentence)
        self.journal.note(entry)
        name = str(table.name)
        done, skipped, quarantined = list[int](), set[int](), 0
        for number, column, value in self._cells(table):
            if number not in share or value in {None, ""} or version_of(value) == target:
                continue
            if (name, number) in self.locked:
                skipped.add(number)
            elif (name, number, column) in self.unreadable or is_unencrypted(value):
                quarantined += 1
            else:
                self.rows[name][number][column] = target.prefix + str(value).partition(":")[2]
                done.append(number)
        return Rewritten(len(set(done)), len(done), len(skipped), quarantined)

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        rows = {number for number, _, value in self._cells(table) if version_of(value) in versions}
        return OldRows(len(rows), min(self.stale, len(rows)))

    def rows_seen(self, table: EncryptedTable, version: KeyVersion, seconds: float) -> int | None:
        return None if str(table.name) in self.slow else self.old_rows(table, [version], None).rows

    def written_rows(self, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
        return {str(table.name): self.writes for table in tables}

    def quarantine(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        return tuple(
            QuarantinedValue(
                table.name,
                f"id={number}",
                column,
                NOT_A_VALUE if is_unencrypted(value) else Defect(DefectKind.NOT_AUTHENTIC, version_of(value)),
            )
            for table in tables
            for number, column, value in self._cells(table)
            if (str(table.name), number, column) in self.unreadable or is_unencrypted(value)
        )

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report, request: str = "") -> DecryptedCount:
        name = str(table.name)
        self.decrypted.append(name)
        self._read(table)
        cells = list(self._cells(table))
        values, empty = sum(bool(value) for _, _, value in cells), sum(value == "" for _, _, value in cells)
        bad = {(number, column) for number, column, value in cells if is_unencrypted(value)}
        bad |= {(number, column) for table_name, number, column in self.unreadable if table_name == name}
        by_column = {
            column: Counter(
                version
                for number, each, value in cells
                if each == column and (number, column) not in bad and (version := version_of(value))
            )
            for column in table.columns
        }
        return DecryptedCount(name, len(self.rows[name]), values, len(bad), by_column, empty, self.clock.now())

    def page_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        for name in (str(table.name) for table in tables):
            pages = len(self.rows[name])
            span = self.noted.setdefault(name, PageSpan(name, name, 0, 2048, 0, 0, self.clock.now(), read=False))
            self.noted[name] = replace(span, pages=pages, size_bytes=8192 * pages)
        return tuple(span for table in tables if (span := self.noted[str(table.name)]).pages)

    def decrypt_spans(
        self,
        table: EncryptedTable,
        spans: Sequence[PageSpan],
        ring: KeyRing,
        report: Report,
        go_on: Callable[[], bool],
    ) -> int:
        if not go_on():
            return 0
        self._read(table)
        return sum(bool(value) for _, _, value in self._cells(table))

    def _read(self, table: EncryptedTable) -> None:
        self.page_spans([table])
        name = str(table.name)
        self.noted[name] = replace(self.noted[name], since=self.clock.now(), read=True)

    def unread_since(self, tables: Sequence[EncryptedTable]) -> Mapping[str, datetime]:
        named = {str(table.name) for table in tables}
        return {name: span.since for name, span in self.noted.items() if name in named and span.pages}

    def decrypt_sample(
        self, table: EncryptedTable, ring: KeyRing, values: int, wanted: Mapping[str, Collection[KeyVersion]]
    ) -> KeyTrial:
        tried: dict[tuple[str, KeyVersion], list[tuple[int, KeyVersion | None]]] = {}
        for number, column, value in self._cells(table):
            if (version := version_of(value)) is None:
                continue
            cells = tried.setdefault((column, version), [])
            if len(cells) < values:
                cells.append((number, self._opened_by(ring, version, (str(table.name), number, column))))
        columns = (_trial(str(table.name), *key, cells) for key, cells in sorted(tried.items()))
        return KeyTrial(ring.versions, tuple(columns))

    def _opened_by(self, ring: KeyRing, version: KeyVersion, cell: tuple[str, int, str]) -> KeyVersion | None:
        if cell in self.unreadable:
            return None
        if (fingerprint := self.sealed_under.get(version)) is None:
            return version if version in ring.versions else None
        return next((each for each in ring.versions if ring.material(each).fingerprint == fingerprint), None)

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        if self.fences(table) == tuple(sorted(versions)):
            return True
        if str(table.name) in self.in_use and not wait:
            return False
        if self.old_rows(table, versions, None).rows:
            raise ProofError(f"table {table.name} still holds old values; run it again")
        self.journal.note(f"fence {table.name} {', '.join(map(str, versions))}")
        self._make_fence(table, versions)
        return True

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        before = self.fences(table)
        if version in before:
            self.journal.note(f"unfence {table.name} {version}")
            self._make_fence(table, [each for each in before if each != version])

    def _make_fence(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> None:
        self.fence_state[str(table.name)] = tuple(sorted(versions))
        self.fence_made[str(table.name)] = self.xid

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        return self.fence_state.get(str(table.name), ())

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

    def has_table(self, name: TableName) -> bool:
        return str(name) in self.rows

    def sessions(self, table: EncryptedTable) -> tuple[str, ...]:
        return self.connected

    def barrier(self) -> str:
        return f"0/{self.xid:X}"

    def snapshot_blockers(self, moment: Moment) -> tuple[str, ...]:
        """The next of the prepared answers, the last one for ever; none prepared: nobody."""
        if not self.holders:
            return ()
        return self.holders.pop(0) if len(self.holders) > 1 else self.holders[0]

    def current_xid(self) -> int:
        self.xid += 1
        return self.xid

    def search(
        self, tables: Sequence[EncryptedTable], version: KeyVersion, retired: Sequence[KeyVersion], report: Report
    ) -> Searched:
        self._require_nothing_left(tables, {*retired, version}, retired)
        return Searched({str(count.table.name): count.rows for count in self.count(tables)}, {}, {}, {}, START)

    def zero_old_rows(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        moment: Moment,
        searched: Searched | None = None,
    ) -> ZeroOldRows:
        self.proven_with.append(moment)
        versions = {*retired, version}
        self._require_nothing_left(tables, versions, retired)
        for table in tables:
            if missing := sorted(versions - set(self.fences(table))):
                raise FenceError(f"table {table.name} is not fenced against {missing[0]}; run it again")
            if self.fence_made.get(str(table.name), 0) >= moment.xid:
                raise FenceError(f"the fence of table {table.name} was recreated after the proof; run it again")
        for entry in self.quarantine(tables):
            raise ProofError(f"table {entry.table}, column {entry.column}: 1 value(s) are in quarantine; fix them")
        if found := self.snapshot_blockers(moment):
            raise BlockedError("; ".join(found))
        values = sum(sum(count.values_by_version.values()) for count in self.count(tables))
        names = tuple(str(table.name) for table in tables)
        return ZeroOldRows(version, names, 0, values, moment.lsn, START, self.replicas, self.too_large)

    def _require_nothing_left(
        self, tables: Sequence[EncryptedTable], versions: set[KeyVersion], retired: Sequence[KeyVersion]
    ) -> None:
        for table in tables:
            for _, column, value in self._cells(table):
                if version_of(value) in versions:
                    raise FenceError(f"table {table.name}, column {column}: a value is still under {version_of(value)}")
                if is_unencrypted(value):
                    raise ProofError(f"table {table.name}, column {column}: 1 value(s) are not encrypted; look again")
        if any(finding.blocks(retired) for finding in self.findings):
            raise ProofError("something is left; look at `keyrotation inventory`")


def _trial(table: str, column: str, version: KeyVersion, cells: Sequence[tuple[int, KeyVersion | None]]) -> ColumnTrial:
    failed = [(number, opener) for number, opener in cells if opener != version]
    others = Counter(opener for _, opener in failed if opener is not None)
    rows = tuple(str(number) for number, _ in failed[:3])
    return ColumnTrial(table, column, version, len(cells), len(cells) - len(failed), dict(others), rows)


def version_of(value: str | None) -> KeyVersion | None:
    """The version that a fake cell names, None for NULL, empty and unencrypted ones, near-misses among them."""
    head, colon, _ = (value or "").partition(":")
    try:
        return KeyVersion.parse(head) if colon else None
    except InvalidKeyError:
        return None


def is_unencrypted(value: str | None) -> bool:
    """Whether a fake cell holds something that is not encrypted."""
    return bool(value) and version_of(value) is None
