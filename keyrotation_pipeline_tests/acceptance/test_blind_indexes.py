"""Blind indexes of Lockbox rotated by the commands, while two instances search, write and try to store texts twice.

The instances do what docs/guides/lockbox.md has an application do with blind_index, written by another hand.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.officers import roster_in_toml

ROWS = 40
COLUMNS = ("email_bidx", "email_bidx_v2")
DECLARED = """
[[tables]]
name = "care.patients"
columns = ["email_ciphertext", "phone_ciphertext"]
indexes = [{ of = "email_ciphertext", odd = "email_bidx", even = "email_bidx_v2", algorithm = "pbkdf2-sha256" }]
"""
CREATE = """
CREATE SCHEMA care;
CREATE TABLE care.patients (id int PRIMARY KEY, email_ciphertext text, phone_ciphertext text, email_bidx text UNIQUE,
    email_bidx_v2 varchar(44));
CREATE UNIQUE INDEX ON care.patients (email_bidx_v2)
"""


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return hmac.digest(hmac.digest(salt, key, "sha384"), info + b"\1", "sha384")[:32]


@lru_cache
def attribute_key(master: str, attribute: str) -> AESGCM:
    return AESGCM(hkdf(bytes.fromhex(master), b"care.patients", b"\xb4" * 32 + attribute.encode()))


@lru_cache
def index_key(master: str, column: str) -> bytes:
    names = (b"care.patients", column.encode(), column.encode())
    root = hkdf(bytes.fromhex(master), names[0], b"\x7e" * 32 + names[1])
    packed = b"".join(len(each).to_bytes(8, "little") + each for each in names)
    return hmac.digest(root, (3).to_bytes(4, "little") + packed, "sha256")


@lru_cache(maxsize=10_000)
def index(master: str, column: str, text: str) -> str:
    key = index_key(master, column)
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", text.encode(), key, 10_000, 32)).decode()


def seal(master: str, attribute: str, text: str) -> str:
    nonce = os.urandom(12)
    return base64.b64encode(nonce + attribute_key(master, attribute).encrypt(nonce, text.encode(), None)).decode()


def read(masters: list[str], attribute: str, stored: str) -> str:
    raw = base64.b64decode(stored)
    if not raw:
        return ""
    for master in masters:
        try:
            return attribute_key(master, attribute).decrypt(raw[:12], raw[12:], None).decode()
        except InvalidTag:
            continue
    raise InvalidTag


@dataclass
class Instance:
    """One process of the application: its list of keys, its login, and what its rows hold."""

    number: int
    url: str
    place: "Application"
    keys: list[str]
    expected: dict[int, str]
    wrong: list[str] = field(default_factory=list)
    searches: int = 0
    writes: int = 0
    refused: int = 0

    def connected(self) -> psycopg.Connection:
        return psycopg.connect(make_conninfo(self.url, user=self.place.login_of(self.keys[0])), autocommit=True)

    def work(self, stop: threading.Event) -> None:
        chance = Random(self.number)
        while not stop.is_set():
            keys = self.keys
            with self.connected() as connection:
                while keys is self.keys and not stop.wait(0.01):
                    try:
                        self.step(connection, keys, chance)
                    except (psycopg.Error, InvalidTag) as error:
                        self.wrong.append(f"{type(error).__name__} {error}")

    def step(self, connection: psycopg.Connection, keys: list[str], chance: Random) -> None:
        row = chance.randrange(ROWS)
        if row % 4 not in {self.number, 2, 3}:
            return
        self.find(connection, keys, row)
        if row % 4 == self.number:
            self.write(connection, keys, row)
        if chance.random() < 0.3:
            self.duplicate(connection, keys, row)

    def indexes(self, keys: list[str], text: str) -> list[str | None]:
        """In each column the index under the newest key for it; which that is, the last digit of a key says."""
        mine = [next((key for key in keys if self.place.column_of(key) == column), None) for column in COLUMNS]
        return [None if key is None else index(key, column, text) for key, column in zip(mine, COLUMNS, strict=True)]

    def find(self, connection: psycopg.Connection, keys: list[str], row: int) -> None:
        self.searches += 1
        query = "SELECT id, email_ciphertext FROM care.patients WHERE email_bidx = %s OR email_bidx_v2 = %s"
        found = connection.execute(query, self.indexes(keys, self.expected[row])).fetchall()
        if [(id_, read(keys, "email_ciphertext", text)) for id_, text in found] != [(row, self.expected[row])]:
            self.wrong.append(f"{row}: {len(found)} found")

    def write(self, connection: psycopg.Connection, keys: list[str], row: int) -> None:
        text = "" if row == 0 and self.writes % 2 else f"user{row}.{self.writes}@example.org"
        self.store(connection, keys, row, text)
        self.writes += 1
        self.expected[row] = text
        self.find(connection, keys, row)

    def store(self, connection: psycopg.Connection, keys: list[str], row: int, text: str) -> None:
        stored = seal(keys[0], "email_ciphertext", text) if text else ""
        connection.execute(
            """INSERT INTO care.patients VALUES (%s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET email_ciphertext =
            excluded.email_ciphertext, email_bidx = excluded.email_bidx, email_bidx_v2 = excluded.email_bidx_v2""",
            (row, stored, seal(keys[0], "phone_ciphertext", f"+49 {row}"), *self.indexes(keys, text)),
        )

    def duplicate(self, connection: psycopg.Connection, keys: list[str], row: int) -> None:
        try:
            self.store(connection, keys, 1000 + row, self.expected[row])
        except psycopg.errors.UniqueViolation:
            self.refused += 1
        else:
            self.wrong.append(f"{row}: two rows with one address")


@dataclass
class Application:
    """Two instances that get their keys at different times."""

    url: str
    delivered: Path
    logins: list[str]
    first: str
    known: list[str] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)

    def start(self) -> None:
        expected = {row: f"user{row}@example.org" for row in range(ROWS)}
        self.instances = [Instance(number, self.url, self, [self.first], expected) for number in (0, 1)]
        first = self.instances[0]
        with first.connected() as connection:
            for row, text in expected.items():
                first.store(connection, first.keys, row, text)

    def login_of(self, key: str) -> str:
        if key not in self.known:
            self.known.append(key)
        return self.logins[self.known.index(key)]

    def column_of(self, key: str) -> str:
        return COLUMNS[(int(key[-1], 16) - int(self.first[-1], 16)) % 2]

    def listed(self) -> list[str]:
        name, _, listed = self.delivered.read_text().strip().partition("=")
        assert name == "LOCKBOX_MASTER_KEY"
        return listed.split(",")

    def reload(self) -> None:
        """As a rollout does it: one instance after the other, which serve side by side meanwhile."""
        for each in self.instances:
            each.keys = self.listed()
            time.sleep(0.3)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with beside(self.instances[0].work), beside(self.instances[1].work):
            yield

    def is_whole(self, column: str) -> None:
        """Nothing went wrong, and each row has a value under the one key, and one index, in this column."""
        for each in self.instances:
            assert each.wrong == []
            assert min(each.searches, each.writes, each.refused * 5) > 5
        (key,) = self.listed()
        assert self.column_of(key) == column
        with psycopg.connect(self.url) as connection:
            found: list[Any] = connection.execute("SELECT * FROM care.patients ORDER BY id").fetchall()
        assert len(found) == ROWS
        for row, email, phone, *indexes in found:
            text = self.instances[0].expected[row]
            assert read([key], "email_ciphertext", email) == text
            assert read([key], "phone_ciphertext", phone) == f"+49 {row}"
            assert indexes == [index(key, each, text) if each == column else None for each in COLUMNS]


@dataclass
class Home(Commands):
    application: Application

    def walk(self, request: str) -> list[str]:
        return self.carry_out(request, self.application.reload)

    def finished(self, *arguments: str) -> str:
        request = self.typed(*arguments).splitlines()[-1]
        self.sign(request)
        self.walk(request)
        return request


@pytest.fixture
def logins(database_url: str) -> Iterator[list[str]]:
    names = [f"app_{secrets.token_hex(4)}_g{number}" for number in (1, 2, 4)]
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in map(sql.Identifier, names):
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        yield names
        for name in map(sql.Identifier, names):
            connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    logins: list[str],
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    officers, file, first = (security_officer, privacy_officer), tmp_path / "keyrotation.toml", secrets.token_hex(32)
    named = roster_in_toml(officers)
    listed = ", ".join(f'{version} = "{login}"' for version, login in zip(("v1", "v2", "v4"), logins, strict=True))
    file.write_text(
        f'database.url = "{database_url}"\nrollout.mode = "confirm"\n[approvals]\nrequired = 2\n{named}'
        "[reencryption]\nshards = 1\nduty_cycle = 1.0\n"
        f'[format]\nname = "lockbox"\nkeys = {{ env = "LOCKBOX_MASTER_KEY" }}\nlogins = {{ {listed} }}\n{DECLARED}'
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(CREATE)
        for name in map(sql.Identifier, logins):
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA care TO {}").format(name))
            connection.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON care.patients TO {}").format(name))
    application = Application(database_url, tmp_path / ".keyrotation" / "keys" / "application.env", logins, first)
    application.start()
    place = Home(file, officers, application)
    monkeypatch.setenv("LOCKBOX_MASTER_KEY", first)
    place.typed("init")
    monkeypatch.delenv("LOCKBOX_MASTER_KEY")
    return place


def test_every_row_is_found_and_no_text_is_stored_twice_during_a_rotation(home: Home) -> None:
    application = home.application
    assert home.shown("inventory")["unindexed_rows"] == {"care.patients": 0}
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        assert (
            "search index of care.patients.email_ciphertext in email_bidx and email_bidx_v2: 32 bytes of pbkdf2-sha256 "
            "of the text, as blind_index makes it with keys derived from the master key by the names "
            "care.patients.email_bidx and care.patients.email_bidx_v2"
        ) in home.typed("approve", request, "--text")
        home.sign(request)
        home.walk(request)
    application.is_whole("email_bidx_v2")
    with psycopg.connect(make_conninfo(application.url, user=application.logins[0])) as connection:
        for column in COLUMNS:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"UPDATE care.patients SET {column} = NULL WHERE id = 1".encode())
            connection.rollback()


@pytest.mark.extended
def test_the_same_in_the_rotation_back_and_in_the_one_after_it(home: Home) -> None:
    application = home.application
    with application.at_work():
        request = home.finished("request", "--reason", "yearly")
        home.finished("rollback", request)
    application.is_whole("email_bidx")
    with application.at_work():
        home.finished("request", "--reason", "again")  # v4: v3 would need the column of v1
    application.is_whole("email_bidx_v2")
    assert home.shown("verify")["failures"] == 0


@pytest.mark.extended
@pytest.mark.parametrize(
    "leaked", [pytest.param(("v1",), id="the old key"), pytest.param(("v1", "v2"), id="both keys")]
)
def test_an_emergency_in_the_middle_of_a_rotation(home: Home, leaked: tuple[str, ...]) -> None:
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
    application.is_whole("email_bidx_v2")


@pytest.mark.extended
def test_a_backup_is_rekeyed_with_its_indexes_and_a_wrong_declaration_is_refused(home: Home, tmp_path: Path) -> None:
    application, secret = home.application, tmp_path / "officer.sec.asc"
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    right = home.file.read_text()
    home.file.write_text(right.replace('"pbkdf2-sha256"', '"scrypt"'))
    said = "none of 10 search indexes in email_bidx and email_bidx_v2 is that of its text by 32 bytes of scrypt"
    assert said in home.typed("request", "--reason", "yearly", exits=1)
    home.file.write_text(right)
    with application.at_work():
        home.finished("request", "--reason", "yearly")
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    refused = home.typed("destroy", "v1", "--reason", "old", exits=1)
    (dump,) = re.findall(r"v1 is needed to read (database-[^ ]+\.gpg|database-[^ ;,]+)", refused)
    rekeyed = home.shown("backup", dump, "--rekey", "--key", str(secret))
    assert rekeyed["values"] == {"care.patients": 2 * ROWS}
