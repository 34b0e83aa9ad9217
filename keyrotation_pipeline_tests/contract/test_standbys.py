"""The fake database and PostgreSQL with a real standby pass the same suite."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.retirement.postgres_retirement import PostgresEvidence
from keyrotation_pipeline.adapters.postgres.retirement.replicas import Replicas
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline_tests.contract.database_suite import CLIENTS, Row
from keyrotation_pipeline_tests.contract.standby_suite import StandbySubject, StandbySuite
from keyrotation_pipeline_tests.contract.test_database import FakeSubject, PostgresSubject
from keyrotation_pipeline_tests.integration.encrypted_rows import PostgresPorts
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, standby_of, start_server
from keyrotation_pipeline_tests.waiting import eventually

_names = (f"standby_{os.getpid()}_{number}" for number in itertools.count())


class FakeStandbySubject(FakeSubject):
    def __init__(self) -> None:
        super().__init__()
        self.insert(CLIENTS, {"first_name": "v1:Ada", "email": None})
        self.database.replay("reports")

    def lag(self) -> None:
        """It replays only when it is told to."""

    def drop_out(self) -> None:
        self.database.standbys["reports"] = replace(self.database.standbys["reports"], connected=False)

    def come_back(self) -> None:
        self.database.replay("reports")
        self.database.standbys["reports"] = replace(self.database.standbys["reports"], connected=True)

    def declare_gone(self) -> None:
        self.database.standbys["reports"] = replace(self.database.standbys["reports"], gone=True)

    def promote(self) -> None:
        self.database.promote("reports")

    def shown(self) -> list[Row]:
        return [dict(row) for row in self.database.standbys["reports"].shows.rows["clients"]]


class PostgresStandbySubject(PostgresSubject):
    """A database of a primary, and the standby that streams from it."""

    def __init__(self, url: str, connection: Connection, standby: Server) -> None:
        super().__init__(url, connection)
        self.standby = standby
        self.insert(CLIENTS, {"first_name": self.value(1, "Ada"), "email": None})
        assert eventually(lambda: self.streams() and self._has_replayed())

    def lag(self) -> None:
        self._tell("SELECT pg_wal_replay_pause()")

    def drop_out(self) -> None:
        self._tell("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        assert eventually(lambda: not self.streams())

    def come_back(self) -> None:
        self._tell("SELECT pg_wal_replay_resume()")
        # The primary learns of it by the standby's next message.
        assert eventually(lambda: self._has_replayed() and self._is_known_to_have_replayed())

    def declare_gone(self) -> None:
        self.evidence = PostgresEvidence(self.connection, Replicas(gone=("reports@local",)))

    def promote(self) -> None:
        self._tell("SELECT pg_promote()")
        self.url = self.standby.url(str(self.connection.info.dbname))
        self.connection.close()
        PostgresPorts.__init__(self, self.url, connect(self.url))

    def shown(self) -> list[Row]:
        with psycopg.connect(self.standby.url(str(self.connection.info.dbname))) as reader:
            return self._read(reader, CLIENTS)

    def streams(self) -> bool:
        query = "SELECT FROM pg_stat_replication WHERE replay_lsn IS NOT NULL AND state = 'streaming'"
        return bool(self.connection.execute(query).fetchall())

    def _has_replayed(self) -> bool:
        [(position,)] = self.connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchall()
        with psycopg.connect(self.standby.url()) as standby:
            return standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,)).fetchone() == (True,)

    def _is_known_to_have_replayed(self) -> bool:
        query = "SELECT replay_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication"
        return self.connection.execute(query).fetchone() == (True,)

    def _tell(self, *statements: str) -> None:
        with psycopg.connect(self.standby.url(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


class TestFakeStandby(StandbySuite):
    @pytest.fixture
    def subject(self) -> StandbySubject:
        return FakeStandbySubject()


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    """A server of this module's own, since whatever replicates from a server concerns all of its databases."""
    running = start_server(DEBIAN if DEBIAN.exists() else EMBEDDED_18)
    yield running
    discard(running)


class TestPostgresStandby(StandbySuite):
    @pytest.fixture
    def subject(self, primary: Server) -> Iterator[StandbySubject]:
        name = next(_names)
        with psycopg.connect(primary.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}".encode())
        url = primary.url(name)
        migrate(url)
        with standby_of(primary, name="reports") as standby, connect(url) as connection:
            subject = PostgresStandbySubject(url, connection, standby)
            yield subject
            subject.connection.close()
