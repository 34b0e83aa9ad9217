"""Where new row versions stay in the pages of the old ones, and that batches with NULLs are never assigned whole."""

import time
from collections.abc import Mapping
from threading import Event

import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine import supervisor
from keyrotation_pipeline.adapters.postgres.engine.batch import PASSES, fits_hot_order, page_of, passes
from keyrotation_pipeline.adapters.postgres.engine.batch_size import GENTLE_READING_PAGES, READING_PAGES
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.ranges import Slice
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import Parameter, StatementPipeline
from keyrotation_pipeline.adapters.postgres.engine.traversal import traversing
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    REQUEST,
    V2,
    Engine,
    insert,
    read_back,
    ring_of,
    sealed,
    table_of,
    under_v2,
)
from keyrotation_pipeline_tests.waiting import eventually

CASES = table_of("cases", "a", "b")
ROWS = 9_000


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


def filled(connection: Connection, ring: KeyRing, *more: str) -> None:
    """A table of full pages that nobody else vacuums."""
    connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text, n int DEFAULT 0)")
    connection.execute("ALTER TABLE public.cases SET (autovacuum_enabled = off)")
    for statement in more:
        connection.execute(statement.encode())
    values = (sealed(ring, 1, "a" * 40), sealed(ring, 1, "b" * 40), ROWS)
    connection.execute("INSERT INTO public.cases SELECT n, %s, %s FROM generate_series(1, %s) AS n", values)
    connection.execute("VACUUM ANALYZE public.cases")


def number(connection: Connection, query: str) -> int:
    return int(str(connection.execute(query.encode()).fetchall()[0][0]))


@pytest.mark.parametrize("gentle", [False, True], ids=["without rests", "gently"])
def test_rows_stay_in_their_pages_and_nothing_is_vacuumed(
    migrated: Connection, database_url: str, ring: KeyRing, gentle: bool
) -> None:
    filled(migrated, ring)
    before = number(migrated, "SELECT pg_relation_size('public.cases')")
    duty = 0.9 if gentle else 1.0
    done = Engine(database_url, ring, Limits(duty_cycle=duty)).shard(CASES)
    assert (done.rows, done.values) == (ROWS, 2 * ROWS)  # also of the writes that are not timed
    assert set(read_back(migrated, ring, CASES, "id").values()) == {under_v2("a" * 40, "b" * 40)}
    assert number(migrated, "SELECT pg_relation_size('public.cases')") <= 1.2 * before
    migrated.execute("SELECT pg_stat_clear_snapshot()")
    counted = "FROM pg_stat_all_tables WHERE relid = 'public.cases'::regclass"
    assert number(migrated, f"SELECT vacuum_count {counted}") == 1  # the test's own
    # A connection tells its statistics when it ends, so they are complete.
    assert number(migrated, f"SELECT n_tup_hot_upd {counted}") > 0.75 * ROWS


@pytest.mark.parametrize(
    ("statement", "fits"),
    [
        pytest.param("CREATE INDEX ON public.cases (n)", True, id="an index on another column"),
        pytest.param("CREATE INDEX ON public.cases ((n + 1)) WHERE n > 3", True, id="an expression over another"),
        pytest.param("CREATE INDEX ON public.cases (b)", False, id="an index on a written column"),
        pytest.param("CREATE INDEX ON public.cases (n) INCLUDE (a)", False, id="a written column is included"),
        pytest.param("CREATE INDEX ON public.cases ((left(a, 3)))", False, id="in an expression"),
        pytest.param("CREATE INDEX ON public.cases (n) WHERE a IS NOT NULL", False, id="in a predicate"),
        pytest.param("CREATE INDEX ON public.cases ((cases IS NULL))", False, id="the whole row in an expression"),
        pytest.param("ALTER TABLE public.cases ADD filler char(900) DEFAULT 'x'", False, id="few rows in a page"),
        pytest.param(
            "INSERT INTO public.cases SELECT 0, string_agg(md5(n::text), '') FROM generate_series(1, 999) AS n",
            False, id="large values",
        ),
    ],
)  # fmt: skip
def test_where_rows_can_stay(migrated: Connection, ring: KeyRing, statement: str, fits: bool) -> None:
    filled(migrated, ring, *([statement] if "filler" in statement else []))
    if "filler" not in statement:
        migrated.execute(statement.encode())
    (relation,) = heaps(migrated, CASES)
    assert fits_hot_order(migrated, relation) is fits


def test_slices_share_connections_and_the_order_that_was_found_before_the_first_row(
    migrated: Connection, database_url: str, ring: KeyRing
) -> None:
    # Twelve to thirteen rows in a page, of which the first pass moves a sixth elsewhere.
    filled(migrated, ring, "ALTER TABLE public.cases ADD filler char(404) DEFAULT 'x'")
    opened: list[Connection] = []

    def connecting() -> Connection:
        opened.append(connect(database_url))
        return opened[-1]

    shard = Shard(CASES, 0, 1)
    with traversing(connecting, REQUEST, shard, ring, V2, lambda _: None, Limits(duty_cycle=1.0), Event()) as walk:
        done = [walk([Slice(shard, number, 3)]).rows for number in range(3)]
    assert sum(done) == ROWS
    assert len(opened) == 2
    migrated.execute("SELECT pg_stat_clear_snapshot()")
    counted = "SELECT n_tup_hot_upd FROM pg_stat_all_tables WHERE relid = 'public.cases'::regclass"
    assert eventually(lambda: number(migrated, counted) > 0.7 * ROWS)


@pytest.mark.parametrize("duty_cycle", [1.0, 0.9])
def test_a_stretch_is_read_a_few_pages_at_a_time_and_each_page_once(
    migrated: Connection, database_url: str, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, duty_cycle: float
) -> None:
    filled(migrated, ring)
    pages = number(migrated, "SELECT pg_relation_size('public.cases') / 8192")
    read: list[int] = []
    send = StatementPipeline.send

    def noted(self: StatementPipeline, statement: bytes, parameters: Mapping[str, Parameter]) -> None:
        if "first" in parameters:
            first, end = (int(str(parameters[name])[1:].partition(",")[0]) for name in ("first", "end"))
            assert end - first <= (READING_PAGES if duty_cycle == 1 else GENTLE_READING_PAGES)
            read.extend(range(first, end))
        send(self, statement, parameters)

    monkeypatch.setattr(StatementPipeline, "send", noted)
    assert Engine(database_url, ring, Limits(duty_cycle=duty_cycle)).shard(CASES).rows == ROWS
    assert read == list(range(pages))


def test_no_statement_of_ours_keeps_a_snapshot_while_the_engine_pauses(
    migrated: Connection, database_url: str, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(migrated, ring)
    reading = (
        "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND query LIKE '%range.filenode%' "
        "AND pid <> pg_backend_pid()"
    )
    seen: list[int] = []

    def looked(*_: object) -> str:
        time.sleep(0.01)  # a write that is still under way ends
        seen.append(number(migrated, reading))
        return ""

    monkeypatch.setattr(supervisor, "reason_to_pause", looked)
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.0)  # it looks after each batch
    # The rows of a reading are more than the buffers of a socket hold.
    assert Engine(database_url, ring, Limits(duty_cycle=1.0, max_pages=128)).shard(CASES).rows == ROWS

    assert len(seen) > PASSES
    assert set(seen) == {0}


def test_each_row_is_in_one_pass_in_the_order_of_pages() -> None:
    rows = [
        (1, 0, page.to_bytes(4, "big") + line.to_bytes(2, "big"))
        for page in range(70_000, 70_003)
        for line in range(1, 300)
    ]
    parts = passes(rows)
    assert len(parts) == PASSES
    assert sorted(row for part in parts for row in part) == rows
    for part in parts:
        pages = [page_of(row) for row in part]
        assert pages == sorted(pages)
        assert set(pages) == {70_000, 70_001, 70_002}


@pytest.mark.parametrize("native", [True, False], ids=["native codec", "Python codec"])
def test_what_stays_as_it_is_is_never_overwritten_by_null(
    migrated: Connection, database_url: str, ring: KeyRing, native: bool
) -> None:
    # One batch each: of good values alone, with a NULL, with '', with a value under the target, with a bad one.
    strange = [None, "", sealed(ring, 2, "already"), "not encrypted at all"]
    migrated.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text)")
    good = [sealed(ring, 1, f"a{n}") for n in range(5)]
    insert(migrated, "public.cases", [(n, good[n], [sealed(ring, 1, "b"), *strange][n]) for n in range(5)])
    done = Engine(database_url, ring, Limits(native_codec=native)).shard(CASES)
    assert (done.rows, done.values, done.quarantined) == (5, 6, 1)
    query = sql.SQL("SELECT b FROM public.cases WHERE id > 0 ORDER BY id")
    assert [row[0] for row in migrated.execute(query).fetchall()] == strange
