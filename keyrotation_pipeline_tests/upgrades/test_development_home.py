"""A home of the first development version, with a signed walk of which the key is made (schema 0002).

It was made by the version at commit 05a49a8, by its own commands: `init`, `request`, two signatures, `rotate --through
key_version`. No release continues it, and none changes anything of it.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.upgrades.kept_home import DATABASE, folder_of, revived
from keyrotation_pipeline_tests.upgrades.test_kept_homes import Revived

FILE = Path(__file__).parent / "development" / "key.tar.xz"
SENTENCE = "is of a development version before 0.1.0, which no release continues"


@pytest.fixture
def home() -> Iterator[Revived]:
    with folder_of(FILE) as folder, revived(FILE, folder) as server:
        yield Revived(server, Folder(folder, []))


def content(home: Revived) -> tuple[str, dict[str, str]]:
    """Everything in the database, and every file, by their hashes."""
    return dumped(home.server), {
        str(path.relative_to(home.folder.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.folder.path.rglob("*"))
        if path.is_file()
    }


def dumped(server: Server) -> str:
    dump = server.directory / "all.sql"
    server.run("pg_dump", "-h", str(server.directory), "-U", "postgres", "-f", str(dump), DATABASE)
    lines = dump.read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict", "--")))


def test_init_says_so_and_changes_nothing(home: Revived) -> None:
    before = content(home)
    for command in (["init"], ["status"], ["rotate", home.request()], ["reconcile"]):
        home.run(*command, expect=1)
        assert SENTENCE in home.error
        assert home.error.count("\n") == 1, "one sentence"
    assert content(home) == before


def test_a_home_begins_again_as_the_documentation_says(home: Revived) -> None:
    folder = home.folder.path
    (folder / ".keyrotation").rename(folder / ".keyrotation-before")
    with psycopg.connect(home.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA keyrotation CASCADE")
    key = base64_of(key_from_base64((folder / ".keyrotation-before" / "keys" / "v1.key").read_text().strip()))
    home.folder.run("init", KEYROTATION_DATABASE_URL=home.url, ENCRYPTION_MASTER_KEY=key)
    home.run("verify")
    assert home.run("request", "--reason", "yearly rotation").strip()
