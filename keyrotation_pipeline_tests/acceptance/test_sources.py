"""Columns that another library encrypted under its one key come into our own format, beside that library."""

import base64
import json
import os
import re
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
from typer.testing import CliRunner

from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, LegacyKey, MountedKeyRing
from keyrotation_pipeline_tests.acceptance import migrations
from keyrotation_pipeline_tests.acceptance.migrations import Release, home_of
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.servers import Server

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
        assert "\nNot authenticated: cases.token\nCompared with a backup: cases: no backup was compared\n" in text
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
    assert "holds 200 values of another library" in home.said("destroy", "v2", "--reason", "too early")
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
    made = home.shown("backup", "--rekey", dump.name, "--key", str(secret))
    assert (made["left_behind"], made["values"]) == (["v1", "v2"], {"cases": 3 * ROWS})
    renewed = f"copy_{uuid4().hex}"
    home.typed("restore-database", "--into", renewed, "--from", made["set"], "--key", str(secret))
    with psycopg.connect(home.url, dbname=renewed) as connection:
        assert connection.execute(
            "SELECT count(*) FROM cases WHERE token LIKE 'v3:%' AND note LIKE 'v3:%'"
        ).fetchone() == (ROWS,)
    home.sign(home.typed("destroy", "v2", "--reason", "left").splitlines()[-1])
    home.typed("destroy", "v2")
    assert {each["version"]: each["state"] for each in home.shown("status")["key_versions"]} == {
        "v1": "archived", "v2": "destroyed", "v3": "active",
    }  # fmt: skip
    everything = b"".join(path.read_bytes() for path in (tmp_path / ".keyrotation").rglob("*") if path.is_file())
    assert FORMER.encode() not in everything
    home.typed("backup")
    tested = home.shown("recovery-test", "--key", str(secret))
    assert (tested["passed"], tested["rekeyed"] is not None) == (True, True)


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
def test_a_backup_from_the_middle_of_a_migration_is_rekeyed_also_after_a_rollback(
    home: Home, security_officer: DemoOfficer, tmp_path: Path
) -> None:
    secret = tmp_path / "officer.sec.asc"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    made, restored, expected = home.undone_and_rekeyed(home.release(3), secret)
    assert (made["left_behind"], made["values"]) == (["v2", "v3"], {"cases": 3 * ROWS})
    assert {value[:3] for value in restored.stored("name", "token", "note")} == {"v1:"}
    assert restored.release(3).read() == expected


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


@pytest.fixture
def home_without_key(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    """A home before `init`, whose only column is the library's."""
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY", raising=False)
    columns = (
        '[{ column = "token", from = { format = "sqlalchemy-utils-aes", keys = { env = "OLD_KEY" }, padding = "naive" '
        "} }]"
    )
    begun = home_of(tmp_path, database_url, (security_officer, privacy_officer), columns, "token text")
    made = Home(begun.file, begun.officers, begun.url, begun.keys, begun.expected)
    made.expected |= {n: (TEXTS[n] if n < len(TEXTS) else f"token {n}",) for n in range(ROWS)}
    library_alone(made).add(made.expected)
    return made


def library_alone(home: Home) -> Release:
    types: migrations.Types = lambda _keys: {"token": StringEncryptedType(sa.Text, FORMER, AesEngine, "naive")}  # noqa: E731
    return Release(home.url, home.keys, types, home.expected, ("token",), "library")


def reads_both(home: Home) -> Release:
    former = LegacyKey(*AES, FORMER, padding="naive")
    types: migrations.Types = lambda keys: {"token": EncryptedType(keys, encrypted_from=2, legacy=[former])}  # noqa: E731
    return Release(home.url, home.keys, types, home.expected, ("token",), "both")


@pytest.mark.extended
def test_a_home_whose_only_keys_are_libraries_begins_without_one(
    home_without_key: Home, security_officer: DemoOfficer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_without_key
    assert "whose key is not imported; set OLD_KEY" in home.said("init")
    monkeypatch.setenv("OLD_KEY", "another")
    assert "0 of 200 values tried open" in home.said("init")
    monkeypatch.setenv("OLD_KEY", FORMER)
    assert "primary plaintext" in home.typed("init")
    monkeypatch.delenv("OLD_KEY")
    assert "primary plaintext" in home.typed("init"), "again"
    assert home.shown("status")["primary"] == "plaintext"
    home.reported()
    secret = tmp_path / "officer.sec.asc"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    assert home.shown("verify")["tables"] == [
        {"table": "cases", "rows": ROWS, "values": 0, "failures": 0, "plaintext": ROWS}
    ]
    request = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
    text = home.typed("approve", request, "--text")
    assert "Authorises: create v2, distribute, promote, re-encrypt, fence" in text
    assert "\nFrom: plaintext\nTo: v2\n" in text
    assert "\nOther libraries: encrypted, and refused afterwards, in cases.token (" in text, text
    rehearsed = home.shown("rehearse", request, "--key", str(secret))
    assert (rehearsed["source"], rehearsed["target"], rehearsed["findings"]) == ("plaintext", "v2", [])
    application = reads_both(home)
    rotated(home, application, request)
    assert application.wrong == []
    assert application.read() == home.expected
    assert {value[:3] for value in home.stored("token")} == {"v2:"}
    assert {each["version"]: each["state"] for each in home.shown("status")["key_versions"]} == {
        "v1": "archived", "v2": "active",
    }  # fmt: skip
    with psycopg.connect(home.url) as connection, pytest.raises(psycopg.Error, match="another library is refused"):
        connection.execute("UPDATE public.cases SET token = 'tx/xz0B5+j3uK0v+GcYpyw==' WHERE id = 1")
    home.typed("verify")
    home.typed("audit", "verify")


@pytest.mark.extended
def test_a_home_whose_only_key_is_a_librarys_is_lost_and_continued(
    home_without_key: Home,
    security_officer: DemoOfficer,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, secret, into = home_without_key, tmp_path / "officer.sec.asc", f"recovered_{uuid4().hex}"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    monkeypatch.setenv("OLD_KEY", FORMER)
    home.typed("init")
    monkeypatch.delenv("OLD_KEY")
    home.typed("backup")
    signer, source = home.shown("status")["backup_signer"], str(tmp_path / ".keyrotation" / "backups")
    (empty := tmp_path / "empty").mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("KEYROTATION_DATABASE_URL", server.url(into))
    recover = ["recover", "--from", source, "--key", str(secret), "--signer", signer, "--server", server.url()]
    done = CliRunner().invoke(app, [*recover, "--into", into])
    assert done.exit_code == 0, done.exception
    keys = empty / ".keyrotation" / "keys"
    found = Home(empty / "keyrotation.toml", home.officers, server.url(into), keys, home.expected)
    found.sign(found.shown("reconcile")["id"])
    found.typed("reconcile")
    found.typed("backup")
    found.reported()
    application = reads_both(found)
    rotated(found, application, found.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1])
    assert application.wrong == []
    assert application.read() == found.expected
    assert {value[:3] for value in found.stored("token")} == {"v2:"}
    found.typed("audit", "verify")


def certified(home: Home) -> dict[str, Any]:
    """What a new certificate says of values that a rotation took over."""
    statement = json.loads(base64.b64decode(json.loads(home.typed("report", "--format", "certificate"))["payload"]))
    return dict(statement["predicate"]["taken_over_from_a_library"])


@pytest.mark.extended
def test_a_backup_in_the_form_of_the_library_equals_the_rows_but_for_later_writes(
    home: Home, security_officer: DemoOfficer, tmp_path: Path
) -> None:
    secret = tmp_path / "officer.sec.asc"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    before_it = home.stored("note")[27]
    home.execute("UPDATE public.cases SET note = (SELECT note FROM public.cases WHERE id = 28) WHERE id = 27")
    home.typed("recovery-test", "--key", str(secret))
    request = home.typed("request", "--reason", "leave sqlalchemy-utils").splitlines()[-1]
    text = home.typed("approve", request, "--text")
    (line,) = re.findall("\nCompared with a backup: (.*)\n", text)
    assert re.fullmatch(
        f"cases: {3 * ROWS - 1} of {3 * ROWS} values as in database-\\S+ on .* UTC, 1 changed, 0 new, 0 gone", line
    )
    assert f"with these tables, value by value: {line}." in text
    home.execute(f"UPDATE public.cases SET note = '{before_it}' WHERE id = 27")
    home.typed("recovery-test", "--key", str(secret))  # what is signed is not changed by a later one
    home.sign(request)
    with ExitStack() as running:
        running.callback(home.release(3).attest().stop)
        assert home.said("rotate", request) == ""
    assert certified(home)["compared"] == []
    home.file.write_text(home.file.read_text().replace(COLUMNS, '["name", "token", "note"]'))
    time.sleep(1)  # a discovery is told in whole seconds, and the backup must be from before it
    opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
    compare = "incident", "compare", opened.split()[0], "--key", str(secret)
    compared = home.shown(*compare)
    assert (compared["differences"], compared["not_compared"]) == ([], [])
    home.execute("UPDATE public.cases SET token = (SELECT token FROM public.cases WHERE id = 31) WHERE id = 30")
    home.execute("UPDATE public.cases SET note = NULL WHERE id = 29")
    found = [(each["key"], each["column"], each["kind"]) for each in home.shown(*compare)["differences"]]
    assert sorted(found) == [('["29"]', "note", "gone"), ('["30"]', "token", "changed")]
    home.typed("backup")
    same = f"compared  cases: {3 * ROWS - 2:,} present values as in this backup; 1 changed, 0 new, 1 gone"
    assert same in home.typed("recovery-test", "--key", str(secret))
    (compared,) = certified(home)["compared"]
    assert (compared["table"], compared["equal"], compared["changed"]) == ("cases", 3 * ROWS - 2, 1)
    assert compared["backup"].startswith("database-")
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
