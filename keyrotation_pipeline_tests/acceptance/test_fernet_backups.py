"""After a Fernet key has leaked: what was planted is listed, old backups are rekeyed, and the key is destroyed."""

import time
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from cryptography.fernet import Fernet

from keyrotation_pipeline_tests.acceptance.test_fernet import Home, home  # noqa: F401 - a fixture

pytestmark = pytest.mark.extended


@pytest.fixture
def secret(home: Home, tmp_path: Path) -> str:  # noqa: F811
    """An officer's secret key, which opens backups."""
    file = tmp_path / "officer.sec.asc"
    file.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    return str(file)


def signed(home: Home, *arguments: str) -> None:  # noqa: F811
    """A command that officers sign, typed twice."""
    home.sign(home.typed(*arguments).splitlines()[-1])
    home.typed(*arguments[:2])


def test_a_leaked_key_is_replaced_in_rows_and_backups_and_destroyed(home: Home, secret: str, tmp_path: Path) -> None:  # noqa: F811
    application, backups = home.application, tmp_path / ".keyrotation" / "backups"
    leaked, older = home.keys
    home.typed("backup")
    time.sleep(1)  # a discovery is told in whole seconds, and the backup must be from before it
    (dump,) = backups.glob("database-*.dump.gpg")
    with psycopg.connect(application.url, autocommit=True) as connection:
        planted = Fernet(leaked).encrypt(b"planted").decode()
        connection.execute("UPDATE users SET email = %s WHERE id = 7", (planted,))
        again = Fernet(leaked).encrypt(application.expected[8].encode()).decode()  # another token of the same text
        connection.execute("UPDATE users SET email = %s WHERE id = 8", (again,))
        connection.execute("CREATE TABLE copies AS SELECT email FROM users WHERE id = 9")
    application.expected[7] = "planted"
    opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
    incident, request = opened.split()
    with psycopg.connect(application.url, autocommit=True) as connection:
        connection.execute("DROP TABLE copies")
    home.sign(request)
    home.walk(request)
    (new,) = application.listed()
    compared = home.shown("incident", "compare", incident, "--key", secret)
    assert [(each["key"], each["column"], each["kind"]) for each in compared["differences"]] == [
        ('["7"]', "email", "changed")
    ]
    assert compared["not_compared"] == []

    assert f"v2 is needed to read {dump.name}" in home.typed("destroy", "v2", "--reason", "leaked", exits=1)
    made = home.shown("backup", "--rekey", "--key", secret)
    assert made["values"] == {"users": len(application.expected)}
    tested = home.shown("recovery-test", "--key", secret)
    assert tested["passed"] is True
    before = {row: f"user{row}@example.com" for row in application.expected}
    (rekeyed,) = (name for name in made["files"] if name.startswith("database-"))
    assert restored(home, secret, rekeyed, new) == before

    for path in backups.glob(f"{dump.name.split('.')[0]}*"):
        path.unlink()
    signed(home, "destroy", "v2", "--reason", "leaked")
    signed(home, "destroy", "v1", "--reason", "leaked")
    assert {each["version"]: each["state"] for each in home.shown("status")["key_versions"]} == {
        "v1": "destroyed", "v2": "destroyed", "v3": "active",
    }  # fmt: skip
    assert "is destroyed permanently" in home.typed("restore-key", "v2", "--key", secret, exits=1)
    everything = b"".join(path.read_bytes() for path in (tmp_path / ".keyrotation").rglob("*") if path.is_file())
    assert not [key for key in (leaked, older) if key.encode() in everything]
    home.typed("backup")
    assert home.shown("recovery-test", "--key", secret)["passed"] is True
    home.typed("verify")
    home.typed("audit", "verify")
    assert application.listed() == [new]
    home.typed("request", "--reason", "next")


def restored(home: Home, secret: str, dump: str, key: str) -> dict[int, str]:  # noqa: F811
    """What a rekeyed backup holds, read with one key alone."""
    copy = f"copy_{uuid4().hex}"  # its server is that of other tests, too
    home.typed("restore-database", "--into", copy, "--from", dump, "--key", secret)
    with psycopg.connect(home.application.url, dbname=copy, autocommit=True) as connection:
        rows = connection.execute("SELECT id, email FROM users").fetchall()
    return {row: Fernet(key).decrypt(email).decode() for row, email in rows}
