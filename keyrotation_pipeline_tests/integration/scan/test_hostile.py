"""A database full of code, locks and odd settings: a scan runs none of it, waits for nothing, and says what it omits.

Whatever runs writes EVIL into the server's log, which neither a read-only transaction nor a rollback takes back.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.scan import rows, session
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.scan.report import ScanReport
from keyrotation_pipeline_tests.integration.scan.conftest import Read
from keyrotation_pipeline_tests.servers import Server

MARK = "EVIL"
EVIL = f"""
CREATE FUNCTION evil(text) RETURNS text IMMUTABLE LANGUAGE plpgsql SET search_path = pg_catalog AS $$ BEGIN
    IF current_setting('test.quiet', true) IS DISTINCT FROM 'on' THEN RAISE LOG '{MARK} %', $1; END IF;
    RETURN $1; END $$;
CREATE FUNCTION evil_by_sql(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT public.evil('inlined') || $1 $$;
CREATE FUNCTION is_evil(anyelement) RETURNS boolean IMMUTABLE LANGUAGE plpgsql
    AS $$ BEGIN PERFORM public.evil('is_evil'); RETURN true; END $$;
SET test.quiet = on;
"""


@pytest.fixture
def log(owner: Connection) -> Callable[[], int]:
    """How often evil code has run."""
    (directory,) = owner.execute("SHOW data_directory").fetchone() or ("",)

    def times() -> int:
        return Path(str(directory)).with_name("log").read_text(errors="replace").count(f"{MARK} ")

    return times


def reasons(report: ScanReport) -> dict[str, str]:
    """What was not looked at, of user tables, and why."""
    found = {each.place: each.reason for each in report.not_looked_at}
    return {name: why for name, why in found.items() if not re.match("other databases|large objects", name)}


@pytest.mark.parametrize("by", ["reader", "superuser"])
def test_code_of_the_database_does_not_run(
    owner: Connection, reader: str, read: Read, log: Callable[[], int], by: str
) -> None:
    owner.execute(EVIL.encode())
    owner.execute("CREATE DOMAIN checked AS text CHECK (is_evil(value)); CREATE TYPE pair AS (a text, b checked)")
    owner.execute("""
        CREATE FUNCTION evil_json(json) RETURNS text IMMUTABLE LANGUAGE plpgsql
            AS $$ BEGIN RETURN public.evil('json'); END $$;
        CREATE FUNCTION evil_pair(pair) RETURNS text IMMUTABLE LANGUAGE plpgsql
            AS $$ BEGIN RETURN public.evil('pair'); END $$;
        CREATE CAST (json AS text) WITH FUNCTION evil_json(json) AS IMPLICIT;
        CREATE CAST (pair AS text) WITH FUNCTION evil_pair(pair) AS IMPLICIT;
        CREATE TABLE plain (a text CHECK (is_evil(a)), j json, c checked, cs checked[], p pair, ps pair[],
                            g text GENERATED ALWAYS AS (evil(a)) STORED, d text DEFAULT evil('default'));
        INSERT INTO plain VALUES ('a', '{"k": "v"}', 'c', ARRAY['cs'], ROW('a', 'b'), ARRAY[ROW('a', 'b')::pair]);
        CREATE TABLE indexed (a text); INSERT INTO indexed VALUES ('a');
        CREATE INDEX ON indexed (evil('constant')) WHERE is_evil(1);
        CREATE FUNCTION evil_alone() RETURNS text IMMUTABLE LANGUAGE plpgsql
            AS $$ BEGIN RETURN public.evil('alone'); END $$;
        CREATE TABLE alone (a text); INSERT INTO alone VALUES ('a'); CREATE INDEX ON alone ((a || evil_alone()));
        CREATE TABLE inlined (a text); INSERT INTO inlined VALUES ('a'); CREATE INDEX ON inlined (evil_by_sql(a));
        CREATE TABLE harmless (a text); INSERT INTO harmless VALUES ('a'); CREATE INDEX ON harmless (evil(a));
        CREATE TABLE measured (a text, b text); INSERT INTO measured VALUES ('a');
        CREATE STATISTICS s ON (evil('statistics')), b FROM measured;
        CREATE TABLE parts (a text) PARTITION BY LIST (evil(a));
        CREATE TABLE part PARTITION OF parts FOR VALUES IN ('a');
        INSERT INTO parts VALUES ('a');
        CREATE VIEW seen AS SELECT evil(a) AS a FROM plain;
        CREATE MATERIALIZED VIEW stored AS SELECT evil(a) AS a FROM plain;
        CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
        CREATE FOREIGN TABLE abroad (a text) SERVER elsewhere;
        CREATE TABLE secured (a text); INSERT INTO secured VALUES ('a'); ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON secured USING (is_evil(a));
        CREATE FUNCTION public.left(text, int) RETURNS text LANGUAGE sql AS $$ SELECT evil('left') $$;
        CREATE FUNCTION public.octet_length(text) RETURNS int LANGUAGE sql AS $$ SELECT length(evil('length')) $$;
        CREATE FUNCTION public.concat(text) RETURNS text LANGUAGE sql AS $$ SELECT evil('concat') $$;
        CREATE FUNCTION public.same(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT is_evil($1) $$;
        CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = text, RIGHTARG = text);
        CREATE FUNCTION public.compared(text, text) RETURNS int IMMUTABLE LANGUAGE plpgsql
            AS $$ BEGIN PERFORM public.evil('compared'); RETURN 0; END $$;
        CREATE OPERATOR CLASS public.odd FOR TYPE text USING btree
            AS OPERATOR 3 public.= (text, text), FUNCTION 1 public.compared(text, text);
        CREATE TABLE ordered (a text); INSERT INTO ordered VALUES ('a'); CREATE INDEX ON ordered (a odd);
        ALTER ROLE CURRENT_USER SET search_path = public, pg_catalog;
    """)
    try:
        owner.execute("SET test.quiet = off; SELECT evil('the log is read')")
        before = log()
        assert before
        report, seen = read(reader if by == "reader" else owner.info.dsn)
        assert log() == before
    finally:
        owner.execute("ALTER ROLE CURRENT_USER RESET search_path")
    places = {(place.table.removeprefix("public."), place.column) for place, values in seen.items() if values}
    whole = {("plain", name) for name in ("a", "j", "c", "cs", "p", "ps", "g", "d")}
    known = {"abroad", "alone", "indexed", "inlined", "measured", "secured", "seen"}
    left_out = {name.removeprefix("public."): why for name, why in reasons(report).items()}
    statistics = {"measured"} if owner.info.server_version >= 140000 else set()
    policy = {"secured"} if by == "reader" else set()
    assert whole | {(name, "a") for name in ("harmless", "ordered", "parts", "stored")} <= places
    assert set(left_out) == (known - {"measured", "secured"}) | statistics | policy
    assert left_out["indexed"].startswith("planning any query on it would run public.")
    assert left_out["seen"] == "a view: reading it would run what it is defined by"
    assert left_out["abroad"] == "a foreign table: its rows are in another place"
    assert by == "superuser" or "row-level security" in left_out["secured"]


def test_a_generated_column_that_is_not_stored_is_not_computed(connection: Connection, read: Read) -> None:
    connection.execute("CREATE TABLE public.t (a text, b text GENERATED ALWAYS AS (a || 'b'))")
    report, seen = read(connection.info.dsn)
    assert [place.column for place in seen] == ["a"]
    assert reasons(report) == {"public.t.b": "a generated column: reading it would compute it"}


ODD_SETTINGS = {
    "search_path": "public", "statement_timeout": "1min", "lock_timeout": "1min", "row_security": "on",
    "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
    "default_transaction_read_only": "on", "client_encoding": "LATIN1", "quote_all_identifiers": "on",
    "standard_conforming_strings": "off", "bytea_output": "escape", "DateStyle": "SQL, DMY",
    "idle_in_transaction_session_timeout": "1s", "enable_seqscan": "off", "client_min_messages": "debug5",
    "backslash_quote": "on", "work_mem": "64kB", "array_nulls": "off", "constraint_exclusion": "on",
}  # fmt: skip
NAMES = ['a"b', "new\nline", "dot.ted", "Größe", "%s", "{x}", "$1", "'", "select", " "]


def test_the_records_of_homes_are_not_looked_at_whatever_their_schemas_are_called(
    database_url: str, read: Read
) -> None:
    for schema in ("keyrotation", "order"):
        migrate(with_schema(database_url, schema))
    with psycopg.connect(database_url, autocommit=True) as connection:
        for table in ('"order".waits_of_others', "public.audit_events"):
            connection.execute(f"CREATE TABLE {table} (a text); INSERT INTO {table} VALUES ('x')".encode())
    _, seen = read(database_url)
    assert {place.table for place in seen} == {'"order".waits_of_others', "public.audit_events"}


def test_names_and_settings_do_not_matter(owner: Connection, reader: str, role: sql.Identifier, read: Read) -> None:
    for name, value in ODD_SETTINGS.items():
        owner.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(name), sql.Literal(value)))
    for name in NAMES:
        schema = sql.Identifier(f"s{name}")
        owner.execute(
            sql.SQL("CREATE SCHEMA {0}; CREATE TABLE {0}.{1} ({1} text)").format(schema, sql.Identifier(name))
        )
        owner.execute(sql.SQL("INSERT INTO {}.{} VALUES ('Größe')").format(schema, sql.Identifier(name)))
    blocker = psycopg.connect(owner.info.dsn)  # a serializable, deferrable transaction would wait for its end
    with blocker:
        blocker.execute("BEGIN ISOLATION LEVEL SERIALIZABLE; CREATE TABLE IF NOT EXISTS public.other (id int)")
        report, seen = read(reader)
    assert {place.column: values for place, values in seen.items()} == {name: ["Größe"] for name in NAMES}
    assert reasons(report) == {}
    assert {place.table for place in seen if place.column in {"dot.ted", "select"}} == {
        '"sdot.ted"."dot.ted"', 'sselect."select"',
    }  # fmt: skip


@pytest.fixture
def locked(owner: Connection) -> Iterator[None]:
    owner.execute("CREATE TABLE locked (a text); CREATE TABLE free (a text); INSERT INTO free VALUES ('x')")
    with psycopg.connect(owner.info.dsn) as other:
        other.execute("LOCK TABLE public.locked IN ACCESS EXCLUSIVE MODE")
        yield
        other.rollback()


def test_a_locked_table_is_named_and_nobody_waits(owner: Connection, reader: str, read: Read, locked: None) -> None:
    began = time.monotonic()
    report, seen = read(reader)
    assert time.monotonic() - began < 3
    assert reasons(report) == {"public.locked": "another session has locked it"}
    assert [place.table for place in seen] == ["public.free"]


def test_what_the_role_may_not_read_is_named(owner: Connection, reader: str, role: sql.Identifier, read: Read) -> None:
    owner.execute(
        "CREATE TABLE closed (a text); CREATE TABLE half (a text, b text); INSERT INTO half VALUES ('a', 'b')"
    )
    owner.execute("CREATE SCHEMA shut; CREATE TABLE shut.t (a text)")
    owner.execute(sql.SQL("REVOKE ALL ON closed, half FROM {0}; REVOKE ALL ON SCHEMA shut FROM {0}").format(role))
    owner.execute(sql.SQL("GRANT SELECT (a) ON half TO {}").format(role))
    report, seen = read(reader)
    assert [(place.table, place.column, values) for place, values in seen.items()] == [("public.half", "a", ["a"])]
    assert reasons(report) == {
        "public.closed": "the role may not read it: GRANT SELECT",
        "public.half.b": "the role may not read this column",
        "shut.t": "the role has no USAGE on its schema",
    }


def test_rights_on_partitions_are_what_counts(owner: Connection, reader: str, role: sql.Identifier, read: Read) -> None:
    owner.execute("""
        CREATE TABLE parts (a text) PARTITION BY LIST (a); CREATE TABLE x PARTITION OF parts FOR VALUES IN ('x');
        CREATE TABLE y PARTITION OF parts FOR VALUES IN ('y'); INSERT INTO parts VALUES ('x'), ('y');
    """)
    owner.execute(sql.SQL("REVOKE ALL ON parts, y FROM {}").format(role))
    report, seen = read(reader)
    assert {place.table: values for place, values in seen.items()} == {"public.parts": ["x"]}
    assert reasons(report) == {"public.y": "the role may not read it: GRANT SELECT"}


def test_a_login_trigger_runs_at_the_login_alone(connection: Connection, read: Read, server: Server) -> None:
    """It cannot be avoided, since it runs before the first statement; only superusers can make one."""
    connection.execute("""
        CREATE TABLE public.t (a text); INSERT INTO public.t VALUES ('x');
        CREATE FUNCTION public.greet() RETURNS event_trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE LOG 'EVIL LOGIN'; PERFORM set_config('search_path', 'public', false); END $$;
        CREATE EVENT TRIGGER greeting ON login EXECUTE FUNCTION public.greet()
    """)
    log = server.directory / "log"
    before = log.read_text(errors="replace").count("EVIL LOGIN")
    _, seen = read(connection.info.dsn)
    assert log.read_text(errors="replace").count("EVIL LOGIN") == before + 1
    assert list(seen.values()) == [["x"]]


# Of one table alone.
SLOW = "SELECT pg_sleep(30 * (count(*) FILTER (WHERE oid::bigint = %(oid)s))) FROM pg_class WHERE relname = 'long'"


def test_a_table_that_takes_too_long_is_named_and_the_scan_continues(
    owner: Connection, reader: str, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.execute("CREATE TABLE long (a text); CREATE TABLE short (a text); INSERT INTO short VALUES ('x')")
    settings = session._SETTINGS.replace("statement_timeout = '10s'", "statement_timeout = '300ms'")  # noqa: SLF001
    monkeypatch.setattr(session, "_SETTINGS", settings)
    monkeypatch.setattr(rows, "_SIZE", f"SELECT size FROM ({rows._SIZE}) AS asked (size), ({SLOW}) AS slept")  # noqa: SLF001
    report, seen = read(reader)
    assert reasons(report) == {"public.long": "reading took too long"}
    assert [place.table for place in seen] == ["public.short"]


def test_no_statement_holds_a_value(owner: Connection, reader: str, role: sql.Identifier, read: Read) -> None:
    owner.execute(sql.SQL("ALTER ROLE {} SET log_statement = 'all'").format(role))
    owner.execute("CREATE TABLE t (a text, j jsonb); INSERT INTO t VALUES ('s3cr3t-value', '{\"k\": \"s3cr3t-leaf\"}')")
    (directory,) = owner.execute("SHOW data_directory").fetchone() or ("",)
    log = Path(str(directory)).with_name("log")
    before = len(log.read_text(errors="replace"))
    _, seen = read(reader)
    written = log.read_text(errors="replace")[before:]
    assert sorted(map(str, seen.values())) == ["['s3cr3t-leaf']", "['s3cr3t-value']"]
    assert "octet_length" in written
    assert "s3cr3t" not in written
