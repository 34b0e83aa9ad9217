"""Values whose key only decrypting tells, in three databases under one key: the old login is refused in each.

Between the evidence of a member and the commit, nothing in its tables shows what somebody with the old key has written.
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.fleet.retirement import FleetEvidence
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.proof import MemberEvidence, ZeroOldRows
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.rotation import retire
from keyrotation_pipeline.rotation.runner import run
from keyrotation_pipeline_tests.acceptance import dying_command
from keyrotation_pipeline_tests.acceptance.command import environment
from keyrotation_pipeline_tests.acceptance.fleet_logins import LoginFleet, with_logins
from keyrotation_pipeline_tests.acceptance.test_aes_gcm import HEX, LARAVEL, RAW, Form
from keyrotation_pipeline_tests.acceptance.test_fleet import MEMBERS, ROWS, second  # noqa: F401
from keyrotation_pipeline_tests.acceptance.test_fleet_backups import lose, recovered, recovery_key
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.servers import Server


@pytest.fixture
def fleet(
    tmp_path: Path,
    database_url: str,
    server: Server,
    second: Server,  # noqa: F811
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    request: pytest.FixtureRequest,
) -> Iterator[LoginFleet]:
    form: Form = getattr(request, "param", HEX)
    with with_logins(tmp_path, database_url, server, second, (security_officer, privacy_officer), form) as made:
        yield made


@pytest.mark.parametrize(
    "fleet",
    [
        pytest.param(HEX, id="AES-GCM"),
        pytest.param(RAW, id="AES-GCM in bytes", marks=pytest.mark.extended),
        pytest.param(LARAVEL, id="Laravel", marks=pytest.mark.extended),
    ],
    indirect=True,
)
def test_each_database_refuses_the_old_login_where_only_decrypting_tells_a_key(fleet: LoginFleet) -> None:
    (first,) = fleet.listed
    with beside(fleet.at_work):
        request = fleet.requested("request", "--reason", "yearly")
        fleet.typed("rotate", request)
    assert (fleet.wrong, fleet.writes > 0) == ([], True)
    assert fleet.read() == fleet.expected
    (new,) = fleet.listed
    assert new != first
    for database in fleet.urls:
        assert "permission denied" in fleet.written_as(fleet.names[0], first, database)
    proven: list[Any] = fleet.events("member_proven")
    assert [each["facts"]["evidence"]["member"] for each in proven] == list(MEMBERS)
    assert fleet.status("--count") == {
        name: {"v1": 0, "v2": ROWS} for name in ("clients", "north:clients", "south:clients")
    }
    fleet.typed("verify")
    fleet.typed("audit", "verify")


@pytest.mark.extended
@pytest.mark.parametrize("through", ["primary_key_rollout", "zero_old_rows_proof", "compliance_report"])
def test_a_rollback_gives_every_database_its_old_login_back(fleet: LoginFleet, through: str) -> None:
    (first,) = fleet.listed
    old_login, new_login = fleet.names[:2]
    with beside(fleet.at_work):
        request = fleet.requested("request", "--reason", "yearly")
        fleet.typed("rotate", request, "--through", through)
        back = fleet.requested("rollback", request, "--reason", "back")
        fleet.typed("rotate", back)
    assert (fleet.wrong, fleet.listed, fleet.read()) == ([], [first], fleet.expected)
    for database in fleet.urls:
        fleet.expected[database, 1] = "late"
        assert fleet.written_as(old_login, first, database) == ""
        assert "permission denied" in fleet.written_as(new_login, first, database)
    assert fleet.read() == fleet.expected
    fleet.typed("audit", "verify")


@pytest.mark.extended
def test_a_member_that_is_down_when_logins_lose_their_right_keeps_the_old_key(
    fleet: LoginFleet,
    second: Server,  # noqa: F811
) -> None:
    (first,) = fleet.listed
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "rows")
    second.stop()
    assert "database south: cannot connect to south@localhost" in fleet.refused("rotate", request)
    assert (len(fleet.listed), fleet.events("member_proven")) == (2, [])
    for database in ("", "north"):
        assert "permission denied" in fleet.written_as(fleet.names[0], first, database)
    status = json.loads(fleet.typed("status", "--json"))
    assert "south" in status["rotation"]["blocked_by"]
    second.start()
    fleet.typed("rotate", request)
    assert (len(fleet.listed), fleet.read()) == (1, fleet.expected)
    fleet.typed("audit", "verify")


@pytest.mark.extended
def test_a_login_that_a_member_does_not_have_is_named_before_anything_begins(
    fleet: LoginFleet,
    second: Server,  # noqa: F811
) -> None:
    """Roles are of a server, and the members of one server share them."""
    login = sql.Identifier(fleet.names[1])
    with psycopg.connect(second.url("south"), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(login, login))
    found = json.loads(fleet.typed("preflight", "--json", expect=1))
    said = [str(each) for each in found["checks"] if "does not exist" in str(each)]
    assert len(said) == 1, said
    assert f"login {fleet.names[1]} of [format.logins] does not exist" in said[0]
    assert "create it with rights on south:clients" in said[0]
    assert "create it with rights on south:clients" in fleet.refused("request", "--reason", "yearly")
    assert len(fleet.listed) == 1


OPENED_BY_ANOTHER = "1 value written since .* cannot be opened with v2 alone"


def granted(fleet: LoginFleet, database: str, first: str, _held: ExitStack) -> None:
    """Its owner gives the old login its right back."""
    fleet.owner(database, "GRANT UPDATE (name) ON clients TO {0}")
    fleet.written_as(fleet.names[0], first, database)


def granted_and_revoked(fleet: LoginFleet, database: str, first: str, held: ExitStack) -> None:
    granted(fleet, database, first, held)
    fleet.owner(database, "REVOKE UPDATE (name) ON clients FROM {0}")


def member_of_the_new_login(fleet: LoginFleet, database: str, first: str, _held: ExitStack) -> None:
    """Which is of the server, so that no relation of the database shows it."""
    fleet.owner(database, "GRANT {1} TO {0}")
    fleet.written_as(fleet.names[0], first, database)


def member_for_a_moment(fleet: LoginFleet, database: str, first: str, held: ExitStack) -> None:
    member_of_the_new_login(fleet, database, first, held)
    fleet.owner(database, "REVOKE {1} FROM {0}")


def in_a_session_that_stays_open(fleet: LoginFleet, database: str, first: str, held: ExitStack) -> None:
    fleet.owner(database, "GRANT {1} TO {0}")
    connection = held.enter_context(fleet.connected(database, fleet.names[0]))
    connection.execute("BEGIN")
    connection.execute("UPDATE clients SET name = %s WHERE id = 1", (fleet.form.seal(first, "late"),))
    held.callback(connection.execute, "COMMIT")
    fleet.owner(database, "REVOKE {1} FROM {0}")


def another_role(fleet: LoginFleet, database: str, first: str, _held: ExitStack) -> None:
    """The new login, with a list of keys from before."""
    assert fleet.written_as(fleet.names[1], first, database) == ""


LONG = pytest.mark.extended


@pytest.mark.parametrize("database", ["south", pytest.param("north", marks=LONG), pytest.param("", marks=LONG)])
@pytest.mark.parametrize(
    ("attack", "why"),
    [
        pytest.param(granted, "fence or the file of clients is another", id="granted", marks=LONG),
        pytest.param(granted_and_revoked, "a relation was created, changed", id="granted and revoked", marks=LONG),
        pytest.param(member_of_the_new_login, "still be written by .* through a group", id="member", marks=LONG),
        pytest.param(member_for_a_moment, OPENED_BY_ANOTHER, id="member for a moment", marks=LONG),
        pytest.param(in_a_session_that_stays_open, "by a transaction that does not end", id="session", marks=LONG),
        pytest.param(another_role, OPENED_BY_ANOTHER, id="another role"),
    ],
)
def test_what_the_old_key_has_written_after_the_evidence_of_a_member_keeps_it(
    fleet: LoginFleet,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    attack: Callable[[LoginFleet, str, str, ExitStack], None],
    why: str,
) -> None:
    (first,) = fleet.listed
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "zero_old_rows_proof")
    members, zero_old_rows, held = FleetEvidence.members, FleetEvidence.zero_old_rows, ExitStack()

    def meanwhile(self: FleetEvidence, *arguments: Any) -> Iterator[MemberEvidence]:  # noqa: ANN401
        for each in members(self, *arguments):
            yield each
            if each.member == database:
                attack(fleet, database, first, held)

    def counted(self: FleetEvidence, *arguments: Any) -> ZeroOldRows:  # noqa: ANN401
        zero = zero_old_rows(self, *arguments)
        if not database:
            attack(fleet, database, first, held)
        return zero

    with monkeypatch.context() as patched, held:
        patched.setattr(FleetEvidence, "members", meanwhile)
        patched.setattr(FleetEvidence, "zero_old_rows", counted)
        with fleet.pipeline() as pipeline, pytest.raises(KeyRotationError, match=why) as refused:
            list(run(pipeline, request, lambda _: None, through=Step.RETIRED_KEY))
    assert len(fleet.listed) == 2
    if attack is member_of_the_new_login:
        fleet.owner(database, "REVOKE {1} FROM {0}")
    elif database:
        assert re.search(f"database {database} has changed|table {database}:clients", str(refused.value))
    fleet.expected[database, 1] = "late"
    if attack in {granted_and_revoked, member_of_the_new_login, in_a_session_that_stays_open}:  # nothing is proven yet
        assert "the tables have been proven and fenced again" in fleet.refused("rotate", request)
    fleet.typed("rotate", request)
    assert (len(fleet.listed), fleet.read()) == (1, fleet.expected)
    assert "permission denied" in fleet.written_as(fleet.names[0], first, database)
    fleet.typed("audit", "verify")


@pytest.mark.extended
def test_a_transaction_of_the_old_login_that_is_open_in_a_member_since_before_the_proof_keeps_the_key(
    fleet: LoginFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retire, "HORIZON_PATIENCE_SECONDS", 1)
    (first,) = fleet.listed
    with fleet.connected("south", fleet.names[0]) as stale:
        stale.execute("BEGIN")
        stale.execute("INSERT INTO clients VALUES (%s, %s)", (ROWS, fleet.form.seal(first, "of a stale instance")))
        request = fleet.requested("request", "--reason", "yearly")
        with (
            fleet.pipeline() as pipeline,
            pytest.raises(KeyRotationError, match=r"database south: session \d+ ") as e,
        ):
            list(run(pipeline, request, lambda _: None, through=Step.RETIRED_KEY))
        assert "may still see old values" in str(e.value)
        assert (len(fleet.listed), fleet.events("member_proven")) == (2, [])
        stale.execute("COMMIT")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stale.execute("DELETE FROM clients WHERE id = 1; UPDATE clients SET name = name WHERE id = 2")
    fleet.expected["south", ROWS] = "of a stale instance"
    refused = fleet.refused("rotate", request)
    assert "table south:clients: 1 row with values under v1 again" in refused
    fleet.typed("rotate", request)
    assert (len(fleet.listed), fleet.read()) == (1, fleet.expected)
    fleet.typed("audit", "verify")


@pytest.mark.extended
def test_a_rotation_that_is_killed_at_every_moment_of_its_end_is_finished(fleet: LoginFleet) -> None:
    (first,) = fleet.listed
    with beside(fleet.at_work):
        request = fleet.requested("request", "--reason", "yearly")
        fleet.typed("rotate", request, "--through", "rows")
        done = subprocess.run(
            [sys.executable, dying_command.__file__, "rotate", request],
            cwd=fleet.folder.path,
            env=environment(**fleet.variables),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    moments = done.stdout.splitlines()
    assert {"committed member_proven", "stored key_retired", "committed retire_key_intended"} <= set(moments)
    assert (fleet.wrong, len(fleet.listed), fleet.read()) == ([], 1, fleet.expected)
    for database in fleet.urls:
        assert "permission denied" in fleet.written_as(fleet.names[0], first, database)
    fleet.typed("verify")
    fleet.typed("audit", "verify")


@pytest.mark.extended
@pytest.mark.parametrize("through", ["primary_key_rollout", "zero_old_rows_proof"])
def test_a_member_is_brought_back_with_its_logins_and_the_rotation_goes_on(
    fleet: LoginFleet,
    second: Server,  # noqa: F811
    through: str,
) -> None:
    (first,) = fleet.listed
    fleet.typed("backup")
    tested = json.loads(fleet.typed("recovery-test", "--key", recovery_key(fleet), "--json"))
    read = [each["decrypted"][f"{each['member']}:clients"] for each in tested["members"]]
    assert read == [{"name": {"v1": ROWS}}] * len(MEMBERS)
    request = fleet.requested("request", "--reason", "yearly")
    rehearsed = json.loads(fleet.typed("rehearse", request, "--key", recovery_key(fleet), "--json"))
    assert (rehearsed["findings"], list(rehearsed["members"])) == ([], list(MEMBERS))
    fleet.typed("rotate", request, "--through", through)
    lose(second, "south")
    recovered(fleet, "south")
    if through == "zero_old_rows_proof":
        refused = fleet.refused("rotate", request)
        assert "south" in refused
        assert len(fleet.listed) == 2
    fleet.typed("rotate", request)
    assert (len(fleet.listed), fleet.read()) == (1, fleet.expected)
    assert "permission denied" in fleet.written_as(fleet.names[0], first, "south")
    fleet.typed("verify")
    fleet.typed("audit", "verify")


@pytest.mark.extended
def test_a_member_of_before_a_finished_rotation_has_its_old_login_refused_by_the_next_one(
    fleet: LoginFleet,
    second: Server,  # noqa: F811
) -> None:
    """Its dump has the right of the old login, and values under its key."""
    (first,) = fleet.listed
    old = json.loads(fleet.typed("backup", "--json"))["set"]
    fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
    fleet.login(fleet.listed[0])
    lose(second, "south")
    recovered(fleet, "south", **{"--set": old})
    said = json.loads(fleet.typed("status", "--count", "--json"))["attention"]
    assert any("south:clients takes values under v1 again" in each for each in said), said
    fleet.requested("reconcile")
    fleet.typed("reconcile")
    with beside(fleet.at_work):
        fleet.typed("rotate", fleet.requested("request", "--reason", "south is back"))
    assert (fleet.wrong, len(fleet.listed), fleet.read()) == ([], 1, fleet.expected)
    for database in fleet.urls:
        for login in fleet.names[:2]:
            assert "permission denied" in fleet.written_as(login, first, database)
    fleet.typed("audit", "verify")


@pytest.mark.extended
def test_where_the_home_itself_has_no_values_the_evidence_is_called_what_it_is_in_members(fleet: LoginFleet) -> None:
    file = fleet.folder.path / "keyrotation.toml"
    own, members = '[[tables]]\nname = "clients"\ncolumns = ["name", "note"]\n', 'databases = "*"'
    assert file.read_text().count(own) == 2
    file.write_text(file.read_text().replace(own, "", 1))
    assert file.read_text().count(members) == 1
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request)
    (retired,) = [each["facts"] for each in fleet.events("key_retired")]
    assert isinstance(retired, dict)
    assert (retired["format"], retired["identified_by"]) == ("aes-gcm", "decrypt")
    assert retired["tables"] == ["north:clients", "south:clients"]
    certificate = json.loads(fleet.typed("report", "--format", "certificate"))
    rows = json.loads(base64.b64decode(certificate["payload"]))["predicate"]["rows"]
    assert rows["identified_by"] == "decrypt"
    assert "weaker evidence than a count by the database" in rows["rests_on"]
    fleet.typed("audit", "verify")
