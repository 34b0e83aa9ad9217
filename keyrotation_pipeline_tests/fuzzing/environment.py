"""What else reaches the database: a subscriber on another server, and a database with foreign tables."""

import time
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from keyrotation_pipeline_tests.fuzzing.tables import Table
from keyrotation_pipeline_tests.servers import Server

CATCH_UP_SECONDS = 90.0


@dataclass(frozen=True)
class Subscriber:
    """The same tables on another server, by logical replication."""

    publisher: Server
    server: Server
    database: str
    tables: tuple[Table, ...]

    @property
    def url(self) -> str:
        return self.server.url(self.database)

    def create(self) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {self.database}".encode())
            admin.execute(f"CREATE DATABASE {self.database}".encode())
        published = ", ".join(table.name for table in self.tables)
        with psycopg.connect(self.publisher.url(self.database), autocommit=True) as connection:
            connection.execute(f"CREATE PUBLICATION changes FOR TABLE {published}".encode())
        with psycopg.connect(self.url, autocommit=True) as connection:
            for table in self.tables:
                for statement in table.created():
                    # Its type changes there.
                    connection.execute(statement.replace("number int", "number numeric").encode())
            source = f"host={self.publisher.directory} user=postgres dbname={self.database}"
            connection.execute(
                f"CREATE SUBSCRIPTION {self.database} CONNECTION '{source}' PUBLICATION changes".encode()
            )
        self.caught_up()

    def caught_up(self) -> None:
        """Waits until every change so far is there, the first copies of the tables included."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while True:
            try:
                if self._is_ready():
                    return
            except psycopg.OperationalError:
                pass  # one of them is being restarted
            assert time.monotonic() < deadline, "the subscriber does not catch up"
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel").fetchone()
            if row != (True,):
                return False
        with psycopg.connect(self.publisher.url(self.database), autocommit=True) as connection:
            connection.execute("SELECT pg_logical_emit_message(false, 'fuzz', '')")
            end = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        assert end is not None
        for _ in range(50):
            with psycopg.connect(self.publisher.url(self.database), autocommit=True) as connection:
                slot = "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE slot_name = %s"
                if connection.execute(slot.encode(), (end[0], self.database)).fetchone() == (True,):
                    return True
            time.sleep(0.1)
        return False

    def rows(self, table: Table) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, row_factory=dict_row, autocommit=True) as connection:
            return connection.execute(f"SELECT * FROM {table.name} ORDER BY id".encode()).fetchall()

    def drop(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP SUBSCRIPTION {self.database}".encode())
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {self.database} WITH (FORCE)".encode())


@dataclass(frozen=True)
class Far:
    """Another database of the same server, whose foreign tables are the application's, and the other way round."""

    server: Server
    database: str
    tables: tuple[Table, ...]
    roles: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.database}_far"

    def create(self) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {self.name}".encode())
            admin.execute(f"CREATE DATABASE {self.name}".encode())
        with psycopg.connect(self.server.url(self.name), autocommit=True) as connection:
            connection.execute("CREATE TABLE diary (id int, what text)")
            connection.execute("INSERT INTO diary SELECT i, 'day ' || i FROM generate_series(1, 50) i")
            self._reach(connection, self.database)
            names = [name for table in self.tables for name in (table.name, *table.children)]
            connection.execute(
                f"IMPORT FOREIGN SCHEMA public LIMIT TO ({', '.join(names)}) FROM SERVER far INTO public".encode()
            )
            for name in names:
                connection.execute(
                    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {', '.join(self.roles)}".encode()
                )
        with psycopg.connect(self.server.url(self.database), autocommit=True) as connection:
            self._reach(connection, self.name)
            connection.execute("CREATE FOREIGN TABLE diary (id int, what text) SERVER far")

    def _reach(self, connection: psycopg.Connection[Any], database: str) -> None:
        connection.execute("CREATE EXTENSION postgres_fdw")
        options = f"host '{self.server.directory}', dbname '{database}'"
        connection.execute(f"CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({options})".encode())
        for role in (*self.roles, "postgres"):
            mapping = f"CREATE USER MAPPING FOR {role} SERVER far OPTIONS (user '{role}', password_required 'false')"
            connection.execute(mapping.encode())

    def drop(self) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {self.name} WITH (FORCE)".encode())
