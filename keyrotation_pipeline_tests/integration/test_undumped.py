"""What pg_dump does not write, or not as the documented role, is named by backup and restore; no value of it is."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.server import undumped
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.undumped import read_undumped
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.backup_sites import open_clinic
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, start_server

BEFORE = """
CREATE ROLE clinic_owner; CREATE ROLE app LOGIN;
CREATE ROLE keyrotation LOGIN IN ROLE clinic_owner, pg_read_all_data;
CREATE DATABASE clinic OWNER clinic_owner
"""
RICH = """
CREATE FOREIGN DATA WRAPPER reaching;
CREATE SERVER far FOREIGN DATA WRAPPER reaching; CREATE SERVER near FOREIGN DATA WRAPPER reaching;
CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (password 'secret-1');
CREATE USER MAPPING FOR app SERVER far OPTIONS (user 'secret-2', password 'secret-3');
CREATE USER MAPPING FOR app SERVER near;
CREATE SUBSCRIPTION news CONNECTION 'host=x password=secret-4' PUBLICATION p WITH (connect = false, slot_name = NONE);
GRANT USAGE ON SCHEMA public TO app;
ALTER ROLE app SET app.token = 'secret-5'; ALTER ROLE app SET work_mem = '7MB';
ALTER ROLE ALL SET app.key = 'secret-6';
COMMENT ON ROLE app IS 'secret-7';
GRANT SET ON PARAMETER log_min_messages TO app;
SET allow_in_place_tablespaces = on; CREATE TABLESPACE fast LOCATION '';
CREATE TABLE public.placed (id int PRIMARY KEY) TABLESPACE fast
"""
PLACE = "place of relations in tablespace fast: 1"
IN_DATABASE = (
    "options of USER MAPPING app SERVER far: password, user",
    "options of USER MAPPING public SERVER far: password",
    "SUBSCRIPTION news",
    PLACE,
)
OF_SERVER = (
    "settings of role ALL in every database: app.key",
    "settings of role app in every database: app.token, work_mem",
    "comment on role app",
    "privileges on parameter log_min_messages of role app",
)


@pytest.fixture(
    params=[
        pytest.param(EMBEDDED_18, id="18"),
        pytest.param(DEBIAN, id="debian", marks=[pytest.mark.external_postgres, pytest.mark.extended]),
    ]
)
def lost(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of a clinic."""
    if not request.param.exists():
        pytest.skip("Debian's PostgreSQL is not installed")
    server = start_server(request.param)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for statement in BEFORE.split(";"):
            admin.execute(statement.encode())
    yield server
    discard(server)


def test_what_a_dump_as_the_documented_role_lacks_is_named_without_any_value(
    lost: Server, tmp_path: Path, backup_officers: dict[str, DemoOfficer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(lost.url("clinic"), autocommit=True) as admin, ExitStack() as stack:
        for statement in RICH.split(";"):
            admin.execute(statement.encode())
        admin.execute("GRANT CREATE ON SCHEMA public TO keyrotation")
        with_extension = lost.binaries == DEBIAN
        if with_extension:
            admin.execute("CREATE EXTENSION citext; CREATE EXTENSION hstore")
        clinic = open_clinic(stack, tmp_path, lost.url("clinic", "keyrotation"), backup_officers, None)
        made = back_up(clinic.site).made
        assert made.dump is not None
        assert made.dump.undumped is not None
        assert (made.dump.undumped.lost, made.dump.undumped.of_server) == (IN_DATABASE, OF_SERVER)
        with clinic.recovery_key() as key:
            tested = recovery_test(clinic.site, key).newest
        owners = ("citext", "hstore") if with_extension else ()
        changed = tuple(f"owner postgres of EXTENSION {each}, which belongs to clinic_owner" for each in owners)
        assert tested.undumped == (*IN_DATABASE, *changed, *OF_SERVER)
        written = [*clinic.backups.glob("*.json"), *clinic.settings.home.glob("*.json")]
        assert written
        assert [each for each in written if b"secret-" in each.read_bytes()] == []
        ((audit,),) = admin.execute("SELECT string_agg(e::text, ' ') FROM keyrotation.audit_events e").fetchall()
        assert "SUBSCRIPTION news" in audit
        assert "secret-" not in audit
        _require_named_where_it_can_be(lost, admin)
        monkeypatch.setattr(undumped, "_MOST_ROLES", 3)
        with connect(lost.url("clinic")) as superuser:
            assert read_undumped(superuser) is None, "any number of roles makes no manifest too large"


def _require_named_where_it_can_be(server: Server, admin: psycopg.Connection) -> None:
    """Whoever dumps everything loses less, and who cannot look says so."""
    with connect(server.url("clinic")) as superuser:
        assert (seen := read_undumped(superuser)) is not None
        assert seen.lost == (PLACE,)
    admin.execute("REVOKE pg_read_all_data FROM keyrotation")
    with connect(make_conninfo(server.url("clinic"), user="keyrotation")) as connection:
        assert (seen := read_undumped(connection)) is not None
        assert "options of USER MAPPING app SERVER near, if it has any" in seen.lost
        admin.execute("REVOKE SELECT ON pg_catalog.pg_auth_members FROM PUBLIC")
        assert read_undumped(connection) is None, "which fails no backup"
