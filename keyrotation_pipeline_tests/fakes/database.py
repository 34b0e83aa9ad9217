"""Tables as lists of rows."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, Defect, DefectKind
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.proof import AccountedReplica, Moment
from keyrotation_pipeline.model.tables import (
    NEVER_SEARCHED,
    BlindSpots,
    CheckNames,
    DatabaseIdentity,
    Disk,
    EncryptedTable,
    FoundColumn,
    Problem,
    QuarantinedValue,
    Surroundings,
    Wal,
)
from keyrotation_pipeline_tests.fakes.clock import FakeClock
from keyrotation_pipeline_tests.fakes.journal import Journal

AMPLE = Surroundings(10 * 2**20, Disk("/data", 2**40), Wal(2**30, ()), (), prints_rows=False)


@dataclass
class FakeDatabase:
    """Lists of rows, behind the fakes of all five ports. A cell is ``"v1:text"``, ``""``, None, or unencrypted.

    What is unencrypted or `unreadable` is in quarantine at once.

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
        name: as the identity has it.
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
    name: str = "clinic@localhost"

    def cells(self, table: EncryptedTable) -> Iterator[tuple[int, str, str | None]]:
        for number, row in enumerate(self.rows[str(table.name)]):
            for column in table.columns:
                yield number, column, row.get(column)

    def quarantined(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        return tuple(
            QuarantinedValue(
                table.name,
                f"id={number}",
                column,
                NOT_A_VALUE if is_unencrypted(value) else Defect(DefectKind.NOT_AUTHENTIC, version_of(value)),
            )
            for table in tables
            for number, column, value in self.cells(table)
            if (str(table.name), number, column) in self.unreadable or is_unencrypted(value)
        )

    def rows_under(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> int:
        return len({number for number, _, value in self.cells(table) if version_of(value) in versions})

    def noted_span(self, table: EncryptedTable) -> PageSpan:
        name = str(table.name)
        new, pages = PageSpan(name, name, 0, 2048, 0, 0, self.clock.now(), read=False), len(self.rows[name])
        self.noted[name] = replace(self.noted.get(name, new), pages=pages, size_bytes=8192 * pages)
        return self.noted[name]

    def fenced_against(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        return self.fence_state.get(str(table.name), ())


@dataclass
class FakeSurroundings:
    """`DatabaseSurroundings` over lists of rows."""

    database: FakeDatabase

    def identity(self) -> DatabaseIdentity:
        return DatabaseIdentity(self.database.name, "7")

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        return self.database.problems

    def check_names(self) -> CheckNames:
        return CheckNames(("takes_writes",), ("tables_are_readable", "types_hold_text"))

    def measure(self, tables: Sequence[EncryptedTable]) -> Surroundings:
        return self.database.around

    def blind_spots(self) -> BlindSpots:
        return self.database.unseen


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
