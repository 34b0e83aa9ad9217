"""Statements sent ahead of their answers: in order, each its own transaction, and nothing left behind."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg import errors

from keyrotation_pipeline.adapters.postgres.engine.batch import open_connection
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import StatementPipeline, TextArray
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect

NUMBER = b"SELECT %(number)s::int, '100%%', %(number)s::int * %(other)s::int"
INSERT = b"INSERT INTO public.seen SELECT %(id)s::int RETURNING id"
DELETE = b"DELETE FROM public.seen WHERE id < %(before)s::int"
LENGTHS = b"SELECT text FROM unnest(%(texts)b::text[]) AS text"


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with closing(open_connection(lambda: connect(database_url))) as opened:
        opened.execute("CREATE TABLE public.seen (id int PRIMARY KEY)")
        yield opened


def test_answers_come_in_the_order_of_the_statements(connection: Connection) -> None:
    with StatementPipeline(connection, [NUMBER, INSERT]) as exchange:
        for number in range(5):
            exchange.send(NUMBER, {"number": number, "other": 7})
            exchange.send(INSERT, {"id": number})
        for number in range(5):
            assert exchange.receive() == [(number, b"100%", number * 7)]
            assert exchange.receive() == [(number,)]


def test_a_statement_that_gives_no_rows_is_answered_by_how_many_it_wrote(connection: Connection) -> None:
    connection.execute("INSERT INTO public.seen SELECT generate_series(1, 5)")
    with StatementPipeline(connection, [DELETE]) as exchange:
        exchange.send(DELETE, {"before": 4})
        exchange.send(DELETE, {"before": 4})
        assert exchange.receive() == [(3,)]
        assert exchange.receive() == [(0,)]


def test_each_statement_is_committed_before_its_answer_is_given(connection: Connection, database_url: str) -> None:
    with StatementPipeline(connection, [INSERT]) as exchange, connect(database_url) as other:
        exchange.send(INSERT, {"id": 1})
        exchange.receive()
        assert other.execute("SELECT id FROM public.seen").fetchall() == [(1,)]
        state = "SELECT state FROM pg_stat_activity WHERE pid = %s"
        assert other.execute(state, (connection.info.backend_pid,)).fetchone() == ("idle",)


def test_a_refused_statement_does_not_touch_its_neighbours(connection: Connection) -> None:
    with StatementPipeline(connection, [INSERT]) as exchange:
        for number in (1, 1, 2):
            exchange.send(INSERT, {"id": number})
        assert exchange.receive() == [(1,)]
        with pytest.raises(errors.UniqueViolation) as refusal:
            exchange.receive()
        assert refusal.value.diag.constraint_name == "seen_pkey"
        assert exchange.receive() == [(2,)]
    assert connection.execute("SELECT id FROM public.seen ORDER BY id").fetchall() == [(1,), (2,)]


def test_leaving_with_answers_outstanding_leaves_a_connection_as_it_was(connection: Connection) -> None:
    def stop_early() -> None:
        with StatementPipeline(connection, [NUMBER, INSERT]) as exchange:
            for number in (1, 1, 2):
                exchange.send(INSERT, {"id": number})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_early()
    assert connection.execute("SELECT count(*) FROM public.seen").fetchone() == (2,)
    left = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'keyrotation%'"
    assert connection.execute(left).fetchall() == []
    with StatementPipeline(connection, [NUMBER]) as exchange:
        exchange.send(NUMBER, {"number": 1, "other": 2})
        assert exchange.receive() == [(1, b"100%", 2)]


def test_megabytes_in_both_directions_at_once_do_not_block(connection: Connection) -> None:
    texts = [bytes([65 + number]) * 2_000_000 for number in range(8)]
    with StatementPipeline(connection, [LENGTHS]) as exchange:
        for _ in range(3):
            exchange.send(LENGTHS, {"texts": TextArray(texts)})
        exchange.push()
        for _ in range(3):
            assert [text for (text,) in exchange.receive()] == texts


def test_a_statement_that_cannot_be_prepared_is_the_servers_error(connection: Connection) -> None:
    with pytest.raises(errors.UndefinedTable):
        StatementPipeline(connection, [b"SELECT * FROM public.nowhere"])
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_what_was_prepared_before_a_statement_that_cannot_be_is_prepared_by_the_next_attempt(
    connection: Connection,
) -> None:
    with pytest.raises(errors.UndefinedTable):
        StatementPipeline(connection, [NUMBER, b"SELECT * FROM public.nowhere"])
    with StatementPipeline(connection, [NUMBER]) as exchange:
        exchange.send(NUMBER, {"number": 1, "other": 2})
        assert exchange.receive() == [(1, b"100%", 2)]


def test_a_refused_commit_does_not_touch_its_neighbours(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.parent (id int PRIMARY KEY)")
    connection.execute("INSERT INTO public.parent VALUES (1), (3)")
    connection.execute("ALTER TABLE public.seen ADD FOREIGN KEY (id) REFERENCES public.parent INITIALLY DEFERRED")
    with StatementPipeline(connection, [INSERT]) as exchange:
        for number in (1, 2, 3):
            exchange.send(INSERT, {"id": number})
        assert exchange.receive() == [(1,)]
        with pytest.raises(errors.ForeignKeyViolation):
            exchange.receive()
        assert exchange.receive() == [(3,)]
    assert connection.execute("SELECT id FROM public.seen ORDER BY id").fetchall() == [(1,), (3,)]


def test_a_lost_connection_is_an_error_at_once(connection: Connection, database_url: str) -> None:
    def lose_it() -> None:
        with StatementPipeline(connection, [NUMBER]) as exchange:
            with connect(database_url) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
            for _ in range(100):
                exchange.send(NUMBER, {"number": 1, "other": 1})
                exchange.receive()

    with pytest.raises(psycopg.Error) as loss:
        lose_it()
    assert loss.value.sqlstate in {None, "57P01"}
