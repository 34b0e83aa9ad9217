"""Two homes of one database, each with a key in a format of its own, over different columns of the same table."""

import base64
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import psycopg
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from psycopg import sql

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import MountedKeyRing
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline_tests.acceptance import test_aes_gcm as aes_gcm
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.servers import Server

# One home in a schema of its own is in test_fernet.
pytestmark = pytest.mark.extended
ROWS = 60
# A reserved word, and a name of the greatest length.
NATIVE, FERNET = "order", "fernet_keys_of_the_shop_and_of_its_till"
CONFIGURATION = """
rollout.mode = "none"
reencryption.shards = 1
reencryption.duty_cycle = 1.0
{format}
[database]
url = {{ env = "URL" }}
schema = "{schema}"
[approvals]
required = 2
{officers}
{tables}
"""


@dataclass
class Home:
    """One home, its officers, and the writer of its values.

    Args:
        keys: returns what encrypts and decrypts as the application does, with the keys that are delivered now.
        logins: that the application writes with, one for each key that it has encrypted with; none: as the owner.
    """

    folder: Folder
    url: str
    schema: str
    column: str
    officers: tuple[DemoOfficer, ...]
    keys: Callable[[Path], tuple[Callable[[str], str], Callable[[str], str]]]
    logins: tuple[str, ...] = ()
    expected: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0
    first_keys: list[str] = field(default_factory=list)

    def encrypted(self, text: str) -> str:
        return self.keys(self.folder.path / ".keyrotation" / "keys")[0](text)

    def decrypted(self, value: str) -> str:
        return self.keys(self.folder.path / ".keyrotation" / "keys")[1](value)

    def typed(self, *arguments: str, expect: int = 0, **variables: str) -> str:
        return self.folder.run(*arguments, expect=expect, URL=self.url, **variables)

    def requested(self, *arguments: str) -> str:
        request = self.typed(*arguments).split()[-1]
        with (
            pytest.MonkeyPatch.context() as environment,
            open_pipeline(self._settings(environment), actor="test") as pipeline,
        ):
            text = pipeline.ledger.approval_text(request)
            assert f", schema {self.schema}".encode() in text
            for officer in self.officers:
                add_approval(pipeline, pipeline.ledger.request(request), officer.sign(text))
        return request

    def _settings(self, environment: pytest.MonkeyPatch) -> settings.Settings:
        environment.setenv("URL", self.url)
        return settings.load(self.folder.path / "keyrotation.toml")

    def status(self) -> dict[str, dict[str, int]]:
        tables = json.loads(self.typed("status", "--json", "--count"))["tables"]
        assert all(table["unencrypted"] == table["unreadable"] == 0 for table in tables)
        return {table["table"]: table["values_by_version"] for table in tables}

    def at_work(self) -> AbstractContextManager[None]:
        return beside(self._work)

    def _work(self, stop: threading.Event) -> None:
        chance = Random(7)
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not stop.wait(0.01):
                row = chance.randrange(ROWS)
                try:
                    self.require_read(connection, [row])
                    self.expected[row] = f"row {row}, write {self.writes}"
                    self.write(connection, row)
                except (psycopg.Error, InvalidToken, InvalidTag, KeyRotationError) as error:
                    self.wrong.append(f"{row}: {type(error).__name__} {error}")
                self.writes += 1

    def write(self, connection: psycopg.Connection, row: int, value: str | None = None) -> None:
        new = self.encrypted(self.expected[row]) if value is None else value
        with self.logged_in(connection):
            connection.execute(f"UPDATE users SET {self.column} = %s WHERE id = %s".encode(), (new, row))

    @contextmanager
    def logged_in(self, connection: psycopg.Connection) -> Iterator[None]:
        """As an application that is given a login together with the key that it encrypts with."""
        if not self.logins:
            yield
            return
        first = listed_keys(self.folder.path / ".keyrotation" / "keys")[0]
        self.first_keys += [] if first in self.first_keys else [first]
        login = sql.Identifier(self.logins[self.first_keys.index(first)])
        connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(login))
        try:
            yield
        finally:
            connection.execute("RESET SESSION AUTHORIZATION")

    def require_read(self, connection: psycopg.Connection, rows: list[int]) -> None:
        for row in rows:
            found = connection.execute(f"SELECT {self.column} FROM users WHERE id = %s".encode(), (row,)).fetchone()
            if found is None or self.decrypted(found[0]) != self.expected[row]:
                self.wrong.append(f"{row}: another content")

    def files(self) -> dict[str, bytes]:
        """What is in the home and its key store."""
        home = self.folder.path / ".keyrotation"
        return {str(file): file.read_bytes() for file in home.rglob("*") if file.is_file()}

    def refused(self, value: str) -> bool:
        with psycopg.connect(self.url, autocommit=True) as connection:
            try:
                if self.logins:
                    connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(self.logins[0])))
                connection.execute(f"UPDATE users SET {self.column} = %s WHERE id = 1".encode(), (value,))
            except (psycopg.errors.InvalidTextRepresentation, psycopg.errors.InsufficientPrivilege):
                return True
        return False


def native_keys(directory: Path) -> tuple[Callable[[str], str], Callable[[str], str]]:
    ring = MountedKeyRing(directory)()
    return partial(encrypt, ring), partial(decrypt, ring)


def listed_keys(directory: Path) -> list[str]:
    return (directory / "application.env").read_text().strip().partition("=")[2].split(",")


def fernet_keys(directory: Path) -> tuple[Callable[[str], str], Callable[[str], str]]:
    fernet = MultiFernet([Fernet(key) for key in listed_keys(directory)])
    return lambda text: fernet.encrypt(text.encode()).decode(), lambda token: fernet.decrypt(token).decode()


def aes_gcm_keys(directory: Path) -> tuple[Callable[[str], str], Callable[[str], str]]:
    keys = listed_keys(directory)
    return partial(aes_gcm.seal, keys[0]), partial(aes_gcm.read, keys)


_KEYS = {"native": native_keys, "fernet": fernet_keys, "aes-gcm": aes_gcm_keys}
_FORMS = {
    "native": "",
    "fernet": 'format.name = "fernet"\nformat.keys = {{ env = "FIELD_KEYS" }}',
    "aes-gcm": f'[format]\n{aes_gcm.HEX.format}\nkeys = {{{{ env = "FIELD_KEYS" }}}}\n'
    'logins = {{ v1 = "{0}", v2 = "{1}", v3 = "{2}" }}',
}
_FIRST_KEYS: dict[str, Callable[[], dict[str, str]]] = {
    "native": lambda: {"ENCRYPTION_MASTER_KEY": base64.b64encode(os.urandom(32)).decode()},
    "fernet": lambda: {"FIELD_KEYS": Fernet.generate_key().decode()},
    "aes-gcm": lambda: {"FIELD_KEYS": aes_gcm.HEX.key()},
}


def _configured(folder: Path, schema: str, officers: tuple[DemoOfficer, ...], columns: str, form: str) -> None:
    folder.mkdir()
    named = roster_in_toml(officers)
    tables = f'[[tables]]\nname = "users"\ncolumns = [{columns}]\n'
    text = CONFIGURATION.format(schema=schema, format=form, officers=named, tables=tables)
    (folder / "keyrotation.toml").write_text(text)


@pytest.fixture
def homes(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> Iterator[tuple[Home, ...]]:
    """Two homes of the formats that the test names, with values in both."""
    officers, made, roles = (security_officer, privacy_officer), list[Home](), list[str]()
    formats = getattr(request, "param", ("native", "fernet"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE users (id int PRIMARY KEY, name text, email text)")
        connection.execute("INSERT INTO users (id) SELECT generate_series(0, %s)", (ROWS - 1,))
        for name, schema, column in zip(formats, (NATIVE, FERNET), ("name", "email"), strict=True):
            logins = _logins(connection, column) if name == "aes-gcm" else ()
            roles += logins
            folder = tmp_path / column
            _configured(folder, schema, officers, f'"{column}"', _FORMS[name].format(*logins))
            home = Home(Folder(folder, []), database_url, schema, column, officers, _KEYS[name], logins)
            home.typed("init", expect=0, **_FIRST_KEYS[name]())
            home.expected = {row: f"row {row}" for row in range(ROWS)}
            for row in home.expected:
                home.write(connection, row)
            made.append(home)
    yield tuple(made)
    with psycopg.connect(database_url, autocommit=True) as connection:
        for role in map(sql.Identifier, roles):
            connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))


def _logins(connection: psycopg.Connection, column: str) -> tuple[str, ...]:
    """The logins of an application that writes this column, one for each version of its key."""
    names = tuple(f"app_{secrets.token_hex(4)}_g{number}" for number in (1, 2, 3))
    for name in map(sql.Identifier, names):
        grant = sql.SQL("CREATE ROLE {0} LOGIN; GRANT SELECT, UPDATE ({1}) ON users TO {0}")
        connection.execute(grant.format(name, sql.Identifier(column)))
    return names


PAIRS = pytest.mark.parametrize(
    "homes",
    [
        ("native", "fernet"),
        ("native", "aes-gcm"),
        ("fernet", "aes-gcm"),
        ("fernet", "fernet"),
        ("aes-gcm", "aes-gcm"),
    ],
    ids=" and ".join,
    indirect=True,
)


@PAIRS
def test_a_rollback_signed_before_the_other_walk_and_within_its_proof_disturbs_neither(
    homes: tuple[Home, Home],
) -> None:
    """Nothing that one of them makes in the database counts in what the other has had signed, proven or fenced."""
    first, second = homes
    old = [home.encrypted("old") for home in homes]
    with first.at_work(), second.at_work():
        request = first.requested("request", "--reason", "yearly")
        first.typed("rotate", request)
        back = first.requested("rollback", request)
        beside_it = second.requested("request", "--reason", "yearly")
        second.typed("rotate", beside_it, "--through", "zero_old_rows_proof")
        first.typed("rotate", back)
        second.typed("rotate", beside_it)
        with ThreadPoolExecutor(2) as at_once:
            again = [home.requested("request", "--reason", "again") for home in homes]
            list(at_once.map(lambda home, request: home.typed("rotate", request), homes, again))
    assert [home.wrong for home in homes] == [[], []]
    for home, value in zip(homes, old, strict=True):
        assert sum(home.status()["users"].values()) == ROWS
        assert home.status()["users"]["v3"] == ROWS
        assert home.refused(value)
        home.typed("verify")
        home.typed("audit", "verify")


def test_both_are_rotated_at_the_same_time_beside_their_writers(homes: tuple[Home, Home]) -> None:
    native, tokens = homes
    old = {home.schema: home.encrypted("old") for home in homes}
    with native.at_work(), tokens.at_work(), ThreadPoolExecutor(2) as at_once:
        requests = [home.requested("request", "--reason", "yearly") for home in homes]
        list(at_once.map(lambda home, request: home.typed("rotate", request), homes, requests))
    for home in homes:
        assert (home.wrong, home.writes > 0) == ([], True)
        assert home.status() == {"users": {"v1": 0, "v2": ROWS}}
        assert home.refused(old[home.schema])
        home.typed("verify")
        home.typed("audit", "verify")
    with native.at_work(), tokens.at_work():
        native.typed("rotate", native.requested("rollback", requests[0]))
    assert (native.wrong, tokens.wrong) == ([], [])
    assert (native.status(), tokens.status()) == ({"users": {"v1": ROWS, "v2": 0}}, {"users": {"v1": 0, "v2": ROWS}})
    assert not native.refused(old[NATIVE])
    assert tokens.refused(old[FERNET])
    native.expected[1] = "old"
    with psycopg.connect(native.url) as connection:
        for home in homes:
            home.require_read(connection, list(home.expected))
            assert home.wrong == []
        schemas = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|info|public)'")
        assert {name for (name,) in schemas} == {NATIVE, FERNET}


def test_one_is_recovered_with_the_records_of_the_other_which_is_then_reconciled(
    homes: tuple[Home, Home], tmp_path: Path, server: Server
) -> None:
    native, tokens = homes
    secret = tmp_path / "officer.sec.asc"
    secret.write_bytes(tokens.officers[0].gpg("--armor", "--export-secret-keys"))
    for home in homes:
        home.typed("rotate", home.requested("request", "--reason", "yearly"))
        home.typed("backup")
        assert json.loads(home.typed("recovery-test", "--key", str(secret), "--json"))["passed"] is True
    signer = json.loads(tokens.typed("status", "--json"))["backup_signer"]
    into = f"recovered_{os.getpid()}"
    folder = Folder(tmp_path / "new", [])
    new = Home(folder, server.url(into), FERNET, "email", tokens.officers, fernet_keys, expected=tokens.expected)
    new.folder.path.mkdir()
    source = str(tokens.folder.path / ".keyrotation" / "backups")
    with_key = ("--from", source, "--key", str(secret), "--signer", signer)
    new.typed("recover", *with_key, "--server", server.url(), "--into", into)
    for moved in (new, native):
        moved.url = new.url
    assert new.status() == {"users": {"v1": 0, "v2": ROWS}}
    assert (new.folder.path / "keyrotation.toml").read_text().count(f'schema = "{FERNET}"') == 1
    refusal = native.typed("status", "--exit-code", expect=1)
    assert "was restored" in refusal
    for home in (native, new):
        home.requested("reconcile")
        home.typed("reconcile")
    with native.at_work(), new.at_work():
        for home in (native, new):
            home.typed("backup")
            home.typed("rotate", home.requested("request", "--reason", "again"))
            assert home.status() == {"users": {"v1": 0, "v2": 0, "v3": ROWS}}
            home.typed("audit", "verify")
    assert (native.wrong, new.wrong) == ([], [])


def test_a_home_does_not_begin_again_under_another_schema(homes: tuple[Home, Home]) -> None:
    """Nor do two configurations of one folder share a home, of which the second would take the first one's keys."""
    native, _ = homes
    signed = native.requested("request", "--reason", "yearly")
    configuration = native.folder.path / "keyrotation.toml"
    before = native.files()
    configuration.write_text(configuration.read_text().replace(NATIVE, "another"))
    for command in ("init", "status", "request --reason x", "backup"):
        native.typed(*command.split(), expect=1)
        wanted = f"are in the schema {NATIVE}; write" if command == "init" else "has no schema another yet"
        assert wanted in native.folder.printed[-1]
    assert native.files() == before
    with psycopg.connect(native.url, autocommit=True) as connection:
        connection.execute(f'ALTER SCHEMA "{NATIVE}" RENAME TO another')
    assert f"schema {NATIVE}, and this is " in native.typed("status", "--exit-code", expect=1)
    for command in ("request --reason x", f"rotate {signed}"):
        native.typed(*command.split(), expect=1)
        assert "run `keyrotation reconcile`" in native.folder.printed[-1]
