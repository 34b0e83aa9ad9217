"""Every type that can hold text or bytes is read, however it is wrapped."""

from collections.abc import Sequence

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline_tests.integration.scan.conftest import Read
from keyrotation_pipeline_tests.servers import Server

Found = dict[tuple[str, ...] | None, str | bytes]

TYPES = """
CREATE DOMAIN short AS text CHECK (value <> ''); CREATE DOMAIN raw AS bytea; CREATE DOMAIN shorts AS short[];
CREATE TYPE card AS (number short, codes text[], image bytea, n int);
CREATE TYPE person AS (name text, card card); CREATE DOMAIN someone AS person;
CREATE TYPE words AS RANGE (subtype = text);
"""


def only(values: Sequence[object]) -> object:
    (value,) = values
    return value


@pytest.mark.parametrize(
    ("type_", "value", "found"),
    [
        pytest.param("text", "'x'", {None: "x"}, id="text"),
        pytest.param("varchar(9)", "'x'", {None: "x"}, id="varchar"),
        pytest.param("char(9)", "'x'", {None: "x"}, id="char"),
        pytest.param("name", "'x'", {None: "x"}, id="name"),
        pytest.param("bytea", r"'\x00ff'", {None: b"\0\xff"}, id="bytea"),
        pytest.param("short", "'x'", {None: "x"}, id="domain"),
        pytest.param("raw", r"'\x00'", {None: b"\0"}, id="domain over bytea"),
        pytest.param("text[]", "ARRAY[['x', NULL]]", {None: "x"}, id="array"),
        pytest.param("bytea[]", r"ARRAY['\x01'::bytea]", {None: b"\1"}, id="array of bytea"),
        pytest.param("short[]", "ARRAY['x']", {None: "x"}, id="array of a domain"),
        pytest.param("shorts", "ARRAY['x']", {None: "x"}, id="domain over an array of a domain"),
        pytest.param(
            "person",
            r"ROW('a', ROW('b', ARRAY['c'], '\x02', 1)::card)::person",
            {("name",): "a", ("card", "number"): "b", ("card", "codes"): "c", ("card", "image"): b"\2"},
            id="composite",
        ),
        pytest.param("someone", "ROW('a', NULL)::person", {("name",): "a"}, id="domain over a composite"),
        pytest.param(
            "person[]",
            "ARRAY[ROW('a', ROW('b', ARRAY['c'], NULL, 1)::card)]::person[]",
            {("name",): "a", ("card", "number"): "b", ("card", "codes"): "c"},
            id="array of composites",
        ),
        pytest.param("words", "words('a', 'b')", {("lower",): "a", ("upper",): "b"}, id="range"),
        pytest.param("json", """'{"a": {"b": ["x", 1]}}'""", {("a", "b", "[]"): "x"}, id="json"),
        pytest.param("jsonb", """'"x"'""", {None: "x"}, id="jsonb that is a string"),
        pytest.param("jsonb[]", """ARRAY['{"k": "x"}'::jsonb]""", {("k",): "x"}, id="array of jsonb"),
        pytest.param("text", """'{"k": "x"}'""", {None: '{"k": "x"}', ("k",): "x"}, id="JSON in text"),
        pytest.param("bytea", """'{"k": "x"}'""", {None: b'{"k": "x"}', ("k",): "x"}, id="JSON in bytea"),
        pytest.param(
            "jsonb", """'{"k": "{\\"l\\": \\"x\\"}"}'""", {("k",): '{"l": "x"}', ("k", "l"): "x"}, id="JSON inside JSON"
        ),
        pytest.param(
            "jsonb", """'{"p": "x", "h": {"iv": "y"}}'""", {None: '{"p":"x","h":{"iv":"y"}}'}, id="one value of Rails"
        ),
    ],
)
def test_the_text_and_bytes_in_a_type_are_read(
    owner: Connection, reader: str, read: Read, type_: str, value: str, found: Found
) -> None:
    owner.execute(TYPES.encode())
    owner.execute(f"CREATE TABLE t (id int, held {type_}); INSERT INTO t SELECT 1, {value}".encode())
    report, seen = read(reader)
    assert {place.path: only(values) for place, values in seen.items() if values} == found
    if not type_.startswith(("person", "someone")):  # which have an array among their fields
        assert {place.elements for place in seen} == {type_.endswith("[]") or type_ == "shorts"}
    assert (report.tables, report.columns) == (1, 1)
    assert [each for each in map(str, report.not_looked_at) if each.startswith("public")] == []


def test_a_domain_is_shown_by_its_name_and_known_by_what_it_stands_for(
    owner: Connection, reader: str, read: Read
) -> None:
    owner.execute(TYPES.encode())
    owner.execute(
        "CREATE SCHEMA app; CREATE DOMAIN app.text AS bytea; "
        "CREATE DOMAIN code AS varchar(20); CREATE DOMAIN deep AS code; "
        "CREATE TABLE t (a app.text, b deep, c shorts, d varchar(9)); INSERT INTO t VALUES ('x', 'x', '{x}', 'x')"
    )
    _, seen = read(reader)
    assert {(place.type, place.base_type) for place in seen} == {
        ("app.text", "bytea"), ("public.deep", "character varying"), ("public.shorts", "public.short[]"),
        ("character varying(9)", "character varying"),
    }  # fmt: skip


def test_types_of_extensions_are_read_or_named(debian: Connection, read: Read) -> None:
    debian.execute("SET search_path = public; CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree")
    debian.execute("CREATE TABLE t (h hstore, c citext, cs citext[], x xml, l ltree, b varbit, i int, u uuid)")
    debian.execute("""INSERT INTO t VALUES ('key=>"a\\"b", other=>NULL', 'c', '{d}', '<a><b>e</b></a>', 'l', '1', 1)""")
    report, seen = read(debian.info.dsn)
    assert {(place.column, place.path): values for place, values in seen.items() if any(values)} == {
        ("h", ("key",)): ['a"b'], ("c", None): ["c"], ("cs", None): ["d"], ("x", ("b",)): ["e"],
    }  # fmt: skip
    assert [each for each in map(str, report.not_looked_at) if each.startswith("public")] == [
        "public.t.l: values of ltree, a type of the extension ltree, are not read",
        "public.t.b: bit strings are not read",
    ]


def test_text_that_no_encoding_checked_is_read(debian: Connection, debian_server: Server, read: Read) -> None:
    with psycopg.connect(debian_server.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE unchecked ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
        try:
            with psycopg.connect(debian_server.url("unchecked"), autocommit=True) as connection:
                connection.execute(
                    rb"CREATE TABLE t (a text, b text[]); INSERT INTO t VALUES (E'x\xff', ARRAY[E'y\xfe'])"
                )
            _, seen = read(debian_server.url("unchecked"))
        finally:
            admin.execute("DROP DATABASE unchecked WITH (FORCE)")
    assert {place.column: values for place, values in seen.items()} == {"a": ["x\udcff"], "b": ["y\udcfe"]}


def test_wide_composites_in_many_columns_are_read(owner: Connection, reader: str, read: Read) -> None:
    owner.execute(f"CREATE TYPE wide AS ({', '.join(f'f{n} text' for n in range(40))})".encode())
    owner.execute(f"CREATE TABLE t ({', '.join(f'c{n} wide' for n in range(90))}, note text)".encode())
    owner.execute("INSERT INTO t (c0.f39, c89.f0, note) VALUES ('first', 'last', 'a note')")
    report, values = read(reader)
    held = {(place.column, place.path): only(each) for place, each in values.items() if each}
    assert held == {("c0", ("f39",)): "first", ("c89", ("f0",)): "last", ("note", None): "a note"}
    assert not [each for each in report.not_looked_at if "public.t" in str(each)]
