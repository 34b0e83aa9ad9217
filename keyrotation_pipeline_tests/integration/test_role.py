"""The role of deploy/sql, by its own SQL: it can do what a rotation asks, and what it lacks is said before."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from keyrotation_pipeline.adapters.postgres.inventory.relations import tree
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.preflight import catalog_digest, preflight
from keyrotation_pipeline.adapters.postgres.preflight.server import environment
from keyrotation_pipeline.adapters.postgres.retirement import fence, proof, snapshot_horizon
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.roles import roles_of_database
from keyrotation_pipeline.encrypted_type.attestation import Statements
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import Disk, UnseenDisk
from keyrotation_pipeline.model.proof import SnapshotPosition
from keyrotation_pipeline_tests.applications import engine_of
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, insert, ring_of, sealed, table_of
from keyrotation_pipeline_tests.pages import TOP, block
from keyrotation_pipeline_tests.servers import EMBEDDED_18, Server, discard, start_server

V1, V2 = KeyVersion(1), KeyVersion(2)
CLIENTS = table_of("clients", "first_name")
SQL = TOP / "deploy" / "sql"


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server of this module's own: roles belong to the whole of one."""
    running = start_server()
    yield running
    discard(running)


@pytest.fixture
def clinic(own_server: Server) -> Iterator[Connection]:
    """The database `clinic` as its superuser sees it, its tables owned by `clinic_owner`, and the documented role."""
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        admin.execute("CREATE ROLE clinic_owner; CREATE ROLE app LOGIN IN ROLE clinic_owner")
        admin.execute("CREATE DATABASE clinic OWNER clinic_owner")
        make_role(own_server)
        with connect(own_server.url("clinic")) as connection:
            connection.execute("CREATE TABLE public.clients (id int PRIMARY KEY, first_name text)")
            connection.execute("ALTER TABLE public.clients OWNER TO clinic_owner")
            yield connection
        admin.execute("DROP DATABASE clinic WITH (FORCE)")
        admin.execute("DROP ROLE keyrotation, app, clinic_owner; DROP ROLE IF EXISTS pazpaz")


def make_role(server: Server) -> None:
    variables = {**os.environ, "PGHOST": str(server.directory), "PGUSER": "postgres"}
    variables["PATH"] = f"{EMBEDDED_18}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-euc", block("role")], cwd=TOP, env=variables, check=True, capture_output=True)
    assert b"ERROR" not in done.stderr


@pytest.fixture
def role(own_server: Server, clinic: Connection) -> Iterator[Connection]:
    """A connection of the documented role to a migrated database."""
    migrate(own_server.url("clinic", "keyrotation"))
    with connect(own_server.url("clinic", "keyrotation")) as connection:
        yield connection


def fatal(connection: Connection) -> list[str]:
    return [each.message for each in preflight(connection, [CLIENTS], V2) if each.fatal]


def test_the_documented_role_passes_the_preflight_rewrites_fences_and_proves(
    own_server: Server, clinic: Connection, role: Connection
) -> None:
    ring, url = ring_of(1, 2), own_server.url("clinic", "keyrotation")
    insert(clinic, "public.clients", [(number, sealed(ring, 1, "Ada")) for number in range(20)])
    with psycopg.connect(own_server.url("clinic", "app")):  # a session whose activity is another role's
        assert fatal(role) == []
        engine = Engine(url, ring)
        assert engine.shard(CLIENTS).rows == 20
        assert engine.sweep(CLIENTS).rows == 0
        fence.fence(role, CLIENTS, [V1])
        moment = SnapshotPosition(snapshot_horizon.current_xid(role), snapshot_horizon.barrier(role))
        with role.transaction():
            evidence = proof.zero_old_rows(role, [CLIENTS], V1, [V1], moment)
        assert (evidence.old_values, evidence.values) == (0, 20)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("SELECT", id="the second time"),
        pytest.param(
            "ALTER ROLE keyrotation NOLOGIN NOINHERIT NOCREATEDB NOCREATEROLE NOBYPASSRLS SUPERUSER; "
            "REVOKE pg_read_all_data FROM keyrotation; GRANT clinic_owner TO keyrotation WITH INHERIT FALSE, SET FALSE",
            id="a role that is there",
        ),
        pytest.param("DROP OWNED BY keyrotation; DROP ROLE keyrotation", id="on a new server"),
    ],
)
def test_the_documented_role_is_the_same_however_often_it_is_made(
    own_server: Server, clinic: Connection, before: str
) -> None:
    first = roles_of_database(clinic)
    clinic.execute(before.encode())
    make_role(own_server)
    assert roles_of_database(clinic) == first


def test_the_documented_role_has_no_power_over_the_server(clinic: Connection) -> None:
    attributes = "rolsuper, rolreplication, rolcreaterole, rolcreatedb, rolbypassrls"
    found = clinic.execute(f"SELECT {attributes} FROM pg_roles WHERE rolname = 'keyrotation'".encode()).fetchall()
    assert found == [(False, False, True, True, True)]  # of PostgreSQL 18
    reached = clinic.execute(
        "SELECT rolname FROM pg_roles WHERE rolname <> 'keyrotation' AND pg_has_role('keyrotation', oid, 'MEMBER')"
    ).fetchall()
    of_the_database = {"clinic_owner", "pg_database_owner"}
    of_reading = {"pg_read_all_data", "pg_read_all_settings", "pg_read_all_stats"}
    assert {each for (each,) in reached} == of_the_database | of_reading
    functions = "SELECT proname FROM pg_proc WHERE proname ~ '^(pg_read|lo_import|lo_export|pg_ls_dir)'"
    assert len(clinic.execute(functions.encode()).fetchall()) > 5
    allowed = f"{functions} AND has_function_privilege('keyrotation', oid, 'EXECUTE')"
    assert clinic.execute(allowed.encode()).fetchall() == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param("REVOKE pg_read_all_stats FROM keyrotation", "GRANT pg_read_all_stats", id="sessions are hidden"),
        pytest.param(
            "CREATE TABLE public.notes (c text)",
            "searched before the old key is retired: .*notes cannot be read by role keyrotation",
            id="a relation of another owner",
        ),
        pytest.param(
            "CREATE SCHEMA lab CREATE TABLE results (c jsonb)", "lab.results cannot be read", id="another schema"
        ),
        pytest.param(
            "CREATE TABLE public.notes (id int, c text); GRANT SELECT (id) ON public.notes TO keyrotation",
            "notes cannot be read", id="one column only",
        ),
        pytest.param(
            "CREATE MATERIALIZED VIEW public.shown AS SELECT first_name FROM public.clients", "shown cannot be read",
            id="a materialized view",
        ),
    ],
)  # fmt: skip
def test_what_retirement_will_need_is_tried_before_the_first_row(
    own_server: Server, clinic: Connection, role: Connection, change: str, sentence: str
) -> None:
    clinic.execute("REVOKE pg_read_all_data FROM keyrotation")
    with psycopg.connect(own_server.url("clinic", "app")):
        assert fatal(role) == []
        for statement in change.split("; "):
            clinic.execute(statement.encode())
        (found,) = fatal(role)
    assert re.search(sentence, found)


@pytest.mark.parametrize("right", ["pg_read_all_data", "nothing more"])
def test_publications_are_checked_without_rights_on_other_schemas(
    clinic: Connection, role: Connection, right: str
) -> None:
    clinic.execute("CREATE SCHEMA closed CREATE TABLE closed.notes (id int PRIMARY KEY)")
    clinic.execute("GRANT clinic_owner TO keyrotation; ALTER TABLE closed.notes OWNER TO clinic_owner")
    clinic.execute("CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION named FOR TABLE public.clients")
    clinic.execute("CREATE PUBLICATION deaf FOR TABLE closed.notes WITH (publish = 'insert')")
    if right != "pg_read_all_data":
        clinic.execute("REVOKE pg_read_all_data FROM keyrotation")
        clinic.execute("GRANT USAGE ON SCHEMA closed TO clinic_owner")
    digest = catalog_digest(role, tree(role, CLIENTS))
    assert fatal(role) == []
    clinic.execute("ALTER PUBLICATION named SET (publish = 'insert')")
    assert digest != catalog_digest(role, tree(role, CLIENTS))
    (sentence,) = fatal(role)
    assert sentence.startswith("publication named does not publish updates")


def test_what_the_role_may_not_see_of_the_disk_is_said(clinic: Connection, role: Connection) -> None:
    assert isinstance(environment(role, [CLIENTS]).disk, Disk)
    clinic.execute("REVOKE pg_read_all_settings FROM keyrotation")
    seen = environment(role, [CLIENTS]).disk
    # The server's process shows its directory only to its own user and to root.
    if isinstance(seen, UnseenDisk):
        assert (seen.why, seen.do) == (
            "the role may not see where the server's data directory is", "GRANT pg_read_all_settings TO keyrotation"
        )  # fmt: skip
    else:
        assert Path(f"/proc/{role.info.backend_pid}/cwd").resolve() == Path(seen.directory)


def test_without_the_grant_on_the_database_nothing_is_made(own_server: Server, clinic: Connection) -> None:
    clinic.execute("ALTER DATABASE clinic OWNER TO CURRENT_USER")  # else the grant comes with the owner's role
    clinic.execute("REVOKE CREATE ON DATABASE clinic FROM keyrotation")
    with pytest.raises(PreflightError, match="GRANT CREATE ON DATABASE"):
        migrate(own_server.url("clinic", "keyrotation"))
    clinic.execute("GRANT CREATE ON DATABASE clinic TO keyrotation")
    migrate(own_server.url("clinic", "keyrotation"))


def test_without_being_the_owner_of_the_tables_it_is_refused(clinic: Connection, role: Connection) -> None:
    assert fatal(role) == []
    clinic.execute("REVOKE clinic_owner FROM keyrotation")
    assert fatal(role)


def test_an_application_reports_itself_by_its_grants_and_sees_nothing_else(
    own_server: Server, clinic: Connection, role: Connection
) -> None:
    clinic.execute("CREATE ROLE pazpaz LOGIN")
    role.execute((SQL / "application-role.sql").read_bytes())
    engine = engine_of(own_server.url("clinic", "pazpaz"))

    statements = Statements.of("keyrotation")

    def report() -> None:
        with engine.begin() as application:
            application.execute(statements.asked).one()
            application.execute(statements.report, {"instance": "web-1", "report": "{}", "proofs": ""})

    report()
    reached = clinic.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'keyrotation'::regnamespace AND relkind IN ('r', 'p', 'v', "
        "'S') AND (has_table_privilege('pazpaz', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')"
        " OR relkind <> 'S' AND has_any_column_privilege('pazpaz', oid, 'SELECT, INSERT, UPDATE, REFERENCES'))"
        " ORDER BY 1"
    ).fetchall()
    assert reached == [("instance_reports",), ("report_nonce",)]
    for grant in (
        "USAGE ON SCHEMA keyrotation",
        "SELECT ON keyrotation.report_nonce",
        "INSERT (instance, report, proofs) ON keyrotation.instance_reports",
    ):
        role.execute(f"REVOKE {grant} FROM pazpaz".encode())
        with pytest.raises(DBAPIError, match="permission denied"):
            report()
        role.execute(f"GRANT {grant} TO pazpaz".encode())
    engine.dispose()
