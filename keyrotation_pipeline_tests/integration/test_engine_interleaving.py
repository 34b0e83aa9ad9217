"""What happens exactly between reading a batch and writing it, and what the engine does about it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine import supervisor
from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, Codec, NewValues
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.statements import Statements, statements
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.row_key import RowKey
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, DatabaseUnavailableError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    Engine,
    become,
    insert,
    read_back,
    ring_of,
    running,
    sealed,
    table_of,
    under_v2,
)
from keyrotation_pipeline_tests.servers import discard, start_server

CASES = table_of("cases", "a", "b")
ROWS = 400


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.extended)], ids=["locks first", "at once"])
def engine(request: pytest.FixtureRequest, migrated: Connection, database_url: str, ring: KeyRing) -> Engine:
    fill(migrated, ring)
    return Engine(database_url, ring, Limits(max_pages=4, writes_at_once=request.param))


def fill(connection: Connection, ring: KeyRing) -> None:
    """`ROWS` rows of v1, of one transaction, so that `xmin` tells none from another."""
    connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text, n int DEFAULT 0)")
    with connection.transaction():
        rows = [(n, sealed(ring, 1, f"a{n}"), sealed(ring, 1, f"b{n}")) for n in range(ROWS)]
        insert(connection, "public.cases (id, a, b)", rows)


def recorded_rows(connection: Connection) -> object:
    return connection.execute("SELECT sum(rows) FROM keyrotation.shard_walks").fetchone()


def written_rows(connection: Connection) -> object:
    return connection.execute("SELECT count(*) FROM public.cases WHERE a LIKE 'v2:%'").fetchone()


EXPECTED = {n: under_v2(f"a{n}", f"b{n}") for n in range(ROWS)}


@contextmanager
def between_read_and_write(action: Callable[[int], None]) -> Iterator[None]:
    """Run `action` with the number of the batch each time one has been read and not yet been written."""
    encrypt = Codec.encrypt
    numbers = iter(range(1_000_000))

    def interrupted(codec: Codec, batch: Batch) -> NewValues:
        action(next(numbers))
        return encrypt(codec, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codec, "encrypt", interrupted)
        yield


def application(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET lock_timeout = '2s'")
        for statement in statements:
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(["DELETE FROM cases WHERE id < 3", "VACUUM FULL cases"], id="VACUUM FULL after a delete"),
        pytest.param(
            ["CREATE INDEX upside_down ON cases ((-id))", "CLUSTER cases USING upside_down"],
            id="CLUSTER in another order",
        ),
        pytest.param(
            ["DELETE FROM cases WHERE id < 3", "ALTER TABLE cases ALTER n TYPE bigint"], id="ALTER TABLE that rewrites"
        ),
    ],
)
@pytest.mark.parametrize("moment", [0, 1], ids=["first batch", "second batch"])
def test_a_relation_rewritten_between_read_and_write_gets_no_value_into_another_row(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str, statements: list[str], moment: int
) -> None:
    with between_read_and_write(lambda batch: application(database_url, *statements) if batch == moment else None):
        done = engine.shard(CASES)

    left = read_back(migrated, ring, CASES, "id")
    assert left == {n: row for n, row in EXPECTED.items() if n in left}
    assert len(left) >= ROWS - 3
    # What was read before counts as skipped; the range began again and found it.
    assert done.skipped > 0
    assert done.rows >= len(left)


# Loaded by one transaction, as a restore does it, the rows of both have the same positions and the same `xmin`.
OTHERS = table_of("others", "a", "b")
EXCHANGE = (
    "BEGIN; ALTER TABLE cases RENAME TO aside; ALTER TABLE others RENAME TO cases;"
    " ALTER TABLE aside RENAME TO others; COMMIT"
)


@pytest.mark.parametrize("moment", [0, 2], ids=["first batch", "third batch"])
def test_tables_that_change_their_names_between_read_and_write_keep_their_values(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str, moment: int
) -> None:
    migrated.execute("TRUNCATE public.cases")
    migrated.execute("CREATE TABLE public.others (LIKE public.cases INCLUDING ALL)")
    with migrated.transaction():
        for name, mark in (("cases", ""), ("others", "other ")):
            rows = [(n, sealed(ring, 1, f"{mark}a{n}"), sealed(ring, 1, f"{mark}b{n}")) for n in range(ROWS)]
            insert(migrated, f"public.{name} (id, a, b)", rows)

    with between_read_and_write(lambda batch: application(database_url, EXCHANGE) if batch == moment else None):
        engine.shard(CASES)
    for table in (CASES, OTHERS):
        while engine.sweep(table).rows:
            pass

    assert read_back(migrated, ring, CASES, "id") == {n: under_v2(f"other a{n}", f"other b{n}") for n in range(ROWS)}
    assert read_back(migrated, ring, OTHERS, "id") == EXPECTED


@pytest.mark.parametrize("limits", [Limits(max_pages=4), Limits(duty_cycle=1.0)], ids=["routine", "without rests"])
@pytest.mark.parametrize(
    ("statements", "row"),
    [
        pytest.param(
            "ALTER TABLE cases RENAME a TO aside; ALTER TABLE cases RENAME b TO a; ALTER TABLE cases RENAME aside TO b",
            lambda n: (f"b{n}", f"a{n}"),
            id="two change their names",
        ),
        pytest.param(
            "ALTER TABLE cases RENAME a TO former; ALTER TABLE cases ADD a text",
            lambda n: (None, f"b{n}"),
            id="a new one gets the name of another",
        ),
    ],
)
def test_columns_that_change_their_names_between_read_and_write_keep_their_values(
    migrated: Connection,
    engine: Engine,
    ring: KeyRing,
    database_url: str,
    statements: str,
    row: Callable[[int], tuple[str | None, str]],
    limits: Limits,
) -> None:
    engine.limits = replace(limits, writes_at_once=engine.limits.writes_at_once)
    migration = f"BEGIN; {statements}; COMMIT"
    with between_read_and_write(lambda batch: application(database_url, migration) if batch == 1 else None):
        engine.shard(CASES)
    while engine.sweep(CASES).rows:
        pass

    assert read_back(migrated, ring, CASES, "id") == {n: under_v2(*row(n)) for n in range(ROWS)}


SWAP_COLUMNS = (
    "BEGIN; ALTER TABLE cases RENAME a TO aside; ALTER TABLE cases RENAME b TO a;"
    " ALTER TABLE cases RENAME aside TO b; COMMIT"
)


@pytest.mark.parametrize("exchange", [SWAP_COLUMNS, EXCHANGE], ids=["columns", "tables"])
def test_names_that_are_exchanged_for_the_reading_only_keep_their_values(
    migrated: Connection,
    engine: Engine,
    ring: KeyRing,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    exchange: str,
) -> None:
    migrated.execute("TRUNCATE public.cases")
    migrated.execute("CREATE TABLE public.others (LIKE public.cases INCLUDING ALL)")
    with migrated.transaction():
        for name, mark in (("cases", ""), ("others", "other ")):
            rows = [(n, sealed(ring, 1, f"{mark}a{n}"), sealed(ring, 1, f"{mark}b{n}")) for n in range(ROWS)]
            insert(migrated, f"public.{name} (id, a, b)", rows)

    def exchanged(
        connection: Connection,
        relation: Relation,
        key: RowKey,
        values: ValueFormat,
        target: KeyVersion | None,
        *,
        hot_order: bool,
    ) -> Statements:
        made = statements(connection, relation, key, values, target, hot_order=hot_order)
        application(database_url, exchange)
        return made

    with monkeypatch.context() as patch:
        patch.setattr("keyrotation_pipeline.adapters.postgres.engine.traversal.statements", exchanged)
        with between_read_and_write(lambda batch: None if batch else application(database_url, exchange)):
            engine.shard(CASES)
    while engine.sweep(CASES).rows:
        pass

    assert read_back(migrated, ring, CASES, "id") == EXPECTED


@pytest.mark.parametrize(
    ("write", "row"),
    [
        pytest.param("UPDATE cases SET n = 5 WHERE id = 0", (EXPECTED[0], 5), id="another column"),
        pytest.param(
            "UPDATE cases SET b = NULL WHERE id = 0", ((("v2", "a0"), None), 0), id="an encrypted column to NULL"
        ),
        pytest.param("DELETE FROM cases WHERE id = 0", None, id="delete"),
        pytest.param(
            "DELETE FROM cases WHERE id = 0; VACUUM cases; INSERT INTO cases (id, a, b) VALUES (0, NULL, NULL)",
            ((None, None), 0),
            id="delete, and another row in its place",
        ),
    ],
)
def test_a_write_between_read_and_write_wins(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str, write: str, row: tuple[object, int] | None
) -> None:
    def once(batch: int) -> None:
        if batch == 0:
            application(database_url, *write.split("; "))

    with between_read_and_write(once):
        first = engine.shard(CASES)
    assert first.skipped == 1
    while engine.sweep(CASES).rows:
        pass

    found = read_back(migrated, ring, CASES, "id")
    assert {**found, 0: None} == {**EXPECTED, 0: None}
    number = migrated.execute("SELECT n FROM public.cases WHERE id = 0").fetchone()
    assert (found.get(0) and (found[0], number and number[0])) == row


def test_nothing_is_locked_between_read_and_write(migrated: Connection, engine: Engine, database_url: str) -> None:
    held: list[object] = []

    def look(batch: int) -> None:
        time.sleep(0.02)  # what was sent before has been carried out
        with psycopg.connect(database_url) as other:
            held.extend(
                other.execute(  # autovacuum looks at any table at any moment
                    "SELECT relation::regclass::text, mode FROM pg_locks WHERE relation = 'cases'::regclass"
                    " AND pid IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend')"
                )
            )

    with between_read_and_write(look):
        assert engine.shard(CASES).rows == ROWS
    assert held == []


def test_a_locked_row_is_skipped_at_once_and_taken_by_a_waiting_sweep(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    with psycopg.connect(database_url) as holder:
        holder.execute("UPDATE cases SET n = 1 WHERE id = 7")
        done = engine.shard(CASES)  # a statement that waited would fail by lock_timeout, and be told of
        assert not [each.note for each in engine.progress if "waiting" in each.note]
        assert (done.rows, done.skipped) == (ROWS - 1, 1)
        threading.Timer(0.3, holder.commit).start()
        waiting = engine.sweep(CASES, wait=True)
    assert (waiting.rows, waiting.skipped) == (1, 0)
    assert read_back(migrated, ring, CASES, "id") == EXPECTED
    assert migrated.execute("SELECT n FROM public.cases WHERE id = 7").fetchone() == (1,)


def test_a_waiting_sweep_gives_up_on_a_row_that_stays_locked(engine: Engine, database_url: str) -> None:
    engine.shard(CASES)
    with psycopg.connect(database_url) as holder:
        holder.execute("UPDATE cases SET a = 'v1:x' WHERE id = 7")
        holder.commit()
        holder.execute("SELECT FROM cases WHERE id = 7 FOR UPDATE")
        engine.ring = ring_of(1, 2)
        left = engine.sweep(CASES, wait=True)  # comes back while the lock is still held
    assert left.rows == 0


@contextmanager
def written_without_pause(url: str, table: str, where: str) -> Iterator[None]:
    """A column next to the encrypted ones of a row changes all the time, its lock free for moments only."""
    ended = threading.Event()

    def hammer() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not ended.is_set():
                with connection.transaction():
                    connection.execute(f"UPDATE {table} SET n = n + 1 WHERE {where}".encode())
                    time.sleep(0.003)

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_row_written_without_pause_is_taken_by_a_waiting_sweep(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    with written_without_pause(database_url, "cases", "id = 7"):
        engine.shard(CASES)
        swept = engine.sweep(CASES, wait=True)
    assert swept.skipped == 0
    assert read_back(migrated, ring, CASES, "id") == EXPECTED


def test_a_row_written_without_pause_is_found_by_a_key_of_any_types_and_names(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    name = '"A 100% ""odd"" one"'
    migrated.execute(
        f'CREATE TABLE public.{name} ("at %s" timestamptz, "Kind" char(4), "no" numeric, "Phi%" varchar, n int,'
        ' PRIMARY KEY ("no", "at %s", "Kind"))'.encode()
    )
    values = "timestamptz '2026-01-01 00:00:00.123456+00' + i * interval '1 ms', 'a', i + 0.10, text, 0"
    source = f"generate_series(1, 50) AS i, (SELECT '{sealed(ring, 1, 'text')}' AS text) AS value"
    migrated.execute(f"INSERT INTO public.{name} SELECT {values} FROM {source}".encode())
    table = table_of('A 100% "odd" one', "Phi%")
    with written_without_pause(database_url, name, '"no" = 7.1'):
        engine.shard(table)
        swept = engine.sweep(table, wait=True)
    assert swept.skipped == 0
    assert read_back(migrated, ring, table, "no") == {
        row: under_v2("text") for row in read_back(migrated, ring, table, "no")
    }
    assert migrated.execute(f"SELECT count(*) FROM public.{name} WHERE n > 0".encode()).fetchone() == (1,)


@pytest.mark.parametrize("value", [None, "later"])
def test_a_waiting_sweep_leaves_an_encrypted_value_that_was_written_meanwhile(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str, value: str | None
) -> None:
    new = value and sealed(ring, 1, value)

    def change(batch: int) -> None:
        if batch == 7:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("UPDATE cases SET b = %s, n = 1 WHERE id = 7", (new,))

    with between_read_and_write(change):
        swept = engine.sweep(CASES, wait=True)

    assert (swept.rows, swept.skipped) == (ROWS, 0)
    assert read_back(migrated, ring, CASES, "id") == {**EXPECTED, 7: under_v2("a7", value)}
    assert migrated.execute("SELECT sum(n) FROM public.cases WHERE id = 7").fetchone() == (1,)


def test_a_table_locked_for_long_is_waited_for_and_then_named(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE cases IN ACCESS EXCLUSIVE MODE")
        engine.limits = replace(engine.limits, max_pages=512, lock_retry_seconds=0.5)
        with pytest.raises(BlockedError, match=r"cases is locked by another session.*run `keyrotation rotate`"):
            engine.shard(CASES)
        assert "waiting: cases is locked" in engine.progress[-1].note
        engine.limits = replace(engine.limits, max_pages=512, lock_retry_seconds=60.0)
        threading.Timer(1.2, holder.commit).start()
        assert engine.shard(CASES).rows == ROWS
    assert read_back(migrated, ring, CASES, "id") == EXPECTED


@pytest.mark.parametrize("duty_cycle", [0.35, 1.0], ids=["routine", "without rests"])
def test_a_table_that_is_being_indexed_is_waited_for(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str, duty_cycle: float
) -> None:
    """CREATE INDEX lets others read but not write, so that of our statements only the writes cannot be prepared."""
    engine.limits = replace(engine.limits, max_pages=512, duty_cycle=duty_cycle)
    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE cases IN SHARE MODE")
        threading.Timer(2.5, holder.commit).start()
        assert engine.shard(CASES).rows == ROWS
    assert len({each.note for each in engine.progress if "waiting: cases is locked" in each.note}) == 1
    assert read_back(migrated, ring, CASES, "id") == EXPECTED


@pytest.mark.parametrize("status", ["paused", "cancelled"])
def test_a_paused_or_cancelled_rotation_stops_the_rewrite_within_a_second_or_so(
    migrated: Connection, engine: Engine, status: str
) -> None:
    running(migrated, "routine")
    engine.limits = replace(engine.limits, max_rows_per_second=100, max_pages=1)
    with (
        between_read_and_write(lambda batch: become(migrated, status) if batch == 0 else None),
        pytest.raises(BlockedError, match=f"was {status}"),
    ):
        engine.shard(CASES)
    # At 100 rows a second; a slow machine does fewer.
    rewritten = migrated.execute("SELECT count(*) FROM public.cases WHERE a LIKE 'v2:%'").fetchone()
    assert rewritten is not None
    assert int(str(rewritten[0])) < 250
    assert migrated.execute("SELECT next_page < end_page FROM keyrotation.shard_walks").fetchone() == (True,)


REFUSED_ONCE = """
CREATE SEQUENCE public.attempts;
CREATE FUNCTION public.refuse_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.attempts') = 1 THEN
        RAISE EXCEPTION 'as a lock_timeout' USING ERRCODE = 'lock_not_available';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_once BEFORE UPDATE ON public.cases
    FOR EACH ROW WHEN (OLD.id = 150) EXECUTE FUNCTION public.refuse_once();
"""


def test_rows_that_were_written_next_to_a_write_that_failed_are_counted(
    migrated: Connection, engine: Engine, ring: KeyRing
) -> None:
    migrated.execute(REFUSED_ONCE.encode())
    engine.limits = replace(engine.limits, duty_cycle=1.0, max_pages=4)  # without rests the next write is under way

    done = engine.shard(CASES)

    assert migrated.execute("SELECT last_value FROM public.attempts").fetchone() == (2,)
    assert (done.rows, done.values) == (ROWS, 2 * ROWS)
    assert read_back(migrated, ring, CASES, "id") == EXPECTED


def test_batches_of_large_values_that_were_written_before_one_that_failed_are_counted(
    migrated: Connection, engine: Engine, ring: KeyRing
) -> None:
    long = "long" * 1000
    migrated.execute("UPDATE public.cases SET a = %s WHERE id < 200", (sealed(ring, 1, long),))
    migrated.execute("VACUUM FULL public.cases")
    migrated.execute(REFUSED_ONCE.encode())
    # A page holds more, so that its rows are listed first.
    engine.limits = replace(engine.limits, max_pages=512, batch_bytes=100_000)

    done = engine.shard(CASES)

    assert migrated.execute("SELECT last_value > 1 FROM public.attempts").fetchone() == (True,)
    assert (done.rows, done.values) == (ROWS, 2 * ROWS)
    longs = {n: under_v2(long, f"b{n}") for n in range(200)}
    assert read_back(migrated, ring, CASES, "id") == {**EXPECTED, **longs}


REFUSED_AT_COMMIT = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no$$; END';
CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON public.cases DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.id = 150) EXECUTE FUNCTION public.refuse();
"""


@pytest.mark.parametrize("duty_cycle", [0.35, 1.0], ids=["routine", "without rests"])
def test_a_commit_that_is_refused_is_one_sentence_and_the_rows_written_next_to_it_are_recorded(
    migrated: Connection, engine: Engine, ring: KeyRing, duty_cycle: float
) -> None:
    migrated.execute(REFUSED_AT_COMMIT.encode())
    engine.limits = replace(engine.limits, duty_cycle=duty_cycle, max_pages=4)

    with pytest.raises(BlockedError, match=r"refused a statement of the engine .*P0001"):
        engine.shard(CASES)

    assert recorded_rows(migrated) == written_rows(migrated)
    migrated.execute("DROP TRIGGER refuse ON public.cases")
    assert engine.shard(CASES).rows == ROWS
    assert read_back(migrated, ring, CASES, "id") == EXPECTED


def test_what_a_pause_leaves_is_recorded_to_the_row(
    migrated: Connection, engine: Engine, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(migrated, "routine")
    engine.limits = replace(engine.limits, duty_cycle=1.0, max_pages=4)
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.0)  # it looks after each batch
    with (
        between_read_and_write(lambda batch: become(migrated, "paused") if batch == 4 else None),
        pytest.raises(BlockedError, match="was paused"),
    ):
        engine.shard(CASES)

    assert recorded_rows(migrated) == written_rows(migrated)
    become(migrated, "running")
    assert engine.shard(CASES).rows == ROWS
    assert read_back(migrated, ring, CASES, "id") == EXPECTED


KILLED = """
import os, sys
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, table_of
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.ranges import StoredPageRanges

url, *keys = sys.argv[1:]
ring = KeyRing({KeyVersion(n): key_from_base64(key) for n, key in enumerate(keys, 1)}, KeyVersion(2))
save = StoredPageRanges.save
def save_and_die(self, relation, pages):
    save(self, relation, pages)
    if pages.next > pages.first:
        os.kill(os.getpid(), 9)
StoredPageRanges.save = save_and_die
Engine(url, ring, Limits(max_pages=1, max_rows_per_second=600)).shard(table_of("cases", "a", "b"))
"""


def test_a_killed_rewrite_continues_from_its_progress(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    keys = [base64_of(ring.material(version)) for version in ring.versions]
    killed = subprocess.run([sys.executable, "-c", KILLED, database_url, *keys], check=False, env=os.environ)
    assert killed.returncode == -9
    query = "SELECT next_page, rows FROM keyrotation.shard_walks"
    (page, rows) = migrated.execute(query).fetchall()[0]
    assert 0 < int(str(rows)) < ROWS
    first: list[int] = []

    with between_read_and_write(first.append):
        done = engine.shard(CASES)

    # The pages up to there were not read again; batches still on their way when it was killed were.
    assert int(str(page)) > 0
    assert ROWS - 100 <= done.rows <= ROWS
    assert read_back(migrated, ring, CASES, "id") == EXPECTED
    again = engine.shard(CASES)
    assert (again.rows, again.skipped) == (done.rows, done.skipped)


OTHER_WALKER = """
import sys
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, KeyRing, KeyVersion, table_of

url, *keys = sys.argv[1:]
ring = KeyRing({KeyVersion(n): key_from_base64(key) for n, key in enumerate(keys, 1)}, KeyVersion(2))
print(Engine(url, ring, Limits(max_pages=4)).shard(table_of("cases", "a", "b")).rows)
"""


def test_two_processes_that_walk_one_shard_at_once_do_no_harm(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    keys = [base64_of(ring.material(version)) for version in ring.versions]
    others: list[str] = []

    def walk_the_whole_shard_elsewhere(number: int) -> None:
        if number == 1:  # this walker has read two batches, of which one at most is written
            command = [sys.executable, "-c", OTHER_WALKER, database_url, *keys]
            others.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            application(database_url, "UPDATE public.cases SET n = n + 1 WHERE id < 50")

    with between_read_and_write(walk_the_whole_shard_elsewhere):
        engine.shard(CASES)

    assert len(others) == 1
    assert int(others[0]) > ROWS / 2
    assert read_back(migrated, ring, CASES, "id") == EXPECTED
    assert migrated.execute("SELECT sum(n) FROM public.cases").fetchone() == (50,)
    assert engine.sweep(CASES, wait=True).rows == 0  # nothing was passed over by both


def test_of_two_walkers_the_slower_one_writes_into_no_row_that_stands_where_it_has_read(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    """The other one has moved every row, and the application has filled their places: only `xmin` tells them apart."""
    walked: list[int] = []
    new = [(n, sealed(ring, 2, f"new a{n}"), sealed(ring, 2, f"new b{n}")) for n in range(ROWS)]
    places = "SELECT ctid::text FROM public.cases"
    before = {place for (place,) in migrated.execute(places)}

    def walk_elsewhere_and_write(number: int) -> None:
        if number:
            return
        walked.append(Engine(database_url, ring, Limits(max_pages=4)).shard(CASES).rows)
        application(database_url, "DELETE FROM cases", "VACUUM cases")
        insert(migrated, "public.cases (id, a, b)", new)
        after = {place for (place,) in migrated.execute(places)}
        assert len(before & after) > ROWS / 2, "the same places, with other rows in them"

    with between_read_and_write(walk_elsewhere_and_write):
        engine.shard(CASES)

    assert walked == [ROWS]
    expected = {n: under_v2(f"new a{n}", f"new b{n}") for n in range(ROWS)}
    assert read_back(migrated, ring, CASES, "id") == expected


def test_a_waiting_walker_leaves_what_was_written_after_another_had_taken_its_row(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    """It finds the row by its key, wherever that stands now: only the ciphertexts tell that it is another value."""
    new = sealed(ring, 2, "later")

    def sweep_elsewhere_and_write(number: int) -> None:
        if number == 7:
            assert Engine(database_url, ring).sweep(CASES).rows > 0
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("UPDATE cases SET b = %s WHERE id = 7", (new,))

    with between_read_and_write(sweep_elsewhere_and_write):
        engine.sweep(CASES, wait=True)
    assert read_back(migrated, ring, CASES, "id") == {**EXPECTED, 7: under_v2("a7", "later")}


def test_a_page_range_left_behind_by_another_file_node_begins_again(
    migrated: Connection, engine: Engine, ring: KeyRing
) -> None:
    assert engine.shard(CASES).rows == ROWS
    migrated.execute("UPDATE public.cases SET a = %s WHERE id < 10", (sealed(ring, 1, "late"),))
    assert engine.shard(CASES).rows == ROWS  # nothing is left of this page range
    migrated.execute("VACUUM FULL public.cases")
    assert engine.shard(CASES).rows == ROWS + 10


def test_shards_started_one_after_the_other_leave_no_gap(migrated: Connection, engine: Engine, ring: KeyRing) -> None:
    done = [engine.shard(CASES, index, 4).rows for index in range(4)]
    assert sum(done) == ROWS
    assert all(done)


def test_a_server_that_stops_midway_is_one_sentence_and_the_rewrite_continues_later() -> None:
    server, ring = start_server(), ring_of(1, 2)
    try:
        with connect(server.url()) as connection:
            migrate(server.url())
            fill(connection, ring)
        engine = Engine(server.url(), ring, Limits(max_pages=1))
        with (
            between_read_and_write(lambda batch: server.stop() if batch == 5 else None),
            pytest.raises(DatabaseUnavailableError, match="run `keyrotation rotate` again") as refusal,
        ):
            engine.shard(CASES)
        assert refusal.value.__context__ is None
        server.start()
        engine.shard(CASES)
        with connect(server.url()) as connection:
            assert read_back(connection, ring, CASES, "id") == EXPECTED
    finally:
        discard(server)
