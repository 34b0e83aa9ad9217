"""A Fernet application's keys rotated by the commands, while it reads and writes with its own library alone."""

import base64
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from typer.testing import CliRunner

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.confirming import add_confirmation, confirmation_text
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.officers import roster_in_toml

ROWS = 120
DELIVERED = Path(".keyrotation/keys/application.env")


@dataclass
class Application:
    """What an operator runs: it reads the list that the key store delivers, as its library reads it.

    Args:
        delivered: the text of the list.
    """

    url: str
    delivered: Callable[[], str]
    keys: MultiFernet
    expected: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

    def listed(self) -> list[str]:
        """The delivered keys, in order."""
        return self.delivered().split(",")

    def reload(self) -> None:
        """As a restart with the new environment."""
        self.keys = MultiFernet([Fernet(key) for key in self.listed()])

    def at_work(self) -> AbstractContextManager[None]:
        return beside(self._work)

    def _work(self, stop: threading.Event) -> None:
        chance = Random(7)
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not stop.wait(0.005):
                row = chance.randrange(ROWS)
                try:
                    self._step(connection, row)
                except (psycopg.Error, InvalidToken) as error:
                    self.wrong.append(f"{row}: {type(error).__name__} {error}")

    def _step(self, connection: psycopg.Connection, row: int) -> None:
        keys = self.keys
        found = connection.execute("SELECT email FROM users WHERE id = %s", (row,)).fetchone()
        if found is None or keys.decrypt(found[0]).decode() != self.expected[row]:
            self.wrong.append(f"{row}: another content")
            return
        self.writes += 1
        self.expected[row] = f"user{row}@example.com, write {self.writes}"
        new = self.stored(keys.encrypt(self.expected[row].encode()))
        connection.execute("UPDATE users SET email = %s WHERE id = %s", (new, row))

    def stored(self, value: bytes) -> str | bytes:
        """A value as the column takes it."""
        return value.decode()

    def read_with(self, key: str) -> dict[int, str]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT id, email FROM users").fetchall()
        return {row: Fernet(key).decrypt(email).decode() for row, email in rows}


@dataclass
class Commands:
    """A configuration, and two officers who type and sign."""

    file: Path
    officers: tuple[DemoOfficer, ...]

    def typed(self, *arguments: str, exits: int = 0) -> str:
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.file)])
        if isinstance(result.exception, KeyRotationError):
            assert exits == 1, result.exception
            return str(result.exception)
        assert result.exit_code == exits, result.output
        return result.stdout

    def shown(self, *arguments: str) -> Any:  # noqa: ANN401
        found: Any = json.loads(self.typed(*arguments, "--json"))
        return found

    def sign(self, request: str) -> None:
        with open_pipeline(settings.load(self.file), actor="test") as pipeline:
            text = pipeline.ledger.approval_text(request)
            for officer in self.officers:
                add_approval(pipeline, pipeline.ledger.request(request), officer.sign(text))

    def confirm(self, request: str) -> None:
        with open_pipeline(settings.load(self.file), actor="test") as pipeline:
            rotation = pipeline.ledger.walk(request)
            add_confirmation(pipeline, rotation, self.officers[0].sign(confirmation_text(pipeline, rotation)))

    def carry_out(
        self,
        request: str,
        restart: Callable[[], object],
        look: Callable[[], object] = lambda: None,
        *,
        stops: bool = False,
    ) -> list[str]:
        """Types `rotate`, restarts the application and confirms that, until the rotation is over.

        Args:
            look: called before each restart.
            stops: end at a refusal that no officer can confirm away.

        Returns:
            What was waited for.
        """
        waited: list[str] = []
        for _ in range(8):
            result = CliRunner().invoke(app, ["rotate", request, "--config", str(self.file)])
            if result.exit_code == 0:
                return waited
            waited.append(str(result.exception))
            if stops and "no officer has confirmed" not in waited[-1]:
                return waited
            look()
            assert "no officer has confirmed" in waited[-1], (waited, result.output)
            restart()
            self.confirm(request)
        pytest.fail(f"not over: {waited}")


@dataclass
class Home(Commands):
    """The same with the application and the keys that it had first."""

    application: Application
    keys: list[str]

    def walk(self, request: str, look: Callable[[], object] = lambda: None, *, stops: bool = False) -> list[str]:
        """See `Commands.carry_out`."""
        return self.carry_out(request, self.application.reload, look, stops=stops)


CONFIRM = '[rollout]\nmode = "confirm"\n'


def configuration(
    url: str, officers: Sequence[DemoOfficer], values: str, columns: str = '["email"]', parts: str = CONFIRM
) -> str:
    """A configuration of one table, `users`; `values` is what stands in `[format]` before the variable FIELD_KEYS."""
    named = roster_in_toml(officers)
    return (
        f'database.url = "{url}"\n{parts}[approvals]\nrequired = 2\n{named}'
        f'[reencryption]\nshards = 1\nduty_cycle = 1.0\n[format]\n{values}\nkeys = {{ env = "FIELD_KEYS" }}\n'
        f'[[tables]]\nname = "users"\ncolumns = {columns}\n'
    )


def written_home(
    folder: Path, officers: tuple[DemoOfficer, ...], keys: list[str], application: Application, parts: str = CONFIRM
) -> Home:
    """A configuration and a table of tokens under both keys; `init` is not typed yet."""
    file, (old, older) = folder / "keyrotation.toml", keys
    schema = 'database.schema = "fernet_keys"\n'
    file.write_text(configuration(application.url, officers, 'name = "fernet"', parts=schema + parts))
    with psycopg.connect(application.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE users (id int PRIMARY KEY, email text, plain text DEFAULT 'public')")
        for row in range(ROWS):
            application.expected[row] = f"user{row}@example.com"
            key = Fernet(older if row % 3 == 0 else old)
            connection.execute(
                "INSERT INTO users VALUES (%s, %s)", (row, key.encrypt(application.expected[row].encode()).decode())
            )
    return Home(file, officers, application, keys)


def two_keys() -> list[str]:
    return [Fernet.generate_key().decode() for _ in range(2)]


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    keys = two_keys()
    monkeypatch.setenv("FIELD_KEYS", ",".join(keys))

    def delivered() -> str:
        name, _, listed = (tmp_path / DELIVERED).read_text().strip().partition("=")
        assert name == "FIELD_KEYS"
        return listed

    application = Application(database_url, delivered, MultiFernet(list(map(Fernet, keys))))
    place = written_home(tmp_path, (security_officer, privacy_officer), keys, application)
    place.typed("init")
    monkeypatch.delenv("FIELD_KEYS")
    return place


def test_init_says_how_keys_are_derived(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys of the library's form may be derived from all the same, as django-fernet-fields does unless told not to."""
    listed = two_keys()
    derived = [base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()).decode() for key in listed]
    application = Application(database_url, str, MultiFernet([Fernet(key) for key in derived]))
    home = written_home(tmp_path, (security_officer, privacy_officer), derived, application)
    monkeypatch.setenv("FIELD_KEYS", ",".join(listed))
    refused = home.typed("init", exits=1)
    assert 'they open with derivation = "sha256": correct that; nothing was imported' in refused
    assert not set(listed) & set(refused.split())
    assert not list((tmp_path / ".keyrotation").rglob("*.key"))
    home.file.write_text(home.file.read_text().replace('name = "fernet"\n', 'name = "fernet"\nderivation = "sha256"\n'))
    home.typed("init")
    assert (tmp_path / DELIVERED).read_text().strip() == f"FIELD_KEYS={','.join(listed)}"


def finished(home: Home, *arguments: str) -> str:
    """A request that was signed and carried out."""
    request = home.typed(*arguments).splitlines()[-1]
    home.sign(request)
    home.walk(request)
    return request


def refusal(home: Home, key: str) -> str:
    """How the database refuses a token of a key."""
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        try:
            connection.execute("UPDATE users SET email = %s WHERE id = 1", (Fernet(key).encrypt(b"late").decode(),))
        except psycopg.errors.InvalidTextRepresentation as error:
            said = " ".join(str(getattr(error.diag, each)) for each in dir(error.diag) if each.startswith("message"))
            assert "public" not in said, "the row's plain column"
            return said
    return ""


def test_a_rotation_by_the_commands_beside_the_application(home: Home) -> None:
    application = home.application
    (old, older), lists = application.listed(), []
    assert home.keys == [old, older]
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "\nFormat: fernet, keys as they are, identified by the MAC of each value\n" in text
        assert "The data stay in the format that the application reads with its own library: fernet, keys" in text
        home.sign(request)
        home.walk(request, lambda: lists.append(application.listed()))
    assert (application.wrong, application.writes > 10) == ([], True)
    new = lists[-1][0]
    assert lists == [[old, new, older], [new, old, older], [new]]
    assert application.read_with(new) == application.expected
    (table,) = home.shown("status")["tables"]
    assert table["identified_by"] == "mac"
    assert (table["values_by_version"], table["fenced_against"]) == ({"v1": 0, "v2": 0, "v3": ROWS}, ["v1", "v2"])
    assert "key version v2 is retired" in refusal(home, old)
    assert "key version v1 is retired" in refusal(home, older)
    assert refusal(home, Fernet.generate_key().decode()) == ""
    assert (home.file.parent / DELIVERED).stat().st_mode & 0o777 == 0o600


@pytest.mark.extended
def test_a_rollback_and_what_backups_are_good_for(home: Home, tmp_path: Path) -> None:
    application, secret = home.application, tmp_path / "officer.sec.asc"
    old, _ = application.listed()
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    with application.at_work():
        request = finished(home, "request", "--reason", "yearly")
        new = application.listed()[0]
        back = finished(home, "rollback", request)
    assert (application.wrong, application.listed()) == ([], [old])
    assert application.read_with(old) == application.expected
    assert "key version v3 is retired" in refusal(home, new)
    assert refusal(home, old) == ""
    application.expected[1] = "late"
    assert [home.shown("history")[number]["id"] for number in (0, 1)] == [back, request]
    tested = home.shown("recovery-test", "--key", str(secret))
    assert tested["passed"] is True
    # The dump from before has values under the archived v1, which must not be destroyed because of that.
    assert "v1 is needed to read database-" in home.typed("destroy", "v1", "--reason", "old", exits=1)
    assert "v1" in home.typed("restore-key", "v1", "--key", str(secret))
    survey = home.typed("restore-key", "--survey", "--key", str(secret))
    assert "users" in survey
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (certificate,) = (pack / "certificates").iterdir()
    statement = json.loads(base64.b64decode(json.loads(certificate.read_text())["payload"]))
    rows = statement["predicate"]["rows"]
    assert (rows["format"], rows["identified_by"], rows["old_values"]) == ("fernet", "mac", 0)
    assert "the MAC of each was computed with the signing halves of the retired keys" in rows["rests_on"]


@pytest.mark.extended
def test_values_that_no_key_opens_and_tokens_in_tokens_stop_the_walk(home: Home) -> None:
    application = home.application
    old, _ = application.listed()
    stranger = Fernet.generate_key()
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)
    token = Fernet(old).encrypt(b"once")
    bad = {3: Fernet(stranger).encrypt(b"x"), 4: Fernet(old).encrypt(token), 5: b"plain"}
    with psycopg.connect(application.url, autocommit=True) as connection:
        for row, value in bad.items():
            connection.execute("UPDATE users SET email = %s WHERE id = %s", (value.decode(), row))
    place = "table users, column email: 1 value"
    refused = home.walk(request, stops=True)[-1]
    assert f"{place} (not encrypted, or damaged: not of the form of an encrypted value)" in refused
    assert f"{place} (encrypted twice: under key version v2 it decrypts to another encrypted value" in refused
    fix(application, 4, 5)
    refused = home.walk(request, stops=True)[-1]
    reason = "damaged, under a key that is not in the key ring, or opened by several keys of it"
    assert f"values are in quarantine: {place} ({reason});" in refused
    fix(application, 3)
    home.walk(request)
    assert application.read_with(application.listed()[0]) == application.expected


def fix(application: Application, *rows: int) -> None:
    with psycopg.connect(application.url, autocommit=True) as connection:
        for row in rows:
            fixed = application.keys.encrypt(application.expected[row].encode()).decode()
            connection.execute("UPDATE users SET email = %s WHERE id = %s", (fixed, row))


@pytest.mark.extended
def test_an_emergency_replaces_the_key(home: Home) -> None:
    opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
    _, request = opened.split()
    with home.application.at_work():
        home.sign(request)
        home.walk(request)
    assert home.application.wrong == []
    new = home.application.listed()
    assert home.application.read_with(new[0]) == home.application.expected


def test_a_request_is_cancelled_before_its_key_exists_and_after(home: Home) -> None:
    before = home.application.listed()
    for made in (False, True):
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        home.sign(request)
        if made:
            assert "no officer has confirmed" in home.typed("rotate", request, exits=1)
            assert len(home.application.listed()) == len(before) + 1
        home.typed("cancel", request)
        assert home.application.listed() == before
        assert home.shown("status")["rotation"] is None


def test_an_imported_key_that_is_wrong_is_replaced_by_the_variable_of_the_list(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it was imported while the table was empty."""
    right = Fernet.generate_key()
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        connection.execute("UPDATE users SET email = %s", (Fernet(right).encrypt(b"x").decode(),))
    asked = home.typed("replace-key", "v2", "--reason", "wrong", exits=1)
    assert asked.startswith("set FIELD_KEYS to the key that decrypts the values under v2")
    monkeypatch.setenv("FIELD_KEYS", f"{right.decode()},{home.keys[0]}")
    assert "FIELD_KEYS holds 2 keys; set it to the one that" in home.typed(
        "replace-key", "v2", "--reason", "wrong", exits=1
    )
    monkeypatch.setenv("FIELD_KEYS", right.decode())
    home.sign(home.typed("replace-key", "v2", "--reason", "wrong").splitlines()[-1])
    home.typed("replace-key", "v2")
    assert home.application.listed()[0] == right.decode()


def test_what_is_said_of_a_fernet_home_is_true(home: Home) -> None:
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE copies AS SELECT email FROM users")
    counted = home.typed("inventory")
    assert "they are not under its keys" not in counted
    assert "fernet values among them may be under its keys: a key under which any are is not retired" in counted
    checks = home.typed("preflight", exits=1)
    assert "encrypted_type" not in checks
    assert "have every application encrypt with the first key of its list" in checks


def test_init_knows_the_keys_again_and_takes_no_others(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = home.shown("status")["key_versions"]
    for listed in (home.keys, home.keys[::-1], home.keys[:1]):
        monkeypatch.setenv("FIELD_KEYS", ",".join(listed))
        home.typed("init")
    assert home.shown("status")["key_versions"] == before
    monkeypatch.setenv("FIELD_KEYS", f"{home.keys[0]},{Fernet.generate_key().decode()}")
    assert "entry 2 of FIELD_KEYS is no imported key" in home.typed("init", exits=1)
    assert home.application.listed() == home.keys
