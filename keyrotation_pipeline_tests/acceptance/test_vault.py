"""Values of Vault's transit engine rotated by the commands, while the application asks the engine alone.

Against the stand-in, or the real engine that KEYROTATION_TEST_TRANSIT names.
"""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.keystores.transit import TransitKeyStore
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.formats.vault_transit import connection as client
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.pages import fenced
from keyrotation_pipeline_tests.transit_standin import Transit, transit_at_work

ROWS = 120


@dataclass
class Application:
    """Encrypts and decrypts at the server, and names no version."""

    url: str
    transit: Transit
    expected: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

    def at_work(self) -> AbstractContextManager[None]:
        return beside(self._work)

    def _work(self, stop: threading.Event) -> None:
        chance = Random(7)
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not stop.wait(0.005):
                row = chance.randrange(ROWS)
                try:
                    self._step(connection, row)
                except (psycopg.Error, AssertionError) as error:
                    self.wrong.append(f"{row}: {type(error).__name__} {error}")

    def _step(self, connection: psycopg.Connection, row: int) -> None:
        found = connection.execute("SELECT email FROM users WHERE id = %s", (row,)).fetchone()
        if found is None or self.transit.decrypt(found[0]).decode() != self.expected[row]:
            self.wrong.append(f"{row}: another content")
            return
        text = f"user{row}@example.com, write {self.writes}"
        new = self.transit.encrypt(text.encode()).decode()
        self.writes, self.expected[row] = self.writes + 1, text
        connection.execute("UPDATE users SET email = %s WHERE id = %s", (new, row))

    def stored(self) -> dict[int, str]:
        with psycopg.connect(self.url) as connection:
            return dict(connection.execute("SELECT id, email FROM users").fetchall())

    def read_by_the_server(self) -> dict[int, str]:
        return {row: self.transit.decrypt(email).decode() for row, email in self.stored().items()}

    def write(self, row: int, value: bytes) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("UPDATE users SET email = %s WHERE id = %s", (value.decode(), row))


@dataclass
class Home(Commands):
    """A configuration with the application, and the secret key of an officer."""

    application: Application
    secret: Path

    def finished(self, *arguments: str) -> str:
        """A request that was signed and carried out; nothing is confirmed, since no application has a key."""
        request = self.typed(*arguments).splitlines()[-1]
        self.sign(request)
        self.typed("rotate", request)
        return request


@pytest.fixture
def transit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transit]:
    """A server with a key of its own, at which the pipeline may do what the guide says, and nothing else."""
    (policy,) = [each.text for each in fenced() if each.page == "docs/guides/vault.md" and each.language == "hcl"]
    rights = re.findall(r'^path "(.+?)" +\{ capabilities = \["(\w+)"\] \}', policy, re.MULTILINE)
    with transit_at_work() as found:
        named = (f"{what} {re.sub(r'/app(?=/|$)', f'/{found.name}', path)}" for path, what in rights)
        monkeypatch.setenv("VAULT_TOKEN", f"only:{','.join(named)}")
        yield found.create()
        found.unseal()


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    transit: Transit,
) -> Home:
    officers, file = (security_officer, privacy_officer), tmp_path / "keyrotation.toml"
    named = roster_in_toml(officers)
    file.write_text(
        f'[database]\nurl = "{database_url}"\n[rollout]\nmode = "server"\n[approvals]\nrequired = 2\n{named}'
        f'[reencryption]\nshards = 1\nduty_cycle = 1.0\n[format]\nname = "vault-transit"\n'
        f'transit = "{transit.address}"\n[[tables]]\nname = "users"\ncolumns = ["email"]\n'
    )
    application = Application(database_url, transit)
    transit.rotate()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE users (id int PRIMARY KEY, email text, plain text DEFAULT 'public')")
        for row in range(ROWS):
            application.expected[row] = f"user{row}@example.com"
            value = transit.encrypt(application.expected[row].encode(), 1 if row % 3 == 0 else 2)
            connection.execute("INSERT INTO users VALUES (%s, %s)", (row, value.decode()))
    secret = tmp_path / "officer.sec.asc"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    place = Home(file, officers, application, secret)
    assert "v1 (deactivated), v2 (active); primary v2" in place.typed("init")
    return place


def test_a_rotation_by_the_commands_beside_the_application(home: Home, transit: Transit) -> None:
    application = home.application
    again = home.typed("init")
    assert "v1 (deactivated), v2 (active); primary v2" in again
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert (
            f"vault-transit, keys that {transit.address} makes and never gives away, identified by the marker" in text
        )
        assert "server: no application has a key; the server reads v3 for each of them as soon as it makes it" in text
        assert "NOBODY LOOKS ELSEWHERE: data under the old key in other databases" in text
        assert "nothing leads back to v2" in text
        home.sign(request)
        home.typed("rotate", request, "--through", "rows")
        assert "cannot be cancelled" in home.typed("cancel", request, exits=1)
        home.typed("rotate", request)
    assert (application.wrong, application.writes > 10) == ([], True)
    assert application.read_by_the_server() == application.expected
    assert {value.split(":")[1] for value in application.stored().values()} == {"v3"}
    (table,) = home.shown("status")["tables"]
    assert (table["identified_by"], table["fenced_against"]) == ("marker", ["v1", "v2"])
    assert table["values_by_version"] == {"v1": 0, "v2": 0, "v3": ROWS}
    described = transit.described()
    assert (described["latest_version"], described["min_decryption_version"]) == (3, 3)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="v2"):
        application.write(1, b"vault:v2:" + transit.encrypt(b"late")[9:])
    refused = home.typed("rollback", request, "--reason", "back", exits=1)
    assert "encrypts with its newest version" in refused
    assert "holds the keys itself" in home.typed("replace-key", "v3", "--reason", "x", exits=1)
    assert "no application instance has a key" in home.typed("rollout")


@pytest.mark.extended
def test_the_report_does_not_take_what_names_a_key_for_the_key(home: Home) -> None:
    home.finished("request", "--reason", "yearly")
    home.typed("backup")
    report = home.typed("report", "--format", "html")
    assert "v3 was made by the server that holds it" in report
    assert "they are that server&#39;s to back up" in report
    assert "made by the server that holds it; fingerprint" in report
    assert "generated by the pipeline" not in report
    checks = home.typed("preflight", "--all", exits=1)  # the officers are as many as must sign
    for said in ("not measured: the server makes", "the server reads v3 for every one", "not with keys that a server"):
        assert said in checks


def test_no_token_goes_to_a_server_that_officers_have_not_signed(home: Home, transit: Transit) -> None:
    before = home.file.read_text()
    with socket.create_server(("127.0.0.1", 0)) as evil:
        evil.settimeout(0.1)
        place = f"http://127.0.0.1:{evil.getsockname()[1]}"
        home.file.write_text(before.replace(transit.address, f"{place}/transit/app"))
        for command in ("init", "verify"):
            assert f"officers have not signed keys {place}, so nothing is sent to it" in home.typed(command, exits=1)
        assert f"names other hosts than officers signed (keys {place} is new" in home.typed("status")
        with pytest.raises(TimeoutError):
            evil.accept()
    moved = transit.address.replace("127.0.0.1", "localhost")
    home.file.write_text(before.replace(transit.address, moved))
    request = home.typed("policy", "--reason", "the server moves").splitlines()[-1]
    home.sign(request)
    home.typed("policy")
    home.typed("verify")
    assert "hosts" not in home.typed("status")


def test_a_server_that_goes_away_stops_the_walk_and_nothing_is_quarantined(
    home: Home, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAUSES_SECONDS", (0.01,))
    application = home.application
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)
    home.typed("rotate", request, "--through", "primary_key_rollout")
    transit.seal()
    stopped = home.typed("rotate", request, exits=1)
    assert re.search(r"answers 503 \(.*sealed\); nothing was changed in the database by that", stopped)
    transit.unseal()
    application.write(1, broken := b"vault:v2:" + b"A" * 60)
    stopped = home.typed("rotate", request, exits=1)
    assert "quarantine" in stopped
    assert application.stored()[1] == broken.decode()
    application.write(1, transit.encrypt(application.expected[1].encode()))
    home.typed("rotate", request)
    assert application.read_by_the_server() == application.expected


def test_a_rotation_that_dies_when_the_server_has_made_the_version_goes_on(
    home: Home, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)

    def dies(*_: object, **__: object) -> None:
        raise KeyRotationError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(TransitKeyStore, "add", dies)
        assert home.typed("rotate", request, exits=1) == "killed"
    assert transit.described()["latest_version"] == 3
    assert "which is not known here; continue the rotation that made it" in home.typed("status")
    home.typed("rotate", request, "--through", "primary_key_rollout")
    assert "it is unknown which keys" not in home.typed("status")
    transit.configure(min_decryption_version=2)
    assert "does not decrypt under v1, or is another key" in home.typed("init", exits=1)
    transit.configure(min_decryption_version=1)
    home.typed("init")
    assert transit.described()["latest_version"] == 3


@pytest.mark.extended
def test_values_under_another_key_are_refused_before_anything_is_made(home: Home, transit: Transit) -> None:
    other = Transit(transit.url).create()
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE bills (iban text)")
        for number in range(30):
            connection.execute("INSERT INTO bills VALUES (%s)", (other.encrypt(b"DE%d" % number).decode(),))
    refused = home.typed("request", "--reason", "yearly", exits=1)
    assert "public.bills.iban holds undeclared values of vault-transit" in refused
    home.typed("request", "--reason", "exposed", "--emergency", "INC-7")


@pytest.mark.extended
def test_a_version_made_by_hand_is_imported_and_replaced(home: Home, transit: Transit) -> None:
    application = home.application
    transit.rotate()
    application.write(1, transit.encrypt(application.expected[1].encode()))
    refused = home.typed("request", "--reason", "yearly", exits=1)
    assert "encrypts with version 3, which is not known here" in refused
    assert "v3 (deactivated)" in home.typed("init")
    home.finished("request", "--reason", "yearly")
    (table,) = home.shown("status")["tables"]
    assert table["values_by_version"] == {"v1": 0, "v2": 0, "v3": 0, "v4": ROWS}
    assert application.read_by_the_server() == application.expected


@pytest.mark.extended
def test_a_version_made_by_hand_in_the_middle_of_a_rotation_is_not_refused_and_has_a_way_out(
    home: Home, transit: Transit
) -> None:
    application = home.application
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)
    home.typed("rotate", request, "--through", "rows")
    transit.rotate()
    home.typed("init")
    stopped = home.typed("rotate", request, exits=1)
    assert "encrypts with v4 already" in stopped
    application.write(1, transit.encrypt(application.expected[1].encode()))  # no fence refuses what applications write
    assert "cannot be cancelled" in home.typed("cancel", request, exits=1)
    with application.at_work():
        following = home.typed("request", "--reason", "again").splitlines()[-1]
        text = home.typed("approve", following, "--text")
        assert f"Authorises: end rotation {request}: create v5" in text
        assert "archive v3 and every other version before v5" in text
        assert "At the end v3 and every other key before v5 is refused by server and database." in text
        home.sign(following)
        home.typed("rotate", following)
    assert (application.wrong, application.read_by_the_server()) == ([], application.expected)
    (table,) = home.shown("status")["tables"]
    assert (table["values_by_version"]["v5"], table["fenced_against"]) == (ROWS, ["v1", "v2", "v3", "v4"])
    assert transit.described()["min_decryption_version"] == 5
    home.typed("audit", "verify")


@pytest.mark.extended
def test_backups_recovery_test_rekey_and_destruction(home: Home, transit: Transit) -> None:
    application, key = home.application, ("--key", str(home.secret))
    home.typed("backup")
    assert home.shown("recovery-test", *key)["passed"] is True
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    assert "make a real version on the server that holds the keys" in home.typed("rehearse", request, *key, exits=1)
    assert transit.described()["latest_version"] == 2
    home.sign(request)
    home.typed("rotate", request)
    home.typed("backup")
    assert "): fingerprints as registered, opened by" in home.typed("recovery-test", *key)
    refused = home.typed("destroy", "v1", "--reason", "old", exits=1)
    (dump,) = re.findall(r"v1 is needed to read (database-[^ ;,]+)", refused)
    # The old versions are withdrawn at the server, so whoever runs it lets the old backup be read for a while.
    assert "v1" in home.typed("backup", dump, "--rekey", *key, exits=1)
    transit.configure(min_decryption_version=1)
    assert "still decrypts under v1" in home.typed("status")
    assert home.shown("backup", dump, "--rekey", *key)["values"] == {"users": ROWS}
    transit.configure(min_decryption_version=3)
    request = home.typed("destroy", "v1", "--reason", "old").splitlines()[-1]
    assert "trims it, with every older version" in home.typed("approve", request, "--text")
    home.sign(request)
    home.typed("destroy", "v1")
    assert transit.described()["min_available_version"] == 2
    assert application.read_by_the_server() == application.expected


@pytest.mark.extended
def test_a_backup_from_before_the_server_moved_is_read_at_its_new_place(
    home: Home, transit: Transit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = transit.address.replace("127.0.0.1", "localhost")
    if moved == transit.address:
        pytest.skip("the server that is tested has no second name")
    key = ("--key", str(home.secret))
    home.typed("backup")
    home.file.write_text(home.file.read_text().replace(transit.address, moved))
    home.sign(home.typed("policy", "--reason", "the server moves").splitlines()[-1])
    home.typed("policy")
    exchange = client.TransitConnection.exchange

    def only_there(self: client.TransitConnection, *arguments: Any) -> tuple[int, client.Answer]:  # noqa: ANN401
        assert self._host == "localhost"
        return exchange(self, *arguments)

    monkeypatch.setattr(client.TransitConnection, "exchange", only_there)
    assert home.shown("recovery-test", *key)["passed"] is True
    into = f"restored_{uuid4().hex}"
    (dump,) = (tmp_path / ".keyrotation" / "backups").glob("database-*.gpg")
    home.typed("restore-database", "--into", into, "--from", dump.name, *key)


@pytest.mark.extended
def test_an_emergency_the_evidence_and_what_was_planted(home: Home, transit: Transit, tmp_path: Path) -> None:
    application, key = home.application, ("--key", str(home.secret))
    home.typed("backup")
    time.sleep(1)  # a discovery is told in whole seconds, and the backup must be from before it
    application.write(7, transit.encrypt(b"planted"))
    application.expected[7] = "planted"
    opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
    incident, request = opened.split()
    with application.at_work():
        home.sign(request)
        home.typed("rotate", request)
    assert application.wrong == []
    states = {each["version"]: each["state"] for each in home.shown("status")["key_versions"]}
    assert states == {"v1": "archived", "v2": "compromised", "v3": "active"}
    assert "does not decrypt under" in home.typed("incident", "compare", incident, *key, exits=1)
    transit.configure(min_decryption_version=1)
    compared = home.shown("incident", "compare", incident, *key)
    assert '["7"]' in [each["key"] for each in compared["differences"]]
    transit.configure(min_decryption_version=3)
    for command in ("verify", "inventory"):
        home.typed(command)
    home.typed("audit", "verify")
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.extended
def test_an_emergency_about_the_version_that_was_just_made(home: Home, transit: Transit) -> None:
    application = home.application
    with application.at_work():
        first = home.typed("request", "--reason", "yearly").splitlines()[-1]
        home.sign(first)
        home.typed("rotate", first, "--through", "primary_key_rollout")
        options = ("--type", "key_exposed", "--description", "d", "--discovered-at", "now", "--key-version", "v3")
        opened = home.typed("incident", "open", *options).split()
        home.sign(opened[-1])
        home.typed("rotate", opened[-1])
    assert (application.wrong, application.read_by_the_server()) == ([], application.expected)
    (table,) = home.shown("status")["tables"]
    assert (table["values_by_version"]["v4"], table["fenced_against"]) == (ROWS, ["v1", "v2", "v3"])
    assert transit.described()["min_decryption_version"] == 4
    home.typed("audit", "verify")


@pytest.mark.extended
def test_everything_comes_back_on_an_empty_machine(
    home: Home, transit: Transit, tmp_path: Path, database_url: str
) -> None:
    application, source = home.application, str(tmp_path / ".keyrotation" / "backups")
    home.finished("request", "--reason", "yearly")
    home.typed("backup")
    signer = home.shown("status")["backup_signer"]
    into, place = f"recovered_{uuid4().hex}", tmp_path / "new"
    place.mkdir()
    new = Home(place / "keyrotation.toml", home.officers, application, home.secret)
    options = ("--from", source, "--key", str(home.secret), "--signer", signer)
    new.typed("recover", *options, "--server", database_url, "--into", into)
    application.url = make_conninfo(database_url, dbname=into)
    os.environ["KEYROTATION_DATABASE_URL"] = application.url
    try:
        request = new.typed("reconcile").splitlines()[-1]
        new.sign(request)
        new.typed("reconcile")
        assert application.read_by_the_server() == application.expected
        new.typed("backup")
        new.finished("request", "--reason", "again")
    finally:
        del os.environ["KEYROTATION_DATABASE_URL"]
    assert transit.described()["latest_version"] == 4
    assert application.read_by_the_server() == application.expected


@pytest.mark.extended
def test_ten_kills_beside_the_application_lose_nothing(home: Home, transit: Transit, tmp_path: Path) -> None:
    application, folder = home.application, Folder(tmp_path, [])
    values = [transit.encrypt(b"another").decode() for _ in range(40)]
    with psycopg.connect(application.url, autocommit=True) as connection, connection.cursor() as cursor:
        rows = [(row, values[row % 40]) for row in range(ROWS, 4000)]
        cursor.executemany("INSERT INTO users VALUES (%s, %s)", rows)
    # Slow enough that ten kills find it at work, at ever later points.
    slow = home.file.read_text().replace("shards = 1", "shards = 4\nmax_rows_per_second = 2000")
    home.file.write_text(slow)
    request = home.typed("request", "--reason", "killed ten times").splitlines()[-1]
    home.sign(request)
    dice = Random(20261129)
    with application.at_work():
        killed = sum(folder.kill_after(dice.uniform(0.8, 2.6), "rotate", request) for _ in range(10))
        home.typed("rotate", request)
    assert (application.wrong, application.writes > 10, killed >= 5) == ([], True, True)
    stored = application.stored()
    assert {value.split(":")[1] for value in stored.values()} == {"v3"}
    assert {row: transit.decrypt(stored[row]).decode() for row in application.expected} == application.expected
    assert {transit.decrypt(stored[row]) for row in range(ROWS, 4000, 97)} == {b"another"}
    assert transit.described()["latest_version"] == 3
    home.typed("verify")
    home.typed("audit", "verify")
