"""Tokens of retired keys in places that nobody declared: found wherever they are, and no others."""

import json
from types import SimpleNamespace
from typing import cast

import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import retired_signing_keys
from keyrotation_pipeline.adapters.postgres.inventory.discovery import discover
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.key_checks import misdeclared
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of, sealed, table_of
from keyrotation_pipeline_tests.integration.fernet_rows import V1, V2, V3, fernet_table, token

USERS = fernet_table("users", "email")


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2, 3, primary=3)


@pytest.fixture
def database(migrated: Connection, ring: KeyRing) -> Connection:
    migrated.execute("CREATE TABLE public.users (id int PRIMARY KEY, email text)")
    migrated.execute("INSERT INTO public.users VALUES (1, %s), (2, %s)", (token(ring, V1, "x"), token(ring, V3, "x")))
    return migrated


def found(connection: Connection) -> dict[str, tuple[int, tuple[str, ...]]]:
    findings = discover(connection, [USERS])
    return {f"{each.relation}.{each.column}": (each.values, tuple(map(str, each.versions))) for each in findings}


def test_tokens_are_found_in_every_kind_of_column(database: Connection, ring: KeyRing) -> None:
    retired_signing_keys.publish(database, FERNET, ring, V3)
    one, two, current = token(ring, V1, "x" * 33), token(ring, V2, b"y"), token(ring, V3, "z")
    strange = token(ring_of(1, primary=1), V1, "x")
    columns = {
        "plain": ("text", one),
        "inside": ("text", f"see {one}, and {two}!"),
        "doc": ("jsonb", json.dumps({"a": [{"b": two}], "c": current})),
        "escaped": ("text", json.dumps({"a": one}).replace("=", "\\u003d")),
        "query": ("varchar", f"https://x.example/?t={one.replace('=', '%3D')}&u=1"),
        "list": ("text[]", "{" + f"{strange},{one}" + "}"),
        "bytes": ("bytea", one.encode()),
        "current": ("text", current),
        "stranger": ("text", strange),
        "damaged": ("text", one[:60] + ("A" if one[60] != "A" else "B") + one[61:]),
        "short": ("text", one[:90]),
        "large": ("text", "x" * 5_000_000 + " " + two),
        "nothing": ("text", "gAAAAA"),
    }
    database.execute("CREATE TABLE public.held (id int)")
    for name, (kind, value) in columns.items():
        database.execute(f"ALTER TABLE public.held ADD COLUMN {name} {kind}".encode())
        columns[name] = (kind, value)
    query = sql.SQL("INSERT INTO public.held VALUES (1, {})").format(
        sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(kind)) for kind, _ in columns.values())
    )
    database.execute(query, [value for _, value in columns.values()])
    assert found(database) == {
        "held.plain": (1, ("v1",)),
        "held.inside": (2, ("v1", "v2")),
        "held.doc": (1, ("v2",)),
        "held.escaped": (1, ("v1",)),
        "held.query": (1, ("v1",)),
        "held.list": (1, ("v1",)),
        "held.bytes": (1, ("v1",)),
        "held.large": (1, ("v2",)),
    }


def test_definitions_large_objects_and_views_are_searched(database: Connection, ring: KeyRing) -> None:
    retired_signing_keys.publish(database, FERNET, ring, V3)
    one, current = token(ring, V1, "x"), token(ring, V3, "x")
    for default in (one, current):
        database.execute(f"CREATE TABLE public.with_{len(found(database))} (a text DEFAULT '{default}')".encode())
    database.execute("SELECT lo_from_bytea(0, %s)", (b"\x00\xff" + one.encode(),))
    database.execute("CREATE MATERIALIZED VIEW public.copied AS SELECT email FROM public.users")
    assert found(database) == {
        "copied.email": (1, ("v1",)),
        "large objects.*": (1, ()),
        "with_0.a (default)": (1, ()),
    }
    (definition,) = PostgresInventory(database, tables=[USERS]).definitions_found()
    assert definition.column == "a (default)"


def test_before_any_key_is_retired_nothing_is_found_and_nothing_fails(database: Connection, ring: KeyRing) -> None:
    database.execute("CREATE TABLE public.held (a text)")
    database.execute("INSERT INTO public.held VALUES (%s)", (token(ring, V1, "x"),))
    assert found(database) == {}
    inventory = PostgresInventory(database, tables=[USERS])
    spans = inventory.undeclared_spans([USERS])
    assert inventory.search_spans([USERS], spans, lambda: True) > 0
    retired_signing_keys.publish(database, FERNET, ring, V3)
    inventory.search_spans([USERS], inventory.undeclared_spans([USERS]), lambda: True)
    assert sum(sum(span.found.values()) for span in inventory.undeclared_spans([USERS])) == 1


def test_values_of_our_own_format_are_another_homes_matter(database: Connection) -> None:
    database.execute("CREATE TABLE public.held (a text)")
    database.execute("INSERT INTO public.held VALUES ('v1:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAAAAAAA=')")
    assert found(database) == {}
    assert [each.relation for each in discover(database, [])] == ["held"]


def test_tokens_that_nobody_declared_are_named_among_other_formats(database: Connection, ring: KeyRing) -> None:
    database.execute('CREATE TABLE public."Copy of users" (email text)')
    for number in range(30):
        database.execute("INSERT INTO public.users VALUES (%s, %s)", (number + 10, token(ring, V3, "x")))
        database.execute('INSERT INTO public."Copy of users" VALUES (%s)', (token(ring, V3, "x"),))
    others = PostgresInventory(database, tables=[USERS]).other_formats()
    assert [(each.place.table, each.format) for each in others] == [('public."Copy of users"', "fernet")]
    assert '`[format] name = "fernet"`' in others[0].next
    database.execute("CREATE TABLE public.former_users () INHERITS (public.users)")  # declared by its parent
    for number in range(30):
        database.execute("INSERT INTO public.former_users VALUES (%s, %s)", (number, token(ring, V3, "x")))
    assert PostgresInventory(database, tables=[USERS]).other_formats() == others
    database.execute("DROP TABLE public.former_users")
    native = PostgresInventory(database, tables=[table_of("users", "email")]).other_formats()
    assert {each.place.table for each in native} == {"public.users", 'public."Copy of users"'}


DECLARED = {"email": Place("email"), "doc.a": Place("doc", ("a",)), "tags[]": Place("tags", elements=True)}


@pytest.mark.parametrize("place", DECLARED)
@pytest.mark.parametrize(("declared", "other"), [(NATIVE, FERNET), (FERNET, NATIVE)], ids=lambda each: each.name)
def test_a_declared_place_that_is_all_of_another_format_is_named(
    migrated: Connection, ring: KeyRing, place: str, declared: ValueFormat, other: ValueFormat
) -> None:
    migrated.execute('CREATE TABLE public."Some users" (id serial PRIMARY KEY, email text, doc jsonb, tags text[])')
    insert = 'INSERT INTO public."Some users" (email, doc, tags) VALUES (%s, %s, %s)'

    def add(values: ValueFormat) -> None:
        value = token(ring, V1, "x") if values == FERNET else sealed(ring_of(1, 2), 1, "x")
        migrated.execute(insert, (value, json.dumps({"a": value}), [value]))

    def sentences() -> tuple[str, ...]:
        trial = inventory.decrypt_sample(table, ring, 10, {})
        uncounted = misdeclared(pipeline, (), trial)
        assert declared == FERNET or misdeclared(pipeline, inventory.count([table])) == uncounted
        return uncounted

    table = EncryptedTable.of(TableName("public", "Some users"), [DECLARED[place]], declared)
    inventory = PostgresInventory(migrated, tables=[table])
    pipeline = cast("Pipeline", SimpleNamespace(inventory=inventory, tables=[table]))
    assert sentences() == ()
    add(other)
    add(other)
    (sentence,) = sentences()
    assert sentence.startswith(
        f"Some users.{place} is declared as {declared.name}, but all 2 values looked at are "
        f"{other.name}, and none is {declared.name}; "
    )
    add(declared)
    assert sentences() == ()
