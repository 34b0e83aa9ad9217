"""Copies of encrypted values in other columns are found, and no plaintext is in a statement."""

from typing import Any

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.plaintext_outside_rows import CopiesSought
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed, table_of

NOTES = table_of("notes", "note")
ROWS = 300


@pytest.fixture
def ring(connection: Connection) -> KeyRing:
    """Of a table of encrypted notes, most of which stand in it once."""
    ring = ring_of(2)
    connection.execute("CREATE TABLE public.notes (id int PRIMARY KEY, note text)")
    texts = [*(f"Notiz {n} über 😀" for n in range(ROWS)), *["often the same"] * 5, "short"]
    insert(connection, "public.notes", [(row, sealed(ring, 2, text)) for row, text in enumerate(texts)])
    return ring


def copies(connection: Connection, ring: KeyRing) -> CopiesSought:
    found = PostgresInventory(connection).plaintext_copies([(NOTES, "note")], ring)
    assert found is not None
    return found


def test_without_a_copy_none_is_found(connection: Connection, ring: KeyRing) -> None:
    connection.execute("CREATE TABLE public.codes AS SELECT 'often the same' AS a, 'short' AS b, 'Notiz 1 of' AS c")
    found = copies(connection, ring)
    assert (found.values, found.columns, found.found, found.not_read) == (ROWS, 4, (), 1)  # the other databases


@pytest.mark.parametrize(
    ("column", "copy"),
    [
        ("text", "Notiz 7 über 😀"),
        ("varchar", "sent: Notiz 7 über 😀."),
        ("text[]", "{Notiz 6, sent: Notiz 7 über 😀.}"),
        ("jsonb", r'{"sent": [{"to": "x", "text": "Notiz 7 \u00fcber 😀"}], "odd": 1}'),
        ("json", r'{"sent": "Notiz 7 \u00fcber 😀", "odd": "\ud83d"}'),
        ("bytea", "sent: Notiz 7 über 😀".encode()),
    ],
)
def test_a_copy_is_found_alone_and_within_another_text(
    connection: Connection, ring: KeyRing, column: str, copy: object
) -> None:
    connection.execute(f"CREATE TABLE public.outbox (id int, sent {column})".encode())
    insert(connection, "public.outbox", [(1, copy), (2, None)])
    assert copies(connection, ring).found == ("public.outbox.sent",)


def test_what_cannot_be_read_is_counted(connection: Connection, ring: KeyRing) -> None:
    before = copies(connection, ring).not_read
    connection.execute("CREATE TABLE public.large AS SELECT repeat('x', 2000000) AS a")
    assert copies(connection, ring).not_read == before + 1


def test_where_no_value_is_rare_nothing_is_looked_for(connection: Connection, ring: KeyRing) -> None:
    connection.execute("DELETE FROM public.notes WHERE id < %s", (ROWS,))
    assert PostgresInventory(connection).plaintext_copies([(NOTES, "note")], ring) is None


def test_no_plaintext_is_in_a_statement(connection: Connection, ring: KeyRing) -> None:
    sent = list[str]()

    class Recording(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **rest: Any) -> Any:  # noqa: ANN401  as it is there
            sent.append(f"{query.as_string(self) if isinstance(query, psycopg.sql.Composable) else query!r} {params}")
            return super().execute(query, params, **rest)

    connection.execute("CREATE TABLE public.outbox AS SELECT 'Notiz 7 über 😀' AS sent")
    connection.cursor_factory = Recording
    assert copies(connection, ring).found == ("public.outbox.sent",)
    assert "outbox" in str(sent)
    assert "Notiz" not in str(sent)
