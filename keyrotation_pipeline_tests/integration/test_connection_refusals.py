"""A server that lets us not in, for each of its reasons: what `keyrotation status` says, and ids for the shell."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.assembly.home import offered_incidents, offered_requests
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.request_events import RequestOpened
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.contract.ledger_suite import ROSTER, TEXT, open_signed, rotation
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.forging import Forger, owner_of
from keyrotation_pipeline_tests.servers import Server, discard, start_server

CONFIGURATION = '[database]\nurl = { env = "CLINIC_URL" }\n[[tables]]\nname = "clients"\ncolumns = ["a"]\n'
ROLES = """
CREATE ROLE app LOGIN PASSWORD 'hunter2';
CREATE ROLE locked NOLOGIN;
CREATE ROLE stranger LOGIN;
CREATE DATABASE clinic;
CREATE DATABASE closed;
CREATE DATABASE shut ALLOW_CONNECTIONS false;
REVOKE CONNECT ON DATABASE closed FROM PUBLIC;
"""
ACCESS = """
local all postgres trust
local clinic,closed,nowhere,shut app scram-sha-256
local all locked trust
"""


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server that asks `app` for a password, and does not know whom it is told of elsewhere."""
    server = start_server()
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for statement in ROLES.strip().split(";\n"):
            admin.execute(statement.rstrip(";").encode())
        (server.directory / "data" / "pg_hba.conf").write_text(ACCESS)
        admin.execute("SELECT pg_reload_conf()")
    with psycopg.connect(server.url("clinic")) as admin:
        admin.execute("CREATE TABLE public.clients (id bigint PRIMARY KEY, name text)")
    migrate(server.url("clinic"))
    yield server
    discard(server)


def reported(folder: Folder, url: str) -> str:
    folder.run("status", expect=1, CLINIC_URL=url)
    [sentence] = folder.printed[-1].splitlines()
    assert "hunter2" not in sentence
    return sentence


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / ".keyrotation").mkdir(mode=0o700)
    (tmp_path / "keyrotation.toml").write_text(CONFIGURATION)
    return Folder(tmp_path, [])


@pytest.mark.parametrize(
    ("user", "database", "says"),
    [
        pytest.param("app:wrong", "clinic", 'refuses the password of "app"; correct it', id="wrong password"),
        pytest.param("app", "clinic", "asks for a password and none was given", id="no password"),
        pytest.param("app:hunter2", "nowhere", 'the server has no database "nowhere"', id="unknown database"),
        pytest.param("app:hunter2", "closed", 'GRANT CONNECT ON DATABASE "closed"', id="missing grant to connect"),
        pytest.param("app:hunter2", "shut", 'ALTER DATABASE "shut" ALLOW_CONNECTIONS true', id="no connections to it"),
        pytest.param("app:hunter2", "clinic", "permission denied for schema keyrotation", id="missing grant in it"),
        pytest.param("locked", "clinic", 'ALTER ROLE "locked" LOGIN', id="may not log in"),
        pytest.param("stranger", "clinic", "add a line to its pg_hba.conf", id="not let in"),
    ],
)
def test_each_refusal_of_a_server_says_what_is_wrong(
    guarded: Server, folder: Folder, user: str, database: str, says: str
) -> None:
    assert says in reported(folder, f"postgresql://{user}@/{database}?host={guarded.directory}")


def test_a_shell_is_offered_ids_and_nothing_else(
    guarded: Server, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(guarded.url("clinic")) as connection:
        ledger = PostgresLedger(
            connection, SystemClock(), "test", "clinic@localhost, system identifier 7", good_at_start
        )
        ledger.pin_roster(ROSTER)
        for name, year, *statuses in (
            ("ab12" * 8, 2026, RequestStatus.RUNNING, RequestStatus.FINISHED),
            ("ab34" * 8, 2025, RequestStatus.RUNNING),
        ):
            open_signed(ledger, rotation(id=name, requested_at=datetime(year, 1, 1, tzinfo=UTC)))
            for status in statuses:
                ledger.set_status(name, status)
        with owner_of(guarded.url("clinic")) as owner:
            Forger(owner).append(RequestOpened.of(rotation(), TEXT), "ab\x1b]0;hello")
        ledger.append(Note(EventKind.INCIDENT_OPENED, {"id": "INC-2026-001"}))
    monkeypatch.setenv("CLINIC_URL", guarded.url("clinic"))
    config = folder.path / "keyrotation.toml"

    assert [name for name, _ in offered_requests(config, "ab")] == ["ab34" * 8, "ab12" * 8]
    assert offered_requests(config, "ab12") == [("ab12" * 8, "routine rotate, finished, 2026-01-01")]
    assert [name for name, _ in offered_incidents(config, "inc-")] == ["INC-2026-001"]
    assert words_of_bash(folder, "keyrotation rotate ab3", guarded.url("clinic")) == ["ab34" * 8]
    assert words_of_bash(folder, "keyrotation approve ab", guarded.url("clinic")) == ["ab34" * 8, "ab12" * 8]


def test_a_shell_waits_for_no_server_and_starts_none(folder: Folder) -> None:
    nobody = "postgresql://app@127.0.0.1:9/clinic"
    assert words_of_bash(folder, "keyrotation rotate ", nobody) == []
    (folder.path / "keyrotation.toml").write_text('[[tables]]\nname = "clients"\ncolumns = ["a"]\n')
    assert words_of_bash(folder, "keyrotation rotate ", nobody) == []
    assert not (folder.path / ".keyrotation" / "postgres").exists()
    (folder.path / "keyrotation.toml").unlink()
    assert words_of_bash(folder, "keyrotation rotate ", nobody) == []
    assert [line for line in folder.printed if line.strip()] == []


def words_of_bash(folder: Folder, line: str, url: str) -> list[str]:
    """What bash is offered for the third word of a line."""
    return folder.run(_KEYROTATION_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD="2", CLINIC_URL=url).split()
