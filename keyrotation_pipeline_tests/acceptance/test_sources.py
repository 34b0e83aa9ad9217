"""Columns that another library encrypted under its one key come into our own format, beside that library."""

import base64
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy_utils import StringEncryptedType  # type: ignore[import-untyped]
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine  # type: ignore[import-untyped]

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, LegacyKey, MountedKeyRing
from keyrotation_pipeline_tests.acceptance import migrations
from keyrotation_pipeline_tests.acceptance.migrations import Release, home_of
from keyrotation_pipeline_tests.applications import beside

ROWS = 200
FORMER = "the application's secret"
AES, GCM = ("sqlalchemy-utils-aes",), ("sqlalchemy-utils-aesgcm",)
TEXTS = ["Ada", "v2: final version", "", "100 %", "Zürich 😀", "x" * 5000, "a" * 16, "À", "two\nlines"]


@dataclass
class Home(migrations.Home):
    def release(self, encrypted_from: int | None, former: str = FORMER) -> Release:
        """A release that reads both, or knows nothing but the library."""

        def types(keys: MountedKeyRing) -> dict[str, sa.types.TypeEngine[Any]]:
            if encrypted_from is None:
                return {
                    "name": EncryptedType(keys),
                    "token": StringEncryptedType(sa.Text, former, AesEngine, "naive"),
                    "note": StringEncryptedType(sa.Text, former, AesGcmEngine),
                }
            aes, gcm = LegacyKey(*AES, former, padding="naive"), LegacyKey(*GCM, former)
            return {
                "name": EncryptedType(keys),
                "token": EncryptedType(keys, encrypted_from=encrypted_from, legacy=[aes]),
                "note": EncryptedType(keys, encrypted_from=encrypted_from, legacy=[gcm]),
            }

        return Release(self.url, self.keys, types, self.expected, ("token", "note"), f"from {encrypted_from}")


COLUMNS = (
    '["name", { column = "token", from = { format = "sqlalchemy-utils-aes", keys = { env = "OLD_KEY" }, padding = '
    '"naive" } }, { column = "note", from = { format = "sqlalchemy-utils-aesgcm", keys = { env = "OLD_KEY" } } }]'
)


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    """A home whose first key is v1, and whose values of the library are under a key that is imported as v2."""
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    begun = home_of(
        tmp_path, database_url, (security_officer, privacy_officer), '["name"]', "name text, token text, note text"
    )
    made = Home(begun.file, begun.officers, begun.url, begun.keys, begun.expected)
    made.typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    for n in range(ROWS):
        token, note = TEXTS[n % len(TEXTS)] if n < 20 else f"token {n}", TEXTS[n] if n < len(TEXTS) else f"note {n}"
        made.expected[n] = f"name {n}", token, note
    made.release(None).add(made.expected)
    made.file.write_text(made.file.read_text().replace('["name"]', COLUMNS))
    monkeypatch.setenv("OLD_KEY", FORMER)
    made.typed("init")
    monkeypatch.delenv("OLD_KEY")
    made.reported()
    return made


def test_values_of_the_library_are_encrypted_beside_it_and_then_refused(home: Home) -> None:
    assert home.table()["unencrypted"] == 2 * ROWS
    old, new = home.release(None), home.release(3)
    with ExitStack() as running:
        old_at_work = running.enter_context(ExitStack())
        old_at_work.enter_context(beside(old.work))
        request = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "\nNot authenticated: cases.token\n" in text
        home.sign(request)
        old_attests = old.attest()
        running.enter_context(beside(new.work))
        running.callback(new.attest().stop)
        said = home.said("rotate", request)
        assert "sqlalchemy-utils-aes, padding naive in cases.token" in said, said
        assert not {value[:3] for value in home.stored("token", "note")} & {"v1:", "v2:", "v3:"}
        old_at_work.close()
        old_attests.stop()
        assert home.said("rotate", request) == ""
    assert (old.wrong, new.wrong) == ([], [])
    assert min(old.writes, new.writes) > 10
    assert new.read() == home.expected
    assert {value[:3] for value in home.stored("token", "note")} == {"v3:"}
    table = home.table()
    assert (table["unencrypted"], table["unreadable"]) == (0, 0)
    assert table["values_by_version"] == {"v1": 0, "v2": 0, "v3": 3 * ROWS}
    with psycopg.connect(home.url) as connection, pytest.raises(psycopg.Error, match="another library is refused"):
        connection.execute("UPDATE public.cases SET token = 'tx/xz0B5+j3uK0v+GcYpyw==' WHERE id = 1")


def rotated(home: Home, application: Release, request: str) -> None:
    """Rotates beside one release that reads both."""
    home.sign(request)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        assert home.said("rotate", request) == ""


@pytest.mark.extended
def test_older_backups_need_the_key_and_it_is_destroyed_once_none_does(
    home: Home, security_officer: DemoOfficer, tmp_path: Path
) -> None:
    secret, backups = tmp_path / "officer.sec.asc", tmp_path / ".keyrotation" / "backups"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    assert "holds 200 value(s) of another library" in home.said("destroy", "v2", "--reason", "too early")
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    (dump,) = backups.glob("database-*.dump.gpg")
    request = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
    assert home.said("rehearse", request, "--key", str(secret)) == ""
    home.typed("verify")
    rotated(home, home.release(3), request)
    home.typed("verify")
    home.typed("audit", "verify")
    assert f"v2 is needed to read {dump.name}" in home.said("destroy", "v2", "--reason", "left")
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # The key is lost, and comes back from a backup to where no application gets it.
    (tmp_path / ".keyrotation" / "keys" / "archive" / "v2.key").unlink()
    home.typed("restore-key", "v2", "--key", str(secret))
    assert (tmp_path / ".keyrotation" / "keys" / "archive" / "v2.key").exists()
    copy = f"copy_{uuid4().hex}"
    home.typed("restore-database", "--into", copy, "--from", dump.name, "--key", str(secret))
    with psycopg.connect(home.url, dbname=copy) as connection:
        assert connection.execute("SELECT count(*) FROM cases WHERE token LIKE 'v%:%'").fetchone() == (0,)
    assert "holds values of another library" in home.said("backup", "--rekey", dump.name, "--key", str(secret))
    for path in backups.glob(f"{dump.name.split('.')[0]}.*"):
        path.unlink()
    home.sign(home.typed("destroy", "v2", "--reason", "left").splitlines()[-1])
    home.typed("destroy", "v2")
    assert {each["version"]: each["state"] for each in home.shown("status")["key_versions"]} == {
        "v1": "archived", "v2": "destroyed", "v3": "active",
    }  # fmt: skip
    everything = b"".join(path.read_bytes() for path in (tmp_path / ".keyrotation").rglob("*") if path.is_file())
    assert FORMER.encode() not in everything
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True


@pytest.mark.extended
def test_a_rollback_brings_back_what_was_encrypted_since_and_leaves_the_library_its_values(home: Home) -> None:
    application = home.release(3)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        request = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
        home.sign(request)
        assert home.said("rotate", request) == ""
        back = home.typed("rollback", request).splitlines()[-1]
        assert "\nOther libraries: stays in cases.token (" in home.typed("approve", back, "--text")
        home.sign(back)
        assert home.said("rotate", back) == ""
        time.sleep(0.5)
        again = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
        home.sign(again)
        assert home.said("rotate", again) == ""
    assert application.wrong == []
    assert application.read() == home.expected
    assert {value[:3] for value in home.stored("token", "note")} == {"v4:"}


@pytest.mark.extended
def test_what_the_key_does_not_open_is_refused_before_anybody_signs_or_quarantined(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = "request", "--reason", "leave sqlalchemy-utils"
    monkeypatch.setenv("OLD_KEY", "another secret")
    assert "0 of 200 values tried open with the key imported from OLD_KEY" in home.said("init")
    monkeypatch.delenv("OLD_KEY")
    declared = home.file.read_text()
    home.file.write_text(declared.replace('padding = "naive"', 'padding = "pkcs5"'))
    assert "they open as sqlalchemy-utils-aes, padding naive: write that there" in home.said(*request)
    home.file.write_text(declared.replace('env = "OLD_KEY" }, padding', 'env = "NO_KEY" }, padding'))
    assert "whose key is not imported; set NO_KEY" in home.said(*request)
    home.file.write_text(declared)
    application = home.release(3)
    with psycopg.connect(home.url, autocommit=True) as connection:
        connection.execute("UPDATE public.cases SET token = 'plain', note = 'tx/xz0B5+j3uK0v+GcYpyw==' WHERE id = 7")
    opened = home.typed(*request).splitlines()[-1]
    home.sign(opened)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        time.sleep(1)  # five reports
        said = home.said("rotate", opened)
        assert "neither encrypted under a key version nor opened by the key of the library" in said, said
        with psycopg.connect(home.url, autocommit=True) as connection:
            row = connection.execute("SELECT token, note FROM public.cases WHERE id = 7").fetchone()
            assert row == ("plain", "tx/xz0B5+j3uK0v+GcYpyw==")
            connection.execute("UPDATE public.cases SET token = '', note = NULL WHERE id = 7")
        assert home.said("rotate", opened) == ""
    assert home.table()["unreadable"] == 0


@pytest.mark.extended
def test_a_migration_killed_at_every_moment_loses_nothing(home: Home) -> None:
    application = home.release(3)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        request = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
        home.sign(request)
        killed = home.killed_everywhere("rotate", request)
    assert application.wrong == []
    assert application.writes > 10
    assert application.read() == home.expected
    assert {value[:3] for value in home.stored("name", "token", "note")} == {"v3:"}
    assert len(killed) > 50, killed
    states = {each["version"]: each["state"] for each in home.shown("status")["key_versions"]}
    assert states == {"v1": "archived", "v2": "archived", "v3": "active"}
    home.typed("verify")
    home.typed("audit", "verify")
