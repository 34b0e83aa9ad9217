"""A column of plaintext is encrypted by a rotation, beside two releases of an application, and back."""

import base64
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline_tests.acceptance import migrations
from keyrotation_pipeline_tests.acceptance.migrations import Release, home_of
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.waiting import eventually

ROWS = 300
STRANGE = ["v2: final version", "v1:", "100 %", f"v2:{'A' * 16}:-", "Zürich 😀", "x" * 5000]


@dataclass
class Home(migrations.Home):
    def release(self, encrypted_from: int | None) -> Release:
        """A release that reads both, or stores notes as they are."""
        return self.storing(
            lambda keys: sa.Text() if encrypted_from is None else EncryptedType(keys, encrypted_from=encrypted_from),
            f"from {encrypted_from}",
        )

    def storing(self, note: Callable[[MountedKeyRing], sa.types.TypeEngine[Any]], label: str) -> Release:
        """A release whose notes are of this type."""

        def types(keys: MountedKeyRing) -> dict[str, sa.types.TypeEngine[Any]]:
            return {"name": EncryptedType(keys), "note": note(keys)}

        return Release(self.url, self.keys, types, self.expected, ("note",), label)

    def versions(self) -> dict[str, int]:
        return dict(self.table()["values_by_version"])


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    columns = '["name", { column = "note", from = "plaintext" }]'
    begun = home_of(tmp_path, database_url, (security_officer, privacy_officer), columns, "name text, note text")
    made = Home(begun.file, begun.officers, begun.url, begun.keys, begun.expected)
    made.typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    made.expected |= {n: (f"name {n}", STRANGE[n] if n < len(STRANGE) else f"note {n}") for n in range(ROWS)}
    made.release(None).add(made.expected)
    made.reported()
    return made


def plaintext_places(home: Home) -> dict[str, str]:
    """Until when each place outside the live rows holds plaintext, as `inventory` says."""
    return {each["where"]: each["until"] for each in home.shown("inventory")["plaintext_outside_rows"]}


def certified_plaintext(home: Home) -> dict[str, Any]:
    """What a new certificate says of plaintext."""
    statement = json.loads(base64.b64decode(json.loads(home.typed("report", "--format", "certificate"))["payload"]))
    return dict(statement["predicate"]["plaintext"])


def test_plaintext_is_encrypted_beside_two_releases_and_then_refused(home: Home) -> None:
    assert home.table()["unencrypted"] == ROWS
    assert plaintext_places(home) == {}
    home.typed("backup")
    old, new = home.release(None), home.release(2)
    with ExitStack() as running:
        old_at_work = running.enter_context(ExitStack())
        old_at_work.enter_context(beside(old.work))
        request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert (
            "\nPlaintext: encrypted, and refused afterwards, in cases.note\nPlaintext stays: outside the live rows, "
            in text
        )
        home.sign(request)
        old_attests = old.attest()
        running.enter_context(beside(new.work))
        new_attests = new.attest()
        running.callback(new_attests.stop)
        assert "plaintext in cases.note until v2 is the primary" in home.said(
            "rotate", request
        )  # the old release reports none
        assert {note[:4] for note in home.stored("note") if note.startswith("v2:")} <= {"v2: ", f"v2:{'A' * 16}"[:4]}
        old_at_work.close()
        old_attests.stop()
        assert home.said("rotate", request) == ""
    assert (old.wrong, new.wrong) == ([], [])
    assert min(old.writes, new.writes) > 10
    assert new.read() == home.expected
    assert {note[:3] for note in home.stored("note")} == {"v2:"}
    table = home.table()
    assert (table["unencrypted"], table["unreadable"], table["values_by_version"]) == (0, 0, {"v1": 0, "v2": 2 * ROWS})
    with psycopg.connect(home.url) as connection, pytest.raises(psycopg.Error, match="plaintext is refused"):
        connection.execute("UPDATE public.cases SET note = 'plain' WHERE id = 1")
    home.file.write_text(home.file.read_text().replace('{ column = "note", from = "plaintext" }', '"note"'))
    assert home.table()["fenced_against"] == ["v1"]
    (copies,) = (each for each in certified_plaintext(home)["known_outside"] if each["where"].startswith("copies"))
    assert copies["known"].startswith("none found of ")
    copied = next(iter(note for _, note in new.read().values() if note and len(note) > 20))
    with psycopg.connect(home.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.outbox (sent text)")
        connection.execute("INSERT INTO public.outbox VALUES (%s)", (f"sent: {copied}",))
    assert plaintext_places(home)[copies["where"]] == "until they are removed there, or encrypted"
    assert "stand in public.outbox.sent; remove copies there" in str(home.shown("status")["warnings"])
    with psycopg.connect(home.url, autocommit=True) as connection:
        connection.execute("DROP TABLE public.outbox")
    assert plaintext_places(home)[copies["where"]] == "not known"
    pages = "pages of public.cases, its TOAST and its indexes"
    assert "`VACUUM FULL public.cases`" in plaintext_places(home)[pages]
    (said,) = (each for each in home.shown("status")["warnings"] if "encrypted in the live rows since" in each)
    plaintext = certified_plaintext(home)
    assert [each["until"] for each in plaintext["known_outside"] if each["where"] == pages] == [
        plaintext_places(home)[pages]
    ]
    assert [each["dump"].partition("-")[0] for each in plaintext["backups_kept"]] == ["database"]
    with psycopg.connect(home.url, autocommit=True) as connection:
        for command in said.partition("may be locked run ")[2].partition(", then ")[0].split(", "):
            connection.execute(command.encode())
    assert pages not in plaintext_places(home)
    assert not [each for each in home.shown("status")["warnings"] if "encrypted in the live rows since" in each]


def rolled_out(home: Home, new: Release) -> list[str]:
    """Rotates while new instances take the place of two old ones; returns what the old ones met."""
    olds = [replace(home.release(None), label=f"old {n}", wrong=[]) for n in (1, 2)]
    news = [replace(new, label=f"new {n}", wrong=[]) for n in (1, 2)]

    def all_work(releases: Sequence[Release]) -> None:
        begun = [each.writes + len(each.wrong) for each in releases]
        assert eventually(
            lambda: (
                min(each.writes + len(each.wrong) - before for each, before in zip(releases, begun, strict=True)) > 20
            )
        )

    with ExitStack() as running:
        at_work = [running.enter_context(ExitStack()) for _ in olds]
        for stack, old in zip(at_work, olds, strict=True):
            stack.callback(old.attest().stop)
            stack.enter_context(beside(old.work))
        assert eventually(lambda: len(home.shown("rollout")["instances"]) == len(olds))
        request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
        home.sign(request)
        home.typed("rotate", request, "--through", "key_version")
        for at, (stack, new_one) in enumerate(zip(at_work, news, strict=True)):
            running.callback(new_one.attest().stop)
            running.enter_context(beside(new_one.work))
            all_work([*olds[at:], new_one])
            assert "until v2 is the primary" in home.said("rotate", request)
            stack.close()
        assert home.said("rotate", request) == ""
        all_work(news)
    assert [each.wrong for each in news] == [[], []]
    assert news[0].read() == home.expected
    assert {note[:3] for note in home.stored("note")} == {"v2:"}
    return [wrong for old in olds for wrong in old.wrong]


def test_no_old_instance_of_a_rolling_deployment_sees_ciphertext(home: Home) -> None:
    assert rolled_out(home, home.release(2)) == []


class Ungated(EncryptedType):
    """The same without the gate: it reads both, and encrypts at once."""

    def process_bind_param(self, value: object, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else encrypt(self._current_ring(), str(value), self.binding)


def test_without_the_gate_old_instances_of_the_same_deployment_see_ciphertext(home: Home) -> None:
    met = rolled_out(home, home.storing(lambda keys: Ungated(keys, encrypted_from=2), "ungated"))
    assert met
    assert not [each for each in met if re.match(r"\d+: \('name \d+', 'v1:[\w+/=]{16}:", each) is None], met[:3]


@pytest.mark.extended
def test_a_rollback_brings_values_back_and_the_next_rotation_encrypts_what_was_written_meanwhile(home: Home) -> None:
    application = home.release(2)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
        home.sign(request)
        running.enter_context(beside(application.work))
        assert home.said("rotate", request) == ""
        back = home.typed("rollback", request).splitlines()[-1]
        assert "\nPlaintext: stays in cases.note\n" in home.typed("approve", back, "--text")
        home.sign(back)
        assert home.said("rotate", back) == ""
        assert {version for version, number in home.versions().items() if number} == {"v1"}
        assert "v2: note" in {note[:8] for note in home.stored("note")}  # plaintext, as the application writes it again
        again = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
        home.sign(again)
        assert home.said("rotate", again) == ""
    assert application.wrong == []
    assert application.read() == home.expected
    assert {note[:3] for note in home.stored("note")} == {"v3:"}
    assert home.table()["unencrypted"] == 0


@pytest.mark.extended
@pytest.mark.parametrize("options", [[], ["--decrypt"]], ids=["a rollback", "a decryption"])
def test_a_backup_from_the_middle_of_a_rotation_is_rekeyed_after_it_was_undone(
    home: Home, security_officer: DemoOfficer, tmp_path: Path, options: list[str]
) -> None:
    secret = tmp_path / "officer.sec.asc"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    made, restored, expected = home.undone_and_rekeyed(home.release(2), secret, *options)
    assert made["left_behind"] == ["v2"]
    assert {value[:3] for value in restored.stored("name", "note")} == {"v1:"}
    assert restored.release(2).read() == expected


@pytest.mark.extended
def test_plaintext_that_somebody_let_in_again_is_known_outside_the_rows_again(home: Home) -> None:
    application = home.release(2)
    pages = "pages of public.cases, its TOAST and its indexes"
    with ExitStack() as running:
        running.callback(application.attest().stop)
        for text in ("encrypted first", "encrypted later"):
            request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
            home.sign(request)
            with psycopg.connect(home.url, autocommit=True) as connection:  # as the owner of the table may
                connection.execute(
                    "ALTER TABLE public.cases DROP CONSTRAINT IF EXISTS keyrotation_retired_key_versions"
                )
                connection.execute("UPDATE public.cases SET note = %s WHERE id = 1", (text,))
            home.typed("backup")
            dumps = {each.name for each in (home.file.parent / ".keyrotation" / "backups").glob("*.dump.gpg")}
            assert home.said("rotate", request) == ""
            assert pages in plaintext_places(home), text
            assert {each["dump"] for each in certified_plaintext(home)["backups_kept"]} >= dumps
            with psycopg.connect(home.url, autocommit=True) as connection:
                connection.execute("VACUUM FULL public.cases")
            assert pages not in plaintext_places(home)


@dataclass
class StaleWriter:
    """An instance of the old release that does not report itself, and writes plaintext at any moment.

    Args:
        refused, written: how many of its writes the table refused, and how many it took.
    """

    home: Home
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    written: int = 0

    def work(self, stop: threading.Event) -> None:
        chance = Random(7)
        with psycopg.connect(self.home.url) as connection:
            while not stop.wait(chance.uniform(0, 1.5)):
                row, text = chance.randrange(ROWS), f"v2: stale {self.written}"
                connection.execute("SELECT FROM public.cases WHERE id = %s FOR UPDATE", (row,))
                try:
                    connection.execute("UPDATE public.cases SET note = %s WHERE id = %s", (text, row))
                except psycopg.errors.InvalidTextRepresentation as error:
                    self.refused += "plaintext is refused" in str(error)
                    connection.rollback()
                    continue
                self.home.expected[row] = (self.home.expected[row][0], text)  # while the row is locked
                connection.commit()
                self.written += 1


@pytest.mark.extended
def test_kills_at_every_step_and_a_stale_writer_lose_nothing(home: Home) -> None:
    new, stale = home.release(2), StaleWriter(home)
    with ExitStack() as running:
        running.callback(new.attest().stop)
        running.enter_context(beside(new.work))
        running.enter_context(beside(stale.work))
        request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
        home.sign(request)
        kills, phases = home.rotated_with_kills(request)
        assert eventually(lambda: stale.refused > 0)
    assert (new.wrong, stale.wrong) == ([], [])
    assert (kills > 6, stale.written > 3, len(phases) > 5) == (True, True, True), (kills, stale.written, phases)
    assert new.read() == home.expected
    assert {note[:3] for note in home.stored("note")} == {"v2:"}
    table = home.table()
    assert (table["unencrypted"], table["unreadable"], table["values_by_version"]) == (0, 0, {"v1": 0, "v2": 2 * ROWS})
    assert home.typed("audit", "verify")
