"""Roles of a lost server get on another one what they had, whatever their names, by SQL that is pasted into psql."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.role_sql import role_sql
from keyrotation_pipeline.adapters.postgres.server.roles import roles_of_database, roles_of_server
from keyrotation_pipeline.model.undumped import Roles, RoleSQL
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, start_server

ROLES = """
CREATE ROLE clinic_owner; CREATE ROLE staff NOINHERIT; CREATE ROLE elsewhere;
CREATE ROLE web LOGIN CONNECTION LIMIT 7 VALID UNTIL '2030-01-01' IN ROLE clinic_owner;
CREATE ROLE keyrotation LOGIN CREATEDB CREATEROLE BYPASSRLS IN ROLE clinic_owner, pg_read_all_data;
CREATE ROLE nurse LOGIN IN ROLE staff; GRANT clinic_owner TO staff WITH ADMIN OPTION;
CREATE ROLE dba LOGIN SUPERUSER; CREATE ROLE mallory LOGIN; GRANT dba, clinic_owner TO mallory
"""
OPTIONS = "GRANT clinic_owner TO nurse WITH INHERIT FALSE, SET FALSE"
HOSTILE = ('x"; ALTER ROLE mallory SUPERUSER; --', "a\n\\! touch {0}", "\\! touch {0}", "$(touch {0})", "Ärztin", "😀")


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Server]]:
    """The lost server, and another one."""
    with ExitStack() as stack:
        started = []
        for binaries in request.param:
            started.append(start_server(binaries))
            stack.callback(discard, started[-1])
        yield started[0], started[1]


_ON_DEBIAN = [
    pytest.mark.extended,
    pytest.mark.external_postgres,
    pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's PostgreSQL is not installed"),
]


def recorded(server: Server, *more: str) -> Roles:
    """The roles of a database, as a backup records them."""
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for statement in ("CREATE DATABASE clinic", *ROLES.split("; "), *more):
            admin.execute(statement.encode())
        admin.execute("ALTER DATABASE clinic OWNER TO clinic_owner")
    with connect(server.url("clinic")) as connection:
        return roles_of_database(connection)


def difference(server: Server, wanted: Roles) -> RoleSQL:
    with connect(server.url()) as connection:
        return role_sql(wanted, roles_of_server(connection), connection.info.server_version)


def paste(server: Server, statements: tuple[str, ...]) -> str:
    """As a superuser does into psql."""
    variables = {"PGHOST": str(server.directory), "PGUSER": "postgres"}
    variables["LD_LIBRARY_PATH"] = str(server.binaries.parent / "lib")
    done = subprocess.run(
        [str(server.binaries / "psql"), "-Xq", "--dbname=postgres"],
        input="".join(f"          {each}\n" for each in statements),
        env={**os.environ, **variables}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stderr


@pytest.mark.parametrize(
    "servers",
    [
        pytest.param((EMBEDDED_18, EMBEDDED_18), id="18"),
        pytest.param((DEBIAN, EMBEDDED_18), id="debian to 18", marks=_ON_DEBIAN),
        pytest.param((DEBIAN, DEBIAN), id="debian", marks=_ON_DEBIAN),
    ],
    indirect=True,
)
def test_roles_get_what_they_had_and_nobody_becomes_a_superuser(servers: tuple[Server, Server], tmp_path: Path) -> None:
    lost, new = servers
    hostile = [each.format(tmp_path / "pwned") for each in HOSTILE]
    create = sql.SQL("CREATE ROLE {} LOGIN IN ROLE clinic_owner")
    made = [create.format(sql.Identifier(each)).as_string() for each in hostile]
    wanted = recorded(lost, *made, *([OPTIONS] if lost.binaries != DEBIAN else []))
    with psycopg.connect(new.url(), autocommit=True) as admin:  # two are there, one of them with more
        admin.execute("CREATE ROLE clinic_owner; CREATE ROLE web LOGIN REPLICATION; GRANT clinic_owner TO web")
    first = difference(new, wanted)
    assert paste(new, first.statements) == ""
    assert not list(tmp_path.iterdir())
    with connect(new.url()) as connection:
        here = roles_of_server(connection)
    assert [each.name for each in here.roles if "SUPERUSER" in each.attributes] == ["postgres"]
    expected = {each.name: each for each in wanted.roles if each.name not in {"postgres", "dba", "web", "keyrotation"}}
    assert {each.name: each for each in here.roles if each.name in expected} == expected
    assert {each.role for each in set(wanted.memberships) - set(here.memberships)} == {"dba"}
    assert "elsewhere" not in {each.name for each in here.roles}
    assert any('"dba" was a superuser' in each for each in first.apart)
    assert any('"mallory" was a member of "dba"' in each for each in first.apart)
    assert any('"web" has REPLICATION on this server' in each for each in first.apart)
    assert {"CREATEDB", "BYPASSRLS", "LOGIN"} <= {
        attribute for each in here.roles if each.name == "keyrotation" for attribute in each.attributes
    }
    again = difference(new, wanted)
    assert (again.statements, again.apart) == ((), first.apart)
