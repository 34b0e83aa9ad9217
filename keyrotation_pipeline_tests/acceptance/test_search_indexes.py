"""Search indexes rotated by the commands, while two instances search, write and try to store addresses twice."""

import base64
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests.acceptance.documents import documented
from keyrotation_pipeline_tests.acceptance.searching import CREATE, ROWS, Searching
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.officers import roster_in_toml

DECLARED = """
[[tables]]
name = "care.Patients"
columns = ["e-mail", "phone"]
indexes = [{ of = "e-mail", odd = "odd", even = "even", normalise = ["strip", "lower"] }]
"""
SIGNED = (
    "search index of care.Patients.e-mail in odd and even: 32 bytes of HMAC-SHA-256 of the text after strip, lower, "
    "under the key of its value, bound as care.Patients.e-mail"
)


@dataclass
class Home(Commands):
    application: Searching

    def run(self, *arguments: str) -> tuple[str, str]:
        """What a command that fails prints, and why it fails."""
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.file)])
        assert isinstance(result.exception, KeyRotationError)
        return result.stdout, str(result.exception)

    def walk(self, request: str, *, stops: bool = False) -> list[str]:
        return self.carry_out(request, self.application.reload, stops=stops)

    def finished(self, *arguments: str) -> str:
        request = self.typed(*arguments).splitlines()[-1]
        self.sign(request)
        self.walk(request)
        return request

    def refuses(self, index: str) -> bool:
        column = "odd" if int(index[1]) % 2 else "even"
        with psycopg.connect(self.application.instances[0].url) as connection:
            try:
                connection.execute(f'UPDATE care."Patients" SET {column} = %s WHERE id = 1'.encode(), (index,))
            except psycopg.errors.InvalidTextRepresentation as error:
                return "is retired" in str(error)
            finally:
                connection.rollback()
        return False


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Home]:
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    officers, file = (security_officer, privacy_officer), tmp_path / "keyrotation.toml"
    named = roster_in_toml(officers)
    file.write_text(
        f'database.url = "{database_url}"\nrollout.mode = "confirm"\n[approvals]\nrequired = 2\n{named}'
        f"[reencryption]\nshards = 1\nduty_cycle = 1.0\n{DECLARED}"
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(CREATE)
    Commands(file, officers).typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    application = Searching.of(database_url, tmp_path / ".keyrotation" / "keys")
    application.fill()
    yield Home(file, officers, application)
    for each in application.instances:
        each.engine.dispose()


def test_every_row_is_found_and_no_address_is_stored_twice_during_a_rotation(home: Home) -> None:
    application = home.application
    before = application.stored()
    assert home.shown("inventory")["unindexed_rows"] == {"care.Patients": 0}
    with psycopg.connect(application.instances[0].url) as connection:
        connection.execute('UPDATE care."Patients" SET odd = NULL WHERE id < 3')
    assert "care.Patients: 3 rows hold a value without a search index under its key" in home.typed("inventory")
    verified = home.run("verify")
    assert "table care.Patients: 3 values without a search index under its key (column e-mail: 3;" in verified[1]
    assert re.findall(r'care\.Patients +\["(.)"\] +e-mail +missing', verified[0]) == ["0", "1", "2"]
    document = documented("verify", home.run("verify", "--json")[0])
    missing = {"table": "care.Patients", "column": "e-mail", "search_index": "missing"}
    assert document["missed_by_searches"] == [missing | {"key": f'["{row}"]'} for row in range(3)]
    for instance in application.instances:
        for row in range(3):
            instance.write(row)
    assert home.shown("verify")["missed_by_searches"] == []
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        assert SIGNED in home.typed("approve", request, "--text")
        home.sign(request)
        home.walk(request)
    application.is_whole("v2")
    assert home.refuses(str(before[0][1]))
    refused = {name: home.refuses(f"{name}:AAAA") for name in ("v1", "v2", "v3", "v11")}
    assert refused == {"v1": True, "v2": False, "v3": False, "v11": False}
    with psycopg.connect(application.instances[0].url) as connection:
        connection.execute('ALTER TABLE care."Patients" DROP CONSTRAINT keyrotation_retired_search_indexes')
    again = "care.Patients takes search indexes under v1 again"
    assert any(again in each for each in home.shown("status")["attention"])
    home.sign(home.shown("reconcile")["id"])
    home.typed("reconcile")
    assert home.refuses(str(before[0][1]))
    assert not any(again in each for each in home.shown("status")["attention"])


@pytest.mark.extended
def test_the_same_in_the_rotation_back_and_in_the_one_after_it(home: Home) -> None:
    application = home.application
    with application.at_work():
        request = home.finished("request", "--reason", "yearly")
        home.finished("rollback", request)
    application.is_whole("v1")
    with application.at_work():
        home.finished("request", "--reason", "again")
    # Indexes under v1 are in the column that those under v3 would need.
    application.is_whole("v4")
    assert home.shown("verify")["failures"] == 0
    (table,) = home.shown("status")["tables"]
    assert table["values_by_version"]["v4"] == 2 * ROWS


@pytest.mark.extended
@pytest.mark.parametrize("rollouts", [1, 2])
def test_a_rotation_that_is_rolled_back_in_its_middle(home: Home, rollouts: int) -> None:
    application = home.application
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        home.sign(request)
        for _ in range(rollouts):
            home.typed("rotate", request, exits=1)
            application.reload()
            home.confirm(request)
        home.typed("rotate", request, "--through", "rows") if rollouts == 2 else None
        home.finished("rollback", request)
    application.is_whole("v1")
    with application.at_work():
        home.finished("request", "--reason", "again")
    application.is_whole("v4")
    home.typed("verify")


@pytest.mark.extended
@pytest.mark.parametrize(
    ("leaked", "version"),
    [pytest.param(("v1",), "v2", id="the old key"), pytest.param(("v1", "v2"), "v4", id="both keys")],
)
def test_an_emergency_in_the_middle_of_a_rotation(home: Home, leaked: tuple[str, ...], version: str) -> None:
    application = home.application
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        home.sign(request)
        for _ in range(2):
            home.typed("rotate", request, exits=1)
            application.reload()
            home.confirm(request)
        home.typed("rotate", request, "--through", "rows")
        named = [part for each in leaked for part in ("--key-version", each)]
        what = ("--type", "key_exposed", "--description", "d", "--discovered-at", "now")
        emergency = home.typed("incident", "open", *what, *named).split()[1]
        home.sign(emergency)
        home.walk(emergency)
    application.is_whole(version)
