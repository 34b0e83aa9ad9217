"""What SQL says of values of a transit engine, against the parser, and the CHECK that refuses old versions."""

import base64
import os
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import key_markers, samples
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import naming_sql_of, sql_of
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import EMPTY, UNENCRYPTED, UNNAMED
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.formats.vault_transit import VAULT_TRANSIT
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.codec import marker_in
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.server import TransitServer
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import TransitKey
from keyrotation_pipeline.model.tables import EncryptedTable, TableName

DECLARED = replace(VAULT_TRANSIT, transit="http://127.0.0.1:9/transit/app")  # nobody is asked
C = sql.SQL('(c COLLATE "C")')
TABLE = TableName("public", "held")
V1, V9, V10 = map(KeyVersion, (1, 9, 10))
# Of OpenBao's engine.
GOOD = "vault:v1:3bBNFwO7BGYdNA2yim11KrscgA71BKKODg1Sv04JlGLU"
EMPTY_TEXT = "vault:v2:0XsFsKQXq1ZBKmZfarpzN2vwCvWTFrG6X4rH4g=="
NOT_VALUES = [
    "",
    "vault:v0:" + GOOD[9:],
    "vault:v01:" + GOOD[9:],
    "vault:v1234567:" + GOOD[9:],
    "vault:1:" + GOOD[9:],
    "Vault:v1:" + GOOD[9:],
    "vault:v1::" + GOOD[9:],
    "vault:v1:",
    GOOD[:-4],
    GOOD[:-12],
    GOOD[:-1],
    GOOD + "\n",
    " " + GOOD,
    GOOD + ":x",
    GOOD.replace("/", "_").replace("O", "-"),
    EMPTY_TEXT.rstrip("="),
    EMPTY_TEXT.replace("g==", "h=="),
    "vault:hmac:" + GOOD[9:],
]
SHORT = [each for each in NOT_VALUES if each == GOOD[:-4]]


def sealed(version: int, size: int = 60) -> str:
    return f"vault:v{version}:{base64.b64encode(os.urandom(size)).decode()}"


def ring_of(*versions: int) -> KeyRing:
    keys = {KeyVersion(each): TransitKey(f"{sealed(each)}:{'0' * 64}".encode()) for each in versions}
    return KeyRing(keys, KeyVersion(versions[-1]))


@pytest.fixture
def database(migrated: Connection) -> Connection:
    migrated.execute("CREATE TABLE public.held (n int GENERATED ALWAYS AS IDENTITY, c text)")
    return migrated


def fill(connection: Connection, values: Sequence[str | None]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO public.held (c) VALUES (%s)", [(value,) for value in values])


def true_for(connection: Connection, condition: sql.Composable) -> list[object]:
    rows = connection.execute(sql.SQL("SELECT {} FROM public.held ORDER BY n").format(condition)).fetchall()
    return [found for (found,) in rows]


def test_the_shape_is_the_one_that_the_parser_accepts(database: Connection) -> None:
    values = [*NOT_VALUES, GOOD, EMPTY_TEXT, sealed(12, 3_000), sealed(999999)]
    parsed = [marker_in(value.encode()) is not None for value in values]
    assert parsed == [value in SHORT for value in NOT_VALUES] + [True] * 4
    fill(database, values)
    key_markers.create_for(database, DECLARED)
    judged = true_for(database, sql_of(DECLARED).unencrypted(C))
    assert judged == [bool(value) and not good for value, good in zip(values, parsed, strict=True)]


def test_a_value_is_under_the_version_that_it_names(database: Connection) -> None:
    fill(database, [sealed(1), sealed(9), sealed(10), sealed(99), "", None, "plain"])
    key_markers.publish(database, DECLARED, ring_of(1, 9, 10))
    says = sql_of(DECLARED)
    classes = true_for(database, naming_sql_of(DECLARED).value_class(C))
    assert classes == [1, 9, 10, UNNAMED, EMPTY, None, UNENCRYPTED]
    assert true_for(database, says.under(C, [V1, V9])) == [True, True, False, False, False, False, False]
    wanted = true_for(database, says.to_be_rewritten(sql.SQL("c::text"), V10))
    assert wanted == [True, True, False, True, False, False, True]
    longest = sql.SQL("SELECT {} FROM public.held WHERE n = 2").format(says.longest_under(C, V10))
    assert database.execute(longest).fetchone() == (len(sealed(10)),)


def test_the_fence_refuses_old_versions_and_no_longer_number(database: Connection) -> None:
    table = EncryptedTable(TABLE, ("c",), DECLARED)
    key_markers.publish(database, DECLARED, ring_of(1, 9, 10))
    assert fence.fence(database, table, [V1, V9])
    assert fence.fences(database, table) == (V1, V9)
    for version in (1, 9):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=f"key version v{version} is retired"):
            fill(database, [sealed(version)])
    fill(database, [sealed(10), sealed(91), None, "", "plain"])


def test_no_more_values_are_decrypted_where_a_sample_misses_a_version(
    database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "TABLE_SAMPLE_BYTES", 8192)
    monkeypatch.setattr(TransitServer, "decrypted", lambda _self, values: [b"text" for _ in values])
    fill(database, [*(sealed(9) for _ in range(600)), sealed(1)])
    table, ring = EncryptedTable(TABLE, ("c",), DECLARED), ring_of(1, 9, 10)
    key_markers.publish(database, DECLARED, ring)
    trial = samples.decrypt_sample(database, table, ring, 50, {"c": [V1, V9, V10]})
    tried = {each.version: (each.tried, each.opened) for each in trial.columns}
    assert tried == {V1: (1, 1), V9: (50, 50)}


def test_values_in_undeclared_places_are_found(database: Connection) -> None:
    key_markers.publish(database, DECLARED, ring_of(1, 9))
    database.execute("CREATE TABLE public.notes (t text, j jsonb, b bytea)")
    value = sealed(1)
    database.execute(
        "INSERT INTO public.notes VALUES (%s, jsonb_build_object('v', %s::text), %s::bytea)",
        (f"see {value} there", value, value.encode()),
    )
    database.execute("INSERT INTO public.notes (t) VALUES ('v1: a note, and v9')")
    table = EncryptedTable(TABLE, ("c",), DECLARED)
    found = PostgresInventory(database, tables=[table]).discover([table])
    assert {(each.column, each.values, each.versions) for each in found} == {
        (column, 1, (V1,)) for column in ("t", "j", "b")
    }
