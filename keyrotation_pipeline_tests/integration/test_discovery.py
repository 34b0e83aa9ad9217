"""Finding our values outside the declared columns, on real servers."""

from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres.inventory import retired_signing_keys, scans
from keyrotation_pipeline.adapters.postgres.inventory.catalog_search import search_exclusions
from keyrotation_pipeline.adapters.postgres.inventory.discovery import discover, unsearchable
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.environment import NEVER_SEARCHED
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, TableName

V1, V2 = KeyVersion(1), KeyVersion(2)

Seal = Callable[[KeyRing, int, str], str]


@pytest.fixture
def value(keyring_of: Callable[..., KeyRing], seal: Seal) -> str:
    """A v1 value whose base64 has both / and +, which some writers of JSON escape."""
    ring = keyring_of(1, primary=1)
    return next(sealed for sealed in iter(lambda: seal(ring, 1, "x" * 90), "") if {"/", "+"} <= set(sealed[3:19]))


def escaped(value: str) -> str:
    return value.replace("/", "\\/").replace("+", "\\u002B")


# Type of column c, and the SQL expression that puts a value (parameter) into it.
EVERYWHERE = [
    ("text", "%s"),
    ("varchar(300)", "%s"),
    ("char(300)", "%s"),
    ("text", "'changed by Ana: ' || %s || ' (old)'"),
    ("json", "json_build_object('a', json_build_array(%s::text))"),
    ("jsonb", "jsonb_build_object('a', jsonb_build_array(%s::text))"),
    ("text[]", "ARRAY['other', %s]"),
    ("varchar(300)[][]", "ARRAY[ARRAY['', %s]]"),
    ("public.sealed", "%s"),
    ("public.sealed[]", "ARRAY[%s::public.sealed]"),
    ("public.address", "ROW(1, %s)::public.address"),
    ("public.address[]", "ARRAY[ROW(1, %s)::public.address]"),
    ("public.text_range", "public.text_range(%s, NULL)"),
    ("public.texts", "public.texts(public.text_range(%s, NULL))"),
    ("bytea", "convert_to(%s, 'UTF8')"),
    ("bytea[]", "ARRAY[convert_to(%s, 'UTF8')]"),
    ("public.blob", "convert_to(%s, 'UTF8')"),
    ("public.scan", "ROW(1, convert_to(%s, 'UTF8'))::public.scan"),
    ("jsonpath", "('$.\"' || %s || '\"')::jsonpath"),
]


def test_a_value_is_found_in_every_type(either: Connection, value: str) -> None:
    either.execute("CREATE DOMAIN public.sealed AS text")
    either.execute("CREATE TYPE public.address AS (id int, street public.sealed)")
    either.execute("CREATE DOMAIN public.blob AS bytea; CREATE TYPE public.scan AS (id int, data public.blob)")
    either.execute("CREATE TYPE public.text_range AS RANGE (subtype = text, multirange_type_name = public.texts)")
    for type_name, expression in EVERYWHERE:
        with either.transaction(force_rollback=True):
            either.execute(f'CREATE TABLE public.notes (id int, "C c" {type_name})')
            either.execute(f"INSERT INTO public.notes SELECT 1, {expression}", (value,))
            either.execute("INSERT INTO public.notes VALUES (2, NULL)")
            assert discover(either, ()) == (FoundColumn("notes", "C c", 1, 0, (V1,)),), expression


@pytest.mark.external_postgres
@pytest.mark.parametrize(
    ("type_name", "expression"),
    [
        pytest.param("public.citext", "%s", id="citext"),
        pytest.param("public.hstore", "public.hstore('a', %s)", id="hstore"),
        pytest.param("xml", "xmlelement(name a, %s::text)", id="xml"),
        pytest.param('text COLLATE "loose"', "%s", id="nondeterministic ICU collation"),
    ],
)
def test_a_value_is_found_in_what_only_debian_has(
    debian: Connection, value: str, type_name: str, expression: str
) -> None:
    debian.execute("CREATE EXTENSION citext SCHEMA public; CREATE EXTENSION hstore SCHEMA public")
    debian.execute('CREATE COLLATION public.loose (provider = icu, locale = "und-u-ks-level2", deterministic = false)')
    debian.execute("SET search_path = public")
    debian.execute(f"CREATE TABLE public.notes (c {type_name})")
    debian.execute(f"INSERT INTO public.notes SELECT {expression}", (value,))
    debian.execute("SET search_path = pg_catalog")
    assert discover(debian, ()) == (FoundColumn("notes", "c", 1, 0, (V1,)),)


@pytest.mark.parametrize("type_name", ["json", "text"])
def test_a_value_is_found_though_json_escapes_its_base64(either: Connection, value: str, type_name: str) -> None:
    either.execute(f"CREATE TABLE public.notes (c {type_name})")
    either.execute("INSERT INTO public.notes VALUES (%s)", (f'{{"a": "{escaped(value)}"}}',))
    assert discover(either, ()) == (FoundColumn("notes", "c", 1, 0, (V1,)),)


@pytest.mark.parametrize(
    ("change", "near_misses"),
    [
        pytest.param(lambda value: "v0" + value[1:], 1, id="leading zero"),
        pytest.param(lambda value: " " + value, 1, id="leading space"),
        pytest.param(lambda value: "V" + value[1:], 1, id="capital V"),
        pytest.param(lambda value: "v1 :" + value[3:], 1, id="space before the colon"),
        pytest.param(lambda value: "v1: " + value[3:], 1, id="space before the nonce"),
        pytest.param(lambda value: "v1234567" + value[2:], 1, id="seven digits"),
        pytest.param(lambda _: "v1: notes of the first visit", 0, id="prose"),
        pytest.param(lambda _: "v1:abc:def", 0, id="short words"),
        pytest.param(lambda _: "registry/image:v1: https://example.org:8080/a/long/path/to/something", 0, id="address"),
        pytest.param(lambda value: value[3:], 0, id="base64 alone"),
        pytest.param(lambda value: value[:19], 0, id="version and nonce alone"),
    ],
)
def test_a_near_miss_needs_what_looks_like_a_nonce(
    connection: Connection, value: str, change: Callable[[str], str], near_misses: int
) -> None:
    connection.execute("CREATE TABLE public.notes (c text)")
    connection.execute("INSERT INTO public.notes VALUES (%s)", (change(value),))
    expected = (FoundColumn("notes", "c", 0, 1, ()),) if near_misses else ()
    assert discover(connection, ()) == expected


def test_values_near_misses_and_versions_are_counted(
    either: Connection, keyring_of: Callable[..., KeyRing], seal: Seal
) -> None:
    ring = keyring_of(1, 2, primary=1)
    one, two = seal(ring, 1, "x"), seal(ring, 2, "x")
    either.execute("CREATE TABLE public.history (old jsonb, note text)")
    either.execute(
        "INSERT INTO public.history VALUES (jsonb_build_object('a', %s::text, 'b', %s::text, 'c', %s::text), %s)",
        (one, two, "V" + one[1:], two),
    )
    either.execute("INSERT INTO public.history VALUES (jsonb_build_array(%s::text), 'v1')", (one,))
    assert discover(either, ()) == (
        FoundColumn("history", "old", 3, 1, (V1, V2)),
        FoundColumn("history", "note", 1, 0, (V2,)),
    )


def test_every_kind_of_relation_with_rows_is_searched(either: Connection, value: str) -> None:
    either.execute("CREATE SCHEMA billing")
    either.execute("CREATE TABLE public.parts (id int, c text) PARTITION BY LIST (id)")
    either.execute("CREATE TABLE billing.part PARTITION OF public.parts DEFAULT")
    either.execute("CREATE TABLE public.base (c text)")
    either.execute('CREATE TABLE billing."Child" () INHERITS (public.base)')
    either.execute("CREATE UNLOGGED TABLE public.cache (c text)")
    for table in ("public.parts (c)", 'billing."Child" (c)', "public.cache (c)"):
        either.execute(f"INSERT INTO {table} VALUES (%s)", (value,))
    either.execute("CREATE MATERIALIZED VIEW public.copies AS SELECT c AS copy FROM public.parts")
    either.execute("CREATE MATERIALIZED VIEW public.not_filled AS SELECT c FROM public.parts WITH NO DATA")
    either.execute("CREATE VIEW public.looking AS SELECT c FROM public.parts")
    found = discover(either, ())
    assert [(each.relation, each.column, each.values) for each in found] == [
        ("billing.Child", "c", 1),
        ("billing.part", "c", 1),
        ("cache", "c", 1),
        ("copies", "copy", 1),
    ]
    assert "REFRESH MATERIALIZED VIEW" in found[-1].reason


def test_declared_columns_are_left_out_in_partitions_too(either: Connection, value: str) -> None:
    either.execute("CREATE TABLE public.parts (id int, c text, d text) PARTITION BY LIST (id)")
    either.execute("CREATE TABLE public.part PARTITION OF public.parts DEFAULT")
    either.execute("CREATE TABLE public.gone (id int, c text, d text)")
    either.execute("INSERT INTO public.parts VALUES (1, %s, NULL)", (value,))
    either.execute("INSERT INTO public.gone VALUES (1, %s, NULL)", (value,))
    declared = EncryptedTable(TableName("public", "parts"), ("c",))
    assert discover(either, [declared]) == (FoundColumn("gone", "c", 1, 0, (V1,)),)
    either.execute("ALTER TABLE public.parts DETACH PARTITION public.part")
    assert {each.relation for each in discover(either, [declared])} == {"gone", "part"}


def test_a_generated_copy_of_a_declared_column_is_no_finding(either: Connection, value: str) -> None:
    either.execute("CREATE TABLE public.notes (c text, copy text GENERATED ALWAYS AS (c) STORED)")
    either.execute("INSERT INTO public.notes VALUES (%s)", (value,))
    assert discover(either, [EncryptedTable(TableName("public", "notes"), ("c",))]) == ()
    # Undeclared, the column that it is generated from is found.
    assert [each.column for each in discover(either, ())] == ["c"]


def test_our_own_schema_and_temporary_tables_are_left_out(migrated: Connection, value: str) -> None:
    migrated.execute("INSERT INTO keyrotation.quarantine VALUES ('t', 't', %s, 'c', now(), 'not-a-value')", (value,))
    migrated.execute("CREATE TEMPORARY TABLE mine (c text)")
    migrated.execute("INSERT INTO pg_temp.mine VALUES (%s)", (value,))
    assert discover(migrated, ()) == ()


def test_a_value_deep_inside_a_megabyte_is_found(connection: Connection, value: str) -> None:
    connection.execute("CREATE TABLE public.notes (c text)")
    connection.execute("INSERT INTO public.notes VALUES (repeat('word ', 200000) || %s)", (value,))
    assert discover(connection, ()) == (FoundColumn("notes", "c", 1, 0, (V1,)),)


def test_a_relation_that_cannot_be_read_is_a_finding(connection: Connection, database_url: str, value: str) -> None:
    connection.execute("CREATE TABLE public.readable (c text)")
    connection.execute("CREATE TABLE public.secret (c text)")
    connection.execute("CREATE TABLE public.filtered (c text)")
    connection.execute("ALTER TABLE public.filtered ENABLE ROW LEVEL SECURITY")
    role = f"reader_{connection.info.dbname}"
    connection.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON public.readable, public.filtered TO {role}")
    connection.execute("INSERT INTO public.readable VALUES (%s)", (value,))
    try:
        with connect(psycopg.conninfo.make_conninfo(database_url, user=role)) as limited:
            filtered, readable, secret = discover(limited, ())
    finally:
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert readable == FoundColumn("readable", "c", 1, 0, (V1,))
    assert (secret.relation, secret.column, secret.values) == ("secret", "*", 0)
    assert f"secret cannot be read by role {role}; GRANT USAGE" in secret.reason
    assert "BYPASSRLS" in filtered.reason


def test_a_foreign_table_out_of_reach_is_a_finding(either: Connection) -> None:
    either.execute("CREATE FOREIGN DATA WRAPPER nowhere")
    either.execute("CREATE SERVER far FOREIGN DATA WRAPPER nowhere")
    either.execute("CREATE FOREIGN TABLE public.remote (c text) SERVER far")
    (found,) = discover(either, ())
    assert found.relation == "remote"
    assert "cannot be read" in found.reason


def test_a_locked_relation_is_a_finding_and_the_others_are_searched(
    connection: Connection, database_url: str, value: str
) -> None:
    connection.execute("CREATE TABLE public.locked (c text)")
    connection.execute("CREATE TABLE public.open (c text)")
    connection.execute("INSERT INTO public.open VALUES (%s)", (value,))
    with connect(database_url) as other, other.transaction():
        other.execute("LOCK TABLE public.locked")
        locked, found = discover(connection, ())
    assert "locked by another session" in locked.reason
    assert found.relation == "open"


def test_discovery_works_within_a_running_transaction_and_leaves_it_sound(connection: Connection, value: str) -> None:
    connection.execute("CREATE FOREIGN DATA WRAPPER nowhere")
    connection.execute("CREATE SERVER far FOREIGN DATA WRAPPER nowhere")
    connection.execute("CREATE FOREIGN TABLE public.remote (c text) SERVER far")
    with connection.transaction():
        connection.execute("CREATE TABLE public.notes (c text)")
        connection.execute("INSERT INTO public.notes VALUES (%s)", (value,))
        assert [each.relation for each in discover(connection, ())] == ["notes", "remote"]
        connection.execute("INSERT INTO public.notes VALUES ('after')")
    assert connection.execute("SELECT count(*) FROM public.notes").fetchone() == (2,)


CODED = {
    "JSON": lambda c: f"\\u{ord(c):04x}",
    "URL": lambda c: f"%{ord(c):02X}",
    "URL twice": lambda c: f"%25{ord(c):02X}",
    "HTML": lambda c: f"&#{ord(c)};",
    "HTML in hex, twice": lambda c: f"&amp;#x{ord(c):x};",
}


@pytest.mark.parametrize("scheme", CODED)
@pytest.mark.parametrize("every", [False, True], ids=["special characters", "every character"])
def test_a_value_in_escaped_text_is_found(connection: Connection, value: str, scheme: str, every: bool) -> None:
    text = "".join(c if c.isalnum() and not every else CODED[scheme](c) for c in value)
    connection.execute("CREATE TABLE public.notes (c text)")
    connection.execute("INSERT INTO public.notes VALUES (%s)", (f"see https://clinic/?q={text} there",))
    (found,) = discover(connection, ())
    assert (found.relation, found.column, found.values + found.near_misses) == ("notes", "c", 1)


# How mail, PEM and people break lines.
BREAKS = {
    "PEM or MIME": "\n", "MIME as it is sent": "\r\n", "quoted-printable": "=\r\n", "indented": "\n    ",
    "quoted mail": "\n> ", "quoted twice": "\r\n> > ", "blank lines": "\n\n",
}  # fmt: skip


@pytest.mark.parametrize("scheme", BREAKS)
def test_a_value_that_is_broken_into_lines_is_found(connection: Connection, value: str, scheme: str) -> None:
    broken = BREAKS[scheme]
    connection.execute("CREATE TABLE public.notes (width int, start int, c text)")
    wrapped = [
        (
            width,
            start,
            broken.join([value[:start], *(value[at : at + width] for at in range(start, len(value), width))]),
        )
        for width in (1, 2, 5, 12, 64, 76)
        for start in {width, 1, 2, 3, 4, 10, 19, 20, 21, 30}
    ]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO public.notes VALUES (%s, %s, 'see ' || %s)", wrapped)
        cursor.execute("SELECT lo_from_bytea(0, %s)", (b"\x00\xff" + wrapped[3][2].encode(),))
    found, objects = discover(connection, ())
    assert (found.relation, found.column, found.values + found.near_misses) == ("notes", "c", len(wrapped))
    assert objects.relation == "large objects"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("v1:\n  image: registry.example.org:5000/clinic/web\n  replicas: 3\n", id="YAML"),
        pytest.param("changes in v2:\n> all of the new forms\n> the appointments: done\n", id="quoted mail"),
        pytest.param("v1: the\nquick\nbrown\nfox: jumps\nover the lazy dog and\nback again", id="prose"),
        pytest.param("see v3:\n\n1. open\n2. close\n", id="list"),
        pytest.param("v12=\n3: not\na value at\nall: of ours, is it", id="quoted-printable prose"),
    ],
)
def test_prose_of_many_lines_is_no_value(connection: Connection, text: str) -> None:
    connection.execute("CREATE TABLE public.notes (c text)")
    connection.execute("INSERT INTO public.notes VALUES (%s)", (text,))
    assert discover(connection, ()) == ()


@pytest.mark.parametrize("place", [70, 5 * 2**20, 4 * 2**20 - 30], ids=["near the beginning", "far in", "at a border"])
@pytest.mark.parametrize("kind", ["text", "bytea"])
def test_a_value_deep_in_a_large_cell_is_found(connection: Connection, value: str, kind: str, place: int) -> None:
    connection.execute(f"CREATE TABLE public.notes (c {kind})".encode())
    filled = f"{'x ' * (place // 2)}{value}{' y' * 2**20}"
    connection.execute("INSERT INTO public.notes VALUES (%s)", (filled.encode() if kind == "bytea" else filled,))
    (found,) = discover(connection, ())
    assert (found.relation, found.column) == ("notes", "c")
    assert found.values >= 1


@pytest.mark.parametrize("name", ["start", "length"])
def test_the_name_of_a_column_hides_nothing_of_a_large_cell(connection: Connection, value: str, name: str) -> None:
    script = f"""CREATE MATERIALIZED VIEW public.copies AS SELECT repeat('x ', {5 * 2**19}) || '{value}' AS "{name}\""""
    connection.execute(script.encode())
    found, *_ = discover(connection, ())  # and its definition
    assert (found.relation, found.column, found.values, found.versions) == ("copies", name, 1, (V1,))


PARTS = {
    "v": (0, 1), "digit": (1, 2), "second digit": (2, 3), "colon": (3, 4), "v and digits": (0, 3),
    "digits and colon": (1, 4), "nonce": (4, 20), "second colon": (20, 21),
}  # fmt: skip


def test_a_value_of_which_any_part_is_escaped_is_found(
    connection: Connection, keyring_of: Callable[..., KeyRing], seal: Seal
) -> None:
    value = seal(keyring_of(16, primary=16), 16, "x" * 90)
    codings = [*CODED.values(), lambda c: f"\\\\u{ord(c):04X}", lambda c: f"&amp;amp;#{ord(c):04};"]
    texts = [value, value.replace(":", "&colon;"), value.replace(":", "\t:\n"), value.replace(":", "\\:")]
    for first, end in PARTS.values():
        texts += [value[:first] + "".join(map(code, value[first:end])) + value[end:] for code in codings]
    connection.execute("CREATE TABLE public.notes (c text)")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO public.notes VALUES (%s)", [(f"see {text}.",) for text in texts])
    (found,) = discover(connection, ())
    assert found.values + found.near_misses == len(texts)


@pytest.mark.parametrize("place", [0, 2**20 - 20, 3 * 2**20], ids=["beginning", "at a border", "far in"])
def test_a_value_in_a_large_object_is_found(connection: Connection, value: str, place: int) -> None:
    connection.execute("SELECT lo_from_bytea(0, %s)", (b"\x00\xff" * (place // 2) + value.encode() + b"\x00" * 9,))
    connection.execute("SELECT lo_from_bytea(0, %s)", (b"v1: nothing of ours" * 9,))
    (found,) = discover(connection, ())
    assert (found.relation, found.values, found.reason) == ("large objects", 1, "large objects hold encrypted values")


def test_binary_content_is_not_taken_for_a_value_with_escapes(connection: Connection) -> None:
    content = b"v1:\xde\xad\x00A:" + b"\xbe\xefZ" * 20
    connection.execute("CREATE DOMAIN public.blob AS bytea; CREATE TYPE public.scan AS (id int, data public.blob)")
    connection.execute("CREATE TABLE public.images (content bytea, parts bytea[], scan public.scan)")
    connection.execute("INSERT INTO public.images VALUES (%s, %s, (1, %s))", (content, [content], content))
    connection.execute("SELECT lo_from_bytea(0, %s)", (content,))
    assert discover(connection, ()) == ()


def test_large_objects_that_cannot_be_read_are_reported(connection: Connection, database_url: str) -> None:
    connection.execute("SELECT lo_from_bytea(0, 'x')")
    role = f"reader_of_{connection.info.dbname}"
    connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    with connect(make_conninfo(database_url, user=role)) as limited:
        (found,) = discover(limited, ())
    connection.execute(f"DROP ROLE {role}".encode())
    assert found.reason.startswith("1 large object cannot be read by role reader_of_")
    assert found.blocks([V1])


A_TABLE, A_PARENT = "CREATE TABLE public.a (c text);", "CREATE TABLE public.a (c text) PARTITION BY LIST (c);"
A_SERVER = "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w;"
A_MAPPING = f"{A_SERVER} CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (password '{{}}')"
A_SUBSCRIPTION = """
CREATE SUBSCRIPTION copies CONNECTION 'host=127.0.0.1 password={}' PUBLICATION p
    WITH (connect = false, slot_name = NONE)
"""
A_TRIGGER = "pg_catalog.suppress_redundant_updates_trigger"


# A script, and what is found of the value in it: relation and column.
DEFINITIONS = [
    ("CREATE TABLE public.notes (c text DEFAULT '{}')", "notes", "c (default)"),
    ("CREATE TABLE public.notes (c text CONSTRAINT good CHECK (c <> '{}'))", "notes", "constraint good"),
    ("CREATE VIEW public.shown AS SELECT '{}'::text AS c", "shown", "view definition"),
    ("CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $$ SELECT '{}' $$", "f", "function body"),
    ("CREATE TABLE public.notes (c text); COMMENT ON TABLE public.notes IS '{}'", "pg_class", "comment"),
    ("CREATE FUNCTION public.f() RETURNS text RETURN '{}'", "f", "function body"),
    ("CREATE FUNCTION public.f(a text DEFAULT '{}') RETURNS int RETURN 1", "f", "function arguments"),
    (f"{A_TABLE} CREATE RULE r AS ON INSERT TO public.a DO ALSO NOTIFY x, '{{}}'", "a", "rule r"),
    (
        f"{A_TABLE} CREATE TRIGGER t BEFORE UPDATE ON public.a EXECUTE FUNCTION {A_TRIGGER}('{{}}')",
        "a",
        "trigger t",
    ),
    (
        f"{A_PARENT} CREATE TABLE public.b PARTITION OF public.a FOR VALUES IN ('{{}}')",
        "b",
        "partition bound",
    ),
    ("CREATE DOMAIN public.d AS text DEFAULT '{}'", "d", "default of the type"),
    ("CREATE TYPE public.e AS ENUM ('{:.62}')", "e", "label of the type"),
    ("ALTER DATABASE {name} SET keyrotation.x = '{}'", "database or role", "settings"),
    ("CREATE FUNCTION keyrotation.f() RETURNS text RETURN '{}'", "f", "function body"),
    ("CREATE FUNCTION pg_catalog.our_f() RETURNS text RETURN '{}'", "our_f", "function body"),
    ("CREATE FUNCTION public.f() RETURNS int SET keyrotation.x = '{}' RETURN 1", "f", "function settings"),
    ("ALTER FUNCTION pg_catalog.now() SET keyrotation.x = '{}'", "now", "function settings"),
    (
        "CREATE AGGREGATE public.all_of(text) (SFUNC = textcat, STYPE = text, INITCOND = '{}')",
        "all_of",
        "initial value of the aggregate",
    ),
    (f"{A_TABLE} CREATE STATISTICS public.s ON (c || '{{}}') FROM public.a", "a", "extended statistics s"),
    (
        f"{A_TABLE} CREATE PUBLICATION p FOR TABLE public.a WHERE (c = '{{}}')",
        "a",
        "row filter of the publication p",
    ),
    ("CREATE FOREIGN DATA WRAPPER w OPTIONS (x '{}')", "w", "options of the foreign-data wrapper"),
    (f"{A_SERVER} ALTER SERVER far OPTIONS (x '{{}}')", "far", "server options"),
    (f"{A_SERVER} CREATE FOREIGN TABLE public.r () SERVER far OPTIONS (x '{{}}')", "r", "foreign table options"),
    (f"{A_SERVER} CREATE FOREIGN TABLE public.r (n int OPTIONS (x '{{}}')) SERVER far", "r", "n (options)"),
    (A_MAPPING, "far", "options of the user mapping for public"),
    (f"{A_TABLE} CREATE INDEX i ON public.a ((c || '{{}}'))", "a", "index public.i"),
    (f"{A_TABLE} CREATE INDEX i ON public.a (c) WHERE c <> '{{}}'", "a", "index public.i"),
    (f"{A_TABLE} CREATE POLICY p ON public.a USING (c <> '{{}}')", "a", "policy p"),
    (f"{A_TABLE} CREATE POLICY p ON public.a FOR INSERT WITH CHECK (c <> '{{}}')", "a", "policy p"),
    ("COMMENT ON DATABASE {name} IS '{}'", "pg_database", "comment"),
    ("INSERT INTO pg_seclabel VALUES (0, 'pg_class'::regclass, 0, 'x', '{}')", "pg_class", "security label"),
]


def test_a_value_in_a_definition_is_found(connection: Connection, value: str) -> None:
    connection.execute("CREATE SCHEMA keyrotation")
    name = str(connection.info.dbname)
    for script, place, part in DEFINITIONS:
        filled = script.replace("{}", value).replace("{name}", name).replace("{:.62}", value[:62])
        with connection.transaction(force_rollback=True):
            connection.execute(filled.encode())
            (found,) = discover(connection, ())
            assert (found.relation, found.column, found.values) == (place, part, 1), script


def test_a_definition_that_the_role_may_not_read_is_named_and_not_called_searched(
    connection: Connection, database_url: str, value: str
) -> None:
    mapping, subscription = "options of user mappings that", "connections of subscriptions that"
    connection.execute(A_MAPPING.replace("{}", value).encode())
    connection.execute(A_SUBSCRIPTION.replace("{}", value).encode())

    def unsearched(opened: Connection) -> dict[str, tuple[str, ...]]:
        return {
            each.what: each.names for each in search_exclusions(opened) if each.what.startswith((mapping, subscription))
        }

    found = [(each.relation, each.column) for each in discover(connection, ())]
    assert found == [("copies", "connection of the subscription"), ("far", "options of the user mapping for public")]
    assert unsearched(connection) == {}
    role = f"reader_of_{connection.info.dbname}"
    connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    try:
        with connect(make_conninfo(database_url, user=role)) as limited:
            assert discover(limited, ()) == ()
            assert unsearched(limited) == {
                f"{mapping} the pipeline's role may not read": ("far for public",),
                f"{subscription} the pipeline's role may not read": ("copies",),
            }
        connection.execute(f"GRANT SELECT (subconninfo) ON pg_subscription TO {role}".encode())
        connection.execute(f"ALTER SERVER far OWNER TO {role}".encode())
        with connect(make_conninfo(database_url, user=role)) as granted:
            assert [(each.relation, each.column) for each in discover(granted, ())] == found
            assert unsearched(granted) == {}
    finally:
        connection.execute("DROP SUBSCRIPTION copies")
        connection.execute("DROP FOREIGN DATA WRAPPER w CASCADE")
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_another_table_in_our_schema_is_searched(migrated: Connection, value: str) -> None:
    migrated.execute("CREATE TABLE keyrotation.clients_before AS SELECT %s::text AS c", (value,))
    assert discover(migrated, ()) == (FoundColumn("keyrotation.clients_before", "c", 1, 0, (V1,)),)


def test_each_place_that_is_not_searched_is_reported_by_name(either: Connection) -> None:
    assert search_exclusions(either)[-len(NEVER_SEARCHED) :] == NEVER_SEARCHED
    either.execute("CREATE DOMAIN public.blob AS bytea; CREATE TYPE public.pixels AS (width int, bits bit(4)[])")
    either.execute('CREATE TABLE public."Scans" (id int, page public.blob[], mask public.pixels, note text)')
    either.execute("CREATE TABLE public.old (a bytea) PARTITION BY LIST (a); SELECT lo_from_bytea(0, 'x')")
    either.execute("CREATE TABLE public.older PARTITION OF public.old DEFAULT")
    either.execute("CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere")
    either.execute("CREATE FOREIGN TABLE public.remote (c text) SERVER far")
    reported = {each.what: each.names for each in search_exclusions(either)}
    assert reported["what is compressed or encrypted in binary columns"] == ("Scans.page", "old.a", "large objects")
    assert reported["bit strings"] == ("Scans.mask",)
    assert reported["what foreign servers hold besides their foreign tables"] == ("far",)
    assert "postgres" in reported["other databases of the server"]


def test_signing_halves_of_another_home_are_no_such_place_and_what_only_looks_like_them_is_one(
    migrated: Connection, database_url: str
) -> None:
    before = search_exclusions(migrated)
    migrated.execute("CREATE SCHEMA another; CREATE SCHEMA likewise")
    with connect(with_schema(database_url, "another")) as other:
        retired_signing_keys.create(other)
    assert search_exclusions(migrated) == before
    migrated.execute(
        "CREATE TABLE likewise.retired_signing_halves (LIKE another.retired_signing_halves INCLUDING ALL, more bytea)"
    )
    (binary,) = set(search_exclusions(migrated)) - set(before)
    assert binary.names == ("likewise.retired_signing_halves.more",)
    migrated.execute(
        "ALTER TABLE another.retired_signing_halves DROP CONSTRAINT retired_signing_halves_inner_block_check"
    )
    (binary,) = set(search_exclusions(migrated)) - set(before)
    assert "another.retired_signing_halves.inner_block" in binary.names


@pytest.mark.external_postgres
def test_a_foreign_table_without_a_user_mapping_is_named_with_what_to_do(debian: Connection) -> None:
    debian.execute(
        'CREATE EXTENSION postgres_fdw SCHEMA public; CREATE SERVER "far off" FOREIGN DATA WRAPPER postgres_fdw; '
        'CREATE FOREIGN TABLE public.remote (c text) SERVER "far off"'
    )
    said = (
        "foreign table remote cannot be read by role postgres, which has no user mapping; "
        'CREATE USER MAPPING FOR postgres SERVER "far off" OPTIONS (…), or drop the foreign table'
    )
    assert list(unsearchable(debian, ())) == [said]
    assert [(each.relation, each.reason) for each in discover(debian, ())] == [("remote", said)]


def test_of_a_large_table_a_part_is_read_where_a_sample_is_wanted(
    either: Connection, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "SAMPLE_BYTES", 2**20)
    either.execute("CREATE TABLE public.large (id int, c text)")
    either.execute("ALTER TABLE public.large ALTER c SET STORAGE PLAIN")
    rows = 4_000
    statement = "INSERT INTO public.large SELECT n, %s || repeat(' ', %s) FROM generate_series(1, %s) AS n"
    either.execute(statement.encode(), (value, 1_500, rows))
    either.execute("CREATE TABLE public.small (c text); CREATE TABLE public.empty (c text)")
    either.execute("INSERT INTO public.small VALUES (%s)", (value,))
    reported: list[str] = []
    large, small = discover(either, (), announce=reported.append, sampled=True)

    assert (large.relation, small.relation, small.values) == ("large", "small", 1)
    assert 0 < large.values < rows
    assert large.versions == (V1,)
    assert {"empty", "large", "small"} <= set(reported)
    assert "large objects" not in reported
    assert discover(either, (), sampled=True) == (large, small), "the same part each time"
    assert [each.values for each in discover(either, ())] == [rows, 1]
