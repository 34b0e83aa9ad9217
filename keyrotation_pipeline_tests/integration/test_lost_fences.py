"""What a table's owner does to the fence after a retirement, on a real server: it is noticed, and no row is read."""

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.retirement.postgres_retirement import PostgresFencing
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.fences import fences
from keyrotation_pipeline_tests.fakes import V1, V2, fake_pipeline
from keyrotation_pipeline_tests.transactions import transactions
from keyrotation_pipeline_tests.unit.rotation.test_fences import retired

CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name", "email"))
NAME = "keyrotation_retired_key_versions"
OLD = "v1:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAA=="
TABLE = "clients (id int PRIMARY KEY, first_name text, email varchar(200))"
ADD, DROP = f"ALTER TABLE clients ADD CONSTRAINT {NAME}", f"ALTER TABLE clients DROP CONSTRAINT {NAME}"
TRIGGER = f"CREATE TRIGGER {NAME} BEFORE UPDATE ON clients EXECUTE FUNCTION suppress_redundant_updates_trigger()"
# `CHECK` stands for the fence's own definition.
ATTACKS = {
    "the fence is dropped": [DROP],
    "another constraint has its name": [DROP, f"{ADD} CHECK (first_name <> 'v1:')"],
    "a trigger has its name": [DROP, TRIGGER.replace("UPDATE ON clients", "UPDATE ON clients FOR EACH ROW")],
    "it is not validated": [DROP, f"{ADD} CHECK NOT VALID"],
    "it is not enforced": [DROP, f"{ADD} CHECK NOT ENFORCED"],
    "it is not inherited": [DROP, f"{ADD} CHECK NO INHERIT"],
    "a column is left out": ["ALTER TABLE clients DROP email CASCADE, ADD email text"],
    "a column is of another type": ["ALTER TABLE clients ALTER email TYPE jsonb USING to_jsonb(email)"],
    "the table is made again": ["ALTER TABLE clients RENAME TO kept", f"CREATE TABLE {TABLE}"],
    "the table is made partitioned": [
        "ALTER TABLE clients RENAME TO kept",
        f"CREATE TABLE {TABLE} PARTITION BY RANGE (id)",
        "ALTER TABLE clients ATTACH PARTITION kept DEFAULT",
    ],
}


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        opened.execute(f"CREATE TABLE {TABLE}")
        opened.execute("INSERT INTO clients VALUES (1, NULL, NULL)")
        yield opened


@pytest.fixture
def watched(owner: psycopg.Connection, database_url: str, connection: Connection) -> Pipeline:
    """v1 was retired in the table, which refuses it."""
    world = fake_pipeline({"clients": []})
    world.keys_are({V1: KeyState.ARCHIVED, V2: KeyState.ACTIVE})
    retired(world, "clients")
    fencing = PostgresFencing(connection)
    fencing.fence(CLIENTS, [V1])
    return replace(world.pipeline, tables=(CLIENTS,), fencing=fencing, inventory=PostgresInventory(connection))


def test_whatever_its_owner_does_to_a_fence_is_noticed(watched: Pipeline, owner: psycopg.Connection) -> None:
    definition = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s"
    [(check,)] = owner.execute(definition, (NAME,)).fetchall()
    unnoticed = list[str]()
    for attack, statements in ATTACKS.items():
        assert fences(watched).lost == (), f"before {attack}"
        with owner.transaction(force_rollback=True):
            for statement in statements:
                owner.execute(statement.replace("CHECK NO", f"{check} NO"))
            seen = fences(replace(watched, fencing=PostgresFencing(owner), inventory=PostgresInventory(owner)))
            unnoticed += [] if seen.lost == (("clients", V1),) else [attack]
    assert unnoticed == []


def test_what_disables_triggers_does_not_disable_the_fence(watched: Pipeline, owner: psycopg.Connection) -> None:
    owner.execute("ALTER TABLE clients DISABLE TRIGGER ALL")
    owner.execute("SET session_replication_role = replica")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        owner.execute("UPDATE clients SET first_name = %s", (OLD,))
    assert fences(watched).lost == ()


def test_a_renamed_table_keeps_its_fence_and_a_locked_one_is_not_seen(
    watched: Pipeline, owner: psycopg.Connection
) -> None:
    owner.execute("ALTER TABLE clients RENAME TO patients")
    (sentence,) = fences(watched).attention()
    assert sentence.startswith("what table clients refuses was not seen: table clients is not in the database")
    renamed = replace(watched, tables=(EncryptedTable(TableName("public", "patients"), CLIENTS.columns),))
    assert fences(renamed).by_table == {"patients": (V1,)}
    assert fences(renamed).undeclared == ()
    with owner.transaction():
        owner.execute("LOCK TABLE patients IN ACCESS EXCLUSIVE MODE")
        (sentence,) = fences(renamed).attention()
    assert sentence.startswith("what table patients refuses was not seen: table patients is locked")


def test_a_locked_table_keeps_the_others_from_nothing(watched: Pipeline, owner: psycopg.Connection) -> None:
    owner.execute("CREATE TABLE visits (first_name text, email text)")
    visits, gone = (EncryptedTable(TableName("public", name), CLIENTS.columns) for name in ("visits", "gone"))
    three = replace(watched, tables=(visits, CLIENTS, gone))
    with owner.transaction():
        owner.execute("LOCK TABLE visits IN ACCESS EXCLUSIVE MODE")
        seen = fences(three)
    assert seen.by_table == {"clients": (V1,)}
    assert {name: sentence.partition(";")[0] for name, sentence in seen.unseen.items()} == {
        "visits": "table visits is locked by another session",
        "gone": "table gone is not in the database",
    }


def test_a_partition_that_is_declared_too_is_judged_by_its_own_columns(
    watched: Pipeline, owner: psycopg.Connection
) -> None:
    owner.execute("CREATE TABLE visits (note text, place text) PARTITION BY LIST (place)")
    owner.execute("CREATE TABLE visits_here PARTITION OF visits DEFAULT")
    visits = EncryptedTable(TableName("public", "visits"), ("note", "place"))
    here = EncryptedTable(TableName("public", "visits_here"), ("note",))
    watched.fencing.fence(visits, [V1, V2])
    assert watched.fencing.all_fences((here, CLIENTS, visits)) == {here: (), CLIENTS: (V1,), visits: (V1, V2)}


def test_a_look_at_many_tables_is_one_transaction(
    watched: Pipeline, owner: psycopg.Connection, database_url: str
) -> None:
    names = [f"table{number}" for number in range(30)]
    for name in names:
        owner.execute(f"CREATE TABLE {name} (first_name text, email text)")
    many = tuple(EncryptedTable(TableName("public", name), CLIENTS.columns) for name in names)
    assert isinstance(watched.fencing, PostgresFencing)
    ours = watched.fencing.connection
    before = transactions(database_url, owner, ours)
    watched.fencing.all_fences(many)
    # To count takes some, too.
    assert transactions(database_url, owner, ours) - before <= 5


def test_no_row_is_read(watched: Pipeline, owner: psycopg.Connection) -> None:
    scans = "SELECT pg_stat_get_numscans('clients'::regclass), pg_stat_get_tuples_returned('clients'::regclass)"
    assert isinstance(watched.fencing, PostgresFencing)
    ours, flush = watched.fencing.connection, "SELECT pg_stat_force_next_flush()"
    ours.execute(flush)  # of the scan that validated the fence
    owner.execute("SELECT pg_stat_reset()")
    fences(watched)
    ours.execute(flush)
    assert owner.execute(scans).fetchone() == (0, 0)
