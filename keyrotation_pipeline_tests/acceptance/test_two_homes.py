"""Two homes of one database: a key in our own format and Fernet keys, over different columns of the same table."""

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
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

# One home in a schema of its own is in test_fernet.
pytestmark = pytest.mark.extended
ROWS = 60
# A reserved word, and a name of the greatest length.
NATIVE, FERNET = "order", "fernet_keys_of_the_shop_and_of_its_till"
CONFIGURATION = """
database.url = "{url}"
database.schema = "{schema}"
rollout.mode = "none"
reencryption.shards = 1
reencryption.duty_cycle = 1.0
{format}
[approvals]
required = 2
{officers}
{tables}
"""


@dataclass
class Home:
    """One home, its officers, and the writer of its values.

    Args:
        encrypted, decrypted: as the application does it, with the keys that the store delivers now.
    """

    folder: Folder
    url: str
    schema: str
    column: str
    officers: tuple[DemoOfficer, ...]
    encrypted: Callable[[str], str]
    decrypted: Callable[[str], str]
    expected: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

    def typed(self, *arguments: str, expect: int = 0, **variables: str) -> str:
        return self.folder.run(*arguments, expect=expect, **variables)

    def requested(self, *arguments: str) -> str:
        request = self.typed(*arguments).split()[-1]
        with open_pipeline(settings.load(self.folder.path / "keyrotation.toml"), actor="test") as pipeline:
            text = pipeline.ledger.approval_text(request)
            assert f", schema {self.schema}".encode() in text
            for officer in self.officers:
                add_approval(pipeline, pipeline.ledger.request(request), officer.sign(text))
        return request

    def status(self) -> dict[str, dict[str, int]]:
        tables = json.loads(self.typed("status", "--json", "--count"))["tables"]
        assert all(table["unencrypted"] == table["unreadable"] == 0 for table in tables)
        return {table["table"]: table["values_by_version"] for table in tables}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

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

    def refused(self, value: str) -> bool:
        with psycopg.connect(self.url, autocommit=True) as connection:
            try:
                connection.execute(f"UPDATE users SET {self.column} = %s WHERE id = 1".encode(), (value,))
            except psycopg.errors.InvalidTextRepresentation:
                return True
        return False


def _configured(
    folder: Path, url: str, schema: str, officers: tuple[DemoOfficer, ...], columns: str, form: str
) -> None:
    folder.mkdir()
    named = "".join(
        f'[[approvals.officers]]\nname = "{each.name}"\ncertificate = "{each.certificate}"\n' for each in officers
    )
    tables = f'[[tables]]\nname = "users"\ncolumns = [{columns}]\n'
    text = CONFIGURATION.format(url=url, schema=schema, format=form, officers=named, tables=tables)
    (folder / "keyrotation.toml").write_text(text)


@pytest.fixture
def homes(
    tmp_path: Path, database_url: str, security_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> tuple[Home, Home]:
    officers = (security_officer, privacy_officer)
    _configured(tmp_path / "native", database_url, NATIVE, officers, '"name"', "")
    form = 'format.name = "fernet"\nformat.keys = { env = "FIELD_KEYS" }'
    _configured(tmp_path / "fernet", database_url, FERNET, officers, '"email"', form)
    native_keys = tmp_path / "native" / ".keyrotation" / "keys"
    delivered = tmp_path / "fernet" / ".keyrotation" / "keys" / "application.env"

    def fernet() -> MultiFernet:
        return MultiFernet([Fernet(key) for key in delivered.read_text().strip().partition("=")[2].split(",")])

    native = Home(
        Folder(tmp_path / "native", []), database_url, NATIVE, "name", officers,
        lambda text: encrypt(MountedKeyRing(native_keys)(), text),
        lambda value: decrypt(MountedKeyRing(native_keys)(), value),
    )  # fmt: skip
    tokens = Home(
        Folder(tmp_path / "fernet", []), database_url, FERNET, "email", officers,
        lambda text: fernet().encrypt(text.encode()).decode(),
        lambda value: fernet().decrypt(value).decode(),
    )  # fmt: skip
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
