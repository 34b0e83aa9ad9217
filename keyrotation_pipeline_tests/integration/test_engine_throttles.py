"""Throttles on the real thing: rows a second, a standby that lags, hours, and a snapshot that makes a table grow."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.engine import limits as engine_limits
from keyrotation_pipeline.adapters.postgres.engine import supervisor
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger, note_wait
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.model.progress import AllowedHours, Progress, Rewritten, Wait
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.integration.encrypted_rows import REQUEST, Engine, ring_of, sealed, table_of
from keyrotation_pipeline_tests.servers import EMBEDDED_18, Server, discard, start_server
from keyrotation_pipeline_tests.waiting import eventually

CASES = table_of("cases", "a", "b")


def fill(connection: Connection, engine: Engine, rows: int) -> None:
    """Rows of v1, each with the same two values."""
    values = [sealed(engine.ring, 1, text) for text in ("a", "b" * 60)]
    connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text)")
    connection.execute("INSERT INTO public.cases SELECT n, %s, %s FROM generate_series(1, %s) AS n", (*values, rows))
    connection.execute("VACUUM ANALYZE public.cases")


def waits(connection: Connection, request: str) -> tuple[Wait, ...]:
    return PostgresLedger(connection, SystemClock(), "test", "clinic@localhost", good_at_start).waits(request)


@contextmanager
def in_the_background(engine: Engine) -> Iterator[list[Rewritten]]:
    done: list[Rewritten] = []
    thread = threading.Thread(target=lambda: done.append(engine.shard(CASES)))
    thread.start()
    yield done
    thread.join()


@pytest.mark.parametrize("cap", [500, 3000])
def test_a_cap_on_rows_a_second_is_held_and_used_within_five_percent(
    migrated: Connection, database_url: str, cap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(database_url, ring_of(1, 2), Limits(max_rows_per_second=cap, duty_cycle=1.0, slow_commit_seconds=0))
    fill(migrated, engine, cap * 3)
    waited: list[float] = []
    sleep = time.sleep

    def counted(seconds: float) -> None:
        waited.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", counted)
    started = time.monotonic()
    assert engine.shard(CASES).rows == cap * 3
    assert time.monotonic() - started > 3 * 0.95
    # A slow machine takes longer, but the cap is no reason to wait for more than its rows are due.
    assert sum(waited) < 3 * 1.05


def test_the_end_is_foreseen_within_a_fifth_from_a_tenth_of_the_way(
    migrated: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were rewritten stand for time: a cap makes one of the other."""
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.05)
    # What is done is reported stretch by stretch, so they are short next to the table, as those of large tables are.
    engine = Engine(database_url, ring_of(1, 2), Limits(max_rows_per_second=10_000, max_pages=8))
    fill(migrated, engine, 20_000)
    engine.progress = seen = _Counted(database_url)
    engine.shard(CASES)
    foreseen = [
        (rows, rows / each.done * (each.total - each.done))
        for rows, each in zip(seen.rows, seen, strict=True)
        if each.total / 10 <= each.done < each.total
    ]
    assert len(foreseen) >= 5
    for rows, left in foreseen:
        # And a stretch, some 500 rows, is reported when all of it is written.
        assert abs(left - (20_000 - rows)) <= 0.2 * (20_000 - rows) + 500


class _Counted(list[Progress]):
    """Counts the rewritten rows at each report."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.rows: list[int] = []
        self._url = url

    def append(self, progress: Progress) -> None:
        super().append(progress)
        self.rows.append(stored_rows(self._url))


@pytest.fixture
def primary_and_standby() -> Iterator[tuple[Server, Server]]:
    """A server and a streaming standby of it."""
    primary = start_server(EMBEDDED_18, "max_wal_senders=4")
    standby = Server(primary.binaries, Path(f"{primary.directory}-standby"), primary.user)
    standby.directory.mkdir(mode=0o700)
    if primary.user:
        shutil.chown(standby.directory, primary.user, primary.user)
    try:
        primary.run(
            "pg_basebackup", "-D", str(standby.directory / "data"), "-h", str(primary.directory), "-U", "postgres",
            "-R", "-c", "fast", "-X", "stream",
        )  # fmt: skip
        standby.start("max_wal_senders=4")
        yield primary, standby
        discard(standby)
    finally:
        shutil.rmtree(standby.directory, ignore_errors=True)
        discard(primary)


def test_a_standby_that_lags_is_waited_for_by_name(primary_and_standby: tuple[Server, Server]) -> None:
    primary, standby = primary_and_standby
    limits = Limits(max_rows_per_second=1000, max_replica_lag_seconds=1.0)
    engine = Engine(primary.url(), ring_of(1, 2), limits)
    with connect(primary.url()) as connection:
        migrate(primary.url())
        fill(connection, engine, 6000)
        # Commits of the application wait for it: what it replays late on purpose, nobody here feels.
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        connection.execute("SELECT pg_reload_conf()")
    with psycopg.connect(standby.url(), autocommit=True) as replica, in_the_background(engine) as done:
        replica.execute("SELECT pg_wal_replay_pause()")
        assert eventually(lambda: any("pausing: " in each.note for each in engine.progress))
        (note, *_) = [each.note for each in engine.progress if "pausing: " in each.note]
        rows = stored_rows(primary.url())
        time.sleep(1.5)
        assert stored_rows(primary.url()) == rows < 6000
        replica.execute("SELECT pg_wal_replay_resume()")
    assert "s late, more than 1 s" in note
    assert done[0].rows == 6000


@pytest.mark.extended  # it keeps every processor busy
def test_a_busy_machine_is_named_while_rows_wait_for_its_processors(
    migrated: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.2)
    engine = Engine(database_url, ring_of(1, 2))
    fill(migrated, engine, 40_000)

    def is_noted() -> bool:
        return any("waits for a processor" in each.waiting_for for each in waits(migrated, REQUEST))

    hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(6 * (os.cpu_count() or 2))]
    try:
        with in_the_background(engine) as done:
            noted = eventually(is_noted)
            for hog in hogs:
                hog.kill()
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert noted
    assert done[0].rows == 40_000
    assert waits(migrated, REQUEST) == ()


def stored_rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM cases WHERE a LIKE 'v2:%'").fetchall()[0]
        return int(rows)


def test_outside_of_the_allowed_hours_nothing_is_rewritten(migrated: Connection, database_url: str) -> None:
    now = datetime.now(UTC)
    later = AllowedHours((now + timedelta(hours=2)).time(), (now + timedelta(hours=3)).time(), "UTC")
    engine = Engine(database_url, ring_of(1, 2), Limits(hours=later))
    fill(migrated, engine, 100)
    with in_the_background(engine) as done:
        assert eventually(lambda: len(engine.progress) >= 2)
        assert all(f"pausing: outside of the allowed hours {later}" == each.note for each in engine.progress)
        assert stored_rows(database_url) == 0
        (wait,) = waits(migrated, REQUEST)
        assert wait.waiting_for == f"pausing: outside of the allowed hours {later}"
        assert wait.since <= datetime.now(UTC)
        object.__setattr__(engine.limits, "hours", None)  # as if the hour had come
    assert done[0].rows == 100
    assert migrated.execute("SELECT count(*) FROM keyrotation.waits").fetchone() == (0,)


def test_a_wait_ends_with_the_session_that_noted_it(migrated: Connection, database_url: str) -> None:
    with connect(database_url) as other:
        note_wait(other, REQUEST, "clients shard 00", "pausing: for one reason")
        (first,) = waits(migrated, REQUEST)
        note_wait(other, REQUEST, "clients shard 00", "pausing: for another")
        assert waits(migrated, REQUEST) == (Wait("clients shard 00", "pausing: for another", first.since),)
    assert eventually(lambda: waits(migrated, REQUEST) == ())
    note_wait(migrated, "0e" * 16, "clients shard 01", "pausing: for a third")
    assert migrated.execute("SELECT count(*) FROM keyrotation.waits").fetchone() == (1,), "the dead one is swept out"


@pytest.mark.parametrize(
    ("hours", "instant", "allowed"),
    [
        pytest.param("22:00-06:00", "23:30", True, id="before midnight"),
        pytest.param("22:00-06:00", "05:59", True, id="after midnight"),
        pytest.param("22:00-06:00", "06:00", False, id="the end is outside"),
        pytest.param("22:00-06:00", "12:00", False, id="noon"),
        pytest.param("09:00-17:00", "09:00", True, id="the start is inside"),
        pytest.param("09:00-17:00", "08:59", False, id="too early"),
    ],
)
def test_hours_are_those_of_the_time_zone(hours: str, instant: str, allowed: bool) -> None:
    at = clock_time.fromisoformat(instant)
    # Amsterdam is an hour ahead of UTC in winter.
    moment = datetime(2026, 1, 15, at.hour, at.minute, tzinfo=UTC) - timedelta(hours=1)
    assert AllowedHours.parse(hours, "Europe/Amsterdam").include(moment) is allowed


@pytest.mark.parametrize("text", ["", "22-", "22:00", "25:00-06:00", "22:00-06:00-07:00"])
def test_what_is_not_a_span_of_hours_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write"):
        AllowedHours.parse(text, "UTC")


@pytest.mark.slow
def test_a_whole_rewrite_lets_the_table_grow_by_no_more_than_a_fifth(migrated: Connection, database_url: str) -> None:
    engine = Engine(database_url, ring_of(1, 2), Limits(duty_cycle=1.0, statement_seconds=0.1))
    fill(migrated, engine, 200_000)
    size = "SELECT pg_relation_size('public.cases')"
    (before,) = migrated.execute(size).fetchall()[0]
    assert engine.shard(CASES).rows == 200_000
    (after,) = migrated.execute(size).fetchall()[0]
    assert int(str(after)) <= 1.2 * int(str(before))


def test_an_old_snapshot_that_makes_the_table_grow_is_waited_for_by_name(
    migrated: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_limits, "SNAPSHOT_PATIENCE_SECONDS", 0)
    engine = Engine(database_url, ring_of(1, 2), Limits(vacuum_pages=20, max_rows_per_second=10_000))
    fill(migrated, engine, 30_000)
    with psycopg.connect(database_url, application_name="nightly report") as reader:
        reader.execute("SET default_transaction_isolation = 'repeatable read'")
        reader.commit()
        reader.execute("SELECT count(*) FROM cases")
        with in_the_background(engine) as done:
            assert eventually(lambda: any("pausing" in each.note for each in engine.progress))
            (note, *_) = [each.note for each in engine.progress if "pausing" in each.note]
            reader.rollback()
    assert "cases grows" in note
    assert "(nightly report)" in note
    assert done[0].rows == 30_000
