"""Values of other libraries, and values bound to their rows, in three databases under one key."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet, MultiFernet

from keyrotation_pipeline.adapters.fleet.retirement import FleetEvidence
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import DecryptionError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.binding import Row
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.model.proof import MemberEvidence
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.rotation.runner import run
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_fleet import (
    CONFIGURATION,
    MEMBERS,
    ROWS,
    Fleet,
    second,  # noqa: F401
)
from keyrotation_pipeline_tests.acceptance.test_fleet import fleet as native  # noqa: F401
from keyrotation_pipeline_tests.acceptance.test_fleet_backups import lose, recovered, recovery_key
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.marked_libraries import CLOAK_ECTO, RAILS, Library
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.servers import Server, copy_of

FERNET = Library(
    'name = "fernet"',
    lambda keys: MultiFernet([Fernet(key) for key in keys]),
    lambda: Fernet.generate_key().decode(),
    ",".join,
    lambda text: text.split(","),
    last=False,
)


@dataclass
class LibraryFleet(Fleet):
    """A fleet whose application has a library of its own, and reads its list of keys anew each time."""

    library: Library = FERNET

    @property
    def listed(self) -> list[str]:
        text = (self.folder.path / ".keyrotation" / "keys" / "application.env").read_text()
        return self.library.read(text.strip().partition("=")[2])

    def encrypted(self, text: str, row: int) -> Any:  # noqa: ANN401, ARG002  text or bytes
        return self.library.stored(self.library.keys(self.listed).encrypt(text.encode()))

    def decrypted(self, value: Any, row: int) -> str:  # noqa: ANN401, ARG002  text or bytes
        return str(self.library.keys(self.listed).decrypt(value).decode())


@dataclass
class BoundFleet(Fleet):
    """A fleet whose application binds values of the second key and later to column and row."""

    def encrypted(self, text: str, row: int) -> str:
        return encrypt(self.ring, text, "clients.name", Row(2, str(row).encode()))

    def decrypted(self, value: str, row: int) -> str:
        return decrypt(self.ring, value, "clients.name", Row(2, str(row).encode()))


@pytest.fixture(
    params=[
        pytest.param(RAILS, id="by a marker: Rails"),
        pytest.param(FERNET, id="by a MAC: Fernet"),
        pytest.param(CLOAK_ECTO, id="by a marker in bytes: Cloak for Elixir", marks=pytest.mark.extended),
    ]
)
def fleet(
    tmp_path: Path,
    database_url: str,
    server: Server,
    second: Server,  # noqa: F811
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    request: pytest.FixtureRequest,
) -> Iterator[LibraryFleet]:
    library: Library = request.param
    officers, key = (security_officer, privacy_officer), library.generate()
    with copy_of(server, "template1") as north:
        urls = {"": database_url, "north": north, "south": second.url("south")}
        with psycopg.connect(second.url(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE south")
        named = roster_in_toml(officers)
        form = f'[format]\n{library.format}\nkeys = {{ env = "FIELD_KEYS" }}\n'
        (tmp_path / "keyrotation.toml").write_text(CONFIGURATION.format(officers=named) + form)
        made = LibraryFleet(Folder(tmp_path, []), urls, officers, library=library)
        made.expected = {(database, row): f"{database} {row}" for database in urls for row in range(ROWS)}
        first = library.keys([key])
        for database, url in urls.items():
            with psycopg.connect(url, autocommit=True) as connection:
                kind = "bytea" if library.in_bytes else "text"
                connection.execute(f"CREATE TABLE clients (id int PRIMARY KEY, name {kind}, note {kind})".encode())
                for row in range(ROWS):
                    value = library.stored(first.encrypt(made.expected[database, row].encode()))
                    connection.execute("INSERT INTO clients VALUES (%s, %s)", (row, value))
        made.typed("init", FIELD_KEYS=library.write([key]))
        yield made


def test_each_database_refuses_the_old_key_of_another_library(fleet: LibraryFleet) -> None:
    (first,) = fleet.listed
    with beside(fleet.at_work):
        request = fleet.requested("request", "--reason", "yearly")
        fleet.typed("rotate", request)
    assert (fleet.wrong, fleet.writes > 0) == ([], True)
    assert fleet.read() == fleet.expected
    (new,) = fleet.listed
    assert new != first
    old = fleet.library.stored(fleet.library.alone(first).encrypt(b"old"))
    for url in fleet.urls.values():
        with psycopg.connect(url) as connection, pytest.raises(psycopg.Error, match="v1 is retired"):
            connection.execute("UPDATE clients SET name = %s WHERE id = 1", (old,))
    proven: list[Any] = fleet.events("member_proven")
    assert [each["facts"]["evidence"]["member"] for each in proven] == list(MEMBERS)
    fleet.typed("verify")
    fleet.typed("audit", "verify")
    fleet.typed("backup")

    with beside(fleet.at_work):
        back = fleet.requested("rollback", request, "--reason", "back")
        fleet.typed("rotate", back)
    assert (fleet.wrong, fleet.listed) == ([], [first])
    assert fleet.read() == fleet.expected
    fleet.typed("audit", "verify")


@pytest.mark.parametrize("fleet", [pytest.param(RAILS, id="Rails")], indirect=True)
@pytest.mark.extended
def test_a_home_without_tables_of_its_own_says_that_nobody_looks_for_copies_there(fleet: LibraryFleet) -> None:
    """It knows what values look like by its tables. Those of members are searched, and a copy there is found."""
    file = fleet.folder.path / "keyrotation.toml"
    file.write_text(file.read_text().replace('[[tables]]\nname = "clients"\ncolumns = ["name", "note"]\n', "", 1))
    request = fleet.requested("request", "--reason", "yearly")
    said = "the home's own database, which has no [[tables]], for values of another library"
    assert f"Not searched: {said}" in fleet.typed("approve", request, "--text")
    fleet.execute("north", "CREATE TABLE copies AS SELECT name AS kept FROM clients")
    assert "copies, column kept: " in fleet.refused("rotate", request)
    fleet.execute("north", "DROP TABLE copies")
    fleet.typed("rotate", request)
    (retired,) = [each["facts"] for each in fleet.events("key_retired")]
    assert isinstance(retired, dict)
    assert said in retired["not_searched"]
    assert retired["format"] in fleet.library.format
    fleet.typed("audit", "verify")


@pytest.mark.parametrize("fleet", [pytest.param(FERNET, id="Fernet")], indirect=True)
@pytest.mark.extended
def test_a_signing_key_that_is_gone_from_a_member_after_its_evidence_keeps_the_old_key(
    fleet: LibraryFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its triggers are as they were, and refuse nothing."""
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "zero_old_rows_proof")
    members = FleetEvidence.members

    def meanwhile(self: FleetEvidence, *arguments: Any) -> Iterator[MemberEvidence]:  # noqa: ANN401
        for each in members(self, *arguments):
            yield each
            if each.member == "north":
                fleet.execute("north", "DELETE FROM keyrotation.retired_signing_halves")

    with monkeypatch.context() as patched:
        patched.setattr(FleetEvidence, "members", meanwhile)
        with fleet.pipeline() as pipeline, pytest.raises(KeyRotationError, match="north has changed since"):
            list(run(pipeline, request, lambda _: None, through=Step.RETIRED_KEY))
    assert len(fleet.listed) == 2
    fleet.typed("rotate", request)
    assert len(fleet.listed) == 1
    fleet.typed("audit", "verify")


def test_each_database_binds_its_values_to_their_rows(native: Fleet) -> None:  # noqa: F811
    file = native.folder.path / "keyrotation.toml"
    tables = file.read_text().replace("columns =", 'row = { key = "id", from = 2 }\ncolumns =')
    file.write_text(f"{tables}[format]\ngeneration = 2\n")
    fleet = BoundFleet(native.folder, native.urls, native.officers, native.expected)
    with beside(fleet.at_work):
        request = fleet.requested("request", "--reason", "yearly")
        fleet.typed("rotate", request)
    assert (fleet.wrong, fleet.writes > 0) == ([], True)
    assert fleet.read() == fleet.expected
    with psycopg.connect(fleet.urls["north"]) as connection:
        ((value,),) = connection.execute("SELECT name FROM clients WHERE id = 1").fetchall()
    assert value.startswith("v2x:")
    with pytest.raises(DecryptionError):
        fleet.decrypted(value, 2)
    fleet.typed("verify")
    fleet.typed("audit", "verify")


@pytest.mark.parametrize("through", ["primary_key_rollout", "zero_old_rows_proof"])
@pytest.mark.extended
def test_a_member_of_another_library_is_brought_back_and_the_rotation_goes_on(
    fleet: LibraryFleet,
    second: Server,  # noqa: F811
    through: str,
) -> None:
    fleet.typed("backup")
    tested = json.loads(fleet.typed("recovery-test", "--key", recovery_key(fleet), "--json"))
    read = [each["decrypted"][f"{each['member']}:clients"] for each in tested["members"]]
    assert read == [{"name": {"v1": ROWS}}] * len(MEMBERS)
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", through)
    lose(second, "south")
    recovered(fleet, "south")
    if through == "zero_old_rows_proof":
        refused = fleet.refused("rotate", request)
        assert "table south:clients" in refused
        assert "have been proven and fenced again" in refused
        assert len(fleet.listed) == 2
    fleet.typed("rotate", request)
    assert (fleet.read(), len(fleet.listed)) == (fleet.expected, 1)
    fleet.typed("verify")
    fleet.typed("audit", "verify")
