"""A column of plaintext in three databases under one key is encrypted by one rotation, and goes back."""

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.fleet.retirement import FleetEvidence
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.proof import MemberEvidence
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.rotation.runner import run
from keyrotation_pipeline_tests.acceptance.fleet_migrations import (
    COLUMNS,
    FENCE,
    MEMBERS,
    ROWS,
    Home,
    at_work,
    home_from,
    texts_of,
)
from keyrotation_pipeline_tests.acceptance.test_decryption import RENEW, replaced_fences
from keyrotation_pipeline_tests.acceptance.test_fleet import second
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.servers import Server, copy_of

__all__ = ["home_from", "second"]


@pytest.fixture
def home(home_from: Callable[[str, str], Home], monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    made = home_from(COLUMNS, "name text, note text")
    made.texts = {each: texts_of(each) for each in made.urls}
    made.typed("init")
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
    for release in made.releases(None):
        release.add(release.expected)
    made.reported()
    return made


def require_encrypted(home: Home, version: str, number: int) -> None:
    assert home.heads("note") == {f"{version}:"}
    assert [each.read() for each in home.releases(number)] == list(home.texts.values())
    tables = home.tables()
    assert set(tables) == {"cases", "north:cases", "south:cases"}
    for table in tables.values():
        values = {name: count for name, count in table["values_by_version"].items() if count}
        assert (table["unencrypted"], table["unreadable"], values) == (0, 0, {version: 2 * ROWS})
    for each in home.urls:
        with pytest.raises(psycopg.Error, match="plaintext is refused"):
            home.change(each, "UPDATE public.cases SET note = 'plain' WHERE id = 1")
    assert home.typed("audit", "verify")


def require_plaintext(home: Home) -> None:
    assert home.held("note") == {each: [texts[row][1] for row in range(ROWS)] for each, texts in home.texts.items()}
    assert home.heads("name") == {"v1:"}
    for each, table in home.tables().items():
        assert (table["unencrypted"], table["unreadable"], table["fenced_against"]) == (ROWS, 0, ["v2"]), each
    for each in home.urls:
        with pytest.raises(psycopg.Error, match="keyrotation: "):
            home.change(each, f"UPDATE public.cases SET note = 'v1:{'A' * 16}:{'A' * 22}==' WHERE id = 1")
    assert home.typed("audit", "verify")


def test_plaintext_in_each_database_is_encrypted_beside_writers_and_goes_back(home: Home) -> None:
    assert {name: each["unencrypted"] for name, each in home.tables().items()} == {
        "cases": ROWS, "north:cases": ROWS, "south:cases": ROWS,
    }  # fmt: skip
    home.typed("backup")
    with at_work(home.releases(2)):
        request = home.requested("request", "--reason", "encrypt the notes")
        text = home.typed("approve", request, "--text")
        assert "in cases.note, north:cases.note, south:cases.note\n" in text
        assert text.count(f"; {2 * ROWS:,} values when last counted, {ROWS} of them in an old form\n") == len(MEMBERS)
        assert home.said("rotate", request) == ""
    require_encrypted(home, "v2", 2)
    with at_work(home.releases(2)):
        back = home.requested("rollback", request, "--decrypt", "--reason", "given up")
        assert f"{ROWS} values in south:cases.note to plaintext" in home.typed("approve", back, "--text")
        assert home.said("rotate", back) == ""
    require_plaintext(home)
    home.typed("backup")
    pack = home.file.parent / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    verified = subprocess.run(
        [sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.extended
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_kills_at_random_lose_nothing_in_any_database(home: Home, back: bool) -> None:
    with at_work(home.releases(2)):
        request = home.requested("request", "--reason", "encrypt the notes")
        if back:
            assert home.said("rotate", request) == ""
            request = home.requested("rollback", request, "--decrypt")
        kills, phases = home.rotated_with_kills(request, events=8)
    assert (kills > 4, len(phases) > 4) == (True, True), (kills, phases)
    if back:
        require_plaintext(home)
    else:
        require_encrypted(home, "v2", 2)


def plaintext_places(home: Home) -> dict[str, str]:
    """Until when each place outside the live rows holds plaintext, as `inventory` says."""
    return {each["where"]: each["until"] for each in home.shown("inventory")["plaintext_outside_rows"]}


def encrypted_since(home: Home) -> dict[str, str]:
    """What `status` says of plaintext in files, by column."""
    said = [each for each in home.shown("status")["warnings"] if "encrypted in the live rows since" in each]
    return {each.partition(": ")[0]: each for each in said}


@pytest.mark.extended
def test_what_remains_outside_the_rows_is_told_of_each_database(home: Home) -> None:
    assert plaintext_places(home) == {}
    home.typed("backup")
    with at_work(home.releases(2)):
        home.rotated()
    pages = "pages of public.cases, its TOAST and its indexes"
    everywhere = plaintext_places(home)
    assert "the home's own database, north, south: archives of the WAL, base backups, standbys" in everywhere
    said = encrypted_since(home)
    assert set(said) == {"cases.note", "north:cases.note", "south:cases.note"}
    north = said["north:cases.note"].partition("may be locked run in database north ")[2].partition(", then ")[0]
    assert "VACUUM FULL public.cases" in north.split(", ")
    home.change("north", *north.split(", "))
    left = [where.partition(": ")[0] for where in plaintext_places(home) if where.endswith(pages)]
    assert "north" not in ", ".join(left).split(", ")
    assert "south" in ", ".join(left).split(", ")
    assert set(encrypted_since(home)) == {"cases.note", "south:cases.note"}
    report = home.typed("report", "--format", "json")
    assert "south:cases.note since" in report


@pytest.mark.extended
def test_whoever_owns_a_member_s_table_lets_no_old_form_in_unnoticed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_work(home.releases(2)):
        request = home.requested("request", "--reason", "encrypt the notes")
        home.typed("rotate", request, "--through", "zero_old_rows_proof")
    members = FleetEvidence.members

    def meanwhile(self: FleetEvidence, *arguments: Any) -> Iterator[MemberEvidence]:  # noqa: ANN401
        for each in members(self, *arguments):
            yield each
            if each.member == "north":
                fence = home.fence("north")
                home.change("north", f"ALTER TABLE public.cases DROP CONSTRAINT {FENCE}")
                home.change("north", "UPDATE public.cases SET note = 'let in' WHERE id = 7")
                home.change("north", f"ALTER TABLE public.cases ADD CONSTRAINT {FENCE} {fence} NOT VALID")

    attests = [each.attest() for each in home.releases(2)]
    with monkeypatch.context() as patched:
        patched.setattr(FleetEvidence, "members", meanwhile)
        with open_pipeline(settings.load(home.file), actor="test") as pipeline, pytest.raises(KeyRotationError) as why:
            list(run(pipeline, request, lambda _: None, through=Step.RETIRED_KEY))
    assert "database north has changed since it gave its evidence" in str(why.value)
    assert {each.name for each in home.keys.glob("v*.key")} == {"v1.key", "v2.key"}
    home.texts["north"][7] = (home.texts["north"][7][0], "let in")
    assert home.said("rotate", request) == ""
    for each in attests:
        each.stop()
    require_encrypted(home, "v2", 2)

    with at_work(home.releases(2)):
        back = home.requested("rollback", request, "--decrypt", "--reason", "given up")
        assert home.said("rotate", back) == ""
    require_plaintext(home)
    north, unnoticed = replace(home, url=home.urls["north"]), list[str]()

    def noticed() -> bool:
        said = "table north:cases takes values under v2, or encrypted values in what was decrypted, again"
        return any(each.startswith(said) for each in home.shown("status", "--count")["attention"])

    refuses = home.fence("north")
    assert not noticed()
    for wanted, check in replaced_fences(north).items():
        home.change("north", RENEW.format(check))
        unnoticed += [] if noticed() else [wanted]
    assert unnoticed == []
    home.change("north", RENEW.format(refuses))
    assert not noticed()
    home.change("north", f"ALTER TABLE public.cases DROP CONSTRAINT {FENCE}")
    assert noticed()
    home.sign(home.typed("reconcile").splitlines()[-1])
    assert home.typed("reconcile")
    assert (home.fence("north"), noticed()) == (refuses, False)


@pytest.mark.extended
def test_a_member_that_is_down_keeps_the_old_form_and_its_values_are_not_decrypted_unseen(
    home: Home,
    second: Server,
) -> None:
    own, north, south = home.releases(2)
    attests = south.attest()
    home.change("south", "CREATE UNIQUE INDEX cases_note ON public.cases (note)")
    second.stop()
    with at_work([own, north]):
        request = home.requested("request", "--reason", "encrypt the notes")
        assert "; not counted: it did not answer or could not be used\n" in home.typed("approve", request, "--text")
        assert "database south: cannot connect to south@localhost" in home.said("rotate", request)
        assert {note[:3] for note in home.held_in("")} == {"v2:"}
        assert {note[:3] for note in home.held_in("north")} == {"v2:"}
        assert {each.name for each in home.keys.glob("v*.key")} == {"v1.key", "v2.key"}
        assert home.typed("status")
        second.start()
        assert "cases_note of cases stops no duplicates" in home.said("rotate", request)
        assert {note[:3] for note in home.held_in("south")} != {"v2:"}
        home.change("south", "DROP INDEX public.cases_note")
        with beside(south.work):
            assert home.said("rotate", request) == ""
        assert south.wrong == []
    require_encrypted(home, "v2", 2)
    second.stop()
    undo = "rollback", request, "--decrypt", "--reason", "given up"
    assert "database south: cannot connect to south@localhost" in home.said(*undo)
    assert home.shown("requests") == []
    second.start()
    attests.stop()
    with at_work(home.releases(2)):
        assert home.said("rotate", home.requested(*undo)) == ""
    require_plaintext(home)


@pytest.mark.extended
def test_a_database_that_joins_with_plaintext_is_encrypted_by_the_next_rotation(home: Home, server: Server) -> None:
    application = home.releases(2)
    with copy_of(server, "template1") as late:
        with at_work(application):
            home.rotated()
            home.urls["late"], home.texts["late"] = late, texts_of("late")
            home.change("late", "CREATE TABLE public.cases (id int PRIMARY KEY, name text, note text)")
            (release,) = (each for each in home.releases(None) if each.url == late)
            release.add(home.texts["late"])
            home.file.write_text(home.file.read_text() + f'[[databases]]\nname = "late"\nurl = "{late}"\n')
            assert "no officers have signed that it is one" in home.said("init")
            home.requested("policy", "--reason", "late opens")
            home.typed("policy")
            home.typed("init")
            assert home.tables()["late:cases"]["unencrypted"] == ROWS
            (release,) = (each for each in home.releases(3) if each.url == late)
            with at_work([release]):
                home.rotated()
            home.typed("verify")
        assert home.heads("note") == {"v3:"}
        assert [each.read() for each in home.releases(3)] == list(home.texts.values())
        with pytest.raises(psycopg.Error, match="plaintext is refused"):
            home.change("late", "UPDATE public.cases SET note = 'plain' WHERE id = 1")
