"""Tables as lists of rows, sessions that still see old ones, and standbys that show them."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, Defect, DefectKind
from keyrotation_pipeline.model.environment import (
    NEVER_SEARCHED,
    BlindSpots,
    CheckNames,
    DatabaseIdentity,
    DatabaseServer,
    Disk,
    Environment,
    MemberFound,
    Problem,
    Wal,
)
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.proof import AccountedReplica, SnapshotPosition
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, QuarantinedValue
from keyrotation_pipeline.scan.report import Finding
from keyrotation_pipeline_tests.fakes.clock import FakeClock
from keyrotation_pipeline_tests.fakes.journal import SERVER, Journal

AMPLE = Environment(10 * 2**20, Disk("/data", 2**40), Wal(2**30, (), 2**30), (), prints_rows=False)

Cells = Mapping[str, str | None]


class RefusedByFenceError(Exception):
    """What an application gets for a value under a fenced version; it names the version alone."""


@dataclass(frozen=True, slots=True)
class Image:
    """The tables as they are at one moment: what a snapshot sees and a standby shows. Never changed, so never copied.

    Args:
        xid: the last transaction in it.
    """

    xid: int
    rows: Mapping[str, tuple[Cells, ...]]
    written: Mapping[tuple[str, int], int]
    fence_state: Mapping[str, tuple[KeyVersion, ...]]
    fence_made: Mapping[str, int]
    not_validated: frozenset[str]


@dataclass(frozen=True, slots=True)
class Session:
    """A transaction of somebody else.

    Args:
        xmin: it sees no transaction from this one on.
        xid: its own, from its first change on.
        sees: the tables as it sees them.
        changes: what it has written and not committed: table, number of the row, its new cells.
        prepared: it has no process, and outlives the server.
        until: when it ends by itself.
    """

    xmin: int
    sees: Image
    xid: int | None = None
    changes: tuple[tuple[str, int, Cells], ...] = ()
    prepared: bool = False
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby that was seen.

    Args:
        shows: the tables as it has replayed them.
        connected: whether it is now.
        gone: the configuration says that it no longer exists.
    """

    name: str
    shows: Image
    connected: bool = True
    gone: bool = False


@dataclass
class FakeDatabase:
    """Lists of rows, behind the fakes of all five ports. A cell is ``"v1:text"``, ``""``, None, or unencrypted.

    What is unencrypted or `unreadable` is in quarantine at once. A WAL position is the id of the last transaction
    before it. Reading a row and writing it is one moment here: that no write in between is lost,
    `integration/test_engine_concurrency.py` shows. Sessions of a standby are not modelled.

    Args:
        written: transaction id that wrote a row last; absent: an old one.
        sessions: transactions of others that have not ended, by name.
        standbys: those that were ever seen, by name.
        not_validated: tables whose fence refuses writes, but was never validated.
        locked: (table, row number) of rows that no sweep gets hold of.
        in_use: tables that somebody is at, as autovacuum is.
        noted: the one span of each table that holds rows; a row is a page.
        searched: one span of each relation elsewhere.
        too_large: what is not read again in the retiring transaction.
        unreadable: (table, row number, column) of values that do not decrypt.
        fence_state: what each table's fence names.
        index_fences: the same of search indexes.
        fence_made: the transaction id that made each fence.
        writes: rows that each table's statistics name as written.
        small: names of tables that are one shard.
        begun: whether a table of a request was begun as one shard.
        slow: names of tables that are not counted in a few seconds.
        sealed_under: fingerprint of the key that opens the values of a version; absent: that of the ring does.
        name: as the identity has it.
        server: where it runs.
    """

    rows: dict[str, list[dict[str, str | None]]]
    journal: Journal = field(default_factory=Journal)
    clock: FakeClock = field(default_factory=FakeClock)
    noted: dict[str, PageSpan] = field(default_factory=dict)
    searched: dict[str, PageSpan] = field(default_factory=dict)
    written: dict[tuple[str, int], int] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    standbys: dict[str, Standby] = field(default_factory=dict)
    not_validated: set[str] = field(default_factory=set)
    locked: set[tuple[str, int]] = field(default_factory=set)
    in_use: set[str] = field(default_factory=set)
    too_large: tuple[str, ...] = ()
    unreadable: set[tuple[str, int, str]] = field(default_factory=set)
    fence_state: dict[str, tuple[KeyVersion, ...]] = field(default_factory=dict)
    index_fences: dict[str, tuple[KeyVersion, ...]] = field(default_factory=dict)
    fence_made: dict[str, int] = field(default_factory=dict)
    findings: tuple[FoundColumn, ...] = ()
    other_formats: tuple[Finding, ...] = ()
    problems: tuple[Problem, ...] = ()
    connected: tuple[str, ...] = ()
    writes: int = 0
    xid: int = 1000
    decrypted: list[str] = field(default_factory=list)
    unseen: BlindSpots = field(default_factory=lambda: BlindSpots(NEVER_SEARCHED))
    replicas: tuple[AccountedReplica, ...] = ()
    proven_with: list[SnapshotPosition] = field(default_factory=list)
    around: Environment = AMPLE
    small: frozenset[str] = frozenset()
    begun: dict[tuple[str, str], bool] = field(default_factory=dict)
    slow: frozenset[str] = frozenset()
    sealed_under: dict[KeyVersion, str] = field(default_factory=dict)
    name: str = "clinic@localhost"
    server: DatabaseServer = SERVER

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
        name = str(table.name)
        return () if name in self.not_validated else self.fence_state.get(name, ())

    def next_xid(self) -> int:
        self.xid += 1
        return self.xid

    # What applications do.

    def insert(self, table: str, row: Cells) -> int:
        """A new row, committed at once; gives back its number."""
        self._require_taken(table, row)
        self.rows[table].append(dict(row))
        number = len(self.rows[table]) - 1
        self.written[table, number] = self.next_xid()
        return number

    def update(self, table: str, number: int, changes: Cells, session: str | None = None) -> None:
        """Some cells of a row, committed at once, or with a session."""
        row = {**self.rows[table][number], **changes}
        self._require_taken(table, row)
        if session is None:
            self.write(table, number, row, self.next_xid())
        else:
            open_ = self.sessions[session]
            xid = self.next_xid() if open_.xid is None else open_.xid
            self.sessions[session] = replace(open_, xid=xid, changes=(*open_.changes, (table, number, row)))

    def write(self, table: str, number: int, row: Cells, xid: int) -> None:
        """Past the fence."""
        self.unreadable -= {(table, number, each) for each in row if self.rows[table][number].get(each) != row[each]}
        self.rows[table][number] = dict(row)
        self.written[table, number] = xid

    def _require_taken(self, table: str, row: Cells) -> None:
        for version in map(version_of, row.values()):
            if version is not None and version in self.fence_state.get(table, ()):
                raise RefusedByFenceError(f"key version {version} is retired")

    # What others hold.

    def begin(self, session: str, *, until: datetime | None = None) -> None:
        """A transaction that reads from one snapshot."""
        writing = [each.xid for each in self.sessions.values() if each.xid is not None]
        self.sessions[session] = Session(min([self.xid + 1, *writing]), self.image(), until=until)

    def prepare(self, session: str) -> None:
        self.sessions[session] = replace(self.sessions[session], prepared=True)

    def end(self, session: str, *, commit: bool = True) -> None:
        ended = self.sessions.pop(session)
        for table, number, row in ended.changes if commit else ():
            self.write(table, number, row, ended.xid or 0)

    def open_sessions(self) -> dict[str, Session]:
        now = self.clock.now()
        return {name: each for name, each in self.sessions.items() if each.until is None or now < each.until}

    def is_held(self, table: str, number: int) -> bool:
        changed = {change[:2] for each in self.open_sessions().values() for change in each.changes}
        return (table, number) in self.locked | changed

    # Standbys.

    def image(self) -> Image:
        return Image(
            self.xid,
            {name: tuple(dict(row) for row in rows) for name, rows in self.rows.items()},
            dict(self.written),
            dict(self.fence_state),
            dict(self.fence_made),
            frozenset(self.not_validated),
        )

    def replay(self, standby: str) -> None:
        """The standby, a new one perhaps, has replayed everything."""
        known = self.standbys.get(standby)
        self.standbys[standby] = replace(known, shows=self.image()) if known else Standby(standby, self.image())

    def promote(self, standby: str) -> None:
        """The standby is the primary now, as far as it has replayed; the ledger is to be set back with it."""
        shown = self.standbys.pop(standby).shows
        self.xid = shown.xid
        self.rows = {name: [dict(row) for row in rows] for name, rows in shown.rows.items()}
        self.written, self.fence_made = dict(shown.written), dict(shown.fence_made)
        self.fence_state, self.not_validated = dict(shown.fence_state), set(shown.not_validated)
        self.sessions.clear()


@dataclass
class FakeEnvironment:
    """`DatabaseSurroundings` over lists of rows."""

    database: FakeDatabase

    def identity(self) -> DatabaseIdentity:
        return DatabaseIdentity(self.database.name, "7")

    def server(self) -> DatabaseServer:
        return self.database.server

    def members(self, *, reconciling: bool = False) -> Mapping[str, MemberFound]:
        return {}

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        return self.database.problems

    def check_names(self) -> CheckNames:
        return CheckNames(("takes_writes",), ("tables_are_readable", "types_hold_text"))

    def measure(self, tables: Sequence[EncryptedTable]) -> Environment:
        return self.database.around

    def blind_spots(self) -> BlindSpots:
        return self.database.unseen

    def own_blind_spots(self) -> BlindSpots:
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
