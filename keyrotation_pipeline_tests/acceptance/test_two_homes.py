"""Two homes of one database: a key in our own format and Fernet keys, over different columns of the same table."""

import base64
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import psycopg
import pytest
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import MountedKeyRing
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.applications import beside
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
    """

    folder: Folder
    url: str
    schema: str
    column: str
    officers: tuple[DemoOfficer, ...]
    keys: Callable[[Path], tuple[Callable[[str], str], Callable[[str], str]]]
    expected: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

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
                except (psycopg.Error, InvalidToken, KeyRotationError) as error:
                    self.wrong.append(f"{row}: {type(error).__name__} {error}")
                self.writes += 1

    def write(self, connection: psycopg.Connection, row: int) -> None:
        new = self.encrypted(self.expected[row])
        connection.execute(f"UPDATE users SET {self.column} = %s WHERE id = %s".encode(), (new, row))

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
                connection.execute(f"UPDATE users SET {self.column} = %s WHERE id = 1".encode(), (value,))
            except psycopg.errors.InvalidTextRepresentation:
                return True
        return False


def native_keys(directory: Path) -> tuple[Callable[[str], str], Callable[[str], str]]:
    ring = MountedKeyRing(directory)()
    return partial(encrypt, ring), partial(decrypt, ring)


def fernet_keys(directory: Path) -> tuple[Callable[[str], str], Callable[[str], str]]:
    listed = (directory / "application.env").read_text().strip().partition("=")[2].split(",")
    fernet = MultiFernet([Fernet(key) for key in listed])
    return lambda text: fernet.encrypt(text.encode()).decode(), lambda token: fernet.decrypt(token).decode()


def _configured(folder: Path, schema: str, officers: tuple[DemoOfficer, ...], columns: str, form: str) -> None:
    folder.mkdir()
    named = "".join(
        f'[[approvals.officers]]\nname = "{each.name}"\ncertificate = "{each.certificate}"\n' for each in officers
    )
    tables = f'[[tables]]\nname = "users"\ncolumns = [{columns}]\n'
    text = CONFIGURATION.format(schema=schema, format=form, officers=named, tables=tables)
    (folder / "keyrotation.toml").write_text(text)


@pytest.fixture
def homes(
    tmp_path: Path, database_url: str, security_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> tuple[Home, Home]:
    officers = (security_officer, privacy_officer)
    _configured(tmp_path / "native", NATIVE, officers, '"name"', "")
    form = 'format.name = "fernet"\nformat.keys = { env = "FIELD_KEYS" }'
    _configured(tmp_path / "fernet", FERNET, officers, '"email"', form)
    native = Home(Folder(tmp_path / "native", []), database_url, NATIVE, "name", officers, native_keys)
    tokens = Home(Folder(tmp_path / "fernet", []), database_url, FERNET, "email", officers, fernet_keys)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE users (id int PRIMARY KEY, name text, email text)")
        connection.execute("INSERT INTO users (id) SELECT generate_series(0, %s)", (ROWS - 1,))
        native.typed("init", ENCRYPTION_MASTER_KEY=base64.b64encode(os.urandom(32)).decode())
        tokens.typed("init", FIELD_KEYS=Fernet.generate_key().decode())
        for home in (native, tokens):
            home.expected = {row: f"row {row}" for row in range(ROWS)}
            for row in home.expected:
                home.write(connection, row)
    return native, tokens


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
    new = Home(folder, server.url(into), FERNET, "email", tokens.officers, fernet_keys, tokens.expected)
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
