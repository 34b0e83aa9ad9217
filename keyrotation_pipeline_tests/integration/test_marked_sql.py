"""What SQL says of values that name their key by a marker, against the parser, and the CHECK that refuses them."""

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import key_markers
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import naming_sql_of, sql_of
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import EMPTY, UNENCRYPTED, UNNAMED
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import ProofError
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, new_key
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng import CLOAK_47NG
from keyrotation_pipeline.fieldcrypto.formats.fernet_keyed_wrapper import KEYED_WRAPPER
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import AesKey
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests import marked_libraries
from keyrotation_pipeline_tests.marked_libraries import Library, Rails
from keyrotation_pipeline_tests.unit.fieldcrypto.codecs.test_marked import (
    ALL,
    GOOD,
    GOOD_CLOAK,
    GOOD_ENVELOPE,
    GOOD_WRAPPER,
    NOT_CLOAK,
    NOT_RAILS,
    NOT_WRAPPER,
    RAILS_HERE,
    V1,
    V2,
    V3,
    made,
    markers,
    texts_of,
)

C = sql.SQL('(c COLLATE "C")')
TABLE = TableName("public", "held")


@pytest.fixture
def database(migrated: Connection) -> Connection:
    migrated.execute("CREATE TABLE public.held (n int GENERATED ALWAYS AS IDENTITY, c text, v varchar(300))")
    return migrated


def fill(connection: Connection, values: Sequence[str | None]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO public.held (c) VALUES (%s)", [(value,) for value in values])


def true_for(connection: Connection, condition: sql.Composable) -> list[object]:
    rows = connection.execute(sql.SQL("SELECT {} FROM public.held ORDER BY n").format(condition)).fetchall()
    return [found for (found,) in rows]


def test_the_shape_is_the_one_that_the_parser_accepts(database: Connection) -> None:
    good = [GOOD, GOOD.replace(',"i":"NGY4Mg=="', ""), GOOD.replace("QQ==", ""), GOOD.replace("QQ==", "QQ" * 9_000)]
    good += [GOOD.replace('"i":"NGY4Mg=="', headers) for headers in ('"c":true,"i":"NGY4Mg=="', '"e":"QQ==","c":true')]
    good += [
        GOOD_ENVELOPE,
        GOOD_ENVELOPE.replace(',"i":"NGY4Mg=="', ""),
        GOOD_ENVELOPE[:-2] + ',"c":true}}',
    ]
    good += [GOOD_ENVELOPE.replace(',"e":"QVNDSUktOEJJVA=="', "").replace(',"k":', ',"e":"QQ==","k":')]
    fill(database, [*NOT_RAILS, *good])
    key_markers.create_for(database, RAILS_HERE)
    judged = [bool(value) for value in NOT_RAILS] + [False] * len(good)
    assert true_for(database, sql_of(RAILS_HERE).unencrypted(C)) == judged


def test_the_shape_of_cloak_is_the_one_that_the_parser_accepts(database: Connection) -> None:
    fill(database, [*NOT_CLOAK, GOOD_CLOAK])
    key_markers.create_for(database, CLOAK_47NG)
    assert true_for(database, sql_of(CLOAK_47NG).unencrypted(C)) == [True] * len(NOT_CLOAK) + [False]


def test_the_shape_of_a_wrapped_token_is_the_one_that_the_parser_accepts(database: Connection) -> None:
    fill(database, [*NOT_WRAPPER, GOOD_WRAPPER])
    key_markers.create_for(database, KEYED_WRAPPER)
    judged = [bool(value) for value in NOT_WRAPPER] + [False]
    assert true_for(database, sql_of(KEYED_WRAPPER).unencrypted(C)) == judged


@pytest.mark.parametrize(("declared", "library"), ALL)
def test_a_value_is_under_the_key_that_it_names(database: Connection, declared: ValueFormat, library: Library) -> None:
    ring = made(declared, 3)
    texts = texts_of(declared, ring)
    values = [library.alone(texts[version]).encrypt(b"x" * 40).decode() for version in (V1, V2, V3)]
    stranger = library.alone(library.generate()).encrypt(b"x").decode()
    fill(database, [*values, stranger, "", None, "plain"])
    says = sql_of(declared)
    key_markers.create_for(database, declared)
    assert true_for(database, says.under(C, [V1]))[:4] == [True] * 4, "without markers everything counts as old"
    key_markers.publish(database, declared, ring)
    classes = true_for(database, naming_sql_of(declared).value_class(C))
    assert classes == [1, 2, 3, UNNAMED, EMPTY, None, UNENCRYPTED]
    assert true_for(database, says.number_named(C)) == [1, 2, 3, 0, None, None, None]
    assert true_for(database, says.under(C, [V2, V1])) == [True, True, False, False, False, False, False]
    wanted = true_for(database, says.to_be_rewritten(sql.SQL("c::text"), V3))
    assert wanted == [True, True, False, True, False, False, True]


def test_a_value_that_names_no_key_counts_under_every_version(database: Connection) -> None:
    ring = made(RAILS_HERE)
    fill(database, [Rails([texts_of(RAILS_HERE, ring)[V2]], references=False).encrypt(b"x").decode()])
    key_markers.publish(database, RAILS_HERE, ring)
    says = sql_of(RAILS_HERE)
    assert true_for(database, says.under(C, [V1])) == [True]
    assert true_for(database, says.under(C, [V2])) == [True]
    assert true_for(database, says.to_be_rewritten(sql.SQL("c::text"), V2)) == [True]
    assert true_for(database, naming_sql_of(RAILS_HERE).value_class(C)) == [UNNAMED]


def test_the_longest_value_is_judged_with_the_reference_that_it_gets(database: Connection) -> None:
    ring = made(RAILS_HERE)
    key = texts_of(RAILS_HERE, ring)[V1]
    value = Rails([key], references=False).encrypt(b"x" * 99).decode()
    fill(database, [value])
    key_markers.publish(database, RAILS_HERE, ring)
    ((new,),) = format_of(RAILS_HERE).reencryptor(ring, V2).reencrypt([[value.encode()]]).columns
    assert new is not None
    longest = sql.SQL("SELECT {} FROM public.held").format(sql_of(RAILS_HERE).longest_under(C, V2))
    assert database.execute(longest).fetchone() == (len(new),)
    (another,) = true_for(database, sql_of(RAILS_HERE).under_another(C, V2))
    assert len(str(another)) == len(new)
    fill(database, [str(another)])
    assert true_for(database, sql_of(RAILS_HERE).unencrypted(C)) == [False, False]


def test_a_longer_id_of_the_next_key_is_counted_in(database: Connection) -> None:
    old = AesKey(bytes(32), "key9")
    ring = KeyRing({V1: old, V2: new_key(KEYED_WRAPPER, held=[old])}, V2)
    value = marked_libraries.KEYED_WRAPPER.alone(texts_of(KEYED_WRAPPER, ring)[V1]).encrypt(b"x" * 99)
    fill(database, [value.decode()])
    key_markers.publish(database, KEYED_WRAPPER, ring)
    ((new,),) = format_of(KEYED_WRAPPER).reencryptor(ring, V2).reencrypt([[value]]).columns
    longest = sql.SQL("SELECT {} FROM public.held").format(sql_of(KEYED_WRAPPER).longest_under(C, V2))
    assert new is not None
    assert new.startswith(b"enc:fernet:key10:")
    assert database.execute(longest).fetchone() == (len(new),) == (len(value) + 1,)


@pytest.mark.parametrize(("declared", "library"), ALL)
def test_the_check_reads_back_refuses_retired_keys_and_lets_others_pass(
    database: Connection, declared: ValueFormat, library: Library
) -> None:
    ring = made(declared, 3)
    table = EncryptedTable(TABLE, columns := ("c", "v"), declared)
    key_markers.publish(database, declared, ring)
    assert fence.fence(database, table, [V1, V2])
    assert fence.fences(database, table) == (V1, V2)
    assert dict(fence.all_fences(database, [table])) == {table: (V1, V2)}
    texts = texts_of(declared, ring)
    insert = sql.SQL("INSERT INTO public.held ({}) VALUES (%s)")
    for column in columns:
        for version in (V1, V2):
            with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=f"key version {version} is retired"):
                database.execute(
                    insert.format(sql.Identifier(column)), [library.alone(texts[version]).encrypt(b"x").decode()]
                )
        for passes in (library.alone(texts[V3]).encrypt(b"x").decode(), None, "", "plain"):
            database.execute(insert.format(sql.Identifier(column)), [passes])
    fence.unfence(database, table, V2)
    assert fence.fences(database, table) == (V1,)
    fence.unfence(database, table, V1)
    assert fence.fences(database, table) == ()
    database.execute(insert.format(sql.Identifier("c")), [library.alone(texts[V1]).encrypt(b"x").decode()])
    with pytest.raises(ProofError, match="still holds old values"):
        fence.fence(database, table, [V1, V2])
    assert fence.fences(database, table) == (V2,)


@pytest.mark.parametrize(("declared", "library"), ALL[:3])  # whose markers are made of the keys
def test_a_fence_counts_only_for_the_keys_whose_text_it_names(
    database: Connection, declared: ValueFormat, library: Library
) -> None:
    table = EncryptedTable(TABLE, ("c",), declared)
    key_markers.publish(database, declared, made(declared))
    assert fence.fence(database, table, [V1])
    others = made(declared)
    key_markers.publish(database, declared, others)  # as where an imported key was replaced by the right one
    assert fence.fences(database, table) == ()
    assert fence.fence(database, table, [V1])
    assert fence.fences(database, table) == (V1,)
    stale = library.alone(texts_of(declared, others)[V1]).encrypt(b"x").decode()
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        database.execute("INSERT INTO public.held (c) VALUES (%s)", [stale])
    database.execute("DELETE FROM keyrotation.key_markers")
    assert fence.fences(database, table) == ()
    with pytest.raises(ProofError, match="is not known here; run this step where the key store is configured"):
        fence.fence(database, table, [V1, V2])


def test_a_marker_goes_to_the_key_that_has_it_now(database: Connection) -> None:
    ring = made(CLOAK_47NG, 3)
    one, two, three = (ring.material(version) for version in (V1, V2, V3))
    key_markers.publish(database, CLOAK_47NG, KeyRing({V1: one, V2: two}, V1))
    key_markers.publish(database, CLOAK_47NG, KeyRing({V1: three, V3: one}, V1))
    stored = key_markers.stored(database)
    expected = markers(CLOAK_47NG, KeyRing({V1: three, V2: two, V3: one}, V1))
    assert stored == expected


def test_shards_that_store_the_markers_at_the_same_moment_all_go_on(
    database: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, together, read = made(CLOAK_47NG, 3), threading.Barrier(6), key_markers.stored

    def read_together(connection: Connection) -> Mapping[KeyVersion, str]:
        found = read(connection)
        together.wait()
        return found

    monkeypatch.setattr(key_markers, "stored", read_together)

    def publish(_: int) -> None:
        with closing(connect(database_url)) as connection:
            key_markers.publish(connection, CLOAK_47NG, ring)

    with ThreadPoolExecutor(together.parties) as pool:
        list(pool.map(publish, range(together.parties)))
    assert read(database) == markers(CLOAK_47NG, ring)


@pytest.mark.parametrize(("declared", "library"), ALL)
def test_values_in_undeclared_places_are_found_by_the_key_that_they_name(
    database: Connection, declared: ValueFormat, library: Library
) -> None:
    ring = made(declared)
    key_markers.publish(database, declared, ring)
    value = library.alone(texts_of(declared, ring)[V1]).encrypt(b"x").decode()
    stranger = library.alone(library.generate()).encrypt(b"x").decode()
    database.execute("CREATE TABLE public.notes (t text, j jsonb, b bytea, a text[])")
    database.execute(
        "INSERT INTO public.notes VALUES (%s, jsonb_build_object('v', %s::text), %s::bytea, ARRAY[%s])",
        (f"see {value} there", value, value.encode(), value),
    )
    database.execute("INSERT INTO public.notes (t) VALUES (%s)", (stranger,))
    table = EncryptedTable(TABLE, ("c", "v"), declared)
    found = PostgresInventory(database, tables=[table]).discover([table])
    assert {(each.relation, each.column, each.values, each.versions) for each in found} == {
        ("notes", column, 1, (V1,)) for column in ("t", "j", "b", "a")
    }
    assert fence.fence(database, table, [V1])
    again = PostgresInventory(database, tables=[table]).discover([table])
    assert {each.relation for each in again} == {"notes"}, "the fence names markers, and is no finding"


@pytest.mark.parametrize(("declared", "library"), ALL)
def test_values_in_bytea_and_at_a_path_are_counted_and_fenced(
    database: Connection, declared: ValueFormat, library: Library
) -> None:
    ring = made(declared)
    key_markers.publish(database, declared, ring)
    database.execute("CREATE TABLE public.places (n int, b bytea, j jsonb)")
    places = (Place("b"), Place("j", ("secrets", "it's")))
    table = EncryptedTable.of(TableName("public", "places"), places, declared)
    texts = texts_of(declared, ring)

    def insert(version: KeyVersion, number: int) -> None:
        value = library.alone(texts[version]).encrypt(b"x").decode()
        document = json.dumps({"secrets": {"it's": value}})
        database.execute("INSERT INTO public.places VALUES (%s, %s, %s)", (number, value.encode(), document))

    insert(V2, 1)
    assert fence.fence(database, table, [V1])
    assert fence.fences(database, table) == (V1,)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="key version v1 is retired"):
        insert(V1, 2)
    insert(V2, 3)
    (counted,) = PostgresInventory(database, tables=[table]).count([table])
    assert counted.by_column == {"b": {V2: 2}, "j.secrets.it's": {V2: 2}}
