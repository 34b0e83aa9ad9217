"""What SQL says of bytes that begin with what names their key, against the parser, and the CHECK that refuses them."""

import base64
from collections.abc import Sequence

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import key_markers, places
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import naming_sql_of, sql_of
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import EMPTY, UNENCRYPTED, UNNAMED
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.inventory.relations import tree
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.tink import TINK
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import AesKey
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline_tests.marked_libraries import TINK as TINK_LIBRARY
from keyrotation_pipeline_tests.marked_libraries import Library
from keyrotation_pipeline_tests.unit.fieldcrypto.codecs.test_prefixed import ALL, V1, V2, V3, made, text_of

TABLE = TableName("Cl inic", "he'ld")


@pytest.fixture
def database(migrated: Connection) -> Connection:
    migrated.execute(
        """CREATE SCHEMA "Cl inic"; CREATE DOMAIN public.sealed AS bytea;
        CREATE TABLE "Cl inic"."he'ld" (n int GENERATED ALWAYS AS IDENTITY, c bytea, "d%" public.sealed)"""
    )
    return migrated


def fill(connection: Connection, values: Sequence[bytes | None]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("""INSERT INTO "Cl inic"."he'ld" (c) VALUES (%s)""", [(value,) for value in values])


def says(connection: Connection, table: EncryptedTable, expression: sql.Composable) -> list[object]:
    query = sql.SQL("""SELECT {} FROM "Cl inic"."he'ld" ORDER BY n""").format(expression)
    return [found for (found,) in connection.execute(query).fetchall()]


def text(connection: Connection, table: EncryptedTable) -> sql.Composable:
    return places.text(tree(connection, table)[0].columns[0])


@pytest.mark.parametrize(("declared", "library"), ALL)
def test_the_shape_and_the_key_are_those_that_the_parser_sees(
    database: Connection, declared: ValueFormat, library: Library
) -> None:
    table, ring = EncryptedTable(TABLE, ("c",), declared), made(declared, 3)
    good = [library.alone(text_of(declared, ring, version)).encrypt(b"x" * 40) for version in (V1, V2, V3)]
    stranger, shortest = library.alone(library.generate()).encrypt(b"x"), library.alone(library.generate()).encrypt(b"")
    damaged = [
        b"plain", b"\x01", b"\x01\x01", b"\x00" + good[0][1:], b"\x02" + good[0][1:], good[0][:20], shortest[:-1],
        b"\x01\x00" + bytes(60), b"\x01\xff" + bytes(60), b"\x01\x02a\xff" + bytes(60), b"\\" + good[0], b"\x01" * 70,
    ]  # fmt: skip
    values = [*good, stranger, shortest, b"", None, *damaged]
    fill(database, values)
    key_markers.create_for(database, declared)
    value, judge = text(database, table), naming_sql_of(declared)
    first = says(database, table, judge.under(value, [V1]))[:5]
    assert first == [True] * 5, "without markers everything counts as old"
    key_markers.publish(database, declared, ring)
    code = format_of(declared)
    shapes = [each and code.opened_by(ring, each) is not None for each in damaged]
    classes = [UNNAMED if shape else UNENCRYPTED for shape in shapes]
    assert says(database, table, judge.value_class(value)) == [1, 2, 3, UNNAMED, UNNAMED, EMPTY, None, *classes]
    assert says(database, table, judge.unencrypted(value))[7:] == [not shape for shape in shapes]
    assert says(database, table, judge.number_named(value))[:7] == [1, 2, 3, 0, 0, None, None]
    assert says(database, table, judge.under(value, [V2, V1]))[:7] == [True, True, *[False] * 5]
    wanted = says(
        database, table, sql_of(declared).to_be_rewritten(places.read_as_text(tree(database, table)[0].columns[0]), V3)
    )
    assert wanted == [True, True, False, True, True, False, False, *[True] * len(damaged)]


@pytest.mark.parametrize(("declared", "library"), ALL)
@pytest.mark.parametrize("columns", [("c",), ("c", "d%")])
def test_the_check_reads_back_refuses_retired_keys_and_lets_others_pass(
    database: Connection, declared: ValueFormat, library: Library, columns: tuple[str, ...]
) -> None:
    table, ring = EncryptedTable(TABLE, columns, declared), made(declared, 3)
    key_markers.publish(database, declared, ring)
    assert fence.fence(database, table, [V1, V2])
    assert fence.fences(database, table) == (V1, V2)
    insert = sql.SQL("""INSERT INTO "Cl inic"."he'ld" ({}) VALUES ({})""")
    for column in columns:
        for version in (V1, V2):
            old = library.alone(text_of(declared, ring, version)).encrypt(b"x")
            with pytest.raises(
                psycopg.errors.InvalidTextRepresentation, match=f"key version {version} is ret"
            ) as raised:
                database.execute(insert.format(sql.Identifier(column), sql.Literal(old)))
            assert old.hex() not in str(raised.value.diag.message_detail)
        for passes in (library.alone(text_of(declared, ring, V3)).encrypt(b"x"), None, b"", b"plain"):
            database.execute(insert.format(sql.Identifier(column), sql.Literal(passes)))
    for output in ("escape", "hex"):
        database.execute(sql.SQL("SET bytea_output = {}").format(sql.Literal(output)))
        assert fence.fences(database, table) == (V1, V2), "whatever a session's settings are"
    fence.unfence(database, table, V2)
    fence.unfence(database, table, V1)
    fill(database, [library.alone(text_of(declared, ring, V1)).encrypt(b"x")])
    with pytest.raises(ProofError, match="still holds old values"):
        fence.fence(database, table, [V1, V2])
    assert fence.fences(database, table) == (V2,)


@pytest.mark.parametrize(("declared", "library"), ALL)
def test_values_in_undeclared_places_are_found_in_every_form(
    database: Connection, declared: ValueFormat, library: Library
) -> None:
    table, ring = EncryptedTable(TABLE, ("c",), declared), made(declared)
    key_markers.publish(database, declared, ring)
    value = library.alone(text_of(declared, ring, V1)).encrypt(b"text")
    stranger = library.alone(library.generate()).encrypt(b"text")
    database.execute("CREATE TABLE public.notes (b bytea, h text, u text, j jsonb, s text, a bytea[])")
    row = [
        b"before" + value, f"\\x{value.hex().upper()}", "=" + base64.urlsafe_b64encode(value).decode(),
        f'{{"v": "{base64.b64encode(value).decode()}"}}', base64.b64encode(b"x" + value).decode(), [value],
    ]  # fmt: skip
    database.execute("INSERT INTO public.notes VALUES (%s, %s, %s, %s, %s, %s)", row)
    other = [stranger, stranger.hex(), base64.b64encode(stranger).decode()]
    database.execute("INSERT INTO public.notes (b, h, u) VALUES (%s, %s, %s)", other)
    found = PostgresInventory(database, tables=[table]).discover([table])
    assert {(each.relation, each.column, each.values, each.versions) for each in found} == {
        ("notes", column, 1, (V1,)) for column in ("b", "h", "u", "j", "a")
    }
    assert fence.fence(database, table, [V1])
    again = PostgresInventory(database, tables=[table]).discover([table])
    assert {each.relation for each in again} == {"notes"}, "the fence and our table name prefixes, and are no finding"


@pytest.mark.parametrize("name", [b'ab"c', b'""""', b'a\\"c', b"\\\\\\\\", b"-_+/", b'\x00\xff"\\', b"{,}("])
def test_a_key_whose_name_postgresql_quotes_is_found_in_arrays_and_rows(database: Connection, name: bytes) -> None:
    key = AesKey(bytes(32), str(int.from_bytes(name, "big")))
    ring = KeyRing({V1: key}, V1)
    table = EncryptedTable(TABLE, ("c",), TINK)
    key_markers.publish(database, TINK, ring)
    library = TINK_LIBRARY.alone(text_of(TINK, ring, V1))
    # Three levels deep, a byte 1 before an escaped byte reads as a name of backslashes; random bytes have it at times.
    value = next(made for made in iter(lambda: library.encrypt(b"text"), None) if made.count(b"\x01") == 1)
    database.execute(
        """CREATE TYPE public.pair AS (n int, b bytea); CREATE TYPE public.outer_pair AS (n int, p public.pair[]);
        CREATE TABLE public.notes (b bytea, a bytea[], r public.pair, ra public.pair[], rr public.outer_pair)"""
    )
    database.execute(
        "INSERT INTO public.notes VALUES (%(v)s, ARRAY[%(v)s, %(v)s], ROW(1, %(v)s), ARRAY[ROW(1, %(v)s)::public.pair],"
        " ROW(1, ARRAY[ROW(1, %(v)s)::public.pair]))",
        {"v": value},
    )
    found = PostgresInventory(database, tables=[table]).discover([table])
    assert {each.column: each.values for each in found} == {"b": 1, "a": 2, "r": 1, "ra": 1, "rr": 1}


@pytest.mark.parametrize(("declared", "library"), ALL)
def test_a_column_of_text_is_refused(database: Connection, declared: ValueFormat, library: Library) -> None:
    database.execute("""ALTER TABLE "Cl inic"."he'ld" ALTER c TYPE text USING ''""")
    with pytest.raises(PreflightError, match=r"c is of type text, and values of this \[format\] are bytes"):
        PostgresInventory(database).count([EncryptedTable(TABLE, ("c",), declared)])
