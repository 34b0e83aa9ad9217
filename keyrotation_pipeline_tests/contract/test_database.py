"""The fake database and PostgreSQL pass the same suite."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.retirement import fence, locks
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline_tests.contract.database_suite import TABLES, DatabaseSuite, Row, Subject
from keyrotation_pipeline_tests.fakes import (
    FakeDatabase,
    FakeEnvironment,
    FakeEvidence,
    FakeFencing,
    FakeInventory,
    FakeLedger,
    FakeRewriting,
    ProcessKilled,
    RefusedByFenceError,
)
from keyrotation_pipeline_tests.integration.encrypted_rows import PostgresPorts, opened, ring_of, sealed


class FakeSubject:
    """The fake, whose cells are what the suite reads."""

    def __init__(self) -> None:
        self.database = FakeDatabase({str(table.name): [] for table in TABLES})
        self.inventory, self.rewriting = FakeInventory(self.database), FakeRewriting(self.database)
        self.fencing, self.evidence = FakeFencing(self.database), FakeEvidence(self.database)
        self.environment = FakeEnvironment(self.database)
        self.ring = ring_of(1, 2, 3)

    def value(self, version: int, text: str) -> str:
        return f"v{version}:{text}"

    def insert(self, table: EncryptedTable, *rows: Row) -> None:
        for row in rows:
            self.database.insert(str(table.name), row)

    def update(self, table: EncryptedTable, number: int, column: str, cell: str | None) -> None:
        self.database.update(str(table.name), number, {column: cell})

    def read(self, table: EncryptedTable) -> list[Row]:
        return self.database.rows[str(table.name)]

    def damaged(self, table: EncryptedTable, number: int, column: str) -> None:
        self.database.unreadable.add((str(table.name), number, column))

    def slip_past_the_fence(self, table: EncryptedTable, number: int, column: str, cell: str) -> None:
        row = self.database.rows[str(table.name)][number]
        self.database.write(str(table.name), number, {**row, column: cell}, self.database.next_xid())

    @contextmanager
    def locked(self, table: EncryptedTable, number: int) -> Iterator[None]:
        self.database.locked.add((str(table.name), number))
        yield
        self.database.locked.clear()

    @contextmanager
    def old_reader(self) -> Iterator[Callable[[EncryptedTable], list[Row]]]:
        self.database.begin("report")
        sees = self.database.sessions["report"].sees
        yield lambda table: [dict(row) for row in sees.rows[str(table.name)]]
        self.database.end("report")

    @contextmanager
    def writer(self, table: EncryptedTable, number: int, column: str, cell: str) -> Iterator[None]:
        self.database.begin("app")
        self.database.update(str(table.name), number, {column: cell}, "app")
        yield
        self.database.end("app")

    @contextmanager
    def prepared(self, table: EncryptedTable, number: int, column: str, cell: str) -> Iterator[None]:
        self.database.begin("nightly")
        self.database.update(str(table.name), number, {column: cell}, "nightly")
        self.database.prepare("nightly")
        yield
        self.database.end("nightly", commit=False)

    def half_fenced(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> None:
        self.database.journal.die_at = len(self.database.journal.entries) + 1
        with pytest.raises(ProcessKilled):
            self.fencing.fence(table, versions)
        self.database.journal.die_at = None

    def transaction(self) -> AbstractContextManager[object]:
        return FakeLedger().transaction()


class PostgresSubject(PostgresPorts):
    """Tables of a real server, whose column `id` numbers the rows."""

    def __init__(self, url: str, connection: Connection) -> None:
        super().__init__(url, connection)
        self.url = url
        self.ring = ring_of(1, 2, 3)
        self._foreign = ring_of(1, 2, 3)
        for table in TABLES:
            columns = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in table.columns)
            connection.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, {})").format(self._name(table), columns))

    def value(self, version: int, text: str) -> str:
        return sealed(self.ring, version, text)

    def insert(self, table: EncryptedTable, *rows: Row) -> None:
        query = sql.SQL("INSERT INTO {} VALUES ({})").format(
            self._name(table), sql.SQL(", ").join([sql.Placeholder()] * (len(table.columns) + 1))
        )
        with self.connection.cursor() as cursor, _refusals():
            cursor.executemany(query, [(n, *(row[column] for column in table.columns)) for n, row in enumerate(rows)])

    def update(self, table: EncryptedTable, number: int, column: str, cell: str | None) -> None:
        with _refusals():
            self.connection.execute(self._update(table, column), (cell, number))

    def _update(self, table: EncryptedTable, column: str) -> sql.Composed:
        return sql.SQL("UPDATE {} SET {} = %s WHERE id = %s").format(self._name(table), sql.Identifier(column))

    def read(self, table: EncryptedTable) -> list[Row]:
        return self._read(self.connection, table)

    def _read(self, connection: psycopg.Connection[Any], table: EncryptedTable) -> list[Row]:
        columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
        query = sql.SQL("SELECT {} FROM {} ORDER BY id").format(columns, self._name(table))
        return [
            {column: self._cell(stored) for column, stored in zip(table.columns, row, strict=True)}
            for row in connection.execute(query)
        ]

    def _cell(self, stored: object) -> str | None:
        if stored and not VALUE.match(str(stored)):
            return str(stored)
        found = opened(self.ring, None if stored is None else str(stored))
        return found and ":".join(found) if found != ("", "") else ""

    def damaged(self, table: EncryptedTable, number: int, column: str) -> None:
        query = sql.SQL("SELECT {} FROM {} WHERE id = %s").format(sql.Identifier(column), self._name(table))
        (stored,) = self.connection.execute(query, (number,)).fetchall()[0]
        self.update(table, number, column, sealed(self._foreign, int(str(stored)[1:2]), "x"))

    def slip_past_the_fence(self, table: EncryptedTable, number: int, column: str, cell: str) -> None:
        constraint = sql.SQL("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = {} AND conrelid = {}")
        where = (sql.Literal(fence.NAME), sql.SQL("{}::regclass").format(sql.Literal(f"public.{table.name}")))
        (definition,) = self.connection.execute(constraint.format(*where)).fetchall()[0]
        name = (self._name(table), sql.Identifier(fence.NAME))
        self.connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(*name))
        self.update(table, number, column, cell)
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID")
        self.connection.execute(add.format(*name, sql.SQL(str(definition))))
        forge = sql.SQL("UPDATE pg_constraint SET convalidated = true WHERE conname = {} AND conrelid = {}")
        self.connection.execute(forge.format(*where))

    @contextmanager
    def locked(self, table: EncryptedTable, number: int) -> Iterator[None]:
        with psycopg.connect(self.url) as other:
            query = sql.SQL("SELECT FROM {} WHERE id = %s FOR UPDATE").format(self._name(table))
            other.execute(query, (number,))
            yield

    @contextmanager
    def old_reader(self) -> Iterator[Callable[[EncryptedTable], list[Row]]]:
        with psycopg.connect(self.url) as other:
            other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            other.execute("SELECT 1")
            yield lambda table: self._read(other, table)

    @contextmanager
    def writer(self, table: EncryptedTable, number: int, column: str, cell: str) -> Iterator[None]:
        with psycopg.connect(self.url) as other, other.transaction():
            other.execute(self._update(table, column), (cell, number))
            yield

    @contextmanager
    def prepared(self, table: EncryptedTable, number: int, column: str, cell: str) -> Iterator[None]:
        with psycopg.connect(self.url, autocommit=True) as other:
            other.execute("BEGIN")
            other.execute(self._update(table, column), (cell, number))
            other.execute("PREPARE TRANSACTION 'nightly'")
            try:
                yield
            finally:
                other.execute("ROLLBACK PREPARED 'nightly'")

    def half_fenced(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> None:
        with mock.patch.object(fence, "_validate", side_effect=ProcessKilled), pytest.raises(ProcessKilled):
            self.fencing.fence(table, versions)

    def transaction(self) -> AbstractContextManager[object]:
        return self.connection.transaction()

    @staticmethod
    def _name(table: EncryptedTable) -> sql.Identifier:
        return sql.Identifier(table.name.schema, table.name.table)


VALUE = re.compile(r"v[1-9][0-9]*:[A-Za-z0-9+/]{16}:[A-Za-z0-9+/=]+$")


@contextmanager
def _refusals() -> Iterator[None]:
    """The fence's error, as the application gets it: its message is printed, and its details may be."""
    try:
        yield
    except psycopg.errors.InvalidTextRepresentation as error:
        raise RefusedByFenceError(f"{error} {error.diag.message_detail}") from None


class TestFakeDatabase(DatabaseSuite):
    @pytest.fixture
    def subject(self) -> Subject:
        return FakeSubject()


class TestPostgresDatabase(DatabaseSuite):
    @pytest.fixture
    def subject(self, migrated: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Subject:
        monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)
        monkeypatch.setattr(locks, "QUEUED_PAUSES_SECONDS", (0.0,))
        return PostgresSubject(database_url, migrated)
