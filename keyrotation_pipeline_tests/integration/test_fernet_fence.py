"""The fence of Fernet values: what it refuses, what it lets through, what it costs, and what undoes it unnoticed."""

from time import perf_counter

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import retired_signing_keys
from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.retirement import fence as marker_fence
from keyrotation_pipeline.adapters.postgres.retirement import locks
from keyrotation_pipeline.adapters.postgres.retirement.mac_fence import NAMES, fence, fences, unfence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, ProofError
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.fernet.codec import signing_blocks
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of
from keyrotation_pipeline_tests.integration.fernet_rows import V1, V2, V3, fernet_table, token

USERS = fernet_table("users", "email", "Phone Nr", "note")
PLAIN = "secret of the application"


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2, 3, primary=3)


@pytest.fixture
def database(either: Connection, ring: KeyRing) -> Connection:
    """A table with values under v3, an application's role without any other right, and v1 and v2 retired."""
    either.execute("CREATE SCHEMA keyrotation; CREATE DOMAIN public.sealed AS varchar(400)")
    columns = 'email text, "Phone Nr" varchar(300), note public.sealed, plain text'
    either.execute(f"CREATE TABLE public.users (id int PRIMARY KEY, {columns})".encode())
    either.execute("DROP ROLE IF EXISTS app; CREATE ROLE app; GRANT ALL ON public.users TO app")
    values = [token(ring, V3, "x") for _ in range(3)]
    either.execute("INSERT INTO public.users VALUES (1, %s, %s, %s, %s), (2, NULL, '', NULL, NULL)", (*values, PLAIN))
    retired_signing_keys.publish(either, FERNET, ring, V3)
    return either


def refused(connection: Connection, statement: str, *values: object, role: str = "app") -> str:
    """How the server refuses a statement of the application; empty: it does not."""
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL ROLE {role}")
            connection.execute(statement, values)
    except psycopg.Error as error:
        return f"{error.sqlstate} {error.diag.message_primary} {error.diag.message_detail or ''}".strip()
    return ""


def test_tokens_of_retired_keys_are_refused_in_every_column_and_nothing_else(
    database: Connection, ring: KeyRing
) -> None:
    assert fences(database, USERS) == ()
    assert fence(database, USERS, [V2, V1])
    assert fences(database, USERS) == (V1, V2)
    for column in ("email", '"Phone Nr"', "note"):
        for version, text in ((V1, "x"), (V2, "x" * 100)):
            old, said = token(ring, version, text), f"22P02 keyrotation: key version {version} is retired"
            assert refused(database, f"UPDATE public.users SET {column} = %s WHERE id = 1", old) == said
            assert refused(database, f"INSERT INTO public.users (id, {column}) VALUES (9, %s)", old) == said
    other = token(ring_of(1, primary=1), V1, "x")
    for value in (token(ring, V3, "y"), other, "plain", "", None, token(ring, V1, "x")[:-4]):
        assert refused(database, "UPDATE public.users SET email = %s, note = %s", value, value) == ""
    assert refused(database, "UPDATE public.users SET plain = 'y'") == ""


def test_no_message_holds_a_part_of_the_row(database: Connection, ring: KeyRing) -> None:
    fence(database, USERS, [V1])
    old = token(ring, V1, "x")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation) as found:
        database.execute("UPDATE public.users SET email = %s WHERE id = 1", (old,))
    said = str(vars(found.value.diag)) + "".join(
        str(getattr(found.value.diag, name)) for name in dir(found.value.diag) if not name.startswith("_")
    )
    assert PLAIN not in said
    assert old[:20] not in said
    assert "is retired" in said


def test_what_a_before_trigger_writes_is_refused_too_and_replication_passes_nothing(
    database: Connection, ring: KeyRing
) -> None:
    fence(database, USERS, [V1])
    body = f"BEGIN NEW.email := '{token(ring, V1, 'x')}'; RETURN NEW; END"
    database.execute(f"CREATE FUNCTION public.stale() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    database.execute("CREATE TRIGGER stale BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.stale()")
    assert "v1 is retired" in refused(database, "UPDATE public.users SET plain = 'y' WHERE id = 1")
    database.execute("DROP TRIGGER stale ON public.users; SET session_replication_role = replica")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        database.execute("UPDATE public.users SET email = %s WHERE id = 1", (token(ring, V1, "x"),))


def test_the_application_can_read_neither_the_halves_nor_use_the_function(database: Connection, ring: KeyRing) -> None:
    fence(database, USERS, [V1])
    database.execute("GRANT USAGE ON SCHEMA keyrotation TO app; GRANT CREATE ON SCHEMA public TO app")
    assert refused(database, "SELECT * FROM keyrotation.retired_signing_halves").startswith("42501")
    (name,) = database.execute("SELECT oid::regproc::text FROM pg_proc WHERE proname ~ '^refuse_'").fetchall()[0]
    trigger = f"CREATE TRIGGER t AFTER INSERT ON public.own FOR EACH ROW EXECUTE FUNCTION {name}()"
    own = f"CREATE TABLE public.own (email text); {trigger}"
    assert refused(database, own).startswith("42501")
    catalog = "SELECT count(*) FROM pg_proc WHERE position(%s IN prosrc) > 0"
    for block in signing_blocks(ring.material(V1)):
        assert database.execute(catalog, (block.hex(),)).fetchone() == (0,)


def test_a_temporary_type_of_the_application_is_never_used_with_our_rights(database: Connection, ring: KeyRing) -> None:
    fence(database, USERS, [V1])
    database.execute("GRANT TEMPORARY ON DATABASE " + database.info.dbname + " TO app")
    hijack = "CREATE DOMAIN pg_temp.bytea AS pg_catalog.text; CREATE DOMAIN pg_temp.text AS pg_catalog.int4"
    database.execute("SET ROLE app")
    database.execute(hijack)
    assert "v1 is retired" in refused(database, "UPDATE public.users SET email = %s", token(ring, V1, "x"))


EVIL = """
CREATE TYPE public.evil AS (a text);
CREATE FUNCTION public.spell(public.evil) RETURNS text LANGUAGE plpgsql AS
    'BEGIN INSERT INTO public.ran VALUES (current_user); RETURN ($1).a; END';
CREATE CAST (public.evil AS text) WITH FUNCTION public.spell(public.evil);
CREATE TABLE public.ran (who name); GRANT ALL ON public.ran TO PUBLIC;
"""


@pytest.mark.parametrize("again", [False, True])
def test_a_columns_new_type_runs_no_code_with_our_rights(database: Connection, ring: KeyRing, *, again: bool) -> None:
    fence(database, USERS, [V1])
    database.execute(EVIL)
    # As the owner of the table may: the trigger on updates keeps the type, the one on inserts does not.
    database.execute(f"DROP TRIGGER {NAMES[1]} ON public.users")
    if again:
        database.execute("ALTER TABLE public.users DROP COLUMN email; ALTER TABLE public.users ADD email public.evil")
    else:
        database.execute("ALTER TABLE public.users ALTER email TYPE public.evil USING ROW(email)::public.evil")
    assert refused(database, "INSERT INTO public.users (id, email) VALUES (9, ROW('x'))") == ""
    assert database.execute("SELECT count(*) FROM public.ran").fetchone() == (0,)
    assert fences(database, USERS) == ()


def test_renaming_a_column_stops_no_write_and_is_no_fence(database: Connection, ring: KeyRing) -> None:
    fence(database, USERS, [V1])
    database.execute("ALTER TABLE public.users RENAME email TO mail")
    assert refused(database, "UPDATE public.users SET mail = 'x', plain = 'y'") == ""
    assert refused(database, "INSERT INTO public.users (id, mail) VALUES (9, 'x')") == ""
    renamed = fernet_table("users", "mail", "Phone Nr", "note")
    assert fences(database, renamed) == ()
    assert fence(database, renamed, [V1])
    assert "v1 is retired" in refused(database, "UPDATE public.users SET mail = %s", token(ring, V1, "x"))


def test_a_rollback_is_let_in_before_the_lock_is_there(
    database: Connection, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence(database, USERS, [V1])
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(locks, "QUEUED_PAUSES_SECONDS", ())
    with psycopg.connect(database.info.dsn) as reader:
        reader.execute("SELECT count(*) FROM public.users")
        with pytest.raises(BlockedError, match="cannot be locked"):
            unfence(database, USERS, V1)
        assert refused(database, "UPDATE public.users SET email = %s", token(ring, V1, "x")) == ""
    unfence(database, USERS, V1)
    assert fences(database, USERS) == ()


TAMPERING = {
    "a trigger is dropped": f"DROP TRIGGER {NAMES[0]} ON public.users",
    "a trigger is disabled": f"ALTER TABLE public.users DISABLE TRIGGER {NAMES[1]}",
    "a trigger is not always enabled": f"ALTER TABLE public.users ENABLE TRIGGER {NAMES[1]}",
    "a trigger has another condition": f"""
        DROP TRIGGER {NAMES[1]} ON public.users; CREATE TRIGGER {NAMES[1]} AFTER UPDATE ON public.users FOR EACH ROW
        WHEN (old.email IS DISTINCT FROM new.email) EXECUTE FUNCTION FUNCTION_NAME();
        ALTER TABLE public.users ENABLE ALWAYS TRIGGER {NAMES[1]}""",
    "a trigger calls another function": f"""
        CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        DROP TRIGGER {NAMES[0]} ON public.users; CREATE TRIGGER {NAMES[0]} AFTER INSERT ON public.users FOR EACH ROW
        EXECUTE FUNCTION public.nothing(); ALTER TABLE public.users ENABLE ALWAYS TRIGGER {NAMES[0]}""",
    "the function has another body": """
        CREATE OR REPLACE FUNCTION FUNCTION_NAME() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp AS '-- WHERE half.version IN (1)
        BEGIN RETURN NULL; END'""",
    "the function has another search path": "ALTER FUNCTION FUNCTION_NAME() SET search_path = public",
    "the function has the rights of its caller": "ALTER FUNCTION FUNCTION_NAME() SECURITY INVOKER",
    "the function belongs to somebody else": """
        GRANT CREATE ON SCHEMA keyrotation TO app; ALTER FUNCTION FUNCTION_NAME() OWNER TO app""",
    "the halves are gone": "DELETE FROM keyrotation.retired_signing_halves",
    "others may read the halves": "GRANT SELECT ON keyrotation.retired_signing_halves TO app",
    "others may read a column of the halves": "GRANT SELECT (inner_block) ON keyrotation.retired_signing_halves TO app",
    "others may write the halves": "GRANT UPDATE ON keyrotation.retired_signing_halves TO PUBLIC",
}


def test_a_fence_that_was_changed_counts_for_nothing(database: Connection) -> None:
    fence(database, USERS, [V1])
    (name,) = database.execute("SELECT oid::regproc::text FROM pg_proc WHERE proname ~ '^refuse_'").fetchall()[0]
    for change, statements in TAMPERING.items():
        with database.transaction(force_rollback=True):
            assert fences(database, USERS) == (V1,), change
            database.execute(statements.replace("FUNCTION_NAME", str(name)))
            assert fences(database, USERS) == (), change


def test_a_table_with_an_old_value_is_not_fenced_against_its_version(database: Connection, ring: KeyRing) -> None:
    database.execute("UPDATE public.users SET note = %s WHERE id = 2", (token(ring, V2, "x"),))
    with pytest.raises(ProofError, match="table users still holds old values \\(column note: 1 under v2\\)"):
        fence(database, USERS, [V1, V2])
    assert fences(database, USERS) == (V1,)
    database.execute("UPDATE public.users SET note = NULL WHERE id = 2")
    assert fence(database, USERS, [V1, V2])
    assert fences(database, USERS) == (V1, V2)


def test_without_the_half_of_a_version_there_is_no_fence_against_it(database: Connection) -> None:
    retired_signing_keys.withdraw(database, V2)
    with pytest.raises(ProofError, match="has no signing key of v2"):
        fence(database, USERS, [V1, V2])
    assert fences(database, USERS) == ()


def test_unfencing_lets_a_version_in_again_and_removes_its_half(database: Connection, ring: KeyRing) -> None:
    fence(database, USERS, [V1, V2])
    with psycopg.connect(database.info.dsn) as reader:  # a transaction that holds the table does not delay it
        reader.execute("SELECT count(*) FROM public.users")
        unfence(database, USERS, V2)
    assert fences(database, USERS) == (V1,)
    assert refused(database, "UPDATE public.users SET email = %s", token(ring, V2, "x")) == ""
    assert "v1 is retired" in refused(database, "UPDATE public.users SET email = %s", token(ring, V1, "x"))
    assert retired_signing_keys.missing(database, [V1, V2]) == (V2,)
    unfence(database, USERS, V2)
    unfence(database, USERS, V1)
    assert retired_signing_keys.missing(database, [V1, V2]) == (V1, V2)
    assert database.execute("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").fetchone() == (0,)
    assert database.execute("SELECT count(*) FROM pg_proc WHERE proname ~ '^refuse_'").fetchone() == (0,)


@pytest.mark.parametrize("column", ["a", "email"])
def test_a_half_stays_while_another_table_needs_it(database: Connection, column: str) -> None:
    """Also one whose function has the same text, since its columns have the same names and types."""
    database.execute(f"CREATE TABLE public.others ({column} text)".encode())
    users, others = fernet_table("users", "email"), fernet_table("others", column)
    fence(database, users, [V1])
    fence(database, others, [V1])
    unfence(database, users, V1)
    assert (fences(database, users), fences(database, others)) == ((), (V1,))
    unfence(database, others, V1)
    assert retired_signing_keys.missing(database, [V1]) == (V1,)


def test_partitions_and_children_refuse_too(either: Connection, ring: KeyRing) -> None:
    either.execute("CREATE SCHEMA keyrotation")
    either.execute("CREATE TABLE public.users (id int, email text) PARTITION BY RANGE (id)")
    either.execute("CREATE TABLE public.part PARTITION OF public.users FOR VALUES FROM (0) TO (10)")
    either.execute('CREATE TABLE public."Rest" PARTITION OF public.users DEFAULT PARTITION BY LIST (id)')
    either.execute('CREATE TABLE public.leaf PARTITION OF public."Rest" DEFAULT')
    either.execute(
        "CREATE TABLE public.parent (email text); CREATE TABLE public.child (more int) INHERITS (public.parent)"
    )
    retired_signing_keys.publish(either, FERNET, ring, V3)
    tables = fernet_table("users", "email"), fernet_table("parent", "email")
    for table in tables:
        assert fence(either, table, [V1])
        assert fences(either, table) == (V1,)
    for place in ("users (id, email) VALUES (1, %s)", "leaf (id, email) VALUES (50, %s)", "child VALUES (%s)"):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            either.execute(sql.SQL(f"INSERT INTO public.{place}"), (token(ring, V1, "x"),))
    either.execute("ALTER TABLE public.leaf DISABLE TRIGGER USER")
    assert fences(either, tables[0]) == ()
    for table in tables:
        unfence(either, table, V1)
        assert fences(either, table) == ()


def test_the_preflight_knows_the_fence_and_another_trigger_of_its_kind_is_still_refused(
    migrated: Connection, ring: KeyRing
) -> None:
    migrated.execute("CREATE TABLE public.users (id int PRIMARY KEY, email text)")
    table = fernet_table("users", "email")
    retired_signing_keys.publish(migrated, FERNET, ring, V3)
    fence(migrated, table, [V1])
    assert [each.message for each in preflight(migrated, [table], V3) if each.fatal] == []
    migrated.execute("CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    migrated.execute(
        f"CREATE TRIGGER {NAMES[0]}_too AFTER UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.f()"
    )
    (found,) = [each.message for each in preflight(migrated, [table], V3) if each.fatal]
    assert f"trigger {NAMES[0]}_too of users would fire" in found
    assert marker_fence.fences(migrated, table) == ()


def test_a_written_value_costs_little(database: Connection, ring: KeyRing) -> None:
    """At most 60 µs a written value, measured; the bound here allows for a busy machine."""
    rows = 2_000
    fresh = token(ring, V3, "x" * 40)

    def seconds() -> float:
        database.execute("TRUNCATE public.users")
        began = perf_counter()
        database.execute(
            "INSERT INTO public.users (id, email) SELECT n, %s FROM generate_series(1, %s) n", (fresh, rows)
        )
        return perf_counter() - began

    without = min(seconds() for _ in range(3))
    fence(database, USERS, [V1])
    fenced = min(seconds() for _ in range(3))
    assert (fenced - without) / rows < 300e-6


def test_halves_that_were_only_needed_for_a_while_are_removed_and_with_them_a_table_made_for_them(
    migrated: Connection, ring: KeyRing
) -> None:
    before = retired_signing_keys.held(migrated)
    retired_signing_keys.store(migrated, FERNET, ring, [V1])
    kept = retired_signing_keys.held(migrated)
    retired_signing_keys.store(migrated, FERNET, ring, [V1, V2])
    retired_signing_keys.keep_only(migrated, kept)
    assert retired_signing_keys.held(migrated) == kept == (V1,)
    retired_signing_keys.keep_only(migrated, before)
    assert retired_signing_keys.held(migrated) is before is None
