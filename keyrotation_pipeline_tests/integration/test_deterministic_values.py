"""Values that queries look for: a unique index over them, and the query that finds a row while it is re-encrypted."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, running
from keyrotation_pipeline_tests.marked_libraries import Rails
from keyrotation_pipeline_tests.unit.fieldcrypto.codecs.test_marked import RAILS_HERE, V1, V2, made, texts_of

DETERMINISTIC = replace(RAILS_HERE, deterministic=True)
PEOPLE = EncryptedTable(TableName("public", "people"), ("email",), DETERMINISTIC)


@pytest.fixture
def ring() -> KeyRing:
    return made(DETERMINISTIC)


@pytest.fixture
def people(migrated: Connection) -> Connection:
    migrated.execute("CREATE TABLE public.people (id int PRIMARY KEY, email text)")
    migrated.execute("CREATE UNIQUE INDEX one_email ON public.people (email)")
    running(migrated, "routine")
    return migrated


def insert(connection: Connection, row: int, text: bytes, key: str) -> None:
    value = Rails([key], deterministic=True).encrypt(text).decode()
    connection.execute("INSERT INTO public.people VALUES (%s, %s)", (row, value))


def test_a_unique_index_is_warned_of_where_values_are_deterministic(people: Connection) -> None:
    words = "unique index one_email of people cannot stop a text that is there under another key"
    found = [problem for problem in preflight(people, [PEOPLE], V2) if words in problem.message]
    assert [problem.fatal for problem in found] == [False]
    random = replace(PEOPLE, format=RAILS_HERE)
    assert not [problem for problem in preflight(people, [random], V2) if words in problem.message]


def test_a_query_for_both_keys_finds_every_row_before_and_after(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    texts = texts_of(DETERMINISTIC, ring)
    emails = [f"person{row}@example.com".encode() for row in range(40)]
    for row, email in enumerate(emails):
        insert(people, row, email, texts[V1 if row % 2 else V2])
    for _ in range(2):
        for row, email in enumerate(emails):
            either = [Rails([texts[version]], deterministic=True).encrypt(email).decode() for version in (V1, V2)]
            found = people.execute("SELECT id FROM public.people WHERE email = ANY (%s)", (either,)).fetchall()
            assert found == [(row,)]
        Engine(database_url, ring, target=V2).shard(PEOPLE)


def test_a_text_that_is_there_under_both_keys_stops_the_walk_without_a_row_of_it(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    texts = texts_of(DETERMINISTIC, ring)
    insert(people, 1, b"ana@example.com", texts[V1])
    insert(people, 2, b"ana@example.com", texts[V2])  # which the index cannot stop
    with pytest.raises(PreflightError, match="two rows hold one text under two keys") as raised:
        Engine(database_url, ring, target=V2).shard(PEOPLE)
    assert '"p"' not in str(raised.value)
    before = people.execute("SELECT count(DISTINCT email) FROM public.people").fetchone()
    assert before == (2,)
    people.execute("DELETE FROM public.people WHERE id = 2")
    Engine(database_url, ring, target=V2).shard(PEOPLE)
    value = Rails([texts[V2]], deterministic=True).encrypt(b"ana@example.com").decode()
    assert people.execute("SELECT email FROM public.people").fetchall() == [(value,)]
