"""What holds after a walk: every value, every other column, every place, and what the commands say."""

import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import psycopg
from psycopg.rows import dict_row

from keyrotation_pipeline_tests.fuzzing.application import REFUSED, Application, first_state
from keyrotation_pipeline_tests.fuzzing.disturbances import OTHER, REWRITING, Disturbances
from keyrotation_pipeline_tests.fuzzing.environment import Subscriber
from keyrotation_pipeline_tests.fuzzing.formats import Keys
from keyrotation_pipeline_tests.fuzzing.home import Home, RefusedError
from keyrotation_pipeline_tests.fuzzing.journal import Journal, RowKey
from keyrotation_pipeline_tests.fuzzing.native_values import NotReadableError
from keyrotation_pipeline_tests.fuzzing.plans import Plan
from keyrotation_pipeline_tests.fuzzing.tables import State, Table
from keyrotation_pipeline_tests.servers import Server

LATE, LATE_ROW = 3, 5_000_000  # how many rows are written late in each place, and one that is inserted


@dataclass
class Judgement:
    """Notes in the journal what does not hold.

    Args:
        marks: of the rows that are there.
    """

    plan: Plan
    server: Server
    url: str
    journal: Journal
    home: Home
    subscriber: Subscriber | None
    marks: dict[RowKey, str] = field(default_factory=dict)

    def of_subscriber(self, keys: Keys) -> None:
        """What another server shows just after a walk reads with the new key alone."""
        if self.subscriber is None:
            return
        for table in self.plan.tables:
            for row in self.subscriber.rows(table):
                try:
                    table.state(row, keys)
                except NotReadableError as error:
                    self.journal.found(f"the subscriber shows another value: {error}")
                self.journal.count("rows of subscribers compared")

    def _judge_replica(self, table: Table, rows: list[dict[str, Any]]) -> None:
        """The subscriber has the same rows at the end."""
        if self.subscriber is None:
            return
        self.subscriber.caught_up()
        there = {row["id"]: row for row in self.subscriber.rows(table)}
        if there != {row["id"]: row for row in rows}:
            self.journal.found(f"{table.name}: the subscriber has other rows")

    def of_everything(self, keys: Keys) -> None:
        """Compares everything with the journal, with the keys alone that the application has now."""
        if len(keys.names) != 1:
            self.journal.found(f"{len(keys.names)} keys are delivered after the walk")
        values, stored = 0, set()
        with psycopg.connect(self.url, row_factory=dict_row, autocommit=True) as connection:
            for table in self.plan.tables:
                rows = connection.execute(f"SELECT * FROM {table.name}".encode()).fetchall()
                self._judge_replica(table, rows)
                for row in rows:
                    self.marks[table.name, row["id"]] = row["mark"]
                    values += self._judge_row(table, row, keys)
                    stored |= {each for column in table.columns for each in column.read(row).values()}
            others = connection.execute(f"SELECT count(*), min(what), max(what) FROM {OTHER}".encode()).fetchone()
        if others != {"count": 50, "min": "visit 1", "max": "visit 9"}:
            self.journal.found(f"the other table has changed: {others}")
        self.journal.judge(self.marks)
        self.journal.count("values compared", values)
        self._judge_commands(values)
        if self.plan.verified:
            self._judge_while_rewritten(values)
        self._judge_copies(stored)

    def _judge_row(self, table: Table, row: dict[str, Any], keys: Keys) -> int:
        known = self.journal.writes.get(row["mark"])
        if known is None:
            self.journal.found(f"{table.name} {row['id']}: a mark that nobody wrote, {row['mark']}")
            return 0
        try:
            state = table.state(row, keys)
        except (NotReadableError, AssertionError, ValueError) as error:
            self.journal.found(f"{table.name} {row['id']}: does not read with the new key alone: {error}")
            return 0
        if (state.values, state.others) != (known.values, known.others):
            self.journal.found(f"{table.name} {row['id']}: another content than {known.mark} wrote")
        if table.index is not None:
            computed = dict(table.index.computed(table.name, keys, state.values))
            if any(row[column] != index for column, index in computed.items()):
                self.journal.found(f"{table.name} {row['id']}: another search index than that of its text")
        return sum(value is not None for value in state.values.values())

    def _judge_commands(self, values: int) -> None:
        verified = self.home.shown("verify")
        if (verified["failures"], sum(each["values"] for each in verified["tables"])) != (0, values):
            self.journal.found(f"verify counts otherwise than {values}: {verified}")
        status = self.home.shown("status", "--count")
        counted: Counter[str] = Counter()
        for table in status["tables"]:
            counted.update(table["values_by_version"])
            if table["unencrypted"] or table["unreadable"]:
                self.journal.found(f"status: {table}")
        if (+counted) != Counter({status["primary"]: values} if values else {}):
            self.journal.found(f"status counts otherwise than {values} under {status['primary']}: {counted}")

    def _judge_while_rewritten(self, values: int) -> None:
        """`verify` reads everything while tables are rewritten, or says that it could not."""
        stop = threading.Event()
        names = tuple(REWRITING & set(self.plan.disturbances))
        around = Disturbances(self.server, self.url, self.plan.tables, names, Random(self.plan.seed + 9), slower=1.0)
        thread = threading.Thread(target=around.work, args=(stop,))
        thread.start()
        try:
            for _ in range(self.plan.verified):
                try:
                    verified = self.home.shown("verify")
                except RefusedError:
                    continue
                self.journal.count("verified while rewritten")
                if (found := sum(each["values"] for each in verified["tables"])) != values:
                    self.journal.found(f"verify read {found} values of {values} while tables were rewritten")
        finally:
            stop.set()
            thread.join()

    def _judge_copies(self, stored: set[Any]) -> None:
        """No value, and no text of one, is anywhere else in the database."""
        dump = self._dump()
        if self.journal.seed in dump:
            at = dump.index(self.journal.seed)
            self.journal.found(f"a text is in another place: {dump[at - 200 : at + 60]!r}")
        found = set(re.findall(r"[A-Za-z0-9+/=_.:|{}-]{40,}", dump))
        if copies := found & {each for each in stored if isinstance(each, str)}:
            self.journal.found(f"{len(copies)} values are in another place")

    def _dump(self) -> str:
        excluded = [f"--exclude-table-data={table.name}*" for table in self.plan.tables]
        program = self.server.binaries / "pg_dump"
        done = subprocess.run([program, *excluded, self.url], capture_output=True, text=True, check=True)
        return done.stdout

    def of_late_writes(self, application: Application, before: Keys, chance: Random) -> None:
        """Every value under a key from before is refused, in every place."""
        with application.connected(before) as connection:
            for table in self.plan.tables:
                rows = [row for name, row in self.marks if name == table.name]
                for slot in table.slots:
                    for row in chance.sample(rows, min(LATE, len(rows))):
                        assignments, parameters = table.assignments(before, row, {slot: "late"}, {})
                        statement = f"UPDATE {table.name} SET {assignments} WHERE id = %s".encode()
                        self._refused(
                            partial(connection.execute, statement, [*parameters, row]), f"{table.name} {slot}"
                        )
                state = first_state(table, chance, "late", LATE_ROW)
                late = State({name: value or "late" for name, value in state.values.items()}, state.others)
                self._refused(partial(table.insert, connection, LATE_ROW, "late", before, late), table.name)

    def _refused(self, write: Callable[[], object], what: str) -> None:
        try:
            write()
        except REFUSED:
            self.journal.count("late writes refused")
        else:
            self.journal.found(f"{what}: a value under a retired key was written")
