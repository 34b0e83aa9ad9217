"""What is not declared is searched in parts; what was found stays so until its pages are seen to be without it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import page_readings
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.page_reading import PageSpan, reach, to_search
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of, sealed, table_of

NOTES, LOGS = table_of("notes", "body"), table_of("logs", "line")
SPAN_PAGES, ROWS_A_PAGE = 2048, 7


@dataclass
class Place:
    """A declared table, and `logs`, which is not declared and has three spans."""

    connection: Connection
    url: str
    declared: Sequence[EncryptedTable] = (NOTES,)
    value: str = field(default_factory=lambda: sealed(ring_of(1, 2), 1, "x"))

    def __post_init__(self) -> None:
        self.inventory = PostgresInventory(self.connection)

    def spans(self, relation: str | None = None) -> list[PageSpan]:
        found = self.inventory.undeclared_spans(self.declared)
        return [span for span in found if relation in {None, span.table}]

    def search(self, *spans: PageSpan) -> int:
        return self.inventory.search_spans(self.declared, spans, lambda: True)

    def tomorrow(self) -> list[tuple[str, int]]:
        """What is searched then, in order."""
        (now,) = self.connection.execute("SELECT clock_timestamp() + interval '1 day'").fetchall()[0]
        return [(span.table, span.first_page) for span in to_search(self.spans(), now, 90)]  # type: ignore[arg-type]

    def found(self) -> dict[str, int]:
        return {f"{span.table}.{column}": number for span in self.spans() for column, number in span.found.items()}

    def write(self, row: int, value: str) -> None:
        self.connection.execute("UPDATE public.logs SET line = %s WHERE id = %s", (value, row))

    def pages_read(self) -> int:
        self.connection.execute("SELECT pg_stat_force_next_flush()")
        query = "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables WHERE relname = 'logs'"
        return int(str(self.connection.execute(query).fetchall()[0][0]))


@pytest.fixture
def place(migrated: Connection, database_url: str) -> Place:
    """Two whole spans and a part of a third; half of each page is free, so that updates stay in it."""
    migrated.execute("CREATE TABLE public.notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
    migrated.execute(
        "CREATE TABLE public.logs (id int PRIMARY KEY, line text STORAGE PLAIN)"
        " WITH (fillfactor = 50, autovacuum_enabled = off)"
    )
    rows = (2 * SPAN_PAGES + 100) * ROWS_A_PAGE
    migrated.execute("INSERT INTO public.logs SELECT n, repeat('x', 500) FROM generate_series(1, %s) AS n", (rows,))
    migrated.execute("VACUUM ANALYZE public.logs")
    return Place(migrated, database_url)


def test_a_span_is_searched_alone_and_by_its_pages_alone(place: Place) -> None:
    first, second, last = place.spans("logs")
    assert [(each.first_page, each.pages, each.read) for each in (first, second, last)] == [
        (0, 2048, False), (2048, 2048, False), (4096, 100, False),
    ]  # fmt: skip
    before = place.pages_read()
    assert place.search(last) == 100
    assert place.pages_read() - before <= 110
    assert [each.read for each in place.spans("logs")] == [False, False, True]


def test_a_value_is_found_where_it_is_searched_and_stays_found_until_it_is_gone(place: Place) -> None:
    first, second, last = place.spans("logs")
    row = (2 * SPAN_PAGES + 99) * ROWS_A_PAGE
    place.write(row, f"before {place.value} after")
    place.search(first, second)
    assert place.found() == {}
    place.search(last)
    assert place.found() == {"logs.line": 1}
    place.search(first, second)
    assert place.found() == {"logs.line": 1}
    place.search(last)
    place.write(row, "gone")
    assert place.tomorrow()[0] == ("logs", 4096)
    place.search(place.spans("logs")[2])
    assert place.found() == {}


def test_what_only_looks_like_a_value_is_found_too(place: Place) -> None:
    place.write(1, place.value.upper())
    place.search(place.spans("logs")[0])
    assert place.found() == {"logs.line": 1}


def test_it_rests_by_the_duty_cycle(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(page_readings.CLOCK, "monotonic", iter([10.0, 12.0]).__next__)
    monkeypatch.setattr(page_readings.CLOCK, "sleep", rests.append)
    place.inventory = PostgresInventory(place.connection, duty_cycle=0.25)
    place.search(place.spans("logs")[2])
    assert rests == [6.0]


def test_the_beginning_of_what_is_new_is_searched_first_and_a_copy_of_a_table_found_on_its_first_day(
    place: Place,
) -> None:
    place.search(*place.spans())
    place.connection.execute("CREATE TABLE public.copy AS SELECT 1 AS id, %s AS body", (place.value,))
    assert place.tomorrow()[0] == ("copy", 0)
    place.search(*place.spans("copy"))
    assert place.found() == {"copy.body": 1}


def test_what_a_small_table_has_grown_by_is_searched_as_what_is_new_is(place: Place) -> None:
    place.connection.execute("CREATE TABLE public.staging AS SELECT 'nothing of ours'::text AS body")
    place.search(*place.spans())
    assert ("staging", 0) not in place.tomorrow()[:1]
    place.connection.execute(
        "INSERT INTO public.staging SELECT repeat('x', 500) FROM generate_series(1, 99) UNION ALL SELECT %s",
        (place.value,),
    )
    assert [each.read for each in place.spans("staging")] == [False]
    assert place.tomorrow()[0] == ("staging", 0)
    place.search(*place.spans("staging"))
    assert place.found() == {"staging.body": 1}
    place.connection.execute("INSERT INTO public.staging SELECT repeat('x', 500) FROM generate_series(1, 99)")
    assert place.found() == {"staging.body": 1}
    place.connection.execute("DELETE FROM public.staging")
    place.connection.execute("VACUUM (TRUNCATE) public.staging")
    place.connection.execute("INSERT INTO public.staging SELECT repeat('x', 500) FROM generate_series(1, 99)")
    assert [(each.first_page, each.end_page) for each in place.spans("staging")] == [(0, SPAN_PAGES)]
    place.search(*place.spans("staging"))
    place.connection.execute("DELETE FROM public.staging WHERE ctid >= '(3,0)'")
    place.connection.execute("VACUUM (TRUNCATE) public.staging")
    assert [(each.pages, each.read) for each in place.spans("staging")] == [(3, True)]
    place.connection.execute("INSERT INTO public.staging SELECT repeat('x', 500) FROM generate_series(1, 29)")
    assert [each.read for each in place.spans("staging")] == [False]
    place.inventory.discover(place.declared)
    assert [each.read for each in place.spans("staging")] == [True]
    place.connection.execute("INSERT INTO public.staging SELECT repeat('x', 500) FROM generate_series(1, 29)")
    assert [each.read for each in place.spans("staging")] == [False]


def test_a_column_that_is_no_longer_declared_makes_its_pages_unread(place: Place) -> None:
    place.connection.execute("INSERT INTO public.notes (body) VALUES (%s)", (place.value,))
    place.connection.execute("ALTER TABLE public.notes ADD COLUMN title text")
    place.search(*place.spans())
    assert [each.read for each in place.spans("notes")] == [True]
    place.declared = ()
    assert [each.read for each in place.spans("notes")] == [False]
    place.search(*place.spans("notes"))
    assert place.found() == {"notes.body": 1}


def test_a_search_of_everything_counts_as_one_of_each_part_and_notes_what_it_finds(place: Place) -> None:
    place.write(1, place.value)
    place.connection.execute("SELECT lo_from_bytea(0, 'nothing of ours')")
    assert [each.relation for each in place.inventory.discover(place.declared)] == ["logs"]
    spans = place.spans()
    (now,) = place.connection.execute("SELECT clock_timestamp()").fetchall()[0]
    assert reach(spans, now, 90).complete  # type: ignore[arg-type]
    assert {each.table for each in spans} == {"logs", "large objects"}
    assert place.found() == {"logs.line": 1}
    place.write(1, "gone")
    assert place.inventory.discover(place.declared) == ()
    assert place.found() == {}


def test_what_was_dropped_is_forgotten_by_a_search_of_everything(place: Place) -> None:
    place.connection.execute("CREATE TABLE public.copy AS SELECT 'x'::text AS body")
    place.spans()
    place.connection.execute("UPDATE keyrotation.page_readings SET since = since - interval '91 days'")
    place.connection.execute("DROP TABLE public.copy")
    before = place.inventory.unsearched_since()
    place.inventory.discover(place.declared)
    after = place.inventory.unsearched_since()
    assert before is not None
    assert after is not None
    assert after - before > timedelta(days=91)


def test_large_objects_are_searched_all_at_once(place: Place) -> None:
    for content in (os.urandom(SPAN_PAGES * 8192), place.value.encode()):
        place.connection.execute("SELECT lo_from_bytea(0, %s)", (content,))
    first, *others = place.spans("large objects")
    assert others
    place.search(first)
    assert place.found() == {"large objects.*": 1}
    assert all(each.read for each in place.spans("large objects"))


def test_a_foreign_table_has_no_pages_and_is_searched_as_a_whole(debian: Connection) -> None:
    migrate(debian.info.dsn)
    place = Place(debian, debian.info.dsn, declared=())
    debian.execute("CREATE EXTENSION file_fdw SCHEMA public; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw")
    remote = "CREATE FOREIGN TABLE public.remote (line text) SERVER files OPTIONS (program 'echo {}')"
    debian.execute(remote.format(place.value).encode())
    (span,) = place.spans("remote")
    assert place.search(span) == 1
    assert place.found() == {"remote.line": 1}
    assert [each.read for each in place.spans("remote")] == [True]


@pytest.mark.parametrize("name", ["large objects", "billing.copy"])
def test_a_table_that_is_called_as_another_place_is_searched_too(place: Place, name: str) -> None:
    place.connection.execute("CREATE SCHEMA billing")
    place.connection.execute("CREATE TABLE billing.copy AS SELECT 'nothing of ours'::text AS body")
    place.connection.execute("SELECT lo_from_bytea(0, 'nothing of ours')")
    statement = sql.SQL("CREATE TABLE public.{} AS SELECT {} AS body").format(sql.Identifier(name), place.value)
    place.connection.execute(statement)
    place.search(*place.spans())
    assert place.found() == {f"{name}.body": 1}
    assert all(each.read for each in place.spans())


def test_a_relation_that_cannot_be_read_is_found_and_one_that_was_recreated_is_unread(
    place: Place, database_url: str
) -> None:
    place.search(*place.spans())
    with connect(database_url) as other, other.transaction():
        spans = place.spans("logs")
        other.execute("LOCK TABLE public.logs IN ACCESS EXCLUSIVE MODE")
        place.search(*spans[:1])
        assert [(each.relation, each.column) for each in place.inventory.discover(place.declared)] == [("logs", "*")]
        with pytest.raises(BlockedError, match="a table is locked by another session"):
            place.spans()
    assert place.found() == {"logs.*": 0}
    place.connection.execute("VACUUM FULL public.logs")
    assert {each.read for each in place.spans("logs")} == {False}
