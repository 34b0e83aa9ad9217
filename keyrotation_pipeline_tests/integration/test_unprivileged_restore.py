"""SQL of a dump runs without power: what it tries is refused by the server itself, and our checks run none of it.

The dumps are real ones in which statements were replaced, as whoever can sign a set, or owns the source, could do.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.decrypt import imported_key
from keyrotation_pipeline.adapters.postgres.inventory.discovery import discover
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.database_definition import read_definition
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.adapters.postgres.server.scratch import ScratchServers
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import IncompleteRestoreError
from keyrotation_pipeline.model.backups import DatabaseContent, DatabaseCopy, StoredFile
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.backups import RestoredDump
from keyrotation_pipeline_tests.servers import DEBIAN

# {out}: a directory that the server's account may write; {socket}: the scratch server's, unknown to a dump, but asked.
REFUSED = {
    "a program that reads": "COPY (SELECT 'x') TO PROGRAM 'touch {out}/program'",
    "a program that writes": "CREATE TABLE public.a1 (x text); COPY public.a1 FROM PROGRAM 'touch {out}/program'",
    "a file written": "COPY (SELECT 'x') TO '{out}/file'",
    "a file read": "CREATE TABLE public.a2 AS SELECT pg_read_file('/etc/passwd')",
    "a directory listed": "CREATE TABLE public.a3 AS SELECT pg_ls_dir('/')",
    "a large object exported": "SELECT lo_export(lo_from_bytea(0, 'x'), '{out}/object')",
    "a file imported": "SELECT lo_import('/etc/passwd')",
    "a function of libc": "CREATE FUNCTION public.a4(cstring) RETURNS int LANGUAGE c AS 'libc.so.6', 'system'",
    "an untrusted language": "CREATE EXTENSION plpython3u SCHEMA pg_catalog",
    "a setting of the server": "ALTER SYSTEM SET archive_command = 'touch {out}/archive'",
    "a library": "LOAD '{out}/library.so'",
    "a library for later": "ALTER DATABASE restored SET session_preload_libraries = '{out}/library.so'",
    "the superuser's role": "SET ROLE postgres",
    "the superuser's session": "SET SESSION AUTHORIZATION postgres",
    "the role of before": "RESET ROLE; RESET SESSION AUTHORIZATION; COPY (SELECT 'x') TO PROGRAM 'touch {out}/reset'",
    "superuser by decree": "ALTER ROLE CURRENT_USER SUPERUSER",
    "a role with power": "CREATE ROLE friend SUPERUSER LOGIN",
    "a right of the system's": "GRANT pg_execute_server_program TO CURRENT_USER",
    "the catalogue": "UPDATE pg_catalog.pg_authid SET rolsuper = true",
    "a function of the system's": "CREATE OR REPLACE FUNCTION pg_catalog.left(text, int) RETURNS text "
    "LANGUAGE sql AS 'SELECT ''''::text'",
    "a way back in as the superuser": "CREATE EXTENSION dblink SCHEMA public; "
    "SELECT public.dblink('user=postgres dbname=restored host=' || "
    "current_setting('unix_socket_directories'), 'COPY (SELECT 1) TO PROGRAM ''touch {out}/dblink''')",
    "another server": "CREATE EXTENSION postgres_fdw SCHEMA public; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
    "files as tables": "CREATE EXTENSION file_fdw SCHEMA public; CREATE SERVER f FOREIGN DATA WRAPPER file_fdw",
    "an event trigger": "CREATE FUNCTION public.a5() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
    "CREATE EVENT TRIGGER spy ON ddl_command_start EXECUTE FUNCTION public.a5()",
    "settings of the database": "ALTER DATABASE restored SET search_path = trap, public, pg_catalog; "
    "ALTER DATABASE restored SET row_security = on",
    "a subscription": "CREATE SUBSCRIPTION s CONNECTION 'host=localhost' PUBLICATION p WITH (connect = true)",
}
# These are the role's own affair. They must not change what our checks see, nor run when these look.
ALLOWED = {
    "settings of the role": "ALTER ROLE CURRENT_USER SET search_path = trap, public, pg_catalog",
}
# Code that springs when somebody counts, compares or reads rows with the wrong names in the path, or as the wrong role.
TRAPS = """
CREATE SCHEMA trap;
CREATE TABLE trap.caught (who text);
CREATE FUNCTION trap.spring() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO trap.caught VALUES (session_user);
    COPY (SELECT 'x') TO PROGRAM 'touch {out}/definer';
    RETURN true;
END $$;
CREATE FUNCTION trap.left(text, integer) RETURNS text LANGUAGE sql AS 'SELECT trap.spring()::text';
CREATE FUNCTION trap.equal(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT trap.spring()';
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.equal);
CREATE FUNCTION trap.count(text) RETURNS bigint LANGUAGE sql AS 'SELECT trap.spring()::int::bigint';
CREATE TYPE trap.name AS (value text);
CREATE FUNCTION trap.shown(trap.name) RETURNS text LANGUAGE sql AS 'SELECT trap.spring()::text';
CREATE CAST (trap.name AS text) WITH FUNCTION trap.shown(trap.name) AS IMPLICIT;
CREATE TABLE public.patients (id int PRIMARY KEY, name text, alias trap.name);
INSERT INTO public.patients VALUES (1, 'plain', ROW('x')), (2, 'plain', NULL);
ALTER TABLE public.patients ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY spy ON public.patients USING (trap.spring());
CREATE FUNCTION trap.fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM trap.spring(); RETURN NEW; END';
CREATE TRIGGER spy BEFORE INSERT OR UPDATE OR DELETE ON public.patients FOR EACH ROW EXECUTE FUNCTION trap.fire();
CREATE FUNCTION trap.pg_backend_pid() RETURNS integer LANGUAGE sql AS 'SELECT trap.spring()::int';
CREATE VIEW public.look AS SELECT trap.spring();
"""
MARK = "X" * 400
SETTINGS = "SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0"
PATIENTS = EncryptedTable(TableName("public", "patients"), ("name",))


def forged_dump(connection: Connection, url: str, statements: list[str], directory: Path) -> bytes:
    """A dump of the traps, whose comments were replaced by statements of the same length."""
    columns = [f"c{number}" for number in range(len(statements))]
    connection.execute(TRAPS.format(out=directory).encode())
    connection.execute(f"CREATE TABLE public.zz ({', '.join(f'{each} int' for each in columns)})".encode())
    for each in columns:
        connection.execute(f"COMMENT ON COLUMN public.zz.{each} IS '{MARK}'".encode())
    programs = Programs.of_server(None, connection.info.server_version // 10_000)
    command = programs.command("pg_dump", "--format=custom")
    dump = subprocess.run(command, check=True, capture_output=True, env=programs.environment(url)).stdout
    for each, statement in zip(columns, statements, strict=True):
        original = f"COMMENT ON COLUMN public.zz.{each} IS '{MARK}';".encode()
        assert dump.count(original) == 1
        dump = dump.replace(original, f"{statement};".encode().ljust(len(original)))
    return dump


@contextmanager
def restored(
    dump: bytes, source: Connection, tmp_path: Path, officer: DemoOfficer, extensions: Sequence[str] = ()
) -> Iterator[RestoredDump]:
    gpg = GnuPG(tmp_path / "gnupg", SystemClock())
    file = tmp_path / "dump"
    file.write_bytes(gpg.encrypt(dump, [gpg.read_certificate(officer.certificate)]))
    major, definition = source.info.server_version // 10_000, read_definition(source)
    copy = DatabaseCopy(StoredFile("database-x.dump.gpg", "", 1, ()), (), major, DatabaseContent((), 0), definition)
    servers = ScratchServers(tmp_path / "recovery", None, extensions)
    with (
        imported_key(officer.gpg("--export-secret-keys"), None) as key,
        servers.workspace(),
        servers.restored(copy, file, key) as done,
    ):
        yield done


def superusers(connection: Connection) -> list[Any]:
    """Every role with power."""
    roles = "SELECT rolname FROM pg_roles WHERE rolsuper OR rolcreatedb OR rolcreaterole"
    return [name for (name,) in connection.execute(roles)]


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that every account may write."""
    with tempfile.TemporaryDirectory(prefix="krtest-", dir="/tmp") as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)


def test_nothing_of_a_hostile_dump_runs_outside_and_every_attempt_is_a_failure(
    either: Connection, outside: Path, tmp_path: Path, recovery_officer: DemoOfficer
) -> None:
    url = make_conninfo(either.info.dsn, user="postgres")
    statements = [each.format(out=outside) for each in (*REFUSED.values(), *ALLOWED.values())]
    dump = forged_dump(either, url, statements, outside)
    with ExitStack() as stack:
        done = stack.enter_context(restored(dump, either, tmp_path, recovery_officer))
        numbers = {failure.split("zz.c")[1].split(" ")[0] for failure in done.failures if "zz.c" in failure}
        names = [*REFUSED, *ALLOWED]
        assert [name for number, name in enumerate(names) if str(number) not in numbers] == list(ALLOWED)
        # A failing trap would be one, too: none has sprung while rows were restored.
        assert all("zz.c" in failure for failure in done.failures), done.failures
        assert isinstance(done.inventory, PostgresInventory)
        (count,) = done.inventory.count([PATIENTS])
        assert count.rows == 2
        connection = done.inventory.connection
        discover(connection, [PATIENTS])
        assert connection.execute("SELECT count(*) FROM trap.caught").fetchall() == [(0,)]
        restorer, superuser = connection.info.user, superusers(connection)[0]
        for user, name in ((superuser, "restored"), (superuser, "postgres"), (restorer, "template1")):
            with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
                psycopg.connect(make_conninfo(done.url, user=user, dbname=name))
        # Owners, privileges and settings of the dump are given by the superuser: only what cannot run any of its code.
        done.hand_over(lambda _done: None)
        assert superusers(connection) == [superuser]
        assert connection.execute("SELECT count(*) FROM trap.caught").fetchall() == [(0,)]
        assert connection.execute(SETTINGS).fetchall() == [
            (["search_path=trap, public, pg_catalog", "row_security=on"],)
        ]
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "recovery").exists()


@pytest.mark.external_postgres
@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's PostgreSQL is not installed")
def test_an_extension_that_needs_power_is_left_out_but_no_rows_that_depend_on_it(
    debian: Connection, tmp_path: Path, recovery_officer: DemoOfficer
) -> None:
    debian.execute("CREATE EXTENSION pageinspect SCHEMA public; CREATE TABLE public.pages AS SELECT 1 AS page")
    dump = dump_of(debian)
    with restored(dump, debian, tmp_path, recovery_officer) as done:
        assert (done.failures, done.left_out) == ((), ("EXTENSION - pageinspect",))
    debian.execute("ALTER TABLE public.pages ADD raw bytea DEFAULT public.get_raw_page('pg_class', 0)")
    dump = dump_of(debian)
    with (
        pytest.raises(IncompleteRestoreError, match=r"rows of public pages .*pageinspect.*superuser_extensions$"),
        restored(dump, debian, tmp_path, recovery_officer),
    ):
        pytest.fail("it was restored")
    with restored(dump, debian, tmp_path, recovery_officer, ["pageinspect"]) as done:
        assert (done.failures, done.left_out) == ((), ())
        assert done.hand_over(lambda _done: None).differences == ()


def dump_of(source: Connection) -> bytes:
    programs = Programs.of_server(None, source.info.server_version // 10_000)
    environment = programs.environment(make_conninfo(source.info.dsn, user="postgres"))
    command = programs.command("pg_dump", "--format=custom")
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout
