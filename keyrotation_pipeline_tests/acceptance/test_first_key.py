"""A home that begins without a key: its first rotation makes v1, beside an application that writes all the while."""

import json
import os
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline_tests.acceptance.migrations import Home, Release, Types, home_of
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.servers import Server

ROWS = 200
# The last one is finished together with the rotation.
STEPS = (*Step,)[:-1]
STRANGE = ["v1: final version", "plaintext: yes", "plaintext", "v1:", f"v1:{'A' * 16}:-", "Zürich 😀", "x" * 5000]


def application_of(home: Home) -> Release:
    """Its column is `EncryptedType(encrypted_from=1)`; it reads back whatever it wrote, all the time."""
    types: Types = lambda keys: {"note": EncryptedType(keys, encrypted_from=1)}  # noqa: E731
    return Release(home.url, home.keys, types, home.expected, ("note",), "from 1", begins="v1:")


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY", raising=False)
    columns = '[{ column = "note", from = "plaintext" }]'
    made = home_of(tmp_path, database_url, (security_officer, privacy_officer), columns, "note text")
    made.expected |= {n: (STRANGE[n] if n < len(STRANGE) else f"note {n}",) for n in range(ROWS)}
    with psycopg.connect(database_url, autocommit=True) as connection:
        for n, (note,) in made.expected.items():
            connection.execute("INSERT INTO public.cases VALUES (%s, %s)", (n, note))
    return made


def test_the_first_rotation_makes_the_first_key_beside_a_writer(home: Home) -> None:
    assert "primary plaintext" in home.typed("init")
    assert "primary plaintext" in home.typed("init"), "again"
    assert home.shown("status")["primary"] == "plaintext"
    home.reported()
    application = application_of(home)
    with ExitStack() as running:
        running.enter_context(beside(application.work))
        running.callback(application.attest().stop)
        home.typed("backup")
        request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "\nFrom: plaintext\nTo: v1\n" in text
        home.sign(request)
        assert home.said("rotate", request) == ""
    assert application.wrong == []
    assert application.writes > 10
    assert {note[:3] for note in home.stored("note")} == {"v1:"}
    assert application.read() == application.expected
    status = home.shown("status", "--count")
    assert status["primary"] == "v1"
    assert not [each for each in status["attention"] if "fence" in each or "plaintext" in each]
    assert [(key["version"], key["state"]) for key in status["key_versions"]] == [("v1", "active")]
    (table,) = status["tables"]
    assert (table["values_by_version"], table["unencrypted"]) == ({"v1": ROWS}, 0)
    assert table["fenced_against"] == ["plaintext"]
    with psycopg.connect(home.url) as connection, pytest.raises(psycopg.Error, match="plaintext is refused"):
        connection.execute("UPDATE public.cases SET note = 'plain' WHERE id = 1")
    assert home.typed("audit", "verify")
    (home.keys / "primary").write_text("plaintext")  # by whoever can write to the key store
    assert "primary is plaintext, but v1 is active" in "; ".join(home.shown("status")["attention"])
    application.keys.reload()
    with Session(application.engine) as session, pytest.raises(sa.exc.DataError, match="plaintext is refused"):
        session.execute(sa.update(application.case).values(note="plain"))


def begun(home: Home) -> Release:
    """A home without a key, and its application."""
    home.typed("init")
    home.reported()
    return application_of(home)


def signed_request(home: Home) -> str:
    request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
    home.sign(request)
    return request


@pytest.mark.extended
def test_a_cancelled_first_rotation_is_followed_by_another_and_nothing_leads_back(home: Home) -> None:
    application = begun(home)
    home.typed("backup")
    checks = {each["name"]: each["light"] for each in json.loads(home.typed("preflight", "--json", exits=1))["checks"]}
    assert checks["current_key_is_intact"] == "green"
    assert "current_key_is_backed_up" not in checks
    first = signed_request(home)
    home.typed("rotate", first, "--through", "key_version")
    home.typed("cancel", first)
    assert home.stored("note") == [note for (note,) in application.expected.values()]
    with ExitStack() as running:
        running.callback(application.attest().stop)
        second = signed_request(home)
        assert "there was no key; `keyrotation cancel` it" in home.typed("rollback", second, exits=1)
        assert home.said("rotate", second) == ""
        assert "there was no key; `keyrotation cancel` it" in home.typed("rollback", second, exits=1)
        assert application.read() == application.expected
        assert {note[:3] for note in home.stored("note")} == {"v2:"}
        home.typed("inventory")
        home.typed("verify")
        home.typed("report", "--format", "html")
        home.typed("report", "--format", "pack", "--output", str(home.file.parent / "pack"))
        assert "has retired no key" in home.typed("report", "--format", "certificate", exits=1)
        third = signed_request(home)
        assert home.said("rotate", third) == ""
    assert application.read() == application.expected
    assert {note[:3] for note in home.stored("note")} == {"v3:"}
    (table,) = home.shown("status", "--count")["tables"]
    assert table["fenced_against"] == ["v1", "v2"]


@pytest.mark.extended
def test_a_home_without_a_key_is_verified_rehearsed_lost_and_continued(
    home: Home, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(home)
    secret, into = tmp_path / "officer.sec.asc", f"recovered_{os.getpid()}"
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    assert home.shown("verify")["tables"] == [
        {"table": "cases", "rows": ROWS, "values": 0, "failures": 0, "plaintext": ROWS}
    ]
    assert "Primary   plaintext, under which nothing is encrypted" in home.typed("status")
    assert "nothing is encrypted yet" in home.said(
        "incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now"
    )
    rehearsed = home.shown("rehearse", signed_request(home), "--key", str(secret))
    assert (rehearsed["source"], rehearsed["target"], rehearsed["findings"]) == ("plaintext", "v1", [])
    home.typed("report", "--format", "oscal")
    # Database, home and key store are lost.
    signer, source = home.shown("status")["backup_signer"], str(tmp_path / ".keyrotation" / "backups")
    (empty := tmp_path / "empty").mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("KEYROTATION_DATABASE_URL", server.url(into))
    recover = ["recover", "--from", source, "--key", str(secret), "--signer", signer, "--server", server.url()]
    assert CliRunner().invoke(app, [*recover, "--into", into]).exit_code == 0
    found = Home(empty / "keyrotation.toml", home.officers, server.url(into), empty / ".keyrotation" / "keys", {})
    found.sign(found.shown("reconcile")["id"])
    found.typed("reconcile")
    found.typed("backup")
    found.expected |= home.expected
    found.reported()
    application = application_of(found)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        assert found.said("rotate", signed_request(found)) == ""
    assert application.wrong == []
    assert application.read() == found.expected
    assert {note[:3] for note in found.stored("note")} == {"v1:"}
    found.typed("audit", "verify")
    (found.keys / "primary").write_text("plaintext")  # by whoever can write to the key store
    assert "primary is plaintext, and v1 is active in the database; name v1 there first" in found.said("reconcile")


@pytest.mark.extended
def test_an_emergency_replaces_the_first_key(home: Home) -> None:
    application = begun(home)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        assert home.said("rotate", signed_request(home)) == ""
        what = ("--type", "key_exposed", "--description", "d", "--discovered-at", "now", "--key-version", "v1")
        emergency = home.typed("incident", "open", *what).split()[1]
        home.sign(emergency)
        assert home.said("rotate", emergency) == ""
    assert application.wrong == []
    assert application.read() == home.expected
    assert {note[:3] for note in home.stored("note")} == {"v2:"}
    home.typed("report", "--format", "certificate")
    home.typed("audit", "verify")


@pytest.mark.extended
def test_a_first_rotation_killed_at_every_moment_loses_nothing(home: Home) -> None:
    application = begun(home)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        killed = home.killed_everywhere("rotate", signed_request(home))
    assert application.wrong == []
    assert application.writes > 10
    assert application.read() == home.expected
    assert {note[:3] for note in home.stored("note")} == {"v1:"}
    assert {f"committed step_finished {step}" for step in STEPS} <= {*killed}, killed
    assert [key["state"] for key in home.shown("status")["key_versions"]] == ["active"]
    home.typed("verify")
    home.typed("audit", "verify")
