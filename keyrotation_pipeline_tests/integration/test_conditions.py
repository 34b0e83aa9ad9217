"""Columns of which a row says by a boolean whether its text is encrypted, as Airflow's `connection` has them."""

from collections.abc import Callable

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys, held_in_snapshot
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.speed import measure
from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.inventory import (
    counts,
    quarantine,
    relations,
    retired_signing_keys,
    samples,
)
from keyrotation_pipeline.adapters.postgres.inventory.discovery import discover
from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, ring_of
from keyrotation_pipeline_tests.integration.fernet_rows import V1, V2, library, token
from keyrotation_pipeline_tests.integration.test_engine_interleaving import between_read_and_write

SCHEMA = """
CREATE SCHEMA "air flow";
CREATE DOMAIN "air flow".maybe AS boolean;
CREATE TABLE "air flow"."connection%s" (
    id int PRIMARY KEY, "pass%word" text NOT NULL, "is%s_encrypted" boolean, extra bytea, extra_too "air flow".maybe
) PARTITION BY RANGE (id);
CREATE TABLE "air flow".low PARTITION OF "air flow"."connection%s" FOR VALUES FROM (0) TO (100);
CREATE TABLE "air flow".high PARTITION OF "air flow"."connection%s" FOR VALUES FROM (100) TO (200);
"""
NAME = '"air flow"."connection%s"'
TABLE = EncryptedTable.of(
    TableName("air flow", "connection%s"),
    [Place("pass%word", when="is%s_encrypted"), Place("extra", when="extra_too")],
    FERNET,
)
PASSWORD, EXTRA = TABLE.columns


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture
def database(migrated: Connection, ring: KeyRing) -> Connection:
    migrated.execute(SCHEMA.encode())
    put(migrated, 1, token(ring, V1, "one"), says=True, extra=token(ring, V1, "extra"), says_extra=True)
    put(migrated, 2, "plain", says=False, extra="{plain}", says_extra=False)
    put(migrated, 103, "plain too", says=None, extra=None, says_extra=None)
    put(migrated, 104, "", says=False, extra="", says_extra=True)
    return migrated


def put(
    connection: Connection, row: int, password: str, *, says: bool | None, extra: str | None, says_extra: bool | None
) -> None:
    connection.execute(
        f"INSERT INTO {NAME.replace('%', '%%')} VALUES (%s, %s, %s, %s::bytea, %s)".encode(),
        (row, password, says, None if extra is None else extra.encode(), says_extra),
    )


def rows(connection: Connection) -> dict[object, tuple[object, ...]]:
    query = f"SELECT id, \"pass%word\", convert_from(extra, 'UTF8') FROM {NAME}"
    return {row: tuple(values) for row, *values in connection.execute(query.encode()).fetchall()}


def keys_of(url: str, ring: KeyRing) -> CurrentKeys:
    return CurrentKeys(lambda: connect(url), lambda: ring, Limits())


def test_text_that_its_row_calls_unencrypted_is_no_finding_and_stays_as_it_is(
    database: Connection, database_url: str, ring: KeyRing
) -> None:
    before = rows(database)
    counted = keys_of(database_url, ring).count(TABLE)
    assert (counted.rows, counted.by_column) == (4, {PASSWORD: {V1: 1}, EXTRA: {V1: 1}})
    assert (counted.unencrypted, counted.empty) == (0, 1)
    (speed,) = measure(lambda: connect(database_url), [TABLE], ring, V2, Limits())
    assert (speed.sampled_rows > 0, speed.failed_values) == (True, 0)
    assert samples.decrypt_sample(database, TABLE, ring, 5, {}).failed == 0
    assert [(each.tried, each.opened) for each in samples.probe(database, TABLE, ring, 9)] == [(1, 1), (1, 1)]
    assert held_in_snapshot(database, TABLE, ring) == (4, [{V1: 1}, {V1: 1, None: 1}])
    engine = Engine(database_url, ring)
    assert (engine.shard(TABLE).rows, engine.sweep(TABLE, wait=True).rows) == (1, 0)
    after = rows(database)
    assert {row: after[row] for row in (2, 103, 104)} == {row: before[row] for row in (2, 103, 104)}
    assert [library(ring.material(V2)).decrypt(str(each)) for each in after[1]] == [b"one", b"extra"]
    decrypted = decrypt_all(lambda: connect(database_url), TABLE, ring, lambda _: None, Limits())
    assert (decrypted.values, decrypted.failures, decrypted.empty) == (2, 0, 1)
    assert quarantine.load(database, [TABLE]) == ()
    assert [each.message for each in preflight(database, [TABLE], V2) if each.fatal] == []


def test_plain_text_that_its_row_calls_encrypted_is_a_finding(
    database: Connection, database_url: str, ring: KeyRing
) -> None:
    database.execute(f'UPDATE {NAME} SET "is%s_encrypted" = true WHERE id = 2'.encode())
    counted = keys_of(database_url, ring).count(TABLE)
    assert counted.unencrypted_by_column == {PASSWORD: 1}
    assert Engine(database_url, ring).shard(TABLE).quarantined == 1
    assert [(entry.key, entry.column) for entry in quarantine.load(database, [TABLE])] == [('["2"]', PASSWORD)]
    database.execute(f'UPDATE {NAME} SET "is%s_encrypted" = false WHERE id = 2'.encode())
    assert quarantine.load(database, [TABLE]) == ()


def test_no_value_hides_behind_what_its_row_says(database: Connection, database_url: str, ring: KeyRing) -> None:
    """A value counts, is re-encrypted and refused, whoever says that it is none: the row may say otherwise later."""
    database.execute(f'UPDATE {NAME} SET "is%s_encrypted" = NULL, extra_too = false WHERE id = 1'.encode())
    keys = keys_of(database_url, ring)
    assert keys.count(TABLE).by_column == {PASSWORD: {V1: 1}, EXTRA: {V1: 1}}
    retired_signing_keys.publish(database, FERNET, ring, V2)
    assert counts.old_rows(database, TABLE, [V1], None).rows == 1
    assert Engine(database_url, ring).shard(TABLE).rows == 1
    assert counts.old_rows(database, TABLE, [V1], None).rows == 0
    evidence = evidence_of(database, TABLE)
    assert evidence.fence([V1])
    assert evidence.fences() == (V1,)
    for says in (True, False, None):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="key version v1 is retired"):
            put(database, 105, token(ring, V1, "late"), says=says, extra=None, says_extra=None)
    put(database, 106, "plain", says=False, extra="plain", says_extra=False)
    database.execute(f'UPDATE {NAME} SET "is%s_encrypted" = true WHERE id = 1'.encode())
    evidence.lift(V1)
    assert evidence.fences() == ()


def test_tokens_of_retired_keys_within_unencrypted_text_are_found(database: Connection, ring: KeyRing) -> None:
    retired_signing_keys.publish(database, FERNET, ring, V2)
    assert discover(database, [TABLE]) == ()
    within = f'{{"copied": "{token(ring, V1, "copied")}"}}'
    put(database, 3, within, says=False, extra=within, says_extra=None)
    found = discover(database, [TABLE])
    assert {(each.relation, each.column, each.values, each.versions) for each in found} == {
        ("air flow.low", PASSWORD, 1, (V1,)),
        ("air flow.low", EXTRA, 1, (V1,)),
    }
    assert {each.reason for each in found} == {"a text that its row calls unencrypted holds encrypted values"}


def becomes_plain(connection: psycopg.Connection) -> str:
    connection.execute(f'UPDATE {NAME} SET "pass%word" = \'plain now\', "is%s_encrypted" = false WHERE id = 1'.encode())
    return "plain now"


def only_says_so(connection: psycopg.Connection) -> str:
    connection.execute(f'UPDATE {NAME} SET "is%s_encrypted" = false WHERE id = 1'.encode())
    return "one"


def names_are_exchanged(connection: psycopg.Connection) -> str:
    """The conditions, in the parent and so in every partition; rows read meanwhile are not written."""
    for old, new in (("is%s_encrypted", "other"), ("extra_too", "is%s_encrypted"), ("other", "extra_too")):
        connection.execute(f'ALTER TABLE {NAME} RENAME "{old}" TO "{new}"'.encode())
    return "one"


@pytest.mark.parametrize("action", [becomes_plain, only_says_so, names_are_exchanged])
def test_what_a_row_says_meanwhile_wins(
    database: Connection, database_url: str, ring: KeyRing, action: Callable[[psycopg.Connection], str]
) -> None:
    wanted = ""
    database.execute(f"DELETE FROM {NAME} WHERE id > 100".encode())
    database.execute('VACUUM "air flow".high')

    def between(batch: int) -> None:
        nonlocal wanted
        if batch == 0:
            with psycopg.connect(database_url, autocommit=True) as application:
                wanted = action(application)

    engine = Engine(database_url, ring)
    with between_read_and_write(between):
        assert engine.shard(TABLE).skipped > 0
    while engine.sweep(TABLE).rows:
        pass
    password, extra = map(str, rows(database)[1])
    key = library(ring.material(V2))
    assert key.decrypt(extra) == b"extra"
    assert (password if wanted == "plain now" else key.decrypt(password).decode()) == wanted


def test_a_row_that_others_hold_is_compared_with_what_it_says(
    database: Connection, database_url: str, ring: KeyRing
) -> None:
    retired_signing_keys.publish(database, FERNET, ring, V2)
    with psycopg.connect(database_url) as application:
        application.execute(f"SELECT FROM {NAME} WHERE id = 1 FOR UPDATE".encode())
        assert Engine(database_url, ring).shard(TABLE).skipped == 1
        application.execute(f'UPDATE {NAME} SET "is%s_encrypted" = NULL WHERE id = 1'.encode())
    assert Engine(database_url, ring).sweep(TABLE, wait=True).rows == 1
    assert counts.old_rows(database, TABLE, [V1], None).rows == 0


@pytest.mark.parametrize(
    ("when", "said"),
    [
        pytest.param("extra", "of type bytea, and only a boolean column can say when pass", id="bytes"),
        pytest.param("missing", "column missing is not in table air flow.", id="missing"),
    ],
)
def test_only_a_boolean_column_says_when(database: Connection, when: str, said: str) -> None:
    table = EncryptedTable.of(TABLE.name, [Place(PASSWORD, when=when)], FERNET)
    with pytest.raises(PreflightError, match=said):
        relations.heaps(database, table)
