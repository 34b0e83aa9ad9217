"""The application: writers that read the keys that are delivered, and stale ones that keep those they had first."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from keyrotation_pipeline_tests.fuzzing.formats import Format, Keys
from keyrotation_pipeline_tests.fuzzing.journal import Journal, Outcome, Write
from keyrotation_pipeline_tests.fuzzing.native_values import NotReadableError
from keyrotation_pipeline_tests.fuzzing.tables import Kind, State, Table

Connection = psycopg.Connection[dict[str, Any]]
# What a disturbance does to any application, which tries again.
DISTURBED = (
    psycopg.OperationalError,  # lost connections, deadlocks, locks that were not to be had, serialization
    psycopg.errors.FeatureNotSupported,  # a cached plan after ALTER TABLE
    psycopg.errors.IdleInTransactionSessionTimeout,
)
REFUSED = (psycopg.errors.InvalidTextRepresentation, psycopg.errors.InsufficientPrivilege)
LOGINS = 6
ATTACHED, ATTACHED_ROWS = 50_000_000, 20  # the first row of partitions that are attached, and how many each has
# How much longer each pause of a stale writer is than the one before: nothing is proven while one writes all the time.
STALE_PAUSES = 1.15
WORDS = ("", "ß", "naïve café", "v1: see above", "{1,2}", 'a "quoted" \\ text', "x" * 300, "📅 tomorrow", "NULL")


@dataclass
class Application:
    """What all processes of the application share."""

    url: str
    home: Path
    form: Format
    tables: tuple[Table, ...]
    journal: Journal
    role: str
    logins: dict[str, str] = field(default_factory=dict)  # by the name of the key that encrypts

    def delivered(self) -> Keys:
        """The keys as a process that starts now gets them, and with them its login."""
        for _ in range(200):
            try:
                keys = self.form.delivered(self.home)
            except FileNotFoundError:
                time.sleep(0.01)
            else:
                self._note_logins(keys)
                return keys
        raise TimeoutError(f"no keys in {self.home}")

    def _note_logins(self, keys: Keys) -> None:
        """A key that is seen for the first time is that of the newest version."""
        if new := [name for name in keys.names if name not in self.logins]:
            assert len(new) == 1, "two new keys at once"
            versions = [int(file.stem.strip("vx")) for file in (self.home / "keys").glob("v*.key")]
            self.logins.setdefault(new[0], f"{self.role}_g{max(versions)}")

    def login(self, keys: Keys) -> str:
        """The login that comes with a list of keys: another for each key that encrypts."""
        return self.logins[keys.names[0]] if self.form.logins else f"{self.role}_g1"

    def connected(self, keys: Keys, url: str | None = None) -> Connection:
        url = make_conninfo(url or self.url, user=self.login(keys))
        return psycopg.connect(url, row_factory=dict_row, autocommit=True, prepare_threshold=None)

    def attach(self, connection: psycopg.Connection[Any], table: Table, part: int, chance: Random) -> None:
        """Makes a partition or a child with some rows, and commits."""
        keys, name = self.delivered(), f"{table.name}_{part}"
        if table.kind is Kind.PARTITIONED:
            connection.execute(f"CREATE TABLE {name} (LIKE {table.name} INCLUDING ALL)".encode())
        else:
            connection.execute(f"CREATE TABLE {name} (PRIMARY KEY (id)) INHERITS ({table.name})".encode())
        writes, outcome = [], Outcome.ROLLED_BACK
        try:
            for row in range(ATTACHED + part * ATTACHED_ROWS, ATTACHED + (part + 1) * ATTACHED_ROWS):
                first = first_state(table, chance, self.journal.seed, row)
                state = State(first.values, {**first.others, "part": part})
                writes.append(self.journal.begin((table.name, row), None, state.values, state.others, keys.names[0]))
                table.insert(connection, row, writes[-1].mark, keys, state, into=name)
            if table.kind is Kind.PARTITIONED:
                connection.execute(f"ALTER TABLE {table.name} ATTACH PARTITION {name} FOR VALUES IN ({part})".encode())
            outcome = Outcome.UNKNOWN
            connection.commit()
            outcome = Outcome.COMMITTED
        finally:
            self.journal.end(writes, outcome)


def is_unknown(error: BaseException) -> bool:
    """Whether the server may have committed before this error: the connection was lost."""
    if not isinstance(error, psycopg.OperationalError):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(("57", "08"))


def text(chance: Random, seed: str, about: str) -> str | None:
    """A text for a value; each but the empty ones has the round's seed in it, by which copies are found."""
    if chance.random() < 0.05:
        return None
    if chance.random() < 0.03:
        return ""
    return f"{seed} {about} {chance.choice(WORDS)} {chance.randrange(1 << 30)}"


def first_state(table: Table, chance: Random, seed: str, row: int) -> State:
    values = {slot: text(chance, seed, f"{slot} of {row}") for slot in table.slots}
    others: dict[str, Any] = {"part": row % 3, "number": row, "note": f"note {row}"}
    others |= {column.name: 0 for column in table.columns if column.type == "jsonb"}
    return State(values, others)


@dataclass
class Process:
    """One process of the application; it writes its own rows, as others do theirs.

    Args:
        own: whether a row is for it.
        stale: keeps the keys that it had at its start.
        walk: the number of this walk in its round.
        url: of another database, whose foreign tables are those of the application.
    """

    application: Application
    chance: Random
    own: Callable[[int], bool]
    keys: Keys
    pause_seconds: float
    stale: bool = False
    walk: int = 0
    url: str | None = None
    _rows: dict[str, list[int]] = field(default_factory=dict)
    _next: int = 0

    def __post_init__(self) -> None:
        self._rows = {table.name: [] for table in self.application.tables}
        for name, row in self.journal.of_rows():
            if self.own(row):
                self._rows[name].append(row)
        self._next = 1_000_000 * (self.walk + 1)

    @property
    def journal(self) -> Journal:
        return self.application.journal

    @property
    def tables(self) -> tuple[Table, ...]:
        """Those that it writes: postgres_fdw finds a row by its ctid, which several children of a table may have."""
        plain = tuple(table for table in self.application.tables if table.kind is Kind.PLAIN)
        return self.application.tables if self.url is None else plain

    def work(self, stop: threading.Event) -> None:
        """Writes until it is told to stop."""
        while not stop.is_set():
            try:
                with self.application.connected(self.keys, self.url) as connection:
                    held = self.keys
                    while held is self.keys and not stop.wait(self.pause_seconds * self.chance.random() * 2):
                        self.step(connection)
                        self.reload()
                        self.pause_seconds *= STALE_PAUSES if self.stale else 1
            except DISTURBED:
                self.journal.count("connections lost")
                stop.wait(0.05)
            except Exception as error:
                self.journal.found(f"a writer ended: {type(error).__name__}: {error}")
                raise

    def reload(self) -> bool:
        """Takes the keys that are delivered now; says whether they are others."""
        if self.stale:
            return False
        before, self.keys = self.keys, self.application.delivered()
        return before.names != self.keys.names

    def step(self, connection: Connection) -> None:
        """One thing that applications do."""
        kinds: list[tuple[Callable[[Connection, Table], None], int]] = [
            (self.update_locked, 5),
            (self.update_compared, 5),
            (self.touch, 2),
            (self.insert, 1),
            (self.delete, 1),
            (self.hold, 1),
        ]
        if self.stale:
            kinds = kinds[1:4]
        (do,) = self.chance.choices([each for each, _ in kinds], [weight for _, weight in kinds])
        do(connection, self.chance.choice(self.tables))

    # What writes

    def update_locked(self, connection: Connection, table: Table) -> None:
        """Reads some rows under a lock and writes them, in a transaction of any isolation, some to be rolled back."""
        rows = sorted(self._some(table, self.chance.randint(1, 3)))
        self._transaction(connection, lambda writes: self._write_locked(connection, table, rows, writes))

    def hold(self, connection: Connection, table: Table) -> None:
        """The same, and keeps the locks for a while."""
        rows = sorted(self._some(table, 3))

        def write(writes: list[Write]) -> None:
            self._write_locked(connection, table, rows, writes)
            time.sleep(self.chance.uniform(0.1, 0.8))

        self._transaction(connection, write)

    def _write_locked(self, connection: Connection, table: Table, rows: list[int], writes: list[Write]) -> None:
        for row in rows:
            found = connection.execute(f"SELECT * FROM {table.name} WHERE id = %s FOR UPDATE".encode(), (row,))
            before = self._read(table, row, found.fetchone())
            if before is None:
                continue
            if self.chance.random() < 0.15:
                connection.execute("SAVEPOINT s")
                undone = self._update(connection, table, row, before, "")
                connection.execute("ROLLBACK TO SAVEPOINT s")
                self.journal.end([undone], Outcome.ROLLED_BACK)
            writes.append(self._update(connection, table, row, before, ""))

    def update_compared(self, connection: Connection, table: Table) -> None:
        """Reads without a lock, and writes in one statement if the row is still the same."""
        for row in self._some(table, 1):
            found = connection.execute(f"SELECT * FROM {table.name} WHERE id = %s".encode(), (row,)).fetchone()
            before = self._read(table, row, found)
            if before is not None:
                self._single(partial(self._update, connection, table, row, before, "AND mark = %s"))

    def touch(self, connection: Connection, table: Table) -> None:
        """Writes columns that nobody encrypts."""
        for row in self._some(table, 1):
            found = connection.execute(f"SELECT mark FROM {table.name} WHERE id = %s".encode(), (row,)).fetchone()
            if found is not None and (before := self._known(found["mark"])) is not None:
                self._single(partial(self._update, connection, table, row, before, "AND mark = %s", values=False))

    def insert(self, connection: Connection, table: Table) -> None:
        """Inserts a row that no other process has."""
        row = self._new_row()
        state = first_state(table, self.chance, self.journal.seed, row)
        write = self.journal.begin((table.name, row), None, state.values, state.others, self.keys.names[0])

        def send() -> Write:
            table.insert(connection, row, write.mark, self.keys, state)
            return write

        self._single(send, write)
        if write.outcome is not Outcome.ROLLED_BACK:
            self._rows[table.name].append(row)

    def delete(self, connection: Connection, table: Table) -> None:
        """Deletes a row, if it is still the same."""
        if len(self._rows[table.name]) < 10:
            return
        (row,) = self._some(table, 1)
        found = connection.execute(f"SELECT mark FROM {table.name} WHERE id = %s".encode(), (row,)).fetchone()
        if found is None or (before := self._known(found["mark"])) is None:
            return
        write = self.journal.begin(before.row, before, {}, {}, "", deleted=True)

        def send() -> Write:
            statement = f"DELETE FROM {table.name} WHERE id = %s AND mark = %s".encode()
            self._require_one(connection.execute(statement, (row, before.mark)))
            return write

        self._single(send, write)

    # How it is written

    def _update(
        self, connection: Connection, table: Table, row: int, before: Write, condition: str, *, values: bool = True
    ) -> Write:
        slots = self.chance.sample(table.slots, self.chance.randint(1, len(table.slots))) if values else []
        new = {slot: text(self.chance, self.journal.seed, f"{slot} of {row}") for slot in slots}
        others = self._others(table, before, values=values)
        write = self.journal.begin(
            before.row, before, {**before.values, **new}, {**before.others, **others}, self.keys.names[0] if new else ""
        )
        try:
            assignments, parameters = table.assignments(self.keys, row, new, {**others, "mark": write.mark})
            statement = f"UPDATE {table.name} SET {assignments} WHERE id = %s {condition}".encode()
            given = [*parameters, row, *([before.mark] if condition else [])]
            self._require_one(connection.execute(statement, given))
        except BaseException as error:
            in_transaction = not condition
            self.journal.end(
                [write], Outcome.UNKNOWN if is_unknown(error) and not in_transaction else Outcome.ROLLED_BACK
            )
            raise
        return write

    @staticmethod
    def _require_one(done: psycopg.Cursor[Any]) -> None:
        if done.rowcount != 1:
            raise _AnotherCameFirstError

    def _others(self, table: Table, before: Write, *, values: bool) -> dict[str, Any]:
        others: dict[str, Any] = {}
        if not values:
            others = {column.name: before.others[column.name] + 1 for column in table.columns if column.type == "jsonb"}
        if self.chance.random() < 0.5:
            others["number"] = self.chance.randrange(1 << 20)
        if self.chance.random() < 0.5:
            others["note"] = f"note {self.chance.randrange(1 << 20)}"
        if table.kind is Kind.PARTITIONED and self.chance.random() < 0.1:
            others["part"] = self.chance.randrange(3)
        return others

    def _single(self, send: Callable[[], Write], begun: Write | None = None) -> None:
        """One statement that commits itself."""
        try:
            write = send()
        except _AnotherCameFirstError:
            if begun is not None:
                self.journal.end([begun], Outcome.ROLLED_BACK)
        except REFUSED as error:
            if begun is not None:
                self.journal.end([begun], Outcome.ROLLED_BACK)
            self._refused(error)
        except DISTURBED as error:
            if begun is not None:
                self.journal.end([begun], Outcome.UNKNOWN if is_unknown(error) else Outcome.ROLLED_BACK)
            raise
        else:
            self.journal.end([write], Outcome.COMMITTED)

    def _transaction(self, connection: Connection, write: Callable[[list[Write]], None]) -> None:
        isolation = self.chance.choice(("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"))
        writes: list[Write] = []
        outcome = Outcome.ROLLED_BACK
        try:
            connection.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
            write(writes)
            if self.chance.random() < 0.15:
                connection.execute("ROLLBACK")
                return
            outcome = Outcome.UNKNOWN
            connection.execute("COMMIT")
            outcome = Outcome.COMMITTED
        except REFUSED as error:
            outcome = Outcome.ROLLED_BACK
            connection.execute("ROLLBACK")
            self._refused(error)
        except _AnotherCameFirstError:
            outcome = Outcome.ROLLED_BACK
            connection.execute("ROLLBACK")
        except DISTURBED as error:
            if outcome is Outcome.UNKNOWN and not is_unknown(error):
                outcome = Outcome.ROLLED_BACK
            if not connection.closed:
                connection.execute("ROLLBACK")
                self.journal.count("transactions given up")
            else:
                raise
        finally:
            self.journal.end(writes, outcome)

    def _refused(self, error: psycopg.Error) -> None:
        """A write was refused: that is right only for keys that are no longer the delivered ones."""
        self.journal.count("old writes refused" if self.stale else "writes refused, keys changed")
        if not self.stale and not self.reload():
            self.journal.found(f"a write under the delivered keys was refused: {error}")

    # How it is read

    def _read(self, table: Table, row: int, found: dict[str, Any] | None) -> Write | None:
        """Compares a row with its mark's write; returns that."""
        if found is None:
            return None
        known = self._known(found["mark"])
        if known is None or self.stale:
            return known
        for _ in range(2):
            try:
                state = table.state(found, self.keys)
            except NotReadableError as error:
                if not self.reload():
                    self.journal.found(f"the application cannot read: {error}")
                    return None
                continue
            self._compare(table, row, state, known)
            if table.index is not None and not table.index.finds(table.name, self.keys, state.values, found):
                self.journal.found(f"{table.name} {row}: is not found by the text of {known.mark}")
            return known
        return None

    def _compare(self, table: Table, row: int, state: State, known: Write) -> None:
        self.journal.count("values read", len(state.values))
        if (state.values, state.others) != (known.values, known.others):
            self.journal.found(f"{table.name} {row}: another content than that of {known.mark}")

    def _known(self, mark: str) -> Write | None:
        known = self.journal.writes.get(mark)
        if known is None:
            self.journal.found(f"a mark that nobody wrote: {mark}")
        return known

    def _some(self, table: Table, number: int) -> list[int]:
        rows = self._rows[table.name]
        return self.chance.sample(rows, min(number, len(rows)))

    def _new_row(self) -> int:
        self._next += 1
        while not self.own(self._next):
            self._next += 1
        return self._next


class _AnotherCameFirstError(Exception):
    """A row is no longer what was read."""
