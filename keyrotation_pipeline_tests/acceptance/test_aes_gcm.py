"""A hand-written AES-GCM application's keys rotated by the commands; only decryption tells a value's key."""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, LiteralString

import psycopg
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import String
from sqlalchemy.dialects import postgresql
from sqlalchemy_utils import StringEncryptedType  # type: ignore[import-untyped]
from sqlalchemy_utils.types.encrypted.encrypted_type import AesGcmEngine  # type: ignore[import-untyped]

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests import laravel
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.pages import code

ROWS = 60
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def seal(key: str, text: str) -> str:
    """As the application writes it: hex(nonce):hex(tag):hex(ciphertext), the commonest form in Node."""
    nonce = os.urandom(12)
    body = AESGCM(bytes.fromhex(key)).encrypt(nonce, text.encode(), None)
    return f"{nonce.hex()}:{body[-16:].hex()}:{body[:-16].hex()}"


def seal_raw(key: str, text: str) -> bytes:
    """As bytes behind a version byte."""
    nonce = os.urandom(12)
    return b"\x01" + nonce + AESGCM(bytes.fromhex(key)).encrypt(nonce, text.encode(), None)


def read(keys: list[str], stored: str | bytes) -> str:
    if isinstance(stored, str):
        nonce, tag, ciphertext = map(bytes.fromhex, stored.split(":"))
    else:
        assert stored[0] == 1
        nonce, ciphertext, tag = stored[1:13], stored[13:-16], stored[-16:]
    for key in keys:
        try:
            return AESGCM(bytes.fromhex(key)).decrypt(nonce, ciphertext + tag, None).decode()
        except InvalidTag:
            continue
    raise InvalidTag


@dataclass(frozen=True)
class Form:
    """How an application stores its values.

    Args:
        format: of `[format]`, without keys and logins.
        column: the type of the column.
    """

    format: str
    column: LiteralString
    key: Callable[[], str]
    seal: Callable[[str, str], str | bytes]
    read: Callable[[list[str], str | bytes], str] = read


def sqlalchemy_utils_type(keys: list[str]) -> Any:  # noqa: ANN401  of a package without types
    """The type of the guide, by the package, for an application that has these keys."""
    given = {"os": SimpleNamespace(environ={"FIELD_KEYS": ",".join(keys)})}
    exec(code("aes-gcm-sqlalchemy-utils").replace("import os\n", "", 1), given)  # noqa: S102
    return given["Secret"]


def of_layout(layout: str, keys: str = 'key_encoding = "hex"') -> str:
    return f'name = "aes-gcm"\nlayout = "{layout}"\n{keys}'


HEX = Form(of_layout("hex(nonce12):hex(tag16):hex(ct)"), "text", lambda: secrets.token_hex(32), seal)
RAW = Form(of_layout("raw(0x01 nonce12 ct tag16)"), "bytea", lambda: secrets.token_hex(16), seal_raw)
# Its own engine writes, that of the guide reads.
SQLALCHEMY_UTILS = Form(
    of_layout("b64(nonce12 tag16 ct)", 'derivation = "sha256"'),
    "varchar",
    lambda: secrets.token_urlsafe(24),
    lambda key, text: StringEncryptedType(String, key, AesGcmEngine).process_bind_param(text, DIALECT),
    lambda keys, stored: sqlalchemy_utils_type(keys).process_result_value(stored, DIALECT),
)
LARAVEL = Form(
    'name = "laravel-crypt"',
    "varchar(400)",
    laravel.new_key,
    laravel.encrypt,
    lambda keys, stored: laravel.decrypt(keys, str(stored)),
)
LARAVEL_GCM = Form(
    'name = "laravel-crypt"\ncipher = "AES-128-GCM"',
    "text",
    lambda: laravel.new_key(16),
    lambda key, text: laravel.encrypt(key, text, "AES-128-GCM"),
    lambda keys, stored: laravel.decrypt(keys, str(stored)),
)
ALL = pytest.mark.parametrize(
    "home",
    [
        pytest.param(HEX, id="hex"),
        pytest.param(RAW, id="bytes, AES-128"),
        pytest.param(SQLALCHEMY_UTILS, id="sqlalchemy-utils"),
        pytest.param(LARAVEL, id="Laravel"),
        pytest.param(LARAVEL_GCM, id="Laravel, AES-128-GCM", marks=pytest.mark.extended),
    ],
    indirect=True,
)


@dataclass
class Application:
    """Reads its list of keys, tries each, encrypts with the first, and has a login of its own for each first key."""

    url: str
    delivered: Path
    logins: list[str]
    keys: list[str]
    login: str
    expected: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    writes: int = 0
    form: Form = HEX

    def listed(self) -> list[str]:
        name, _, listed = self.delivered.read_text().strip().partition("=")
        assert name == "FIELD_KEYS"
        return listed.split(",")

    def reload(self) -> None:
        """As a restart with the new environment: a list that begins with another key comes with another login."""
        listed = self.listed()
        if listed[0] != self.keys[0]:
            self.login = self.logins[1 - self.logins.index(self.login)]
        self.keys = listed

    def connected(self, login: str) -> psycopg.Connection:
        return psycopg.connect(make_conninfo(self.url, user=login), autocommit=True)

    def at_work(self) -> AbstractContextManager[None]:
        return beside(self._work)

    def _work(self, stop: threading.Event) -> None:
        chance = Random(7)
        while not stop.is_set():
            keys, login = self.keys, self.login
            with self.connected(login) as connection:
                while keys is self.keys and not stop.wait(0.005):
                    row = chance.randrange(ROWS)
                    try:
                        self._step(connection, row, keys)
                    except (psycopg.Error, InvalidTag) as error:
                        self.wrong.append(f"{row} {login}: {type(error).__name__} {error}")

    def _step(self, connection: psycopg.Connection, row: int, keys: list[str]) -> None:
        found = connection.execute("SELECT email FROM members WHERE id = %s", (row,)).fetchone()
        if found is None or self.form.read(keys, found[0]) != self.expected[row]:
            self.wrong.append(f"{row}: another content")
            return
        text = f"user{row}@example.com, write {self.writes}"
        connection.execute("UPDATE members SET email = %s WHERE id = %s", (self.form.seal(keys[0], text), row))
        self.writes, self.expected[row] = self.writes + 1, text

    def written_as(self, login: str, key: str, row: int = 1) -> str:
        """What the database says to a write of this login under this key; nothing: it takes it."""
        with self.connected(login) as connection:
            try:
                connection.execute("UPDATE members SET email = %s WHERE id = %s", (self.form.seal(key, "late"), row))
            except psycopg.errors.InsufficientPrivilege as error:
                return str(error)
        return ""

    def read_with(self, key: str) -> dict[int, str]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT id, email FROM members").fetchall()
        return {row: self.form.read([key], email) for row, email in rows}


@dataclass
class Home(Commands):
    """A configuration with the application."""

    application: Application

    def shown_though_red(self, command: str) -> Any:  # noqa: ANN401
        return json.loads(self.typed(command, "--json", exits=1))

    def walk(self, request: str, *, stops: bool = False) -> list[str]:
        """See `Commands.carry_out`."""
        return self.carry_out(request, self.application.reload, stops=stops)


@pytest.fixture
def logins(database_url: str) -> Iterator[list[str]]:
    """Two logins of the application, which own nothing; roles belong to the whole server."""
    names = [f"app_{secrets.token_hex(4)}_g{number}" for number in (1, 2)]
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        yield names
        for name in names:
            connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(*[sql.Identifier(name)] * 2))


@pytest.fixture
def home(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    logins: list[str],
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    form: Form = getattr(request, "param", HEX)
    old = form.key()
    monkeypatch.setenv("FIELD_KEYS", old)
    officers = (security_officer, privacy_officer)
    file = tmp_path / "keyrotation.toml"
    named = roster_in_toml(officers)
    file.write_text(
        f'database.url = "{database_url}"\nrollout.mode = "confirm"\n[approvals]\nrequired = 2\n{named}'
        '[reencryption]\nshards = 1\nduty_cycle = 1.0\n[format]\nkeys = { env = "FIELD_KEYS" }\n'
        f"{form.format}\n"
        f'logins = {{ v1 = "{logins[0]}", v2 = "{logins[1]}" }}\n'
        '[[tables]]\nname = "members"\ncolumns = ["email"]\n'
    )
    delivered = tmp_path / ".keyrotation" / "keys" / "application.env"
    application = Application(database_url, delivered, logins, [old], logins[0], form=form)
    with psycopg.connect(database_url, autocommit=True) as connection:
        columns: LiteralString = f"email {form.column}, plain text DEFAULT 'public'"
        connection.execute(f"CREATE TABLE members (id int PRIMARY KEY, {columns})")
        for login in logins:
            connection.execute(
                sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON members TO {}").format(sql.Identifier(login))
            )
        for row in range(ROWS):
            application.expected[row] = f"user{row}@example.com"
            connection.execute("INSERT INTO members VALUES (%s, %s)", (row, form.seal(old, application.expected[row])))
    place = Home(file, officers, application)
    place.typed("init")
    monkeypatch.delenv("FIELD_KEYS")
    return place


@ALL
def test_a_rotation_by_the_commands_beside_the_application(home: Home, logins: list[str]) -> None:
    application = home.application
    (old,) = application.listed()
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "identified by decrypting each value, which is weaker evidence than a count by the database" in text
        assert f"refused by taking the right to write from the login of the old version: v1 {logins[0]}" in text
        home.sign(request)
        home.walk(request)
    assert (application.wrong, application.writes > 10) == ([], True)
    (new,) = application.listed()
    assert (len(new), application.read_with(new)) == (len(old), application.expected)
    assert ("keys derived by sha256" in text) is ("sha256" in application.form.format)
    (table,) = home.shown("status")["tables"]
    assert table["identified_by"] == "decrypt"
    assert (table["values_by_version"], table["fenced_against"]) == ({"v1": 0, "v2": ROWS}, ["v1"])
    assert "permission denied" in application.written_as(logins[0], old)
    assert application.written_as(logins[1], new) == ""
    certificate = json.loads(home.typed("report", "--format", "certificate"))
    again = json.loads(base64.b64decode(certificate["payload"]))["predicate"]["counted_again"]
    assert (again["how"], again["began_at"] <= again["recorded_at"]) == ("by decrypting every value", True)
    assert [(each["values"], each["old_values"]) for each in again["tables"]] == [(ROWS, 0)]


@pytest.mark.parametrize("home", [pytest.param(LARAVEL, id="Laravel")], indirect=True)
def test_a_declared_cipher_in_which_no_value_opens_is_refused_by_its_name(home: Home) -> None:
    text = home.file.read_text()
    home.file.write_text(text.replace('name = "laravel-crypt"', 'name = "laravel-crypt"\ncipher = "AES-256-GCM"'))
    refused = home.typed("request", "--reason", "yearly", exits=1)
    assert (
        f'members.email: none of {ROWS} values opens with the present keys as "AES-256-GCM"; they open as '
        '"AES-256-CBC": correct [format] cipher'
    ) in refused


def killed_before_it_decrypts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next proof ends after the old login has lost its right, and before anything was decrypted."""

    def dies(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise KeyRotationError("killed")

    monkeypatch.setattr("keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting.decrypt_all", dies)


@ALL
@pytest.mark.extended
def test_a_walk_that_dies_between_revoke_and_proof_is_finished(
    home: Home, logins: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    application, secret = home.application, tmp_path / "officer.sec.asc"
    (old,) = application.listed()
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        rehearsed = home.shown("rehearse", request, "--key", str(secret))
        assert rehearsed["findings"] == []
        home.sign(request)
        killed_before_it_decrypts(monkeypatch)
        assert home.walk(request, stops=True)[-1] == "killed"
        assert "permission denied" in application.written_as(logins[0], old)
        (table,) = home.shown("status")["tables"]
        assert (table["identified_by"], table["fenced_against"]) == ("decrypt", ["v1"])
        home.walk(request)
    (new,) = application.listed()
    assert (application.wrong, application.read_with(new)) == ([], application.expected)
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    refused = home.typed("destroy", "v1", "--reason", "old", exits=1)
    (dump,) = re.findall(r"v1 is needed to read (database-[^ ]+\.gpg|database-[^ ;,]+)", refused)
    assert home.shown("backup", dump, "--rekey", "--key", str(secret))["values"] == {"members": ROWS}
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (certificate,) = (pack / "certificates").iterdir()
    rows = json.loads(base64.b64decode(json.loads(certificate.read_text())["payload"]))["predicate"]["rows"]
    assert (rows["identified_by"], rows["values"]) == ("decrypt", ROWS)
    assert f'name = "{rows["format"]}"' in application.form.format
    assert "weaker evidence than a count by the database" in rows["rests_on"]


@pytest.mark.extended
def test_a_rotation_follows_the_destruction_of_a_key(home: Home, logins: list[str]) -> None:
    application = home.application
    home.walk(signed(home, "request", "--reason", "yearly"))
    signed(home, "destroy", "v1", "--reason", "old")
    home.typed("destroy", "v1")
    third = f"{logins[0]}_third"
    with psycopg.connect(application.url, autocommit=True) as connection:
        name = sql.Identifier(third)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN; GRANT ALL ON members TO {}").format(name, name))
    try:
        home.file.write_text(home.file.read_text().replace("logins = { ", f'logins = {{ v3 = "{third}", '))
        application.logins = [logins[1], third]
        with application.at_work():
            home.walk(signed(home, "request", "--reason", "next"))
        (new,) = application.listed()
        assert (application.wrong, application.read_with(new)) == ([], application.expected)
        (table,) = home.shown("status")["tables"]
        assert table["fenced_against"] == ["v1", "v2"]
    finally:
        with psycopg.connect(application.url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))


def signed(home: Home, *arguments: str) -> str:
    request = home.typed(*arguments).splitlines()[-1]
    home.sign(request)
    return request


@ALL
@pytest.mark.extended
def test_a_rollback_from_after_promotion_and_revoke(
    home: Home, logins: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    application = home.application
    (old,) = application.listed()
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        home.sign(request)
        killed_before_it_decrypts(monkeypatch)
        home.walk(request, stops=True)
        new = application.listed()[0]
        assert (application.login, new != old) == (logins[1], True)
        back = home.typed("rollback", request).splitlines()[-1]
        home.sign(back)
        home.walk(back)
    assert (application.wrong, application.listed(), application.login) == ([], [old], logins[0])
    assert application.read_with(old) == application.expected
    assert "permission denied" in application.written_as(logins[1], new)
    assert application.written_as(logins[0], old) == ""
    (table,) = home.shown("status")["tables"]
    assert (table["values_by_version"], table["fenced_against"]) == ({"v1": ROWS, "v2": 0}, ["v2"])


@pytest.mark.extended
def test_a_layout_that_does_not_fit_is_refused_wherever_something_begins(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = home.file.read_text()
    home.file.write_text(right.replace("hex(tag16):hex(ct)", "hex(ct tag16)"))
    said = 'none of 60 values opens with the present keys as "hex(nonce12):hex(ct tag16)"; they open as "'
    assert said in home.typed("request", "--reason", "yearly", exits=1)
    assert said in home.typed("init", exits=1)
    red = {each["name"]: each for each in home.shown_though_red("preflight")["checks"] if each["light"] == "red"}
    assert "every_place_opens" in red
    home.file.write_text(right)
    home.typed("init")
