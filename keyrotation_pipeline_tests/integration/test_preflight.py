"""What the pre-flight refuses, warns of and lets through, on real servers."""

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres import preflight as preflights
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.preflight import preflight, server, writes
from keyrotation_pipeline.adapters.postgres.preflight.server import revealing_settings
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.servers import Server

V2, V10 = KeyVersion(2), KeyVersion(10)
NOTES = EncryptedTable(TableName("public", "notes"), ("c",))

Seal = Callable[[KeyRing, int, str], str]

TOUCH = """
    CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at := now(); RETURN NEW; END';
"""
QUIET = "WHEN (current_setting('keyrotation.engine', true) IS DISTINCT FROM 'on')"
NOWHERE = "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;"


def fatal(connection: Connection, *tables: EncryptedTable, target: KeyVersion = V2) -> list[str]:
    return [each.message for each in preflight(connection, tables or [NOTES], target) if each.fatal]


def warnings(connection: Connection, *tables: EncryptedTable) -> list[str]:
    return [each.message for each in preflight(connection, tables or [NOTES], V2) if not each.fatal]


def run(connection: Connection, script: str) -> None:
    connection.execute("SET search_path = public")
    connection.execute(script)
    connection.execute("SET search_path = pg_catalog")


@pytest.fixture
def value_of(keyring_of: Callable[..., KeyRing], seal: Seal) -> Callable[[int], str]:
    """A value under a version."""
    return lambda version: seal(keyring_of(version, primary=version), version, "x")


@pytest.fixture
def value(keyring_of: Callable[..., KeyRing], seal: Seal) -> str:
    """56 characters under v9."""
    return seal(keyring_of(9, primary=9), 9, "x" * 11)


ACCEPTED = {
    "text, no primary key": "CREATE TABLE notes (c text)",
    "varchar wide enough, uuid key": (
        "CREATE TABLE notes (c varchar(60), id uuid PRIMARY KEY DEFAULT gen_random_uuid())"
    ),
    "domain": "CREATE DOMAIN sealed AS text CHECK (length(VALUE) < 500); CREATE TABLE notes (c sealed)",
    "composite primary key": "CREATE TABLE notes (a int DEFAULT 1, b int DEFAULT 2, c text, PRIMARY KEY (a, b))",
    "partitions": (
        "CREATE TABLE notes (id int, c text) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF notes DEFAULT"
    ),
    "inheritance": "CREATE TABLE notes (c text); CREATE TABLE child (d int) INHERITS (notes)",
    "generated from a declared": "CREATE TABLE notes (c text, copy text GENERATED ALWAYS AS (left(c, 3)) STORED)",
    "a view upon it": "CREATE TABLE notes (c text); CREATE VIEW looking AS SELECT c FROM notes",
    "foreign key on another column": (
        "CREATE TABLE clients (id int PRIMARY KEY);"
        "CREATE TABLE notes (client int REFERENCES clients ON UPDATE CASCADE, c text)"
    ),
    "trigger with our clause": (
        f"{TOUCH} CREATE TABLE notes (c text, updated_at timestamptz);"
        f"CREATE TRIGGER touch BEFORE UPDATE ON notes FOR EACH ROW {QUIET} EXECUTE FUNCTION touch()"
    ),
    "triggers on other columns and events": (
        f"{TOUCH} CREATE TABLE notes (c text, d text, updated_at timestamptz);"
        "CREATE TRIGGER touch BEFORE UPDATE OF d ON notes FOR EACH ROW EXECUTE FUNCTION touch();"
        "CREATE TRIGGER born BEFORE INSERT OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION touch()"
    ),
    "disabled trigger": (
        f"{TOUCH} CREATE TABLE notes (c text); CREATE TRIGGER touch BEFORE UPDATE ON notes FOR EACH ROW"
        " EXECUTE FUNCTION touch(); ALTER TABLE notes DISABLE TRIGGER touch"
    ),
    "statement trigger of a partitioned parent, which our UPDATE of a partition passes by": (
        f"{TOUCH} CREATE TABLE notes (id int, c text) PARTITION BY LIST (id);"
        "CREATE TABLE part PARTITION OF notes DEFAULT;"
        "CREATE TRIGGER touch AFTER UPDATE ON notes FOR EACH STATEMENT EXECUTE FUNCTION touch()"
    ),
    "published with a key": "CREATE TABLE notes (c text PRIMARY KEY); CREATE PUBLICATION all_of_it FOR TABLE notes",
    "another table is published without its updates": (
        "CREATE TABLE notes (c text); CREATE TABLE other (c text);"
        "CREATE PUBLICATION inserts FOR TABLE other WITH (publish = 'insert')"
    ),
    "published with full identity": (
        "CREATE TABLE notes (c text); ALTER TABLE notes REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE notes"
    ),
    "check that any version passes": "CREATE TABLE notes (c text CHECK (length(c) < 500 AND c LIKE 'v%'))",
    "policies for others": "CREATE TABLE notes (c text); ALTER TABLE notes ENABLE ROW LEVEL SECURITY",
}

REFUSED = {
    "missing table": ("", "table notes is not in the database; correct [[tables]]"),
    "missing column": ("CREATE TABLE notes (d text)", "column c is not in table notes; correct"),
    "view": ("CREATE VIEW notes AS SELECT ''::text AS c", "notes is a view, whose rows cannot"),
    "materialized view": ("CREATE MATERIALIZED VIEW notes AS SELECT ''::text AS c", "notes is a materialized view"),
    "foreign": (f"{NOWHERE} CREATE FOREIGN TABLE notes (c text) SERVER far", "notes is a foreign table"),
    "foreign partition": (
        (
            f"{NOWHERE} CREATE TABLE notes (id int, c text) PARTITION BY LIST (id);"
            "CREATE FOREIGN TABLE old PARTITION OF notes DEFAULT SERVER far"
        ),
        "old is a foreign table in the tree of notes, whose rows cannot be rewritten here; detach it",
    ),
    "another access method": (
        "CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE notes (c text) USING other",
        "table notes has the access method other",
    ),
    "char(n)": ("CREATE TABLE notes (c char(80))", "column notes.c is of type character, which pads"),
    "jsonb": ("CREATE TABLE notes (c jsonb)", "column notes.c is of type jsonb; name the value in"),
    "json": ("CREATE TABLE notes (c json)", "column notes.c is of type json, which keeps"),
    "array": ("CREATE TABLE notes (c text[])", "column notes.c is of type text[]; declare its el"),
    "integer": ("CREATE TABLE notes (c int)", "column notes.c is of type integer, whose text"),
    "domain of char": ("CREATE DOMAIN fixed AS char(80); CREATE TABLE notes (c fixed)", "column notes.c is of type"),
    "generated": ("CREATE TABLE notes (d text, c text GENERATED ALWAYS AS (d) STORED)", "column notes.c is generated"),
    "partition key": ("CREATE TABLE notes (c text) PARTITION BY HASH (c)", "column notes.c is in the partition key"),
    "partition key, in an expression": (
        "CREATE TABLE notes (c text) PARTITION BY HASH (lower(c))",
        "column notes.c is in the partition key",
    ),
    "partition key of a partition": (
        (
            "CREATE TABLE notes (id int, c text) PARTITION BY LIST (id);"
            "CREATE TABLE part PARTITION OF notes DEFAULT PARTITION BY LIST (c)"
        ),
        "column part.c is in the partition key",
    ),
    "foreign key, referencing": (
        "CREATE TABLE ciphers (c text PRIMARY KEY); CREATE TABLE notes (c text REFERENCES ciphers)",
        "column notes.c is in the foreign key notes_c_fkey",
    ),
    "foreign key, referenced": (
        "CREATE TABLE notes (c text PRIMARY KEY); CREATE TABLE other (c text REFERENCES notes)",
        "column notes.c is in the foreign key other_c_fkey of public.other",
    ),
    "row trigger": (
        (
            f"{TOUCH} CREATE TABLE notes (c text, updated_at timestamptz);"
            "CREATE TRIGGER touch BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION touch()"
        ),
        f"trigger touch of notes would fire for every re-encrypted row; recreate it with {QUIET}",
    ),
    "statement trigger": (
        f"{TOUCH} CREATE TABLE notes (c text); CREATE TRIGGER log AFTER UPDATE ON notes EXECUTE FUNCTION touch()",
        f"trigger log of notes would fire for every re-encrypted row; recreate it with {QUIET}",
    ),
    "trigger on UPDATE OF a declared column": (
        (
            f"{TOUCH} CREATE TABLE notes (c text, d text);"
            "CREATE TRIGGER touch AFTER UPDATE OF c, d ON notes FOR EACH ROW EXECUTE FUNCTION touch()"
        ),
        "trigger touch of notes",
    ),
    "trigger on UPDATE OF a column generated from a declared one": (
        (
            f"{TOUCH} CREATE TABLE notes (c text, g text GENERATED ALWAYS AS (left(c, 9)) STORED);"
            "CREATE TRIGGER touch AFTER UPDATE OF g ON notes FOR EACH ROW EXECUTE FUNCTION touch()"
        ),
        "trigger touch of notes",
    ),
    "trigger with another condition": (
        (
            f"{TOUCH} CREATE TABLE notes (c text, d int);"
            "CREATE TRIGGER touch BEFORE UPDATE ON notes FOR EACH ROW WHEN (NEW.d > 1) EXECUTE FUNCTION touch()"
        ),
        f"recreate it with {QUIET}, joined by AND to the condition that it has",
    ),
    "trigger that has our setting as an argument only": (
        (
            f"{TOUCH} CREATE TABLE notes (c text);"
            "CREATE TRIGGER touch BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION touch('keyrotation.engine')"
        ),
        "trigger touch of notes",
    ),
    "trigger enabled always": (
        (
            f"{TOUCH} CREATE TABLE notes (c text);"
            "CREATE TRIGGER touch BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION touch();"
            "ALTER TABLE notes ENABLE ALWAYS TRIGGER touch"
        ),
        "trigger touch of notes",
    ),
    "row trigger of a partitioned parent": (
        (
            f"{TOUCH} CREATE TABLE notes (id int, c text) PARTITION BY LIST (id);"
            "CREATE TABLE part PARTITION OF notes DEFAULT;"
            "CREATE TRIGGER touch BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION touch()"
        ),
        "trigger touch of notes",
    ),
    "statement trigger of a partition": (
        (
            f"{TOUCH} CREATE TABLE notes (id int, c text) PARTITION BY LIST (id);"
            "CREATE TABLE part PARTITION OF notes DEFAULT;"
            "CREATE TRIGGER log AFTER UPDATE ON part EXECUTE FUNCTION touch()"
        ),
        "trigger log of part",
    ),
    "rule": (
        "CREATE TABLE notes (c text); CREATE RULE copy AS ON UPDATE TO notes DO ALSO NOTHING",
        "rule copy of notes rewrites every UPDATE",
    ),
    "published without its updates": (
        "CREATE TABLE notes (c text); CREATE PUBLICATION inserts FOR TABLE notes WITH (publish = 'insert')",
        "publication inserts does not publish updates of table notes",
    ),
    "a partition published without its updates": (
        (
            "CREATE TABLE notes (id int, c text) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF notes DEFAULT;"
            "CREATE PUBLICATION inserts FOR TABLE part WITH (publish = 'insert, delete')"
        ),
        "publication inserts does not publish updates of table notes",
    ),
    "published without identity": (
        "CREATE TABLE notes (c text); CREATE PUBLICATION p FOR TABLE notes",
        "table notes is published (p) without a replica identity",
    ),
    "published with all tables, identity nothing": (
        (
            "CREATE TABLE notes (c text PRIMARY KEY); ALTER TABLE notes REPLICA IDENTITY NOTHING;"
            "CREATE PUBLICATION p FOR ALL TABLES"
        ),
        "table notes is published (p) without a replica identity",
    ),
    "published through its parent": (
        (
            "CREATE TABLE notes (id int, c text) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF notes DEFAULT;"
            "CREATE PUBLICATION p FOR TABLE notes WITH (publish_via_partition_root)"
        ),
        "table part is published (p) without a replica identity",
    ),
    "our fence's name is taken": (
        f"CREATE TABLE notes (c text CONSTRAINT {fence.NAME} CHECK (c <> ''))",
        f"table notes has a constraint {fence.NAME} that is not ours",
    ),
}


def test_the_preflight_lets_through(either: Connection, value: str) -> None:
    for name, script in ACCEPTED.items():
        with either.transaction(force_rollback=True):
            run(either, script)
            either.execute("INSERT INTO public.notes (c) VALUES (%s)", (value,))
            assert fatal(either, target=V10) == [], name


def test_the_preflight_refuses(either: Connection) -> None:
    for name, (script, sentence) in REFUSED.items():
        with either.transaction(force_rollback=True):
            run(either, script)
            found = fatal(either)
            assert len(found) == 1, (name, found)
            assert sentence in found[0], name


def test_every_table_is_looked_at_and_fatal_problems_come_first(connection: Connection) -> None:
    run(connection, "CREATE TABLE notes (c jsonb); CREATE INDEX ON notes (c)")
    missing = EncryptedTable(TableName("billing", "Invoices"), ("c",))
    found = preflight(connection, [missing, NOTES], V2)
    assert "table billing.Invoices is not in the database" in found[0].message
    assert "notes.c is of type jsonb" in found[1].message
    assert [each.fatal for each in found[2:]] == [False] * (len(found) - 2)


@pytest.mark.parametrize(
    ("ddl", "needed"),
    [
        pytest.param("CREATE TABLE notes (c varchar({room}))", 1, id="varchar"),
        pytest.param(
            "CREATE DOMAIN inner_one AS varchar({room}); CREATE DOMAIN outer_one AS inner_one;"
            "CREATE TABLE notes (c outer_one)",
            1,
            id="domain over a domain over varchar",
        ),
    ],
)
def test_a_column_too_narrow_for_the_longer_prefix_is_refused(
    either: Connection, value: str, ddl: str, needed: int
) -> None:
    run(either, ddl.format(room=len(value)))
    either.execute("INSERT INTO public.notes VALUES (%s), (NULL), ('plain')", (value,))
    assert fatal(either, target=KeyVersion(8)) == []
    (sentence,) = fatal(either, target=V10)
    assert (
        f"notes.c holds {len(value)} characters, but its longest value needs {len(value) + needed} under v10"
        in sentence
    )
    run(either, "DROP TABLE notes")
    run(either, f"CREATE TABLE notes (c varchar({len(value) + needed}))")
    either.execute("INSERT INTO public.notes VALUES (%s)", (value,))
    assert fatal(either, target=V10) == []


def test_the_width_for_the_second_generation_is_enough_and_not_much_more(
    either: Connection, keyring_of: Callable[..., KeyRing], seal: Seal
) -> None:
    second = KeyRing({KeyVersion(10, 2): KeyMaterial.generate()}, KeyVersion(10, 2))
    for text in ("", "x", "xx", "xxx"):
        old, new = seal(keyring_of(9, primary=9), 9, text), encrypt(second, text, "notes.c")
        run(either, f"CREATE TABLE notes (c varchar({len(old)}) CHECK (length(c) <= {len(new) + 4}))")
        either.execute("INSERT INTO public.notes VALUES (%s), (NULL), ('plain')", (old,))
        (sentence,) = fatal(either, target=KeyVersion(10, 2))
        needed = int(sentence.partition("longest value needs ")[2].partition(" ")[0])
        assert 0 <= needed - len(new) <= 4
        run(either, f"ALTER TABLE notes ALTER c TYPE varchar({needed})")
        assert fatal(either, target=KeyVersion(10, 2)) == []
        either.execute("UPDATE public.notes SET c = %s", (new,))
        assert fatal(either, target=KeyVersion(11, 2)) == []
        assert fatal(either, target=KeyVersion(11)) == []
        run(either, "DROP TABLE notes")


def test_a_value_already_under_the_longer_prefix_needs_no_more_room(either: Connection, value: str) -> None:
    run(either, f"CREATE TABLE notes (c varchar({len(value) + 1}))")
    either.execute("INSERT INTO public.notes VALUES (%s)", (value.replace("v9:", "v10:"),))
    assert fatal(either, target=KeyVersion(11)) == []


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        pytest.param(
            "CREATE DOMAIN sealed AS text CHECK (VALUE ~ '^v[0-9]:'); CREATE TABLE notes (c sealed)",
            "the domain public.sealed of column notes.c refuses values under v10",
            id="CHECK of a domain",
        ),
        pytest.param(
            "CREATE TABLE notes (c text CONSTRAINT one_digit CHECK (c ~ '^v[0-9]:'))",
            "the CHECK one_digit of notes refuses 1 row under v10",
            id="CHECK of a table",
        ),
        pytest.param(
            'CREATE TABLE notes (c text, "D d" int DEFAULT 56, CONSTRAINT size CHECK (length(c) <= "D d"))',
            "the CHECK size of notes refuses 1 row under v10",
            id="CHECK that compares with another column",
        ),
    ],
)
def test_a_check_that_would_refuse_the_new_version_is_refused(
    either: Connection, value: str, script: str, sentence: str
) -> None:
    run(either, script)
    either.execute("INSERT INTO public.notes (c) VALUES (%s)", (value,))
    assert fatal(either, target=KeyVersion(8)) == []
    (found,) = fatal(either, target=V10)
    assert sentence in found


def test_the_standing_fence_of_an_earlier_rotation_is_no_problem(either: Connection, value: str) -> None:
    run(either, "CREATE TABLE notes (c text)")
    either.execute("INSERT INTO public.notes VALUES (%s)", (value,))
    fence.fence(either, NOTES, [KeyVersion(8)])
    assert fatal(either, target=V10) == []


# --- statements to type ---------------------------------------------------------------------------------------------

ORDER = EncryptedTable(TableName("public", "order"), ("c",))


@pytest.mark.parametrize(
    ("script", "statement"),
    [
        pytest.param(
            'ALTER TABLE "order" ADD PRIMARY KEY (id);'
            'CREATE PUBLICATION "only inserts" FOR TABLE "order" WITH (publish = \'insert\')',
            "ALTER PUBLICATION \"only inserts\" SET (publish = 'insert, update, delete, truncate')",
            id="publication",
        ),
        pytest.param(
            'CREATE PUBLICATION p FOR TABLE "order"',
            'ALTER TABLE "order" REPLICA IDENTITY FULL',
            id="replica identity",
        ),
        pytest.param(
            'ALTER TABLE "order" ADD CONSTRAINT "1st key" CHECK (c LIKE \'v1:%\')',
            'ALTER TABLE "order" DROP CONSTRAINT "1st key"',
            id="check",
        ),
        pytest.param(
            'ALTER TABLE "order" ADD UNIQUE (c);'
            'CREATE TABLE "Copies" (c text CONSTRAINT "say ""c""" REFERENCES "order" (c))',
            'ALTER TABLE public."Copies" DROP CONSTRAINT "say ""c"""',
            id="foreign key",
        ),
        pytest.param(
            'CREATE RULE "not now" AS ON UPDATE TO "order" DO INSTEAD NOTHING',
            'ALTER TABLE "order" DISABLE RULE "not now"',
            id="rule",
        ),
    ],
)
def test_names_stand_quoted_in_the_statement_that_a_refusal_gives(
    connection: Connection, value_of: Callable[[int], str], script: str, statement: str
) -> None:
    run(connection, 'CREATE TABLE "order" (id int GENERATED ALWAYS AS IDENTITY, c text)')
    connection.execute('INSERT INTO public."order" (c) VALUES (%s)', (value_of(1),))
    run(connection, script)
    (sentence,) = fatal(connection, ORDER)
    assert statement in sentence
    run(connection, statement)
    assert fatal(connection, ORDER) == []


# --- rights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(connection: Connection, database_url: str) -> Iterator[Connection]:
    """A connection of a role without any right, to the database of `connection`."""
    role = f"limited_{connection.info.dbname}"
    connection.execute(f"CREATE ROLE {role} LOGIN")
    connection.execute(f"GRANT pg_read_all_stats TO {role}")  # as docs/guides/replicas.md has it
    with connect(make_conninfo(database_url, user=role)) as opened:
        yield opened
    connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_missing_rights_are_named_for_each_partition(connection: Connection, limited: Connection) -> None:
    run(
        connection,
        "CREATE TABLE notes (id int, c text) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF notes DEFAULT",
    )
    role = limited.info.user
    connection.execute(f"GRANT SELECT, UPDATE ON public.notes TO {role}")
    found = "\n".join(fatal(limited))
    assert f"role {role} lacks SELECT, UPDATE on part; GRANT SELECT, UPDATE ON part TO {role}" in found
    assert "on notes;" not in found
    assert f"role {role} does not own notes, so it cannot fence it" in found
    connection.execute(f"GRANT SELECT, UPDATE (c) ON public.part TO {role}")
    assert "lacks" not in "\n".join(fatal(limited))
    connection.execute(f"GRANT postgres TO {role}")
    assert fatal(limited) == []
    connection.execute(f"REVOKE postgres FROM {role}")


def test_a_schema_that_may_not_be_used_is_named(connection: Connection, limited: Connection) -> None:
    run(connection, "CREATE SCHEMA billing; CREATE TABLE billing.notes (c text)")
    found = "\n".join(fatal(limited, EncryptedTable(TableName("billing", "notes"), ("c",))))
    assert f"GRANT USAGE ON SCHEMA billing TO {limited.info.user}" in found


def test_roles_and_schemas_stand_quoted_in_the_statements_that_refusals_give(
    connection: Connection, database_url: str
) -> None:
    role, owner = f"key-rotation {connection.info.dbname}", f"owner-{connection.info.dbname}"
    run(connection, f'CREATE ROLE "{role}" LOGIN; CREATE ROLE "{owner}"; GRANT pg_read_all_stats TO "{role}"')
    run(connection, 'CREATE SCHEMA "bill ing"; CREATE TABLE "bill ing".notes (c text); CREATE TABLE "order" (c text)')
    run(connection, f'ALTER TABLE "bill ing".notes OWNER TO "{owner}"; ALTER TABLE "order" OWNER TO "{owner}"')
    run(connection, 'ALTER TABLE "order" ENABLE ROW LEVEL SECURITY; ALTER TABLE "order" FORCE ROW LEVEL SECURITY')
    tables = (EncryptedTable(TableName("bill ing", "notes"), ("c",)), ORDER)
    typed = [
        f'GRANT USAGE ON SCHEMA "bill ing" TO "{role}"',
        f'GRANT SELECT, UPDATE ON "bill ing".notes TO "{role}"',
        f'GRANT SELECT, UPDATE ON "order" TO "{role}"',
        f'GRANT "{owner}" TO "{role}"',
        f'ALTER ROLE "{role}" BYPASSRLS',
    ]
    try:
        with connect(make_conninfo(database_url, user=role)) as limited:
            found = "\n".join(fatal(limited, *tables))
            for statement in typed:
                assert statement in found
                run(connection, statement)
            assert fatal(limited, *tables) == []
            limited.execute("SET log_parameter_max_length_on_error = 100")
            assert any(f'ALTER ROLE "{role}" SET log_parameter' in each for each in warnings(limited, *tables))
    finally:
        run(connection, f'DROP OWNED BY "{role}", "{owner}"; DROP ROLE "{role}", "{owner}"')


@pytest.mark.parametrize("forced", [False, True])
def test_row_security_that_applies_to_us_is_refused(connection: Connection, limited: Connection, forced: bool) -> None:
    run(connection, "CREATE TABLE notes (c text); ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
    role = limited.info.user
    run(connection, f"GRANT pg_read_all_stats TO {role}")
    if forced:
        run(connection, f"ALTER TABLE notes OWNER TO {role}")
        assert fatal(limited) == []
        run(connection, "ALTER TABLE notes FORCE ROW LEVEL SECURITY")
    else:
        run(connection, f"GRANT SELECT, UPDATE ON notes TO {role}")
    sentence = (
        f"row-level security of notes applies to role {role} and would hide rows from it; ALTER ROLE {role} BYPASS"
    )
    assert any(sentence in each for each in fatal(limited))
    run(connection, f"ALTER ROLE {role} BYPASSRLS")
    assert not any("row-level security" in each for each in fatal(limited))


def test_a_table_that_cannot_be_scanned_is_refused_not_passed_over(connection: Connection, limited: Connection) -> None:
    run(connection, "CREATE TABLE notes (c varchar(60))")
    assert any("notes cannot be read by role" in each for each in fatal(limited, target=V10))


# --- server ---------------------------------------------------------------------------------------------------------


def test_a_read_only_database_is_refused(either: Connection) -> None:
    run(either, "CREATE TABLE notes (c text)")
    either.execute("SET default_transaction_read_only = on")
    (sentence,) = fatal(either)
    assert "the database is read-only" in sentence


@pytest.fixture
def standby(server: Server, connection: Connection) -> Iterator[Connection]:
    """A connection to the same database on a standby of the session's server."""
    run(connection, "CREATE TABLE notes (c text)")
    replica = Server(server.binaries, server.directory / "copy", server.user)
    data = f"{replica.directory}/data"
    primary = f"host={server.directory} user=postgres"
    server.run("pg_basebackup", "-D", data, "-d", primary, "-R", "-c", "fast", "-X", "stream")
    options = (
        f"-k {replica.directory} -c listen_addresses= -c fsync=off -c max_connections=60 -c max_prepared_transactions=4"
    )
    server.run("pg_ctl", "-D", data, "-w", "-l", f"{data}.log", "-o", options, "start")
    with connect(replica.url(connection.info.dbname)) as opened:
        yield opened
    replica.stop()
    shutil.rmtree(replica.directory)


def test_a_standby_is_refused_and_the_primary_is_warned_of_it(connection: Connection, standby: Connection) -> None:
    (sentence,) = fatal(standby)
    assert "the server is a standby and accepts no writes" in sentence
    assert any("standbys or subscribers replicate from here (1)" in each for each in warnings(connection))


@pytest.fixture
def pooled(server: Server, database_url: str) -> Iterator[str]:
    """A way through something that answers the login with a process id of its own, as poolers do."""
    parts = conninfo_to_dict(database_url)
    listener = socket.create_server(("127.0.0.1", 0))
    client_address = listener.getsockname()

    def forward(source: socket.socket, sink: socket.socket, *, forge: bool) -> None:
        with source, sink:
            while data := source.recv(65536):
                at = data.find(b"K\x00\x00\x00\x0c") if forge else -1
                if at >= 0:
                    data, forge = data[: at + 5] + b"\x00\x00\x00\x01" + data[at + 9 :], False
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(f"{parts['host']}/.s.PGSQL.5432")
        threading.Thread(
            target=forward, args=(client.dup(), upstream.dup()), kwargs={"forge": False}, daemon=True
        ).start()
        forward(upstream, client, forge=True)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    host, port = client_address
    with listener:
        yield make_conninfo(database_url, host=host, port=port, sslmode="disable")
    thread.join(timeout=5)


def test_a_pooler_is_refused(pooled: str) -> None:
    with pytest.raises(PreflightError, match="goes through a pooler"):
        connect(pooled)


def test_lost_session_settings_are_refused(connection: Connection) -> None:
    run(connection, "CREATE TABLE notes (c text)")
    connection.execute("RESET keyrotation.engine")
    (sentence,) = fatal(connection)
    assert "goes through a pooler" in sentence


@pytest.mark.parametrize(
    ("number", "is_fatal", "words"),
    [
        pytest.param(130022, True, "PostgreSQL 13 is too old", id="13.22"),
        pytest.param(140019, False, "14.20 fixes", id="14.19"),
        pytest.param(150015, None, "", id="15.15"),
        pytest.param(160002, False, "PostgreSQL 16.2 has defects", id="16.2"),
        pytest.param(180000, False, "18.1 fixes", id="18.0"),
        pytest.param(180001, None, "", id="18.1"),
        pytest.param(190000, False, "newer than what this was tested with", id="19.0"),
    ],
)
def test_a_server_version_is_judged(number: int, is_fatal: bool | None, words: str) -> None:
    found = [(each.fatal, words in each.message) for each in server.version_problems(number)]
    assert found == ([] if is_fatal is None else [(is_fatal, True)])


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_strict_default_isolation_is_warned_of(connection: Connection, isolation: str) -> None:
    run(connection, "CREATE TABLE notes (c text)")
    assert not any("40001" in each for each in warnings(connection))
    name = connection.info.dbname
    connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    assert any("40001" in each for each in warnings(connection))


def test_a_serializable_transaction_in_use_is_warned_of(connection: Connection, database_url: str) -> None:
    run(connection, "CREATE TABLE notes (c text)")
    with connect(database_url) as other, other.transaction():
        other.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        other.execute("SELECT * FROM public.notes")
        assert any("40001" in each for each in warnings(connection))


def test_open_and_prepared_transactions_are_warned_of_by_name(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(connection, "CREATE TABLE notes (c text)")
    with psycopg.connect(database_url, application_name="night report") as other:
        other.execute("SELECT 1")
        assert not any("night report" in each for each in warnings(connection))
        monkeypatch.setattr(server, "LONG_SECONDS", 0)
        assert any(f"session {other.info.backend_pid} (night report)" in each for each in warnings(connection))
        other.execute("PREPARE TRANSACTION 'half done'")
    assert any("prepared transaction half done" in each for each in warnings(connection))
    connection.execute("ROLLBACK PREPARED 'half done'")


def test_a_replication_slot_nobody_reads_is_warned_of(connection: Connection) -> None:
    run(connection, "CREATE TABLE notes (c text)")
    slot = f"slot_{connection.info.dbname}"
    connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", (slot,))
    try:
        assert any(f"replication slot {slot} has no reader" in each for each in warnings(connection))
    finally:
        connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))


def test_an_index_on_an_encrypted_column_is_warned_of(either: Connection) -> None:
    run(either, "CREATE TABLE notes (id int, c text)")
    for index, words in {
        "CREATE INDEX i ON notes (c)": "no HOT update",
        "CREATE UNIQUE INDEX i ON notes (c)": "no HOT update",
        "CREATE INDEX i ON notes (id) INCLUDE (c)": "no HOT update",
        "CREATE INDEX i ON notes (md5(c))": "no HOT update",
        "CREATE INDEX i ON notes (id) WHERE c <> ''": "no HOT update",
        "CREATE INDEX i ON notes USING gin (to_tsvector('simple', c))": "20 times",
        "CREATE INDEX i ON notes (id)": "",
    }.items():
        with either.transaction(force_rollback=True):
            run(either, index)
            found = [each for each in warnings(either) if "index" in each]
            assert fatal(either) == [], index
            assert len(found) == bool(words), index
            assert all("index i of notes" in each and words in each for each in found), index


def test_a_forecast_of_room_is_given_for_a_large_table(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    run(connection, "CREATE TABLE notes (c text); INSERT INTO notes VALUES ('x')")
    assert not any("GiB of WAL" in each for each in warnings(connection))
    monkeypatch.setattr(writes, "FORECAST_FROM_BYTES", 8192)
    assert any("GiB of WAL" in each for each in warnings(connection))


def test_large_values_outside_the_heap_are_in_the_forecast_of_room(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(connection, "CREATE TABLE notes (c text); ALTER TABLE notes ALTER c SET STORAGE EXTERNAL")
    run(connection, "INSERT INTO notes SELECT repeat('x', 1000000)")
    monkeypatch.setattr(writes, "FORECAST_FROM_BYTES", 1000000)
    assert any("GiB of WAL" in each for each in warnings(connection))


def test_wal_files_are_counted_where_the_role_may_list_them(connection: Connection, limited: Connection) -> None:
    ((exist,),) = connection.execute("SELECT count(*) FROM pg_ls_waldir() WHERE length(name) = 24").fetchall()
    seen, settings = (server.environment(each, ()).wal for each in (connection, limited))
    assert (seen.ready_bytes, seen.file_bytes) == (max(int(str(exist)) * 2**24, settings.ready_bytes), 2**24)
    assert (settings.ready_bytes, settings.max_bytes) == (80 * 2**20, 2**30)


def test_a_setting_that_logs_ciphertext_is_warned_of(connection: Connection) -> None:
    run(connection, "CREATE TABLE notes (c text)")
    assert not any("log would show ciphertext" in each for each in warnings(connection))
    connection.execute("SET log_statement = 'mod'; SET log_min_duration_statement = 1000")
    (found,) = (each for each in warnings(connection) if "log would show ciphertext" in each)
    assert "log_statement = mod, log_min_duration_statement = 1000" in found
    connection.execute("SET log_parameter_max_length = 0")
    assert not any("log would show ciphertext" in each for each in warnings(connection))


@pytest.mark.parametrize(
    ("settings", "revealing"),
    [
        pytest.param({"log_statement": "ddl"}, (), id="ddl only"),
        pytest.param({"log_statement": "all"}, ("log_statement = all",), id="all statements"),
        pytest.param({"log_statement": "all", "log_parameter_max_length": "0"}, (), id="without parameters"),
        pytest.param({"log_transaction_sample_rate": "0.1"}, ("log_transaction_sample_rate = 0.1",), id="sampled"),
        pytest.param(
            {"log_parameter_max_length": "0", "log_parameter_max_length_on_error": "-1"},
            ("log_parameter_max_length_on_error = -1",),
            id="on errors",
        ),
        pytest.param({"auto_explain.log_min_duration": "0"}, ("auto_explain.log_min_duration = 0",), id="auto_explain"),
        pytest.param(
            {"auto_explain.log_min_duration": "0", "auto_explain.log_parameter_max_length": "0"},
            (),
            id="auto_explain bare",
        ),
        pytest.param({"pgaudit.log_parameter": "on"}, ("pgaudit.log_parameter = on",), id="pgaudit"),
    ],
)
def test_settings_that_log_parameters_are_distinguished_from_others(
    settings: dict[str, str], revealing: tuple[str, ...]
) -> None:
    assert revealing_settings(settings) == revealing


@pytest.mark.external_postgres
def test_citext_and_nondeterministic_collations_are_let_through(debian: Connection, value: str) -> None:
    run(
        debian,
        "CREATE EXTENSION citext; CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', "
        "deterministic = false); CREATE TABLE notes (c citext CHECK (c <> ''), d text COLLATE loose CHECK (d <> ''))",
    )
    debian.execute("INSERT INTO public.notes VALUES (%s, %s)", (value, value))
    assert fatal(debian, EncryptedTable(TableName("public", "notes"), ("c", "d")), target=V10) == []


@pytest.mark.parametrize(("distributed", "reported"), [("notes", 1), ("others", 0)])
def test_a_table_that_citus_distributes_is_refused(connection: Connection, distributed: str, reported: int) -> None:
    run(connection, "CREATE TABLE notes (c text); CREATE TABLE others (c text)")
    # As Citus makes it; the extension itself is on no server of the tests.
    connection.execute(
        "SET allow_system_table_mods = on; CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass)"
    )
    connection.execute("INSERT INTO pg_catalog.pg_dist_partition VALUES (%s::regclass)", (f"public.{distributed}",))
    found = [each for each in fatal(connection) if "distributed by Citus" in each]
    assert len(found) == reported


def test_a_table_that_is_locked_in_the_middle_of_the_checks_is_a_sentence(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(connection, "CREATE TABLE notes (c text); SET lock_timeout = '50ms'")
    with connect(database_url) as other:

        def lock_it(_: Subject) -> Iterator[Problem]:
            other.execute("BEGIN; LOCK TABLE public.notes IN ACCESS EXCLUSIVE MODE")
            yield from ()

        monkeypatch.setattr(preflights, "TABLE_CHECKS", (lock_it, writes.disk_has_room))
        found = fatal(connection)
    assert "table notes is locked by another session; wait until that has ended, then run this again" in found


def test_columns_that_another_home_has_counted_are_warned_of(migrated: Connection, database_url: str) -> None:
    """Whatever else has tables of such names; each home sees the other, by what both have counted in the end."""
    name = "Cl 'inic"
    declared = EncryptedTable(TableName(name, "notes"), ("c", "d"))
    other = replace(declared, columns=("d", "e"))
    migrated.execute(f'CREATE SCHEMA "{name}"; CREATE TABLE "{name}".notes (c text, d text, e text)'.encode())
    run(migrated, "CREATE TABLE audit_events (what text); CREATE TABLE table_counts (what text)")
    url = with_schema(database_url, "shop_keys")
    migrate(url)
    assert [each for each in warnings(migrated, declared) if "home" in each] == []
    with connect(url) as second:
        ledger = PostgresLedger(second, SystemClock(), "tester", "clinic@db", good_at_start)
        ledger.save_counts(PostgresInventory(second).count([other]))
        assert [each for each in warnings(second, other) if "home" in each] == []
    (sentence,) = (each for each in warnings(migrated, declared) if "home" in each)
    assert re.match(
        r"the home in schema shop_keys declares d of table Cl 'inic\.notes, too \(counted on 20..-..-..\),",
        sentence,
    )
    migrated.execute(sentence.partition("If that is done there: ")[2].encode())
    assert [each for each in warnings(migrated, declared) if "home" in each] == []
