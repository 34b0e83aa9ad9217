"""Flags in a real table: two sensors look at once, rows commit out of order, and each flag is taken once."""

import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess

import psycopg
import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.audit.chain import verify_audit
from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.incidents.opening import poll_flags
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline_tests.fakes.chain import good_at_start
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
