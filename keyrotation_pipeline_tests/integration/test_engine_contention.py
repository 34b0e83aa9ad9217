"""Writes that lock nothing first: what other transactions do to a row of the batch, and what the engine leaves them."""

import threading
from contextlib import closing
from dataclasses import dataclass

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine import statements, traversal
from keyrotation_pipeline.adapters.postgres.engine.batch import open_connection
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.pages import PageTraversal, Stop
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import StatementPipeline
from keyrotation_pipeline.adapters.postgres.engine.statements import may_wait
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, insert, opened, ring_of, sealed, table_of
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.waiting import eventually


@pytest.fixture(scope="module")
def contended(versioned: Server) -> KeyRing:
    """The keys of the tables on that server."""
    migrate(versioned.url())
    return ring_of(1, 2)


@dataclass(frozen=True)
class Contention:
    """What another transaction does to row 7, how it ends, and what is in that row after the engine and a sweep.

    Args:
        patience: seconds that a write waits for a row. The other transaction ends once the engine waits for it, or when
            the engine has given up.
        skipped: how many rows the engine leaves to the sweep.
    """

    statement: str
    end: str = "commit"
    patience: float = 20.0
    skipped: int = 1
    row: tuple[tuple[str, str], int] | None = (("v2", "a7"), 0)


CONTENTIONS = {
    "another column": Contention("UPDATE {} SET n = 1 WHERE id = 7", row=(("v2", "a7"), 1)),
    "the same column": Contention("UPDATE {} SET a = %s WHERE id = 7", row=(("v2", "new"), 0)),
    "deleted": Contention("DELETE FROM {} WHERE id = 7", row=None),
    "rolled back": Contention("UPDATE {} SET n = 1 WHERE id = 7", end="rollback", skipped=0),
    "FOR UPDATE": Contention("SELECT FROM {} WHERE id = 7 FOR UPDATE", skipped=0),
    "FOR KEY SHARE": Contention("SELECT FROM {} WHERE id = 7 FOR KEY SHARE", end="close", skipped=0),
    "held too long": Contention("UPDATE {} SET n = 1 WHERE id = 7", end="close", patience=0.01),
}
SMALL = 40


@pytest.mark.parametrize("name", CONTENTIONS)
def test_a_write_that_locks_nothing_first_leaves_what_others_wrote(
    versioned: Server, contended: KeyRing, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Every row is written once, or was changed by the other transaction."""
    case, url, table = CONTENTIONS[name], versioned.url(), table_of(name.replace(" ", "_").lower(), "a")
    named = f"public.{table.name.table}"
    patient(monkeypatch, case.patience)
    engine = Engine(url, contended, Limits().in_an_emergency())
    with connect(url) as connection, psycopg.connect(url) as other:
        connection.execute(
            f"CREATE TABLE public.{table.name.table} (id int PRIMARY KEY, a text, n int DEFAULT 0)".encode()
        )
        insert(
            connection,
            f"public.{table.name.table} (id, a)",
            [(key, sealed(contended, 1, f"a{key}")) for key in range(SMALL)],
        )
        new = (sealed(contended, 1, "new"),) if "%s" in case.statement else ()
        other.execute(case.statement.format(named).encode(), new)
        if case.end != "close":
            threading.Thread(target=end_once_awaited, args=(url, other, case.end)).start()
        done = engine.shard(table)
        assert (done.rows, done.skipped) == (SMALL - case.skipped, case.skipped)
        assert not [each.note for each in engine.progress if "waiting" in each.note]
        other.rollback()  # where it has not ended yet
        assert engine.sweep(table).rows == (case.skipped if case.row else 0)
        found = connection.execute(f"SELECT id, a, n FROM {named}".encode()).fetchall()
    rows = {key: (opened(contended, str(a)), n) for key, a, n in found}
    expected = {key: (("v2", f"a{key}"), 0) for key in range(SMALL)} | {7: case.row}
    if name == "held too long":  # and was rolled back
        expected[7] = (("v2", "a7"), 0)
    assert rows == {key: row for key, row in expected.items() if row}


# Of the prepared write, in its order: the position and the version of a row, the new value, the file node.
_PARAMETERS = """
SELECT format($$'{"%s"}', '{%s}', '{new}', '%s'$$, ctid, xmin, pg_relation_filenode('public.planned'))
FROM public.planned LIMIT 1
"""


def test_positions_are_scanned_once_and_only_rows_are_waited_for_so_briefly(versioned: Server) -> None:
    with closing(open_connection(lambda: connect(versioned.url()))) as connection:
        connection.execute("DROP TABLE IF EXISTS public.planned")
        connection.execute("CREATE TABLE public.planned AS SELECT 'text' AS a FROM generate_series(1, 9999)")
        (relation,) = heaps(connection, table_of("planned", "a"))
        made = statements.statements(connection, relation, row_key(connection, relation), NATIVE, KeyVersion(2))
        connection.execute(statements.PLANNED_AT_ONCE)
        StatementPipeline(connection, [made.write_whole_at_once])  # prepares it
        with connection.transaction():
            ((given,),) = connection.execute(_PARAMETERS).fetchall()
            lines = connection.execute(f"EXPLAIN (ANALYZE) EXECUTE keyrotation_0 ({given})".encode()).fetchall()
            assert connection.execute("SHOW lock_timeout").fetchone() == ("10ms",)
        assert connection.execute("SHOW lock_timeout").fetchone() == ("1s",)
        assert connection.execute("SELECT count(*) FROM public.planned WHERE a = 'new'").fetchone() == (1,)
    plan = "\n".join(str(line) for (line,) in lines)
    assert [each in plan for each in ("Hash Join", "Tid Scan", "One-Time Filter")] == [True] * 3, plan
    assert [each in plan for each in ("Nested Loop", "Seq Scan", "Merge Join")] == [False] * 3, plan


def patient(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have writes wait so long for a row: a server under load needs longer than usual to show who waits."""
    patch.setattr(statements, "ROW_PATIENCE_SECONDS", seconds)
    patch.setattr(traversal, "may_wait", lambda _: True)


def end_once_awaited(url: str, other: "psycopg.Connection[tuple[object, ...]]", how: str) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
    with connect(url) as connection:
        eventually(lambda: connection.execute(waiting, (other.info.backend_pid,)).fetchone() == (1,))
    getattr(other, how)()


CASES = table_of("cases", "a")
ROWS = 2000


@pytest.fixture
def engine(migrated: Connection, database_url: str) -> Engine:
    ring = ring_of(1, 2)
    migrated.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, n int DEFAULT 0)")
    insert(migrated, "public.cases (id, a)", [(key, sealed(ring, 1, f"a{key}")) for key in range(ROWS)])
    return Engine(database_url, ring, Limits(max_pages=1).in_an_emergency())


def left(connection: Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT id FROM public.cases WHERE a LIKE 'v1:%' ORDER BY id").fetchall()


def test_where_many_rows_stay_locked_the_others_are_locked_first(
    migrated: Connection, engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[Stop] = []
    run = PageTraversal.run

    def recorded(pages: PageTraversal) -> Stop:
        stops.append(run(pages))
        return stops[-1]

    monkeypatch.setattr(PageTraversal, "run", recorded)
    with psycopg.connect(database_url) as other:
        other.execute("UPDATE cases SET n = 1 WHERE id % 10 = 0")
        done = engine.shard(CASES)
        assert (done.rows, done.values, done.skipped) == (ROWS - ROWS // 10, ROWS - ROWS // 10, ROWS // 10)
        assert stops == [Stop.CONTENDED, Stop.DONE]
        assert left(migrated) == [(key,) for key in range(0, ROWS, 10)]
    assert engine.sweep(CASES).rows == ROWS // 10
    assert migrated.execute("SELECT sum(n) FROM public.cases").fetchone() == (ROWS // 10,)


def test_an_application_that_waits_for_the_engine_while_it_waits_gets_its_rows(
    migrated: Connection, engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would wait for the other; the engine gives up before the server looks for a deadlock."""
    patient(monkeypatch, 0.5)
    with psycopg.connect(database_url) as other, connect(database_url) as looking:
        other.execute("UPDATE cases SET n = 1 WHERE id = 15")
        walk = threading.Thread(target=engine.shard, args=(CASES,))
        walk.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        assert eventually(lambda: looking.execute(waiting, (other.info.backend_pid,)).fetchone() == (1,))
        other.execute("UPDATE cases SET n = 1 WHERE id < 15")  # those of its pass are locked by the engine
        other.commit()
        walk.join()
    assert migrated.execute("SELECT sum(n) FROM public.cases").fetchone() == (16,)
    while engine.sweep(CASES).rows:
        pass
    assert left(migrated) == []


def test_a_row_that_moves_to_another_partition_while_it_is_waited_for_is_found_there(
    migrated: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch, 20.0)
    ring, table = ring_of(1, 2), table_of("parts", "a")
    for statement in (
        "CREATE TABLE public.parts (id int, part int, a text) PARTITION BY LIST (part)",
        "CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES IN (1)",
        "CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES IN (2)",
    ):
        migrated.execute(statement.encode())
    insert(migrated, "public.parts (id, part, a)", [(key, 1, sealed(ring, 1, f"a{key}")) for key in range(SMALL)])
    engine = Engine(database_url, ring, Limits().in_an_emergency())
    with psycopg.connect(database_url) as other:
        other.execute("UPDATE parts SET part = 2 WHERE id = 7")
        threading.Thread(target=end_once_awaited, args=(database_url, other, "commit")).start()
        engine.shard(table)
        assert not [each.note for each in engine.progress if "waiting" in each.note]
    while engine.sweep(table).rows:
        pass
    found = migrated.execute("SELECT id, part, a FROM public.parts ORDER BY id").fetchall()
    expected = [(key, 2 if key == 7 else 1, ("v2", f"a{key}")) for key in range(SMALL)]
    assert [(key, part, opened(ring, str(a))) for key, part, a in found] == expected


def test_a_table_that_is_locked_for_a_moment_is_waited_for(
    migrated: Connection, engine: Engine, database_url: str
) -> None:
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE cases IN SHARE MODE")  # reads pass
        threading.Timer(0.2, other.commit).start()
        done = engine.shard(CASES)
    assert (done.rows, done.skipped) == (ROWS, 0)
    assert not [each.note for each in engine.progress if "waiting" in each.note]


def test_rows_are_locked_first_where_the_server_looks_for_deadlocks_early(
    migrated: Connection, database_url: str
) -> None:
    assert may_wait(migrated)
    migrated.execute("CREATE ROLE impatient")
    try:
        migrated.execute("ALTER ROLE impatient SET deadlock_timeout = '5ms'")
        assert not may_wait(migrated)
        migrated.execute("ALTER ROLE impatient RESET deadlock_timeout")
        migrated.execute("SET deadlock_timeout = '50ms'")
        assert not may_wait(migrated)
    finally:
        migrated.execute("DROP ROLE impatient")
