"""A column goes back to plaintext by a request of its own, beside an application that reads both."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random

import psycopg
import pytest

from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing
from keyrotation_pipeline_tests.acceptance import migrations
from keyrotation_pipeline_tests.acceptance.migrations import Release
from keyrotation_pipeline_tests.acceptance.test_plaintext import ROWS, Home, home
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.waiting import eventually

__all__ = ["home"]


def encrypted(home: Home) -> str:
    """Has a rotation encrypt the notes, and returns its id."""
    request = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
    home.sign(request)
    assert home.said("rotate", request) == ""
    return request


@contextmanager
def at_work(application: Release) -> Iterator[None]:
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        yield
    assert application.wrong == []


def going_back(home: Home, rotation: str) -> str:
    """Opens the request to decrypt, has it signed, and returns its id."""
    back = home.typed("rollback", rotation, "--decrypt", "--reason", "given up").splitlines()[-1]
    home.sign(back)
    return back


def require_plaintext(home: Home) -> None:
    """The notes are what they are to be, as they stand; the names are under the earlier key."""
    assert home.stored("note") == [home.expected[row][1] for row in range(ROWS)]
    assert {name[:3] for name in home.stored("name")} == {"v1:"}
    table = home.table()
    assert (table["unencrypted"], table["unreadable"], table["fenced_against"]) == (ROWS, 0, ["v2"])
    for sealed in (f"v1:{'A' * 16}:{'A' * 22}==", f"v2:{'A' * 16}:{'A' * 22}=="):
        with psycopg.connect(home.url) as connection, pytest.raises(psycopg.Error, match="keyrotation: "):
            connection.execute("UPDATE public.cases SET note = %s WHERE id = 1", (sealed,))
    states = {each["version"]: each["state"] for each in home.shown("status")["key_versions"]}
    assert states == {"v1": "active", "v2": "archived"}
    assert home.typed("audit", "verify")
    assert [each["action"] for each in home.shown("history")] == ["decrypt", "rotate"]


FENCE = "keyrotation_retired_key_versions"
RENEW = f"ALTER TABLE public.cases DROP CONSTRAINT {FENCE}, ADD CONSTRAINT {FENCE} {{}}"


def replaced_fences(home: migrations.Home) -> dict[str, str]:
    """By what the owner of the table wants, a fence that looks like one of ours and takes encrypted values again."""
    check = fence_of(home)
    clause = re.search(r"\n    WHEN [^\n]*an encrypted value is refused[^\n]*", check)
    assert clause is not None
    return {
        "that of a rollback": check.replace(clause[0], ""),
        "of a later version": check.replace(clause[0], clause[0].replace("v1:", "v3:")),
        "of a head alone": check.replace(clause[0], clause[0].replace(":%'", ":'")),
    }


def fence_of(home: migrations.Home) -> str:
    with psycopg.connect(home.url) as connection:
        ((check,),) = connection.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", (FENCE,)
        ).fetchall()
    return str(check)


def noticed(home: Home) -> bool:
    """Whether `status` asks for people."""
    said = "table cases takes values under v2, or encrypted values in what was decrypted, again"
    return any(each.startswith(said) for each in home.shown("status")["attention"])


def test_a_column_goes_back_to_plaintext_beside_its_application_and_officers_sign_that_first(home: Home) -> None:
    application = home.release(2)
    with at_work(application):
        done = encrypted(home)
        assert {note[:3] for note in home.stored("note")} == {"v2:"}
        assert "encrypted in the live rows since" in str(home.shown("status")["warnings"])
        back = going_back(home, done)
        text = home.typed("approve", back, "--text")
        first = text.split("\n\n")[1].splitlines()[0]
        assert f"NO LONGER PROTECTED BY THIS PROGRAM: {ROWS} values in cases.note to plaintext" in first
        assert f"\nAction: decrypt\nDecrypts: {ROWS} values in cases.note to plaintext\nAuthorises: end " in text
        assert home.said("rotate", back) == ""
    assert application.writes > 10
    require_plaintext(home)
    assert "encrypted in the live rows since" not in str(home.shown("status")["warnings"])
    pack = home.file.parent / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    verified = subprocess.run(
        [sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "decryption of columns, and rollback from v2 to v1" in (pack / "report.html").read_text()
    refuses, unnoticed = fence_of(home), list[str]()
    assert not noticed(home)
    for wanted, check in replaced_fences(home).items():
        home.execute(RENEW.format(check))
        unnoticed += [] if noticed(home) else [wanted]
    assert unnoticed == []
    home.execute(RENEW.format(refuses))
    assert not noticed(home)
    # What the table refuses stands in nobody's way who encrypts again.
    with at_work(home.release(3)):
        encrypted(home)
    assert {note[:3] for note in home.stored("note")} == {"v3:"}
    assert home.table()["fenced_against"] == ["v1", "v2"]


def test_nothing_is_decrypted_before_every_instance_writes_the_old_form_under_the_earlier_key(home: Home) -> None:
    with at_work(home.release(2)):
        done = encrypted(home)
    back = going_back(home, done)
    attests = home.release(1).attest()  # it would encrypt under v1, too
    try:
        said = home.said("rotate", back)
    finally:
        attests.stop()
    assert "no encrypted_from=2 for cases.note" in said
    assert {note[:3] for note in home.stored("note")} == {"v2:"}
    assert home.shown("status")["primary"] == "v2"
    file = home.file.read_text()
    home.file.write_text(file.replace('{ column = "note", from = "plaintext" }', '"note"'))
    assert "is no longer what its text for signing says (Decrypts, Plaintext)" in home.said("rotate", back)
    home.file.write_text(file)
    with at_work(home.release(2)):
        assert home.said("rotate", back) == ""
    require_plaintext(home)


@pytest.mark.extended
def test_the_fence_of_a_decrypted_column_is_put_back_as_it_was(home: Home) -> None:
    with at_work(home.release(2)):
        back = going_back(home, encrypted(home))
        assert home.said("rotate", back) == ""
    before = fence_of(home)
    for check in (*replaced_fences(home).values(), None):
        home.execute(f"ALTER TABLE public.cases DROP CONSTRAINT {FENCE}" if check is None else RENEW.format(check))
        home.sign(home.typed("reconcile").splitlines()[-1])
        assert home.typed("reconcile")
        assert (fence_of(home), noticed(home)) == (before, False)
    home.execute(f"ALTER TABLE public.cases DROP CONSTRAINT {FENCE}")
    home.execute("UPDATE public.cases SET note = (SELECT name FROM public.cases WHERE id = 7) WHERE id = 8")
    home.sign(home.typed("reconcile").splitlines()[-1])
    assert "still holds old values (column note: 1 encrypted again)" in home.said("reconcile")
    home.execute("UPDATE public.cases SET note = 'name 7' WHERE id = 8")
    home.expected[8] = home.expected[8][0], "name 7"
    assert home.typed("reconcile")
    assert (fence_of(home), noticed(home)) == (before, False)
    # In the middle of the next rotation nothing is missing either.
    again = home.typed("request", "--reason", "encrypt the notes").splitlines()[-1]
    home.sign(again)
    with at_work(home.release(3)):
        home.typed("rotate", again, "--through", "key_version")
    assert not noticed(home)


@dataclass
class StaleWriter:
    """An instance that does not report itself, and encrypts under whatever is the primary, without `encrypted_from`.

    Args:
        refused, written: how many of its writes the table refused, and how many it took.
    """

    home: Home
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    written: int = 0

    def work(self, stop: threading.Event) -> None:
        release, chance = self.home.release(2), Random(7)
        with psycopg.connect(self.home.url) as connection:
            while not stop.wait(chance.uniform(0, 1.5)):
                row, text = chance.randrange(ROWS), f"v2: stale {self.written}"
                connection.execute("SELECT FROM public.cases WHERE id = %s FOR UPDATE", (row,))
                try:
                    keys = MountedKeyRing(str(self.home.keys))
                    sealed = EncryptedType(keys).process_bind_param(text, release.engine.dialect)
                    connection.execute("UPDATE public.cases SET note = %s WHERE id = %s", (sealed, row))
                except psycopg.errors.InvalidTextRepresentation as error:
                    self.refused += "an encrypted value is refused" in str(error)
                    connection.rollback()
                    continue
                self.home.expected[row] = (self.home.expected[row][0], text)  # while the row is locked
                connection.commit()
                self.written += 1


@pytest.mark.extended
def test_kills_at_every_step_and_an_instance_that_encrypts_lose_nothing(home: Home) -> None:
    with at_work(home.release(2)):
        done = encrypted(home)
    application, stale = home.release(2), StaleWriter(home)
    with at_work(application), beside(stale.work):
        kills, phases = home.rotated_with_kills(going_back(home, done))
        assert eventually(lambda: stale.refused > 0)
    assert (stale.wrong, kills > 6, stale.written > 3, len(phases) > 5) == ([], True, True, True), (kills, phases)
    require_plaintext(home)


@pytest.mark.parametrize(
    ("exposed", "action", "notes"),
    [
        pytest.param("v2", "decrypt", "plaintext", id="the key that goes"),
        pytest.param("v1", "rotate", "v3:", id="the key that it leads back to"),
    ],
)
@pytest.mark.parametrize("through", ["key_version", "primary_key_rollout", "rows"])
@pytest.mark.extended
def test_an_emergency_in_the_middle_of_a_decryption_ends_it_or_encrypts_again(
    home: Home, through: str, exposed: str, action: str, notes: str
) -> None:
    named = ("--type", "key_exposed", "--description", "in a log", "--discovered-at", "now", "--key-version", exposed)
    with at_work(home.release(2)):
        back = going_back(home, encrypted(home))
        home.typed("rotate", back, "--through", through)
        emergency = home.typed("incident", "open", *named).splitlines()[-1]
        assert f"\nAction: {action}\n" in home.typed("approve", emergency, "--text")
        home.sign(emergency)
        assert home.said("rotate", emergency) == ""
    expected = [home.expected[row][1] for row in range(ROWS)]
    assert (home.stored("note") == expected) == (notes == "plaintext")
    if notes != "plaintext":
        assert {note[:3] for column in ("name", "note") for note in home.stored(column)} == {notes}
        assert home.release(2).read() == home.expected
    assert home.table()["unreadable"] == 0
    assert home.typed("audit", "verify")
