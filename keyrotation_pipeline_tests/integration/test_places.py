"""Values in bytes, documents and arrays: what is counted, found elsewhere, left, named, sampled and refused."""

import json
from typing import Any

import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.speed import measure
from keyrotation_pipeline.adapters.postgres.inventory import counts, quarantine, samples
from keyrotation_pipeline.adapters.postgres.inventory.discovery import candidates, discover
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.assembly.home import Found
from keyrotation_pipeline.cli.template import configuration
from keyrotation_pipeline.errors import KeyRotationError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, ring_of, sealed
from keyrotation_pipeline_tests.integration.fernet_rows import V1, V2
from keyrotation_pipeline_tests.integration.stored_places import FORMATS, seal

PLACES = (
    Place("secret"),
    Place("doc", ("secrets", "token")),
    Place("doc", ("list", "1")),
    Place("tags", elements=True),
)
NAMES = ("secret", "doc.secrets.token", "doc.list.1", "tags[]")
COLUMNS = "id int PRIMARY KEY, secret bytea, doc jsonb, tags varchar(300)[]"


def table_in(values: str = "native", *places: Place) -> EncryptedTable:
    return EncryptedTable.of(TableName("public", "cases"), places or PLACES, FORMATS[values])


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2, 10)


def insert(connection: Connection, *rows: tuple[object, ...]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO public.cases VALUES (%s, convert_to(%s, 'UTF8'), %s, %s)", rows)


def document(token: object, listed: object) -> str:
    return json.dumps({"secrets": {"token": token, "user": "ada"}, "list": ["x", listed]})


def filled(connection: Connection, ring: KeyRing, values: str = "native", first: int = 1) -> list[str]:
    """Three rows: values everywhere, NULLs, and empty ones; returns the values."""
    connection.execute(f"CREATE TABLE public.cases ({COLUMNS})".encode())
    made = [seal(FORMATS[values], ring, first if number % 2 else 2, f"text {number}") for number in range(5)]
    insert(
        connection,
        (1, made[0], document(made[1], made[2]), [made[3], None, made[4]]),
        (2, None, None, None),
        (3, "", document("", None), ["", None]),
        (4, None, "{}", []),
        (5, None, '[{"secrets": 1}]', None),
    )
    return made


def test_every_value_is_counted_by_its_place(either: Connection, ring: KeyRing) -> None:
    filled(either, ring)
    (counted,) = PostgresInventory(either).count([table_in()])
    assert counted.by_column == {"secret": {V2: 1}, NAMES[1]: {V1: 1}, NAMES[2]: {V2: 1}, "tags[]": {V1: 1, V2: 1}}
    assert (counted.rows, counted.empty, counted.unencrypted) == (5, 3, 0)
    # A value that is not encrypted, and an unknown version, are counted by grouping.
    either.execute("UPDATE public.cases SET tags = tags || 'plain'::varchar WHERE id = 1")
    insert(either, (6, sealed(ring_of(2, 77), 77, "x"), None, ["v01:x", None]))
    (counted,) = PostgresInventory(either).count([table_in()])
    assert counted.by_column["secret"] == {V2: 1, KeyVersion(77): 1}
    assert counted.by_column["tags[]"] == {V1: 1, V2: 1}
    assert counted.unencrypted_by_column == {"tags[]": 2}
    assert counts.old_rows(either, table_in(), [V1], None).rows == 1
    assert counts.rows_seen(either, table_in(), V2, 60) == 1
    (only_arrays,) = PostgresInventory(either).count([table_in("native", PLACES[3])])
    assert (only_arrays.rows, only_arrays.by_column) == (6, {"tags[]": {V1: 1, V2: 1}})


def test_values_are_counted_by_decrypting_where_nothing_names_their_key(
    migrated: Connection, database_url: str, ring: KeyRing
) -> None:
    filled(migrated, ring, "fernet")
    keys = CurrentKeys(lambda: connect(database_url), lambda: ring, Limits())
    counted = keys.count(table_in("fernet"))
    assert counted.by_column == {"secret": {V2: 1}, NAMES[1]: {V1: 1}, NAMES[2]: {V2: 1}, "tags[]": {V1: 1, V2: 1}}
    assert (keys.rows_under(table_in("fernet"), [V1]), keys.rows_under(table_in("fernet"), [KeyVersion(10)])) == (1, 0)


@pytest.mark.parametrize("values", FORMATS)
def test_what_cannot_be_read_is_left_named_and_forgotten_when_it_is_fixed(
    migrated: Connection, database_url: str, ring: KeyRing, values: str
) -> None:
    made, table = filled(migrated, ring, values), table_in(values)
    stranger = seal(FORMATS[values], ring_of(1, 2), 1, "of another key")
    migrated.execute("UPDATE public.cases SET secret = '\\xff00' WHERE id = 2")
    insert(
        migrated,
        (7, None, json.dumps({"secrets": {"token": {"a": made[1]}}, "list": ["x", 17]}), [[made[3], "plain"]]),
        (8, None, json.dumps({"secrets": {"token": [made[1]]}, "list": [True, True]}), [stranger, made[3]]),
    )
    before = migrated.execute("SELECT id, doc FROM public.cases WHERE id > 6 ORDER BY id").fetchall()
    done = Engine(database_url, ring).shard(table)
    assert done.quarantined == 7
    named = {(entry.key, entry.column) for entry in quarantine.load(migrated, [table])}
    assert named == {
        ('["2"]', "secret"),
        ('["7"]', NAMES[1]),
        ('["7"]', NAMES[2]),
        ('["7"]', "tags[1][2]"),
        ('["8"]', NAMES[1]),
        ('["8"]', NAMES[2]),
        ('["8"]', "tags[1]"),
    }
    # Nothing of them was lost, and the elements next to a bad one were re-encrypted.
    assert migrated.execute("SELECT id, doc FROM public.cases WHERE id > 6 ORDER BY id").fetchall() == before
    kept = "SELECT tags[1][2], array_dims(tags), tags[1][1] FROM public.cases WHERE id = 7"
    ((plain, shape, new),) = migrated.execute(kept).fetchall()
    assert (plain, shape, new == made[3]) == ("plain", "[1:1][1:2]", False)
    again = decrypt_all(lambda: connect(database_url), table, ring, lambda _: None, Limits())
    assert again.failures == 7
    assert again.by_column["tags[]"] == {V2: 4}
    migrated.execute("DELETE FROM public.cases WHERE id = 8; UPDATE public.cases SET secret = NULL WHERE id = 2")
    migrated.execute("UPDATE public.cases SET tags[1][2] = NULL, doc = '{}' WHERE id = 7")
    assert quarantine.load(migrated, [table]) == ()


ODD = ("a b", "c,d", 'e"f', "g\\h", "i'j", "", "null", "ü%s%{}", "$1")
ODD_PLACES = (Place('doc%s"{}', ODD), Place('doc%s"{}', ("x",)), Place("ta[]gs%", elements=True), Place("b%b{}y"))


@pytest.mark.parametrize("values", FORMATS)
def test_names_and_keys_of_every_spelling_are_read_and_written(
    migrated: Connection, database_url: str, ring: KeyRing, values: str
) -> None:
    table, old = table_in(values, *ODD_PLACES), [seal(FORMATS[values], ring, 1, f"text {n}") for n in range(4)]
    migrated.execute('CREATE TABLE public.cases (id int, "doc%s""{}" jsonb, "ta[]gs%" text[], "b%b{}y" bytea)')
    nested: object = old[0]
    for key in reversed(ODD):
        nested = {key: nested, "other": "kept"}
    whole = json.dumps({**nested, "x": old[1]})  # type: ignore[dict-item]
    put = sql.SQL("INSERT INTO public.cases VALUES (1, {}, {}, {})").format(whole, [old[2], 'q"\\{,}'], old[3].encode())
    migrated.execute(put)
    (speed,) = measure(lambda: connect(database_url), [table], ring, KeyVersion(10), Limits())
    assert (speed.sampled_rows, speed.failed_values) == (1, 1)
    engine = Engine(database_url, ring)
    assert (engine.shard(table).rows, engine.sweep(table, wait=True).rows) == (1, 0)
    read = decrypt_all(lambda: connect(database_url), table, ring, lambda _: None, Limits())
    assert {name: dict(held) for name, held in read.by_column.items()} == {name: {V2: 1} for name in table.columns}
    (entry,) = quarantine.load(migrated, [table])
    assert entry.column == '"ta[]gs%"[2]'
    if values == "native":
        assert PostgresInventory(migrated).count([table])[0].values_by_version == {V2: 4}
    assert counts.old_rows(migrated, table, [V1], None).rows == 0
    assert samples.decrypt_sample(migrated, table, ring, 5, {}).failed == 0
    assert discover(migrated, [table]) == ()
    (kept,) = migrated.execute('SELECT "doc%s""{}", "ta[]gs%"[2] FROM public.cases').fetchall()
    found: Any = kept[0]
    assert kept[1] == 'q"\\{,}'
    for key in ODD:
        assert found["other"] == "kept"
        found = found[key]


def test_a_declared_place_is_not_reported_and_the_rest_of_its_document_is(either: Connection, ring: KeyRing) -> None:
    made = filled(either, ring)
    insert(either, (20, None, '"a scalar"', None), (21, None, "null", None), (22, None, "[[1]]", None))
    assert discover(either, [table_in()]) == ()
    insert(either, (9, None, json.dumps({"secrets": {"token": made[0], "copy": made[1]}, "other": [made[2]]}), None))
    (found,) = discover(either, [table_in()])
    assert (found.relation, found.column, found.values, found.versions) == ("cases", "doc", 2, (V1, V2))
    assert "outside of the declared paths" in found.reason
    assert {each.column for each in discover(either, [table_in("native", PLACES[0])])} == {"doc", "tags"}


@pytest.mark.parametrize("values", FORMATS)
def test_keys_are_tried_on_values_of_every_place(either: Connection, ring: KeyRing, values: str) -> None:
    filled(either, ring, values)
    either.execute("CREATE SCHEMA IF NOT EXISTS keyrotation")
    trial = samples.decrypt_sample(either, table_in(values), ring, 5, {})
    assert {(each.column, each.tried, each.opened) for each in trial.columns} == {(name, 1, 1) for name in NAMES}
    wrong = KeyRing({version: ring_of(1, 2).material(V1) for version in (V1, V2)}, V2)
    assert samples.decrypt_sample(either, table_in(values), wrong, 5, {}).failed > 0


@pytest.mark.parametrize("values", FORMATS)
def test_speed_is_measured_in_every_place(migrated: Connection, database_url: str, ring: KeyRing, values: str) -> None:
    filled(migrated, ring, values)
    (speed,) = measure(lambda: connect(database_url), [table_in(values)], ring, KeyVersion(10), Limits())
    assert (speed.sampled_rows, speed.failed_values) == (5, 0)
    assert speed.rows_per_second > 0


REFUSED = [
    ("doc json", Place("doc", ("a",)), "is of type json, which keeps a document as it was"),
    ("doc text", Place("doc", ("a",)), "only jsonb has values at a path"),
    ("doc jsonb", Place("doc"), 'path = ["key", …]'),
    ("doc jsonb", Place("doc", elements=True), "name the value in its documents"),
    ("doc text[]", Place("doc"), "elements = true"),
    ("doc bytea[]", Place("doc", elements=True), "only the elements of text[] and varchar[]"),
    ("doc text", Place("doc", elements=True), "only the elements of text[]"),
    ("doc text[]", Place("doc", ("a",)), "elements = true"),
]


def test_a_type_that_does_not_fit_a_place_is_one_sentence(either: Connection) -> None:
    for column, place, sentence in REFUSED:
        with either.transaction(force_rollback=True):
            either.execute(f"CREATE TABLE public.cases (id int, {column})".encode())
            with pytest.raises(PreflightError) as refused:
                PostgresInventory(either).count([table_in("native", place)])
            assert sentence in str(refused.value), column
            found = [each.message for each in preflight(either, [table_in("native", place)], V2) if each.fatal]
            assert any(sentence in each for each in found), column


ACCEPTED = [
    pytest.param("CHECK ((doc #>> '{secrets,token}') NOT LIKE 'v10%')", "doc", id="CHECK on a path"),
    pytest.param("CHECK (array_to_string(tags, ' ') NOT LIKE '%v10:%')", "tags", id="CHECK on an array"),
    pytest.param("CHECK (encode(secret, 'escape') NOT LIKE 'v10%')", "secret", id="CHECK on bytes"),
]


@pytest.mark.parametrize(("check", "column"), ACCEPTED)
def test_a_check_that_refuses_the_next_version_is_found_in_every_place(
    either: Connection, ring: KeyRing, check: str, column: str
) -> None:
    filled(either, ring)
    either.execute(f"ALTER TABLE public.cases ADD CONSTRAINT narrow {check}".encode())
    found = [each.message for each in preflight(either, [table_in()], KeyVersion(10)) if each.fatal]
    assert any("the CHECK narrow of cases refuses 1 row under v10" in each for each in found), column


def test_a_domain_or_a_length_that_refuses_the_next_version_is_found(either: Connection, ring: KeyRing) -> None:
    made = filled(either, ring)
    either.execute(
        "CREATE DOMAIN public.sealed AS jsonb CHECK ((VALUE #>> '{secrets,token}') NOT LIKE 'v10:%');"
        "ALTER TABLE public.cases ALTER doc TYPE public.sealed;"
        f"ALTER TABLE public.cases ALTER tags TYPE varchar({len(made[3])})[]"
    )
    found = [each.message for each in preflight(either, [table_in()], KeyVersion(10)) if each.fatal]
    assert any("the domain public.sealed of column cases.doc refuses values under v10" in each for each in found)
    assert any(f"its longest value needs {len(made[3]) + 1} under v10" in each for each in found)


def test_an_array_that_would_not_fit_is_never_cut(migrated: Connection, database_url: str, ring: KeyRing) -> None:
    made = filled(migrated, ring)
    migrated.execute(f"ALTER TABLE public.cases ALTER tags TYPE varchar({len(made[3])})[]".encode())
    with pytest.raises(KeyRotationError, match="too long for its column, and was not written"):
        Engine(database_url, ring, target=KeyVersion(10)).shard(table_in("native", PLACES[3]))
    assert migrated.execute("SELECT tags[1] FROM public.cases WHERE id = 1").fetchone() == (made[3],)


def test_init_declares_bytes_and_arrays_and_names_documents(migrated: Connection, ring: KeyRing) -> None:
    filled(migrated, ring)
    tables, rest = candidates(migrated, discover(migrated, ()))
    assert tables == (table_in("native", PLACES[0], PLACES[3]),)
    assert [(each.relation, each.column) for each in rest] == [("cases", "doc")]
    found = Found("clinic", tables, rest)
    assert 'columns = ["secret", { column = "tags", elements = true }]\n' in configuration(found, embedded=False)
    assert '# Not declared: "cases.doc"' in configuration(found, embedded=False)
