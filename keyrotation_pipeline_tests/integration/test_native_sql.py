"""The SQL over values of our own format is the one that was measured and attacked, statement by statement.

``KEYROTATION_FREEZE=1 uv run pytest -n0 keyrotation_pipeline_tests/integration/test_native_sql.py`` writes it again
after a change that was wanted.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.ranges import SweptPageRanges
from keyrotation_pipeline.adapters.postgres.engine.statements import statements
from keyrotation_pipeline.adapters.postgres.inventory import counts, quarantine, relations, samples
from keyrotation_pipeline.adapters.postgres.inventory.old_values import count_old_values
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed, table_of

FROZEN = Path(__file__).with_name("native_sql.sql")
V1, V2, V10 = KeyVersion(1), KeyVersion(2), KeyVersion(10)
TABLE = table_of("frozen", "a", "b%c", "d")


def test_every_statement_over_native_values_is_as_it_was(migrated: Connection) -> None:
    found = _statements(migrated)
    if os.environ.get("KEYROTATION_FREEZE"):
        FROZEN.write_text(found, encoding="utf-8")
    assert found == FROZEN.read_text(encoding="utf-8")


def _statements(connection: Connection) -> str:
    connection.execute("CREATE DOMAIN public.sealed AS text CHECK (VALUE <> 'x')")
    columns = "a text CHECK (a <> 'y'), \"b%c\" varchar(200), d public.sealed"
    connection.execute(f"CREATE TABLE public.frozen (id int PRIMARY KEY, {columns})".encode())
    ring = ring_of(1, 2, 10)
    values = [sealed(ring, 2, "some text") for _ in range(3)]
    insert(connection, "public.frozen", [(1, *values), (2, None, "", "plain"), (3, None, None, None)])
    (relation,) = relations.heaps(connection, TABLE)
    defects = [("[1]", "a", Defect(DefectKind.NOT_A_VALUE)), ("[3]", "d", Defect(DefectKind.NOT_AUTHENTIC, V2))]
    quarantine.add(connection, TABLE, relation, defects)
    key = row_key(connection, relation)
    parts = []
    for target, hot in ((None, False), (V2, False), (V10, True)):
        made = statements(connection, relation, key, NATIVE, target, hot_order=hot)
        subject = f"target {target}{', hot order' if hot else ''}"
        parts += [(f"engine, {each.name}, {subject}", getattr(made, each.name).decode()) for each in fields(made)]
    with _recorded(connection) as said:
        SweptPageRanges(connection, NATIVE, V2, by_opening=True).ranges(relation)
        PostgresInventory(connection).count([TABLE])
        counts.old_rows(connection, TABLE, [V1, V10], 7)
        counts.rows_seen(connection, TABLE, V2, 60)
        count_old_values(connection, TABLE, [V1])
        quarantine.load(connection, [TABLE])
        samples.decrypt_sample(connection, TABLE, ring, 5, {"a": [V1]})
        preflight(connection, [TABLE], V10)
        connection.execute("UPDATE public.frozen SET d = NULL WHERE id = 2")
        fence.fence(connection, TABLE, [V1, V10])
        fence.unfence(connection, TABLE, V1)
    parts += [("in order", each) for each in said if "frozen" in each]
    text = "".join(f"-- {name}\n{text.strip()}\n\n" for name, text in parts)
    return re.sub(r"\b[0-9]{5,}\b(?=::oid|'?::bigint|\])", "OID", re.sub(rf"\b{relation.oid}\b", "OID", text))


@contextmanager
def _recorded(connection: Connection) -> Iterator[list[str]]:
    said: list[str] = []

    class Recording(psycopg.Cursor[Any]):
        def execute(self, query: Any, *given: Any, **named: Any) -> Any:  # noqa: ANN401
            said.append(query.as_string(self) if isinstance(query, sql.Composable) else _text(query))
            return super().execute(query, *given, **named)

    before, connection.cursor_factory = connection.cursor_factory, Recording
    try:
        yield said
    finally:
        connection.cursor_factory = before


def _text(query: str | bytes) -> str:
    return query.decode() if isinstance(query, bytes) else query
