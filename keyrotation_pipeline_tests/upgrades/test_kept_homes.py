"""A home of every released version, left in the middle of a walk, is finished by this version."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.fieldcrypto.cipher import decrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.upgrades.kept_home import (
    DATABASE,
    HOMES,
    folder_of,
    revived,
    schema_of,
    version_of_this,
)
from keyrotation_pipeline_tests.upgrades.make import POINTS, ROWS, plaintext

MAKE = "uv run python -m keyrotation_pipeline_tests.upgrades.make"
FILES = sorted(HOMES.glob("*/*.tar.xz"))
V2 = KeyVersion(2)


@dataclass(frozen=True)
class Revived:
    """A kept home that runs again."""

    server: Server
    folder: Folder

    @property
    def url(self) -> str:
        return self.server.url(DATABASE)

    def run(self, *arguments: str, expect: int = 0) -> str:
        return self.folder.run(*arguments, expect=expect, KEYROTATION_DATABASE_URL=self.url)

    @property
    def error(self) -> str:
        return self.folder.printed[-1]

    def request(self) -> str:
        with psycopg.connect(self.url) as connection:
            ((request,),) = connection.execute("SELECT id FROM keyrotation.rotations").fetchall()
        return str(request)


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Revived]:
    with folder_of(request.param) as folder, revived(request.param, folder) as server:
        yield Revived(server, Folder(folder, []))


def test_the_homes_of_this_version_are_kept() -> None:
    """Three points of a walk: a release that forgets them breaks the promise of the one after it."""
    version = version_of_this()
    kept = {file.name.removesuffix(".tar.xz") for file in FILES if file.parent.name == version}
    assert kept == (set() if ".dev" in version else set(POINTS)), f"run `{MAKE}` for a release, and for nothing else"
    assert all(file.stat().st_size < 200_000 for file in FILES)


@pytest.mark.parametrize(
    "home",
    [pytest.param(file, id=f"{file.parent.name}-{file.name.removesuffix('.tar.xz')}") for file in FILES],
    indirect=True,
)
def test_a_walk_that_an_earlier_version_began_is_finished(home: Revived) -> None:
    home.run("init")
    assert schema_of(home.server, DATABASE) == schema_of(home.server, fresh(home.server)), (
        f"the schema is another one: write a migration, or, as long as that version is not released, run `{MAKE}`"
    )
    reported = home.run("rotate", home.request())
    assert "finished: nothing is left under v1" in reported
    home.run("audit", "verify")
    home.run("verify")
    home.run("status", "--exit-code")
    with psycopg.connect(home.url) as connection:
        begun, unsigned = connection.execute(
            "SELECT min(seq) FILTER (WHERE event = 'audit_signing_begun'), max(seq) FILTER (WHERE signature IS NULL)"
            " FROM keyrotation.audit_events"
        ).fetchone() or (0, 0)
    assert begun == unsigned + 1 > 1  # in the middle of the walk
    assert values(home) == [plaintext(row) for row in range(ROWS)]


@pytest.mark.extended
@pytest.mark.parametrize(
    "home",
    [file for file in FILES if file.name == "rows.tar.xz"],
    ids=lambda file: str(file.parent.name),
    indirect=True,
)
def test_a_walk_that_an_earlier_version_began_keeps_its_generation_and_the_next_has_another(home: Revived) -> None:
    file = home.folder.path / "keyrotation.toml"
    before = file.read_text()
    home.run("init")
    file.write_text("format.generation = 2\n" + before)
    home.run("rotate", home.request(), expect=1)
    assert "is no longer what its text for signing says (Format)" in home.error
    file.write_text(before)
    home.run("rotate", home.request())
    file.write_text("format.generation = 2\n" + before)
    home.run("audit", "verify")
    home.run("verify")
    asked = home.run("request", "--reason", "bind values to their columns").splitlines()[-1]
    text = home.run("approve", asked, "--text")
    assert "\nTo: v3x\n" in text
    assert "\nFormat: native, second generation: " in text
    assert home.run("status", "--exit-code", "--json")


def fresh(server: Server) -> str:
    """The name of a database with the schema as this version makes it."""
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE fresh")
    migrate(server.url("fresh"))
    return "fresh"


def values(home: Revived) -> list[tuple[str, str, str]]:
    """Every value, decrypted by v2 alone; an address that is not there as it would be."""
    key = key_from_base64((home.folder.path / ".keyrotation" / "keys" / "v2.key").read_text().strip())
    ring = KeyRing({V2: key}, V2)
    with psycopg.connect(home.url) as connection:
        rows = connection.execute(
            "SELECT id, first_name, email, body FROM clients JOIN notes USING (id) ORDER BY id"
        ).fetchall()
    return [
        (decrypt(ring, name), decrypt(ring, email) if row % 3 else plaintext(row)[1], decrypt(ring, body))
        for row, name, email, body in rows
    ]
