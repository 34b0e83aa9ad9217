"""Flags in a real table: two sensors look at once, rows commit out of order, and each flag is taken once."""

import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess

import psycopg
import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.incidents.opening import poll_flags
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation
from keyrotation_pipeline_tests.waiting import eventually

NOW = datetime.now(UTC)
TAKEN = (EventKind.INCIDENT_OPENED, EventKind.FLAG_REPEATED, EventKind.FLAG_SET_ASIDE)


@contextmanager
def sensor(url: str) -> Iterator[Pipeline]:
    """A pipeline of fakes on a ledger in the database."""
    world = before_any_rotation()
    world.clock.at = world.signatures.signed_at = datetime.now(UTC)
    with closing(connect(url)) as connection:
        ledger = PostgresLedger(connection, SystemClock(), "sensor", "clinic@localhost, 1", good_at_start)
        ledger.pin_roster(world.signatures.configured)
        registered = world.ledger.keys()
        for record in registered:
            ledger.add_key(replace(record, fingerprint="1f" * 32), None)
        yield replace(world.pipeline, ledger=ledger, clock=SystemClock())


def insert(connection: psycopg.Connection, numbers: range) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO keyrotation.incident_flag (source, type, description, discovered_at)"
            " VALUES ('siem', %s, %s, %s)",
            [("fire" if each % 10 == 0 else "insider", f"log {each - each % 2}", NOW) for each in numbers],
        )


@pytest.mark.usefixtures("already_migrated")
def test_two_sensors_take_each_flag_once_also_one_that_commits_late(database_url: str) -> None:
    with psycopg.connect(database_url) as late, psycopg.connect(database_url, autocommit=True) as tool:
        insert(late, range(2))  # lower ids than all others, and not committed yet
        insert(tool, range(2, 40))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_look, [database_url] * 2))
        late.commit()
    _look(database_url)
    with sensor(database_url) as pipeline:
        taken = Counter(entry.facts["flag"] for entry in entries(pipeline.ledger, *TAKEN))
        assert taken == dict.fromkeys([f"row {number}" for number in range(1, 41)], 1)
        known = incidents(pipeline.ledger)
        assert (len(known.by_id), len(known.set_aside)) == (20, 4)
        verify_audit(pipeline.ledger)


@contextmanager
def tool(url: str) -> Iterator[psycopg.Connection]:
    """A tool that may do nothing but insert whole rows."""
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE ROLE flag_tool LOGIN")
        owner.execute("GRANT USAGE ON SCHEMA keyrotation TO flag_tool")
        owner.execute("GRANT INSERT ON keyrotation.incident_flag TO flag_tool")
        try:
            with psycopg.connect(url, user="flag_tool", autocommit=True) as opened:
                yield opened
        finally:
            owner.execute("DROP OWNED BY flag_tool")
            owner.execute("DROP ROLE flag_tool")


HONEST = """
INSERT INTO keyrotation.incident_flag (source, type, description, discovered_at)
VALUES ('siem', 'server_compromise', 'a shell on web-1', now())
"""


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param("SELECT -n, 'x' FROM generate_series(1, 201) AS n", id="201 negative ids"),
        pytest.param("SELECT n, 'x' FROM generate_series(1, 300) AS n", id="ids reserved in advance"),
        pytest.param("SELECT 9223372036854775807, 'x'", id="the last id"),
    ],
)
@pytest.mark.usefixtures("already_migrated")
def test_no_ids_of_other_flags_keep_an_honest_one_from_being_raised_and_taken(database_url: str, numbers: str) -> None:
    with tool(database_url) as hostile:
        for _ in range(2):  # the same ids again are no conflict either
            hostile.execute(
                f"INSERT INTO keyrotation.incident_flag (id, type) OVERRIDING SYSTEM VALUE {numbers}".encode()
            )
        with hostile.cursor() as cursor, cursor.copy("COPY keyrotation.incident_flag (id, type) FROM STDIN") as copy:
            copy.write_row((-7, "x"))
        hostile.execute(HONEST)
    _look(database_url)
    with sensor(database_url) as pipeline, psycopg.connect(database_url) as owner:
        assert [str(each.type) for each in incidents(pipeline.ledger).by_id.values()] == ["server_compromise"]
        assert owner.execute("SELECT min(id) > 0 FROM keyrotation.incident_flag").fetchone() == (True,)


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII", "WIN1252", "EUC_JP"])
def test_a_flag_that_cannot_be_read_hides_no_other(server: Server, encoding: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE odd_flags ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0".encode()
        )
        try:
            url = server.url("odd_flags")
            migrate(url)
            with psycopg.connect(url, autocommit=True, client_encoding="SQL_ASCII") as hostile:
                hostile.execute(b"INSERT INTO keyrotation.incident_flag (key_versions) VALUES ('{{{v1},{v2}}}')")
                hostile.execute(b"INSERT INTO keyrotation.incident_flag (discovered_at) VALUES ('-infinity')")
                hostile.execute(
                    b"INSERT INTO keyrotation.incident_flag (source, type, description, discovered_at, key_versions)"
                    b" VALUES ('siem', 'insider', 'x', now(), '{NULL}')"
                )
                hostile.execute(b"INSERT INTO keyrotation.incident_flag (discovered_at) VALUES ('0001-01-01 +15:59')")
                for text in (b"\xff\xfe", b"\x81", b"\x8f\xa1\xa1", b"[" * 6000, b"a\xc2\x9bb"):
                    with suppress(psycopg.DataError):  # the encoding has no such text
                        hostile.execute(
                            b"INSERT INTO keyrotation.incident_flag (type, description) VALUES ('insider', '%b')" % text
                        )
                    with suppress(psycopg.DataError):
                        hostile.execute(
                            b"INSERT INTO keyrotation.incident_flag (source, type, description, scope, impact, "
                            b"key_versions) VALUES (%b, ARRAY[%b, NULL])"
                            % (b", ".join([b"'%b'" % text] * 5), b"'%b'" % text)
                        )
                hostile.execute(HONEST)
            _look(url)
            with sensor(url) as pipeline:
                assert [str(each.type) for each in incidents(pipeline.ledger).by_id.values()] == ["server_compromise"]
        finally:
            admin.execute("DROP DATABASE odd_flags WITH (FORCE)")


def _look(url: str) -> None:
    with sensor(url) as pipeline:
        poll_flags(pipeline, (), "sensor")


@pytest.mark.extended
@pytest.mark.usefixtures("already_migrated")
def test_a_thousand_flags_are_taken_once_each_whatever_kills_the_sensor(database_url: str) -> None:
    """Every second repeats the one before, every tenth is malformed; two sensors are killed and started again."""
    with psycopg.connect(database_url, autocommit=True) as tool:
        insert(tool, range(1_000))
    _look_at_nothing(database_url)  # the roster and the key, which both would pin
    forking, kills, left = multiprocessing.get_context("fork"), 0, 1_000
    while left > 0:
        sensors = [forking.Process(target=_look, args=(database_url,)) for _ in range(2)]
        for each in sensors:
            each.start()
        goal = max(left - 100, 0)
        eventually(lambda goal=goal, sensors=sensors: _left(database_url) <= goal or not _any_alive(sensors))  # type: ignore[misc]
        for each in sensors:
            each.kill()
            each.join()
            kills += each.exitcode == -signal.SIGKILL
        left = _left(database_url)
    with sensor(database_url) as pipeline:
        taken = Counter(entry.facts["flag"] for entry in entries(pipeline.ledger, *TAKEN))
        assert taken == dict.fromkeys([f"row {number}" for number in range(1, 1_001)], 1)
        known = incidents(pipeline.ledger)
        assert (len(known.by_id), len(known.set_aside)) == (500, 100)
        verify_audit(pipeline.ledger)
    assert kills >= 5


def _look_at_nothing(url: str) -> None:
    with sensor(url):
        pass


def _any_alive(sensors: Sequence[BaseProcess]) -> bool:
    return any(each.is_alive() for each in sensors)


def _left(url: str) -> int:
    kinds = [str(kind) for kind in TAKEN]
    with psycopg.connect(url) as connection:
        (taken,) = connection.execute(
            "SELECT count(*) FROM keyrotation.audit_events WHERE event = ANY (%s)", (kinds,)
        ).fetchall()[0]
    return 1_000 - int(taken)
