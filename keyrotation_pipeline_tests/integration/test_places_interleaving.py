"""What happens between reading a batch of any place and writing it: each write of the application wins."""

from collections.abc import Callable

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, ring_of
from keyrotation_pipeline_tests.integration.stored_places import (
    EVERY_FORMAT,
    EVERY_STORED,
    MATRIX,
    SLOTS,
    Stored,
    fill,
    open_value,
    seal,
)
from keyrotation_pipeline_tests.integration.test_engine_interleaving import between_read_and_write

ROWS = 60
DIAGONAL = [
    ("native", "jsonb"),
    ("fernet", "bytea"),
    ("fernet", "array"),
    ("pair", "pair"),
    ("bound bytes", "bound bytes"),
]
COMBINATIONS = [
    pytest.param(
        (values, stored), marks=[] if (values, stored) in DIAGONAL else pytest.mark.extended, id=f"{values} {stored}"
    )
    for values, stored in MATRIX
]


class Cases:
    """A table of one kind of place, and what must be in it."""

    def __init__(self, connection: Connection, url: str, values: ValueFormat, stored: Stored) -> None:
        self.connection, self.url, self.values, self.stored = connection, url, values, stored
        self.ring: KeyRing = ring_of(1, 2)
        self.table: EncryptedTable = stored.table("cases", values)
        self.engine = Engine(url, self.ring, Limits(duty_cycle=1.0))
        connection.execute(
            f"CREATE TABLE public.cases (id int PRIMARY KEY, {stored.columns}, n int DEFAULT 0)".encode()
        )
        self.expected = {row: [f"{slot}{row}" for slot in SLOTS] for row in range(ROWS)}
        fill(connection, stored, {row: [self.sealed(1, text) for text in self.expected[row]] for row in self.expected})

    def sealed(self, version: int, text: str) -> str:
        return seal(self.values, self.ring, version, text)

    def run(self, statement: str, *parameters: object) -> None:
        with psycopg.connect(self.url, autocommit=True) as application:
            application.execute(statement.encode(), parameters)

    def write(self, row: int, slot: int, version: int, text: str) -> None:
        self.run(f"UPDATE cases SET {self.stored.put[slot]} WHERE id = %s", self.sealed(version, text), row)
        self.expected[row][slot] = text

    def is_as_expected(self) -> None:
        query = f"SELECT id, {', '.join(self.stored.get)} FROM public.cases ORDER BY id"
        for row, *found in self.connection.execute(query.encode()).fetchall():
            opened = [open_value(self.values, self.ring, value) for value in found]  # type: ignore[arg-type]
            assert opened == [("v2", text) for text in self.expected[row]]  # type: ignore[index]


@pytest.fixture
def cases(request: pytest.FixtureRequest, migrated: Connection, database_url: str) -> Cases:
    values, stored = request.param
    return Cases(migrated, database_url, EVERY_FORMAT[values], EVERY_STORED[stored])


def one_value(cases: Cases) -> None:
    cases.write(7, 0, 1, "under the old key, meanwhile")
    cases.write(8, 1, 2, "under the new key, meanwhile")


def what_is_around(cases: Cases) -> None:
    cases.run(f"UPDATE cases SET {cases.stored.neighbour} WHERE id IN (7, 8)")


def all_rows_move(cases: Cases) -> None:
    cases.run("DELETE FROM cases WHERE id < 3")
    cases.run("VACUUM FULL cases")


@pytest.mark.parametrize("cases", COMBINATIONS, indirect=True)
@pytest.mark.parametrize("action", [one_value, what_is_around, all_rows_move])
def test_a_write_between_read_and_write_wins(cases: Cases, action: Callable[[Cases], None]) -> None:
    with between_read_and_write(lambda batch: action(cases) if batch == 0 else None):
        first = cases.engine.shard(cases.table)
    assert first.skipped > 0
    while cases.engine.sweep(cases.table).rows:
        pass
    cases.is_as_expected()
    around = f"SELECT coalesce(sum({cases.stored.neighbours}), 0) FROM public.cases"
    assert cases.connection.execute(around.encode()).fetchone() == (2 * (action is what_is_around),)


@pytest.mark.parametrize("cases", COMBINATIONS, indirect=True)
def test_a_row_whose_surroundings_change_without_pause_is_written_by_its_key(cases: Cases) -> None:
    """The statement finds the row where it is by then, and keeps what was written around the values."""
    with between_read_and_write(lambda _: what_is_around(cases)):
        done = cases.engine.sweep(cases.table, wait=True)
    assert (done.rows, done.skipped) == (ROWS, 0)
    cases.is_as_expected()
    query = f"SELECT {cases.stored.neighbours} FROM public.cases WHERE id IN (7, 8)"
    assert cases.connection.execute(query.encode()).fetchall() == [(ROWS,), (ROWS,)]
