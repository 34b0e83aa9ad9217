"""A key store belongs to one home: another one, or a copy of the same, changes nothing in it before officers sign."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CalledProcessError
from typing import NamedTuple

import psycopg
import pytest

from keyrotation_pipeline.adapters.keystores.live_secret import OWNER
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.contract.key_store import shape
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.key_places import AwsPlace, KubernetesPlace
from keyrotation_pipeline_tests.servers import DIRECTORY, Server, discard, start_server

pytestmark = pytest.mark.slow
V1, V2 = KeyVersion(1), KeyVersion(2)
ROWS = 300
ELSEWHERE = "another copy of this home changed the key store"
CONFIGURATION = """
database.url = "{url}"
rollout.mode = "none"
reencryption.shards = 1
{store}
[[tables]]
name = "clients"
columns = ["name"]
[[approvals.officers]]
name = "Security Officer"
certificate = "{officers[0].certificate}"
[[approvals.officers]]
name = "Privacy Officer"
certificate = "{officers[1].certificate}"
"""


@dataclass(frozen=True)
class Home:
    """A home in a folder of its own, on one database.

    Args:
        store: `[keys]`.
        read: what its key store holds.
        forget: removes what its key store says of whose it is.
    """

    folder: Folder
    url: str
    store: str
    officers: tuple[DemoOfficer, DemoOfficer]
    read: Callable[[], StoredKeys]
    key: KeyMaterial
    forget: Callable[[], None]

    def run(self, *arguments: str, refused: str = "", **variables: str) -> str:
        printed = self.folder.run(*arguments, expect=1 if refused else 0, **variables)
        if refused:
            error = self.folder.printed[-1]
            assert re.search(refused, error), error
            assert error.count("\n") == 1, "one sentence"
        return printed

    def configure(self) -> None:
        text = CONFIGURATION.format(url=self.url, store=self.store, officers=self.officers)
        (self.folder.path / "keyrotation.toml").write_text(text)

    def signed(self, *command: str) -> str:
        """A request by a command that prints its id last, with both signatures."""
        request = self.run(*command).split()[-1]
        text = self.run("approve", request, "--text").encode()
        for officer in self.officers:
            signature = self.folder.path / "signature"
            signature.write_bytes(officer.sign(text))
            self.run("approve", request, "--signature", "signature")
        return request

    def fill(self) -> None:
        ring = KeyRing({V1: self.key}, V1)
        with psycopg.connect(self.url) as connection:
            connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text)")
            for row in range(ROWS):
                connection.execute("INSERT INTO clients VALUES (%s, %s)", (row, encrypt(ring, f"client {row}")))

    def versions(self) -> set[KeyVersion]:
        """The versions of all values, each of which the live keys decrypt."""
        ring = self.read().ring()
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT id, name FROM clients").fetchall()
        assert {row: decrypt(ring, name) for row, name in rows} == {row: f"client {row}" for row in range(ROWS)}
        return {KeyVersion.parse(name.partition(":")[0]) for _, name in rows}

    def held(self) -> tuple[object, ...]:
        stored = self.read()
        return *shape(stored), stored.owner, *(stored.material(each) for each in stored.versions)


class Place(NamedTuple):
    """A key store: `[keys]`, what it holds, and what removes whose it says it is."""

    store: str
    read: Callable[[], StoredKeys]
    forget: Callable[[], None]


@contextmanager
def in_files(_request: pytest.FixtureRequest, path: Path, _key: KeyMaterial) -> Iterator[Place]:
    from keyrotation_pipeline.adapters.keystores.file import FileKeyStore  # noqa: PLC0415

    directory = path / "shared-keys"
    yield Place(
        f'[keys.file]\ndirectory = "{directory}"',
        lambda: FileKeyStore(directory).read(),
        (directory / "owner").unlink,
    )


@contextmanager
def in_aws(request: pytest.FixtureRequest, _path: Path, key: KeyMaterial) -> Iterator[Place]:
    new_secret: Callable[[], TestSecret] = request.getfixturevalue("new_secret")
    place = AwsPlace(new_secret())
    place.give(key)

    def forget() -> None:
        entries = json.loads(place.secret.text())
        place.secret.overwrite(json.dumps({name: text for name, text in entries.items() if name != OWNER}))

    yield Place(place.configuration(), lambda: place.open().read(), forget)


@contextmanager
def in_kubernetes(request: pytest.FixtureRequest, _path: Path, key: KeyMaterial) -> Iterator[Place]:
    new_key_secrets: Callable[[], TestKeySecrets] = request.getfixturevalue("new_key_secrets")
    place = KubernetesPlace(TestFleet(new_key_secrets()))
    place.give(key)
    secrets = place.fleet.secrets
    yield Place(
        place.configuration().partition("[rollout]")[0],
        lambda: place.open().read(),
        lambda: secrets.overwrite({}, metadata={"annotations": {"keyrotation/owner": None}}),
    )


@pytest.fixture
def database() -> Iterator[Server]:
    running = start_server()
    yield running
    discard(running)


@pytest.fixture(params=[in_files, in_aws, in_kubernetes], ids=["files", "AWS", "Kubernetes"])
def home(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database: Server,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> Iterator[Home]:
    """A home that owns its key store, with rows under v1."""
    key = KeyMaterial.generate()
    with request.param(request, tmp_path, key) as place:
        made = new_home(tmp_path / "one", database, "one", place, (security_officer, privacy_officer), key)
        made.run("init", *(["--convert"] if "aws" in place.store else []), ENCRYPTION_MASTER_KEY=base64_of(key))
        yield made


def new_home(
    path: Path, database: Server, name: str, place: Place, officers: tuple[DemoOfficer, DemoOfficer], key: KeyMaterial
) -> Home:
    with psycopg.connect(database.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    path.mkdir()
    made = Home(Folder(path, []), database.url(name), place.store, officers, place.read, key, place.forget)
    made.configure()
    made.fill()
    return made


def another(home: Home, database: Server) -> Home:
    """A home for another database under the same key, with the same key store."""
    place = Place(home.store, home.read, home.forget)
    return new_home(home.folder.path.with_name("two"), database, "two", place, home.officers, home.key)


@contextmanager
def clone_of(database: Server, home: Home) -> Iterator[Home]:
    """The same home once more, over a copy of its database: `pg_basebackup`, and `cp -a` of the folder."""
    directory = Path(tempfile.mkdtemp(prefix="krtest-", dir=DIRECTORY))
    if database.user:
        shutil.chown(directory, database.user, database.user)
    server = Server(database.binaries, directory, database.user)
    conninfo = f"host={database.directory} user=postgres"
    try:
        server.run("pg_basebackup", "-D", str(directory / "data"), "-d", conninfo, "-c", "fast", "-X", "stream")
        server.start()
        path = home.folder.path.with_name("clone")
        shutil.copytree(home.folder.path, path, symlinks=True)
        made = replace(home, folder=Folder(path, []), url=server.url("one"))
        made.configure()
        yield made
    finally:
        with suppress(CalledProcessError):
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_two_homes_under_one_key_do_not_share_a_store(home: Home, database: Server) -> None:
    owner = home.read().owner
    assert owner is not None
    assert owner.places[0].startswith("one, system identifier ")
    other = another(home, database)
    before = home.held()
    # Its key opens all values of the other home; nothing but the owner tells them apart.
    other.run("init", refused=rf"belongs to another home \({owner.home[:16]}, one, system .* `keyrotation reconcile`")
    other.run("request", "--reason", "yearly", refused="belongs to another home")
    assert home.held() == before
    home.run("rotate", home.signed("request", "--reason", "yearly rotation"))
    assert (home.versions(), home.read().primary, tuple(home.read().archived)) == ({V2}, V2, (V1,))
    # The roster that the store names signs, and it is taken over with all that needs its keys.
    other.signed("reconcile")
    other.run("reconcile")
    taken = other.read().owner
    assert taken is not None
    assert (taken.home == owner.home, taken.places[0].startswith("two, ")) == (False, True)
    other.run("init")
    assert other.versions() == {V1}
    other.run("verify")
    home.run("request", "--reason", "yearly", refused=rf"belongs to another home \({taken.home[:16]}, two, ")


def test_a_copy_of_a_home_changes_nothing_once_the_other_has(home: Home, database: Server) -> None:
    with clone_of(database, home) as clone:
        home.run("rotate", home.signed("request", "--reason", "yearly rotation"))
        before = home.held()
        clone.run("request", "--reason", "yearly", refused=f"{ELSEWHERE}.*; run `keyrotation reconcile`")
        assert ELSEWHERE.capitalize() in clone.run("status")
        clone.run("init", refused=ELSEWHERE)
        assert home.held() == before
        with psycopg.connect(clone.url) as connection:
            values = connection.execute("SELECT DISTINCT split_part(name, ':', 1) FROM clients").fetchall()
        assert values == [("v1",)]
        # Signed, it is the other way round.
        clone.signed("reconcile")
        clone.run("reconcile")
        assert clone.versions() == {V1}
        home.run("request", "--reason", "yearly", refused=f"{ELSEWHERE}.*; run `keyrotation reconcile`")
        assert home.versions() == {V2}


def test_a_copy_that_is_made_in_the_middle_of_a_walk_does_not_go_on_with_it(home: Home, database: Server) -> None:
    request = home.signed("request", "--reason", "yearly rotation")
    with clone_of(database, home) as clone:
        before = home.held()
        for command in (["rotate", request], ["cancel", request], ["request", "--reason", "again"]):
            clone.run(*command, refused="a walk is under way that was requested where .*; run `keyrotation reconcile`")
        assert home.held() == before
        home.run("rotate", request)
        assert (home.versions(), home.read().primary) == ({V2}, V2)
        clone.run("rotate", request, refused=ELSEWHERE)


def test_a_store_of_before_is_claimed_by_one_home_alone(home: Home, database: Server) -> None:
    other = another(home, database)
    request = home.signed("request", "--reason", "yearly rotation")
    home.forget()
    home.run("rotate", request, refused="does not say whose keys it holds; run `keyrotation init`")
    home.run("init")
    other.run("init", refused="belongs to another home")
    assert home.read().owner is not None
    home.run("rotate", request)
    assert home.versions() == {V2}
