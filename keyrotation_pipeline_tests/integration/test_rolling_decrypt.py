"""A part of each table is decrypted at a time; what is noted down as read was read, and stays so only for its file."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all, decrypt_spans
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import page_readings, quarantine
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of, sealed, table_of

NOTES = table_of("notes", "body")
SPAN_PAGES = 2048
ROWS_A_PAGE = 4


def nobody(_: object) -> None:
    """Nobody listens."""


@dataclass
class Round:
    """Notes of nearly two kilobytes, four a page, and what reads them."""

    connection: Connection
    url: str
    ring: KeyRing
    limits: Limits = field(default_factory=lambda: Limits(duty_cycle=1.0))

    def __post_init__(self) -> None:
        self.good = sealed(self.ring, 2, "x" * 1400)

    def insert(self, pages: int, table: str = "public.notes") -> None:
        statement = f"INSERT INTO {table} (body) SELECT %s FROM generate_series(1, %s)"
        self.connection.execute(statement.encode(), (self.good, pages * ROWS_A_PAGE))

    def damage(self, row: int) -> None:
        broken = self.good[:-4] + ("AAAA" if self.good[-4:] != "AAAA" else "BBBB")
        self.connection.execute("UPDATE public.notes SET body = %s WHERE id = %s", (broken, row))

    def fix(self, row: int) -> None:
        self.connection.execute("UPDATE public.notes SET body = %s WHERE id = %s", (self.good, row))

    def spans(self, table: EncryptedTable = NOTES) -> list[PageSpan]:
        return list(page_readings.spans(self.connection, [table]))

    def read(
        self, *spans: PageSpan, should_continue: Callable[[], bool] = lambda: True, table: EncryptedTable = NOTES
    ) -> int:
        return decrypt_spans(lambda: connect(self.url), table, spans, self.ring, nobody, self.limits, should_continue)

    def unread(self) -> list[int]:
        return [each.first_page for each in self.spans() if not each.read]

    def bad(self) -> list[str]:
        return [each.key for each in quarantine.load(self.connection, [NOTES])]


@pytest.fixture
def notes(migrated: Connection, database_url: str) -> Round:
    """An empty table."""
    migrated.execute("CREATE TABLE public.notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
    return Round(migrated, database_url, ring_of(1, 2))


@pytest.fixture
def three(notes: Round) -> Round:
    """Two spans and a part of a third."""
    notes.insert(2 * SPAN_PAGES + 100)
    return notes


def test_a_table_is_read_span_by_span_and_each_is_noted_when_it_was_read(three: Round) -> None:
    first, second, last = three.spans()
    assert [(each.first_page, each.pages, each.read) for each in (first, second, last)] == [
        (0, 2048, False), (2048, 2048, False), (4096, 100, False),
    ]  # fmt: skip
    assert three.read(second) == SPAN_PAGES * ROWS_A_PAGE
    assert three.unread() == [0, 4096]
    assert three.read(first, last) == (SPAN_PAGES + 100) * ROWS_A_PAGE
    assert three.unread() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_damage_in_the_last_span_is_found_when_that_is_read_and_not_before(three: Round, workers: int) -> None:
    three.limits = Limits(duty_cycle=1.0, workers=workers, pages_per_worker=1)
    row = (2 * SPAN_PAGES + 99) * ROWS_A_PAGE
    three.connection.execute("ALTER TABLE public.notes SET (fillfactor = 50)")
    three.damage(row)
    first, second, last = three.spans()
    three.read(first, second)
    assert three.bad() == []
    three.read(last)
    assert three.bad() == [f'["{row}"]']
    three.read(first)
    assert three.bad() == [f'["{row}"]'], "found once, it stays"


def test_a_fixed_value_leaves_the_quarantine_whatever_is_read_and_a_damaged_one_that_moved_does_not(
    three: Round,
) -> None:
    three.damage(1)
    three.damage(2)
    decrypt_all(lambda: connect(three.url), NOTES, three.ring, nobody, three.limits)
    three.fix(1)
    three.connection.execute("UPDATE public.notes SET id = DEFAULT WHERE id = 3")
    three.connection.execute("UPDATE public.notes SET body = body WHERE id = 2")
    assert len(three.bad()) == 2, "nothing but decrypting can tell"
    three.read(three.spans()[1])
    assert three.bad() == ['["2"]']


def test_it_stops_where_it_may_not_go_on(three: Round) -> None:
    answers = iter([True, False])
    three.read(*three.spans(), should_continue=lambda: next(answers))
    assert three.unread() == [2048, 4096]


def test_what_a_table_grew_by_is_unread_since_the_span_before(three: Round) -> None:
    three.read(*three.spans())
    three.insert(SPAN_PAGES)
    *_, before, grown = three.spans()
    assert (before.pages, before.read, grown.pages, grown.read) == (SPAN_PAGES, True, 100, False)
    assert grown.since == before.since


@pytest.mark.parametrize("how", ["VACUUM FULL public.notes", "CLUSTER public.notes USING notes_pkey"])
def test_after_a_rewrite_all_is_unread_since_the_oldest_reading(three: Round, how: str) -> None:
    first, second, _ = three.spans()
    three.read(first)
    three.read(second)
    three.connection.execute("UPDATE keyrotation.page_readings SET since = since - interval '60 days'")
    oldest = min(each.since for each in three.spans())
    three.connection.execute(how.encode())
    assert {(each.read, each.since) for each in three.spans()} == {(False, oldest)}
    assert {(each.read, each.since) for each in three.spans()} == {(False, oldest)}, "looking again changes nothing"


def test_a_rewrite_while_a_span_is_read_leaves_it_unread(notes: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    record = page_readings.record

    def rewritten(*given: object) -> None:
        notes.connection.execute("VACUUM FULL public.notes")
        record(*given)  # type: ignore[arg-type]

    notes.insert(1)
    monkeypatch.setattr(page_readings, "record", rewritten)
    before = notes.spans()
    notes.read(*before)
    assert [(each.read, each.since) for each in notes.spans()] == [(False, before[0].since)]


def test_pages_that_were_cut_off_are_forgotten_and_read_again_when_they_come_back(three: Round) -> None:
    three.read(*three.spans())
    three.connection.execute("DELETE FROM public.notes WHERE id > %s", (SPAN_PAGES * ROWS_A_PAGE,))
    three.connection.execute("VACUUM public.notes")
    assert [each.first_page for each in three.spans()] == [0]
    three.insert(SPAN_PAGES)
    assert three.unread() == [2048]


def test_an_empty_table_has_no_pages_and_one_that_was_emptied_neither(notes: Round) -> None:
    assert notes.spans() == []
    assert notes.read() == 0
    notes.insert(1)
    assert len(notes.spans()) == 1
    notes.connection.execute("TRUNCATE public.notes")
    assert notes.spans() == []
    assert page_readings.oldest(notes.connection, [str(NOTES.name)]) == {}


def test_partitions_are_read_each_by_itself_and_one_that_is_gone_is_forgotten(notes: Round) -> None:
    visits = table_of("visits", "body")
    notes.connection.execute("CREATE TABLE public.visits (day int, body text) PARTITION BY LIST (day)")
    for day in (1, 2):
        notes.connection.execute(
            f"CREATE TABLE public.visits_{day} PARTITION OF public.visits FOR VALUES IN ({day})".encode()
        )
    notes.connection.execute(
        "INSERT INTO public.visits SELECT 1 + n %% 2, %s FROM generate_series(1, 40) AS n", (notes.good,)
    )
    one, two = notes.spans(visits)
    assert (one.relation, two.relation) == ("visits_1", "visits_2")
    assert notes.read(one, table=visits) == 20
    assert [each.read for each in notes.spans(visits)] == [True, False]
    notes.connection.execute("DROP TABLE public.visits_1")
    assert notes.read(one, two, table=visits) == 20
    assert [each.relation for each in notes.spans(visits)] == ["visits_2"]
    assert list(page_readings.oldest(notes.connection, [str(visits.name), str(NOTES.name)])) == ["visits"]


def test_the_full_decrypt_counts_as_reading_everything(three: Round) -> None:
    assert page_readings.oldest(three.connection, [str(NOTES.name)]) == {}
    decrypt_all(lambda: connect(three.url), NOTES, three.ring, nobody, three.limits)
    assert three.unread() == []
