"""How much of a table is read, from where, and what is said of the rest; through poolers and on standbys, too."""

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.scan.session import reading
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.assembly.scan import scan_database
from keyrotation_pipeline.errors import ConfigurationError, DatabaseUnavailableError
from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline_tests.integration.scan.conftest import Read
from keyrotation_pipeline_tests.servers import PGBOUNCER, Server, pooler, standby_of
from keyrotation_pipeline_tests.waiting import eventually

LARGE = """
CREATE TABLE public.t (id int, a text, rare text);
INSERT INTO public.t SELECT i, i || repeat('x', 400), CASE WHEN i % 500 = 0 THEN 'rare' || i END
FROM generate_series(1, 40000) i;
"""


@pytest.fixture
def made(connection: Connection) -> Connection:
    """A table of 40,000 rows on some 2,200 blocks."""
    connection.execute(LARGE)
    return connection


def test_a_sample_comes_from_all_over_a_large_table(made: Connection, read: Read) -> None:
    report, seen = read(made.info.dsn)
    by_column = {place.column: values for place, values in seen.items()}
    assert 700 < len(by_column["a"]) < 1400
    tenths = {int(str(value).rstrip("x")) // 4001 for value in by_column["a"]}
    assert tenths == set(range(10))
    assert len(by_column["rare"]) > 20, "of a column with few values more blocks are read"
    assert (report.tables, report.sampled) == (1, 1)


def test_so_many_values_as_asked_for(made: Connection, read: Read) -> None:
    _, few = read(made.info.dsn, values=100)
    _, many = read(made.info.dsn, values=100_000)
    assert max(len(values) for values in few.values()) < 200
    assert [len(values) for place, values in many.items() if place.column == "a"] == [40_000]


def test_a_small_table_is_read_whole(connection: Connection, read: Read) -> None:
    connection.execute("CREATE TABLE public.t (a text); INSERT INTO public.t SELECT i FROM generate_series(1, 1000) i")
    report, seen = read(connection.info.dsn)
    assert sorted(next(iter(seen.values())), key=int) == [str(number) for number in range(1, 1001)]
    assert report.sampled == 0


def test_the_last_rows_of_a_table_that_was_emptied_are_found(made: Connection, read: Read) -> None:
    made.execute("DELETE FROM public.t WHERE id < 39990")
    report, seen = read(made.info.dsn)
    assert [len(values) for place, values in seen.items() if place.column == "a"] == [11]
    assert report.not_looked_at[1:] == ()


@pytest.mark.parametrize(
    ("value", "type_", "rows", "most"),
    [
        pytest.param("repeat(md5(i::text), 4000)", "text", 200, 40, id="text"),
        pytest.param("convert_to(repeat(md5(i::text), 4000), 'UTF8')", "bytea", 200, 40, id="bytea"),
        pytest.param("jsonb_build_object('k', repeat(md5(i::text), 40000))", "jsonb", 40, 40, id="jsonb, compressed"),
    ],
)
def test_of_large_values_few_are_read(
    connection: Connection, read: Read, value: str, type_: str, rows: int, most: int
) -> None:
    connection.execute(f"CREATE TABLE public.t (a {type_})")
    connection.execute(f"INSERT INTO public.t SELECT {value} FROM generate_series(1, {rows}) i")
    _, seen = read(connection.info.dsn)
    assert 0 < max(map(len, seen.values())) <= most


def test_what_is_too_large_is_named(connection: Connection, read: Read) -> None:
    connection.execute("CREATE TABLE public.t (a text)")
    connection.execute("INSERT INTO public.t SELECT repeat('x', 1100000) FROM generate_series(1, 3)")
    report, seen = read(connection.info.dsn)
    assert list(seen.values()) == [[]]
    assert "public.t.a: each of its values is too large" in map(str, report.not_looked_at)


def test_a_partitioned_table_is_one_place(connection: Connection, read: Read) -> None:
    connection.execute("CREATE TABLE public.t (id int, a text) PARTITION BY RANGE (id)")
    for number in range(40):
        connection.execute(
            f"CREATE TABLE public.t{number} PARTITION OF public.t FOR VALUES FROM ({number}) TO ({number + 1})"
        )
    connection.execute("INSERT INTO public.t SELECT i, 'a' || i FROM generate_series(0, 39) i")
    report, seen = read(connection.info.dsn)
    ((place, values),) = seen.items()
    assert (place.table, len(values), "a0" in values, "a39" in values) == ("public.t", 32, True, True)
    assert "8 of the 40 partitions of public.t: the others are a sample" in map(str, report.not_looked_at)
    assert report.tables == 1


def test_one_schema(connection: Connection, read: Read) -> None:
    connection.execute("CREATE SCHEMA other; CREATE TABLE other.t (a text); CREATE TABLE public.t (a text)")
    _, seen = read(connection.info.dsn, "other")
    assert [place.table for place in seen] == ["other.t"]
    with pytest.raises(ConfigurationError, match="has no schema otehr; correct --schema"):
        read(connection.info.dsn, "otehr")


def test_transactions_are_read_only_and_leave_no_setting(connection: Connection) -> None:
    before = connection.execute("SELECT name, setting FROM pg_settings ORDER BY 1").fetchall()
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), reading(connection):
        connection.execute("CREATE TABLE public.t (a text)")
    assert connection.execute("SELECT name, setting FROM pg_settings ORDER BY 1").fetchall() == before


@pytest.mark.skipif(not PGBOUNCER.exists(), reason="pgbouncer is not installed")
def test_through_a_pooler_nothing_is_left_to_the_application(
    server: Server, connection: Connection, read: Read
) -> None:
    connection.execute("CREATE TABLE public.t (a text); INSERT INTO public.t VALUES ('x')")
    settings = "SELECT name, setting FROM pg_settings WHERE name <> 'application_name' ORDER BY 1"
    with pooler(server, "transaction") as pooled:
        url = pooled.url(connection.info.dbname)
        with psycopg.connect(url, autocommit=True) as application:
            before = application.execute(settings).fetchall()
            _, seen = read(url)
            assert application.execute(settings).fetchall() == before
            assert application.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    assert list(seen.values()) == [["x"]]


@pytest.mark.skipif(not PGBOUNCER.exists(), reason="pgbouncer is not installed")
def test_a_statement_pooler_is_named(server: Server, connection: Connection, read: Read) -> None:
    with (
        pooler(server, "statement") as pooled,
        pytest.raises(DatabaseUnavailableError, match="allows no transactions"),
    ):
        read(pooled.url(connection.info.dbname))


def value_of(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        return (connection.execute(query.encode()).fetchone() or (None,))[0]


def test_a_standby_is_scanned(server: Server, connection: Connection, read: Read) -> None:
    connection.execute(
        "CREATE TABLE public.t (a text); INSERT INTO public.t VALUES ('x'); CREATE UNLOGGED TABLE public.u (a text)"
    )
    with standby_of(server) as standby:
        url = standby.url(connection.info.dbname)
        assert eventually(lambda: value_of(url, "SELECT to_regclass('public.u')::text") == "u")
        report, seen = read(url)
    assert list(seen.values()) == [["x"]]
    assert "public.u: unlogged: a standby does not have its rows" in map(str, report.not_looked_at)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        pytest.param("postgresql://u:secret@/nowhere?host=/nowhere", "correct host and port in --url", id="no server"),
        pytest.param("postgresql+psycopg://u:secret@h/d", "--url begins with postgresql+psycopg://", id="scheme"),
        pytest.param("nonsense secret", "--url is not a PostgreSQL connection string", id="nonsense"),
    ],
)
def test_a_wrong_url_is_one_sentence_without_the_password(read: Read, url: str, sentence: str) -> None:
    with pytest.raises(DatabaseUnavailableError) as refused:
        read(url)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_lost_connection_is_one_sentence(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.t (a text)")

    def end_it(_: Progress) -> None:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyrotation scan'"
        assert connection.execute(others).fetchall() == [(True,)]
        assert eventually(lambda: not connection.execute(others).fetchall())

    with pytest.raises(DatabaseUnavailableError, match="the connection was lost during the scan; run it again"):
        scan_database(connection.info.dsn, "--url", end_it)
