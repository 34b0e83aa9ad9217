"""Fleets that begin without a key, and whose values come from another library."""

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy_utils import StringEncryptedType  # type: ignore[import-untyped]
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine  # type: ignore[import-untyped]

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, LegacyKey
from keyrotation_pipeline_tests.acceptance.fleet_migrations import (
    MEMBERS,
    ROWS,
    Home,
    at_work,
    home_from,
    texts_of,
)
from keyrotation_pipeline_tests.acceptance.test_fleet import second
from keyrotation_pipeline_tests.servers import Server

__all__ = ["home_from", "second"]


@pytest.mark.extended
def test_a_fleet_begins_without_a_key_also_where_a_member_is_down_at_first(
    home_from: Callable[[str, str], Home],
    second: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY", raising=False)
    home = home_from('[{ column = "note", from = "plaintext" }]', "note text")
    home.texts = {each: {row: (texts[1],) for row, texts in texts_of(each).items()} for each in home.urls}
    for release in home.releases_of(lambda _keys: {"note": sa.Text()}, ("note",), "before"):
        release.add(release.expected)
    second.stop()
    assert "database south: cannot connect to south@localhost" in home.said("init")
    second.start()
    assert "primary plaintext" in home.typed("init")
    home.reported()
    application = home.releases_of(lambda keys: {"note": EncryptedType(keys, encrypted_from=1)}, ("note",), "1")
    with at_work(application):
        home.typed("backup")
        home.rotated()
    assert home.heads("note") == {"v1:"}
    assert [each.read() for each in application] == list(home.texts.values())
    assert [each["fenced_against"] for each in home.tables().values()] == [["plaintext"]] * len(home.urls)
    for each in home.urls:
        with pytest.raises(psycopg.Error, match="plaintext is refused"):
            home.change(each, "UPDATE public.cases SET note = 'plain' WHERE id = 1")
    assert home.typed("audit", "verify")


FORMER = "the application's secret"
LIBRARY = (
    '["name", { column = "note", from = { format = "sqlalchemy-utils-aes", keys = { env = "OLD_KEY" }, padding = '
    '"naive" } }]'
)


@pytest.mark.extended
def test_values_of_a_library_are_taken_over_in_each_database_and_its_key_is_kept_for_each_dump(
    home_from: Callable[[str, str], Home],
    security_officer: DemoOfficer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = tmp_path / "officer.sec.asc"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    home = home_from('["name"]', "name text, note text")
    home.typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    home.texts = {each: {n: (f"{each} {n}", f"note {n}") for n in range(ROWS)} for each in home.urls}
    before = home.releases_of(
        lambda keys: {"name": EncryptedType(keys), "note": StringEncryptedType(sa.Text, FORMER, AesEngine, "naive")},
        ("note",),
        "before",
    )
    for release in before:
        release.add(release.expected)
    home.file.write_text(home.file.read_text().replace('["name"]', LIBRARY))
    monkeypatch.setenv("OLD_KEY", FORMER)
    home.typed("init")
    monkeypatch.delenv("OLD_KEY")
    home.reported()
    home.typed("backup")
    (dump,) = (tmp_path / ".keyrotation" / "backups").glob("database-south-*.dump.gpg")

    former = LegacyKey("sqlalchemy-utils-aes", FORMER, padding="naive")
    after = home.releases_of(
        lambda keys: {"name": EncryptedType(keys), "note": EncryptedType(keys, encrypted_from=3, legacy=[former])},
        ("note",),
        "after",
    )
    with at_work(after):
        home.rotated()
    assert home.heads("note") == {"v3:"}
    assert [each.read() for each in after] == list(home.texts.values())
    for each in home.urls:
        with pytest.raises(psycopg.Error, match="another library is refused"):
            home.change(each, "UPDATE public.cases SET note = 'tx/xz0B5+j3uK0v+GcYpyw==' WHERE id = 1")
    home.typed("backup")
    written = {each: release.writes for each, release in zip(home.urls, after, strict=True)}
    tested = home.shown("recovery-test", "--key", str(secret))
    assert [each["member"] for each in tested["members"]] == list(MEMBERS)
    for each in tested["members"]:
        assert each["older"]["file"].startswith(f"database-{each['member']}-")
        (compared,) = each["older"]["compared"]
        assert (compared["table"], compared["rows"]) == (f"{each['member']}:cases", ROWS)
        assert 2 * ROWS - written[each["member"]] <= compared["values"] - compared["changed"] < 2 * ROWS
    again = home.requested("request", "--reason", "yearly")
    text = home.typed("approve", again, "--text")
    assert "south:cases: " in text.partition("\nCompared with a backup: ")[2].partition("\n")[0]
    assert "no backup was compared" not in text
    home.typed("cancel", again)
    assert "v2 is needed to read" in (said := home.said("destroy", "v2", "--reason", "left"))
    assert dump.name in said
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    verified = subprocess.run(
        [sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
