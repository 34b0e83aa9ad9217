"""Columns of django-cryptography come into our own format, beside the package itself and the release of the guide."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.fernet_applications import Project, django_cryptography
from keyrotation_pipeline_tests.acceptance.migrations import Home, home_of

pytestmark = pytest.mark.extended
SOURCE = '{ format = "django-cryptography", key_of = "SECRET_KEY", keys = { env = "SECRET_KEY" } }'
TABLE = f"""[[tables]]
name = "clinic_client"
columns = [{{ column = "name", from = {SOURCE} }}, {{ column = "note", from = {SOURCE} }}]
"""


@pytest.fixture
def releases(tmp_path: Path, database_url: str) -> tuple[Project, Project]:
    """The package's, whose rows are there, and the one that reads both."""
    delivered = tmp_path / ".keyrotation" / "keys"
    old, new = (
        django_cryptography(database_url, tmp_path / name, delivered, reads_both=name == "new")
        for name in ("old", "new")
    )
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--run-syncdb"], cwd=old.folder, env=old.environment([]), check=True,
        capture_output=True,
    )  # fmt: skip
    old.seed([])
    new.expected = old.expected
    return old, new


@pytest.fixture
def home(
    tmp_path: Path,
    releases: tuple[Project, Project],
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    officers = (security_officer, privacy_officer)
    made = home_of(tmp_path, releases[0].url, officers, '["note"]', "note text")
    made.file.write_text(made.file.read_text().partition("[[tables]]")[0] + TABLE)
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    monkeypatch.setenv("SECRET_KEY", "the secret")
    made.typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    made.reported()
    return made


def stored(home: Home) -> list[bytes]:
    with psycopg.connect(home.url) as connection:
        return [each for row in connection.execute("SELECT name, note FROM clinic_client").fetchall() for each in row]


def test_values_of_the_package_are_encrypted_beside_it_and_then_refused(
    home: Home, releases: tuple[Project, Project]
) -> None:
    old, new = releases
    assert home.table()["unencrypted"] == 80
    halves = [{row: text for row, text in old.expected.items() if row % 2 == half} for half in (0, 1)]
    request = home.typed("request", "--reason", "leave django-cryptography").splitlines()[-1]
    home.sign(request)
    first, second = old.start(halves[0], []), new.start(halves[1], [])
    home.typed("rotate", request, "--through", "key_version")
    third = new.start(old.stop(first), [])
    assert home.said("rotate", request) == ""
    new.stop(second)
    new.stop(third)
    assert (old.wrong, new.wrong) == ([], [])
    assert min(old.writes, new.writes) > 10
    assert {value[:3] for value in stored(home)} == {b"v3:"}
    new.require_read([])
    table = home.table()
    assert (table["unencrypted"], table["unreadable"]) == (0, 0)
    with psycopg.connect(home.url) as connection, pytest.raises(psycopg.Error, match="another library is refused"):
        connection.execute("UPDATE clinic_client SET note = %s WHERE id = 1", (b"\x80" + os.urandom(72),))
    home.typed("verify")
    home.typed("audit", "verify")
