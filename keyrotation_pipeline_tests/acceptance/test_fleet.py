"""One key, three databases on two servers: one home, one request, one pair of signatures."""

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, LiteralString

import dagster as dg
import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.fleet.retirement import FleetEvidence
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.defs.code_location import configured_definitions
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import MountedKeyRing
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.proof import MemberEvidence, ZeroOldRows
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation import retire
from keyrotation_pipeline.rotation.runner import run
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.conducting import Conducted
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.servers import Server, copy_of, discard, start_server
from keyrotation_pipeline_tests.waiting import eventually

ROWS = 60
MEMBERS = ("north", "south")
CONFIGURATION = """
rollout.mode = "none"
reencryption.shards = 1
reencryption.duty_cycle = 1.0
[database]
url = {{ env = "URL" }}
[[databases]]
name = "north"
url = {{ env = "NORTH" }}
[[databases]]
name = "south"
url = {{ env = "SOUTH" }}
[approvals]
required = 2
{officers}
[[tables]]
name = "clients"
columns = ["name", "note"]
[[tables]]
name = "clients"
columns = ["name", "note"]
databases = "*"
"""


@dataclass
class Fleet:
    """A home with two members, and an application that writes in all three databases."""

    folder: Folder
    urls: dict[str, str]
    officers: tuple[DemoOfficer, ...]
    expected: dict[tuple[str, int], str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0

    @property
    def ring(self) -> KeyRing:
        return MountedKeyRing(self.folder.path / ".keyrotation" / "keys")()

    @property
    def variables(self) -> dict[str, str]:
        return {name.upper() or "URL": url for name, url in self.urls.items()}

    def typed(self, *arguments: str, expect: int = 0, **variables: str) -> str:
        given = {**self.variables, **variables}
        return self.folder.run(*arguments, expect=expect, **given)

    def said(self) -> str:
        return self.folder.printed[-1]

    def requested(self, *arguments: str) -> str:
        request = self.typed(*arguments).split()[-1]
        with self.pipeline() as pipeline:
            text = pipeline.ledger.approval_text(request)
            for officer in self.officers:
                add_approval(pipeline, pipeline.ledger.request(request), officer.sign(text))
        return request

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in self.variables.items():
                environment.setenv(name, value)
            with open_pipeline(settings.load(self.folder.path / "keyrotation.toml"), actor="test") as pipeline:
                yield pipeline

    def signed(self, request: str) -> str:
        """Signs by the command, as officers do; returns the text."""
        text = self.typed("approve", request, "--text")
        for officer in self.officers:
            signature = self.folder.path / "signature.asc"
            signature.write_bytes(officer.sign(text.encode()))
            self.typed("approve", request, "--signature", str(signature))
        return text

    def retired(self, request: str) -> str:
        """Tries to retire the key in this process, and returns why not."""
        with self.pipeline() as pipeline, pytest.raises(KeyRotationError) as refused:
            list(run(pipeline, request, lambda _: None, through=Step.RETIRED_KEY))
        assert self.live() == {"v1", "v2"}
        return str(refused.value)

    def execute(self, database: str, statement: LiteralString) -> None:
        with psycopg.connect(self.urls[database], autocommit=True) as connection:
            connection.execute(statement)

    def encrypted(self, text: str, row: int) -> Any:  # noqa: ANN401, ARG002  what a column takes
        """As the application encrypts, with the keys that it reads now."""
        return encrypt(self.ring, text)

    def decrypted(self, value: Any, row: int) -> str:  # noqa: ANN401, ARG002  what a column takes
        return decrypt(self.ring, value)

    def write(self, database: str, row: int, value: str | None = None) -> None:
        new = self.encrypted(self.expected[database, row], row) if value is None else value
        with psycopg.connect(self.urls[database], autocommit=True) as connection:
            connection.execute("UPDATE clients SET name = %s WHERE id = %s", (new, row))

    def read(self) -> dict[tuple[str, int], str]:
        found = dict[tuple[str, int], str]()
        for database, url in self.urls.items():
            with psycopg.connect(url) as connection:
                rows = connection.execute("SELECT id, name FROM clients").fetchall()
            found |= {(database, row): self.decrypted(value, row) for row, value in rows}
        return found

    def at_work(self, stop: threading.Event) -> None:
        chance = Random(7)
        connections = {name: psycopg.connect(url, autocommit=True) for name, url in self.urls.items()}
        while not stop.wait(0.01):
            database, row = chance.choice(list(self.urls)), chance.randrange(ROWS)
            new = f"{database} {row}, write {self.writes}"
            try:
                value = self.encrypted(new, row)
                connections[database].execute("UPDATE clients SET name = %s WHERE id = %s", (value, row))
                self.expected[database, row] = new
            except psycopg.Error as error:
                self.wrong.append(f"{database} {row}: {error}")
            self.writes += 1
        for each in connections.values():
            each.close()

    def refused(self, *arguments: str, **variables: str) -> str:
        self.typed(*arguments, expect=1, **variables)
        return self.folder.printed[-1]

    def system(self, database: str) -> str:
        with psycopg.connect(self.urls[database]) as connection:
            ((number,),) = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchall()
        return str(number)

    def live(self) -> set[str]:
        return {file.stem for file in (self.folder.path / ".keyrotation" / "keys").glob("v*.key")}

    def refence(self, database: str) -> None:
        """Somebody drops the fence, and puts exactly the same back."""
        name = "keyrotation_retired_key_versions"
        with psycopg.connect(self.urls[database], autocommit=True) as connection:
            where = "FROM pg_constraint WHERE conname = %s"
            ((definition,),) = connection.execute(f"SELECT pg_get_constraintdef(oid) {where}", (name,)).fetchall()
            connection.execute("SET lock_timeout = '5s'")
            connection.execute(f"ALTER TABLE clients DROP CONSTRAINT {name}".encode())
            connection.execute(f"ALTER TABLE clients ADD CONSTRAINT {name} {definition}".encode())

    def status(self, *arguments: str) -> dict[str, dict[str, int]]:
        tables = json.loads(self.typed("status", "--json", *arguments))["tables"]
        return {table["table"]: table["values_by_version"] for table in tables}

    def events(self, kind: str) -> list[dict[str, object]]:
        return [each for each in json.loads(self.typed("audit", "log", "--json")) if each["event"] == kind]


@pytest.fixture
def second() -> Iterator[Server]:
    server = start_server()
    yield server
    discard(server)


@pytest.fixture
def fleet(
    tmp_path: Path,
    database_url: str,
    server: Server,
    second: Server,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> Iterator[Fleet]:
    officers = (security_officer, privacy_officer)
    with copy_of(server, "template1") as north:
        urls = {"": database_url, "north": north, "south": second.url("south")}
        with psycopg.connect(second.url(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE south")
        for url in urls.values():
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text, note text)")
                connection.execute("INSERT INTO clients (id) SELECT generate_series(0, %s)", (ROWS - 1,))
        named = roster_in_toml(officers)
        (tmp_path / "keyrotation.toml").write_text(CONFIGURATION.format(officers=named))
        made = Fleet(Folder(tmp_path, []), urls, officers)
        made.typed("init", ENCRYPTION_MASTER_KEY=base64.b64encode(os.urandom(32)).decode())
        made.expected = {(database, row): f"{database} {row}" for database in urls for row in range(ROWS)}
        for database, row in made.expected:
            made.write(database, row)
        yield made


def test_three_databases_are_rotated_under_one_request_beside_writers(fleet: Fleet) -> None:
    old = encrypt(fleet.ring, "old")
    with beside(fleet.at_work):
        request = fleet.requested("request", "--reason", "yearly")
        fleet.typed("rotate", request)
    assert (fleet.wrong, fleet.writes > 0) == ([], True)
    assert fleet.read() == fleet.expected
    assert fleet.status("--count") == {
        name: {"v1": 0, "v2": ROWS} for name in ("clients", "north:clients", "south:clients")
    }
    for url in fleet.urls.values():
        with psycopg.connect(url) as connection, pytest.raises(psycopg.Error, match="v1 is retired"):
            connection.execute("UPDATE clients SET name = %s WHERE id = 1", (old,))
    assert [each["facts"]["evidence"]["member"] for each in fleet.events("member_proven")] == list(MEMBERS)  # type: ignore[index]
    fleet.typed("audit", "verify")
    fleet.typed("verify")


@pytest.mark.extended
def test_a_member_that_changes_between_its_evidence_and_the_commit_keeps_the_key(
    fleet: Fleet, second: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped, and its fence is made anew; each next run takes the evidence anew. So with the home's own."""
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "zero_old_rows_proof")
    due = list[tuple[str, Callable[[], None]]]()
    members, zero_old_rows = FleetEvidence.members, FleetEvidence.zero_old_rows

    def meanwhile(self: FleetEvidence, *arguments: Any) -> Iterator[MemberEvidence]:  # noqa: ANN401
        for each in members(self, *arguments):
            yield each
            if due and due[0][0] == each.member:
                due.pop()[1]()

    def counted(self: FleetEvidence, *arguments: Any) -> ZeroOldRows:  # noqa: ANN401
        zero = zero_old_rows(self, *arguments)
        if due and not due[0][0]:
            due.pop()[1]()
        return zero

    monkeypatch.setattr(FleetEvidence, "members", meanwhile)
    monkeypatch.setattr(FleetEvidence, "zero_old_rows", counted)
    due.append(("south", second.stop))
    assert "database south: cannot connect to south@localhost" in fleet.retired(request)
    second.start()
    for database, named in (("north", "database north"), ("", "the home's own database")):
        due.append((database, partial(fleet.refence, database)))
        why = fleet.retired(request)
        assert f"{named} has changed since it gave its evidence: the fence or the file of clients is another" in why
        assert "the tables have been proven and fenced again: when you know who it was, run" in why
    due.append(("south", lambda: fleet.execute("south", "CREATE TABLE copies (of_clients text)")))
    assert "database south has changed since it gave its evidence: a relation was created" in fleet.retired(request)
    fleet.typed("rotate", request)
    assert fleet.live() == {"v2"}
    fleet.typed("audit", "verify")


@pytest.mark.extended
def test_a_member_that_is_down_blocks_the_retirement_alone(fleet: Fleet, second: Server) -> None:
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "dual_key_rollout")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    identifier = fleet.system("south")
    second.stop()
    refused = fleet.refused("rotate", request)
    assert "database south: cannot connect to south@localhost" in refused
    assert "correct host and port in [[databases]] south url" in refused
    status = json.loads(fleet.typed("status", "--json"))
    assert status["rotation"]["phase"] == "rows"
    assert status["members"]["south"] == f"south, system identifier {identifier}"
    assert any("database south refuses was not seen" in each for each in status["attention"])
    fleet.typed("status")
    fleet.typed("inventory", expect=1)
    assert "south" in status["rotation"]["blocked_by"]
    for database in ("", "north"):
        with psycopg.connect(fleet.urls[database]) as connection:
            left = connection.execute("SELECT count(*) FROM clients WHERE name LIKE 'v1:%'").fetchone()
        assert left == (0,)
    second.start()
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


def done(fleet: Fleet, request: str, step: str) -> dict[str, Any]:
    """What the record of a step says."""
    finished = (each["facts"] for each in fleet.events("step_finished") if each["request"] == request)
    (facts,) = (each["facts"] for each in finished if isinstance(each, dict) and each["step"] == step)
    assert isinstance(facts, dict)
    return facts


@pytest.mark.extended
def test_an_emergency_is_requested_signed_and_promoted_while_a_member_is_down(fleet: Fleet, second: Server) -> None:
    identifier = fleet.system("south")
    second.stop()
    because = ("--type", "key_exposed", "--description", "in a log", "--discovered-at", "now")
    request = fleet.typed("incident", "open", *because).split()[-1]
    text = fleet.signed(request)
    uncounted = f"\nPlace south: south, system identifier {identifier}; not counted: it did not answer"
    assert uncounted in text
    assert "\nNOBODY HAS COUNTED what is in south, which did not answer when this was requested." in text
    assert "\nNot searched in south: everything, since it did not answer" in text
    assert f"; {ROWS} values when last counted" in text
    assert "database south: cannot connect to south@localhost" in fleet.refused("rotate", request)
    promoted = done(fleet, request, "primary_key_rollout")
    assert (promoted["not_looked_through"], promoted["not_decrypted"]) == (["south:clients"], ["south:clients"])
    assert [prefixes(fleet.urls[each]) for each in ("", "north")] == [{"v2:"}, {"v2:"}]
    assert fleet.live() == {"v1", "v2"}
    second.start()
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)
    fleet.typed("audit", "verify")


NOWHERE = "postgresql://127.0.0.1:1/clinic"


@pytest.mark.extended
def test_a_member_that_is_down_keeps_nobody_from_examining_the_others(fleet: Fleet) -> None:
    fleet.execute("south", "DROP SCHEMA keyrotation CASCADE")
    refused = fleet.refused("init", NORTH=NOWHERE)
    assert refused.startswith("database north: cannot connect to clinic@127.0.0.1:1: ")
    assert fleet.refused("init", NORTH=NOWHERE, SOUTH=NOWHERE).startswith(
        "2 databases were not examined (north, south); the first: database north: cannot connect"
    )
    read = json.loads(fleet.typed("verify", "--json", expect=1, NORTH=NOWHERE))
    assert [(each["table"], each["values"]) for each in read["tables"]] == [("clients", ROWS), ("south:clients", ROWS)]
    assert read["not_examined"].keys() == {"north"}
    assert "database north: cannot connect" in fleet.said()
    said = json.loads(fleet.typed("status", "--json", NORTH=NOWHERE))["attention"]
    (unseen,) = (each for each in said if "database north refuses was not seen: " in each)
    assert unseen.count("database north") == 1
    fleet.typed("verify")


@pytest.mark.extended
def test_a_member_that_nobody_signed_and_is_down_hides_no_status(fleet: Fleet) -> None:
    file = fleet.folder.path / "keyrotation.toml"
    before, west = file.read_text(), '[[databases]]\nname = "west"\nurl = { env = "WEST" }\n[approvals]'
    file.write_text(before.replace("[approvals]", west))
    status = json.loads(fleet.typed("status", "--json", WEST=NOWHERE))
    assert any("(databases west at an unknown place is new)" in each for each in status["attention"])
    refused = fleet.refused("request", "--reason", "yearly", WEST=NOWHERE)
    assert "west is an unknown place, and no officers have signed that it is one" in refused
    refused = fleet.refused("policy", "--reason", "west opens", WEST=NOWHERE)
    assert refused.startswith("database west: cannot connect to clinic@127.0.0.1:1: ")
    assert "database west: cannot connect" in fleet.refused("init", WEST=NOWHERE)
    file.write_text(before)
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    file.write_text(before.replace("[approvals]", west))
    status = json.loads(fleet.typed("status", "--json", WEST=NOWHERE))
    changed = f"rotation {request} is no longer what officers signed (Columns, Place west); restore that, or "
    assert status["rotation"]["waiting_for"] == f"{changed}`keyrotation request`"
    file.write_text(before)
    fleet.typed("rotate", request)
    assert fleet.live() == {"v2"}


@pytest.mark.extended
def test_an_emergency_is_requested_while_no_database_with_tables_answers(fleet: Fleet) -> None:
    fleet.execute("", "DROP TABLE clients")
    file, own = fleet.folder.path / "keyrotation.toml", '[[tables]]\nname = "clients"\ncolumns = ["name", "note"]\n'
    file.write_text(file.read_text().replace(own, "", 1))
    there = fleet.urls
    fleet.urls = {**there, **dict.fromkeys(MEMBERS, NOWHERE)}
    assert "database north: cannot connect to clinic@" in fleet.refused("request", "--reason", "yearly")
    because = ("--type", "key_exposed", "--description", "in a log", "--discovered-at", "now")
    request = fleet.typed("incident", "open", *because).split()[-1]
    fleet.urls = there
    assert fleet.signed(request).count("; not counted: it did not answer or could not be used\n") == len(MEMBERS)
    fleet.typed("rotate", request)
    assert fleet.live() == {"v2"}
    assert [prefixes(fleet.urls[each]) for each in MEMBERS] == [{"v2:"}, {"v2:"}]


@pytest.mark.extended
@pytest.mark.parametrize("down_first", [True, False])
def test_a_member_that_goes_and_comes_back_voids_no_signature(
    fleet: Fleet, second: Server, *, down_first: bool
) -> None:
    """What nobody searches in it stays as it was signed."""
    fleet.execute("south", "CREATE TABLE scans (pixels bit varying)")
    if down_first:
        second.stop()
    request = fleet.typed("request", "--reason", "yearly").split()[-1]
    assert ("\nNot searched in south: everything" in fleet.signed(request)) == down_first
    (second.start if down_first else second.stop)()
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    if not down_first:
        second.start()
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


@pytest.mark.extended
def test_a_rollback_goes_on_while_a_member_is_down(fleet: Fleet, second: Server) -> None:
    """Its fence, too, accepts the former key again before its rows are due."""
    undone = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", undone, "--through", "zero_old_rows_proof")
    second.stop()
    request = fleet.typed("rollback", undone, "--reason", "the new key is refused").split()[-1]
    fleet.signed(request)
    assert "database south: cannot connect to south@localhost" in fleet.refused("rotate", request)
    assert done(fleet, request, "primary_key_rollout")["still_refused"] == ["south:clients"]
    assert [prefixes(fleet.urls[each]) for each in ("", "north")] == [{"v1:"}, {"v1:"}]
    second.start()
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v1"}, fleet.expected)
    fleet.typed("audit", "verify")


@pytest.mark.extended
def test_a_member_is_where_officers_have_signed_it_or_nothing_is_read_there(fleet: Fleet, server: Server) -> None:
    request = fleet.requested("request", "--reason", "yearly")
    with fleet.pipeline() as pipeline:
        text = pipeline.ledger.approval_text(request).decode()
    assert "\nPlace north: " in text
    assert f"\nPlace south: south, system identifier {fleet.system('south')}; {ROWS} values when last counted" in text
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    with copy_of(server, "template1") as elsewhere:
        refused = fleet.refused("rotate", request, SOUTH=elsewhere)
        assert "[[databases]] south is test_" in refused
        assert "officers have signed south, system identifier" in refused
        refused = fleet.refused("rotate", request, SOUTH=fleet.urls["north"])
        assert "[[databases]] south is test_" in refused
        for database in ("north", "south"):
            assert "is the member " in fleet.refused("status", URL=fleet.urls[database])
    fleet.typed("rotate", request)
    assert fleet.live() == {"v2"}


@pytest.mark.extended
def test_what_is_written_into_the_copy_of_the_audit_is_not_believed(fleet: Fleet) -> None:
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    fleet.execute(
        "north",
        "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event, request) "
        "SELECT seq + 1, replace(body, '\"running\"', '\"paused\"'), hash, repeat('a', 64), event, request "
        "FROM keyrotation.audit_events ORDER BY seq DESC LIMIT 1",
    )
    refused = fleet.refused("rotate", request)
    assert "database north: its copy of the audit, in the schema keyrotation, is not this home's; find out" in refused
    fleet.execute("north", "DROP SCHEMA keyrotation CASCADE")
    assert "database north:" in fleet.refused("rotate", request)
    fleet.typed("init")
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


@pytest.mark.extended
def test_certificate_and_pack_name_each_place_and_fail_without_the_evidence_of_one(fleet: Fleet) -> None:
    fleet.typed("backup")
    fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
    fleet.typed("backup")
    pack = fleet.folder.path / "pack"
    fleet.typed("report", "--format", "pack", "--output", str(pack))
    (certificate,) = pack.rglob("*.dsse.json")
    said = json.loads(base64.b64decode(json.loads(certificate.read_text())["payload"]))["predicate"]
    assert [(each["member"], each["values"], each["old_values"]) for each in said["members"]] == [
        ("north", ROWS, 0),
        ("south", ROWS, 0),
    ]
    assert said["members"][1]["place"] == f"south, system identifier {fleet.system('south')}"
    kept = [(each.get("member"), each.get("database"), each["needs"]) for each in said["backups_that_need_it"]]
    assert ("south", said["members"][1]["place"], ["v1"]) in kept
    assert [each[0] for each in kept] == [None, "north", "south"]
    verify = [sys.executable, "-I", str(pack / "verify.py")]
    assert subprocess.run(verify, check=False, capture_output=True).returncode == 0
    (log,) = pack.rglob("audit.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(each for each in lines if not ("member_proven" in each and "south" in each)))
    failed = subprocess.run(verify, check=False, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "does not follow event" in failed.stdout


@pytest.mark.extended
def test_the_conductor_rotates_the_same(fleet: Fleet) -> None:
    """One asset, with a partition for each database, and runs that do what `rotate` does."""
    request = fleet.requested("request", "--reason", "yearly")
    with pytest.MonkeyPatch.context() as environment, dg.DagsterInstance.ephemeral() as instance:
        for name, value in fleet.variables.items():
            environment.setenv(name, value)
        declared = settings.load(fleet.folder.path / "keyrotation.toml")
        conducted = Conducted(configured_definitions(declared, OWN), instance, PipelineResource(str(declared.path)))
        conducted.tick("ledger_mirror")
        conducted.conduct()
        shown = instance.get_materialized_partitions(dg.AssetKey(["rows", "clients"]))
    assert shown == {"north|v2", "own-database|v2", "south|v2"}
    walks = {each["id"]: each["outcome"] for each in json.loads(fleet.typed("history", "--json"))}
    assert (walks[request], fleet.live(), fleet.read()) == ("finished", {"v2"}, fleet.expected)


@pytest.mark.extended
def test_a_member_joins_and_leaves_by_a_signed_policy(fleet: Fleet, server: Server) -> None:
    with copy_of(server, "template1") as west:
        fleet.urls["west"] = west
        fleet.execute("west", "CREATE TABLE clients (id int PRIMARY KEY, name text, note text)")
        fleet.execute("west", f"INSERT INTO clients (id) SELECT generate_series(0, {ROWS - 1})")
        fleet.expected |= {("west", row): f"west {row}" for row in range(ROWS)}
        for row in range(ROWS):
            fleet.write("west", row)
        file = fleet.folder.path / "keyrotation.toml"
        before = file.read_text()
        west_too = '[[databases]]\nname = "west"\nurl = { env = "WEST" }\n[approvals]'
        file.write_text(before.replace("[approvals]", west_too))
        refused = fleet.refused("request", "--reason", "yearly")
        assert "[[databases]] west is test_" in refused
        assert "no officers have signed that it is one" in refused
        fleet.requested("policy", "--reason", "west opens")
        fleet.typed("policy")
        fleet.typed("init")
        fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
        assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)
        file.write_text(before)
        assert any("databases west" in each for each in json.loads(fleet.typed("status", "--json"))["attention"])


@pytest.mark.extended
def test_the_order_of_databases_in_the_file_changes_no_signed_text(fleet: Fleet) -> None:
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    file = fleet.folder.path / "keyrotation.toml"
    north, south = (f'[[databases]]\nname = "{each}"\nurl = {{ env = "{each.upper()}" }}\n' for each in MEMBERS)
    assert north + south in file.read_text()
    file.write_text(file.read_text().replace(north + south, south + north))
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


@pytest.mark.extended
def test_a_pause_reaches_the_workers_in_a_member_within_seconds(fleet: Fleet) -> None:
    fleet.execute(
        "south", "INSERT INTO clients SELECT n, name, '' FROM clients, generate_series(1000, 40000) AS n WHERE id = 1"
    )
    file = fleet.folder.path / "keyrotation.toml"
    slow = "reencryption.max_rows_per_second = 500\nreencryption.workers = 2"
    file.write_text(file.read_text().replace("reencryption.duty_cycle = 1.0", slow))
    request = fleet.requested("request", "--reason", "yearly")
    with ThreadPoolExecutor(1) as threads:
        rotating = threads.submit(fleet.refused, "rotate", request)
        with psycopg.connect(fleet.urls["south"], autocommit=True) as connection:
            begun = "SELECT count(*) > 0 FROM clients WHERE name LIKE 'v2:%' AND id >= 1000"
            assert eventually(lambda: connection.execute(begun).fetchone() == (True,), seconds=120)
        at = time.monotonic()
        fleet.typed("pause", request)
        assert f"database south: rotation {request[:8]} was paused" in rotating.result()
    assert time.monotonic() - at < 15


@pytest.mark.extended
def test_the_homes_own_database_may_have_the_audit_alone(fleet: Fleet) -> None:
    fleet.execute("", "DROP TABLE clients")
    file = fleet.folder.path / "keyrotation.toml"
    own = '[[tables]]\nname = "clients"\ncolumns = ["name", "note"]\n'
    file.write_text(file.read_text().replace(own, "", 1))
    fleet.expected = {place: text for place, text in fleet.expected.items() if place[0]}
    fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
    assert fleet.status("--count") == {f"{name}:clients": {"v1": 0, "v2": ROWS} for name in MEMBERS}
    del fleet.urls[""]
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


@contextmanager
def shared_out(*servers: Server) -> Iterator[Path]:
    """A socket whose first connection leads to the first server, and every later one to the second."""
    with tempfile.TemporaryDirectory(dir=servers[0].directory.parent) as directory, ExitStack() as opened:

        def own() -> socket.socket:
            return opened.enter_context(closing(socket.socket(socket.AF_UNIX)))

        def pass_on(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while content := source.recv(65536):
                    target.sendall(content)
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            with suppress(OSError):
                for number in itertools.count():
                    client, there = opened.enter_context(closing(listening.accept()[0])), own()
                    there.connect(f"{servers[min(number, 1)].directory}/.s.PGSQL.5432")
                    for pair in ((client, there), (there, client)):
                        threading.Thread(target=pass_on, args=pair, daemon=True).start()

        listening = own()
        listening.bind(f"{directory}/.s.PGSQL.5432")
        listening.listen()
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield Path(directory)
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join()


def prefixes(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {str(name)[:3] for (name,) in connection.execute("SELECT name FROM clients").fetchall()}


@pytest.mark.extended
def test_a_further_connection_that_leads_elsewhere_neither_reads_nor_writes(
    fleet: Fleet, server: Server, second: Server
) -> None:
    """A balancer shares connections out between a member and its copy on another server."""
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS south")
        admin.execute("CREATE DATABASE south")
    dumped = subprocess.run([second.binaries / "pg_dump", fleet.urls["south"]], check=True, capture_output=True).stdout
    load = [str(second.binaries / "psql"), "-q", "-v", "ON_ERROR_STOP=1", server.url("south")]
    subprocess.run(load, check=True, input=dumped, stdout=subprocess.DEVNULL)
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    with shared_out(second, server) as directory:
        refused = fleet.refused("rotate", request, SOUTH=f"postgresql://postgres@/south?host={directory}")
    assert "database south: a further connection led to south, system identifier" in refused
    assert (prefixes(server.url("south")), prefixes(fleet.urls["south"])) == ({"v1:"}, {"v1:"})
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


@pytest.mark.extended
def test_a_service_file_that_names_another_database_later_leads_nowhere(
    fleet: Fleet, second: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection string stays as it was."""
    service, other = tmp_path / "services", second.url("other")
    with psycopg.connect(second.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE other TEMPLATE south")
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("DROP SCHEMA keyrotation CASCADE")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    fleet.urls["south"] = "postgresql://?service=south"

    def named(database: str) -> None:
        service.write_text(f"[south]\nhost={second.directory}\nuser=postgres\ndbname={database}\n")

    named("south")
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    named("other")
    for command in (("init",), ("rotate", request)):
        refused = fleet.refused(*command)
        assert "[[databases]] south is other, system identifier" in refused
    assert prefixes(other) == {"v1:"}
    named("south")
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


@pytest.mark.extended
def test_a_subscriber_that_is_gone_in_one_member_is_not_gone_in_another(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retire, "HORIZON_PATIENCE_SECONDS", 0)
    for member in MEMBERS:
        fleet.execute(member, "SELECT pg_create_logical_replication_slot(current_database() || '_', 'pgoutput')")
    fleet.execute("north", "SELECT pg_drop_replication_slot(current_database() || '_')")
    fleet.execute("north", "SELECT pg_create_logical_replication_slot('south_', 'pgoutput')")
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "zero_old_rows_proof")
    file = fleet.folder.path / "keyrotation.toml"
    before = file.read_text()
    assert "add 'north:slot south_' to [database] gone_replicas" in fleet.retired(request)
    file.write_text(before.replace("[database]", '[database]\ngone_replicas = ["north:slot south_"]'))
    why = fleet.retired(request)
    assert "north:" not in why
    assert "add 'south:slot south_' to [database] gone_replicas" in why
    for member in MEMBERS:
        fleet.execute(member, "SELECT pg_drop_replication_slot('south_')")
    assert "add 'south:slot south_' to [database] gone_replicas" in fleet.retired(request)
    both = 'gone_replicas = ["north:slot south_", "south:slot south_"]'
    file.write_text(before.replace("[database]", f"[database]\n{both}"))
    fleet.typed("rotate", request)
    (accounted,) = (each["facts"] for each in fleet.events("replicas_accounted"))
    assert isinstance(accounted, dict)
    gone = {each["name"] for each in accounted["replicas"] if each["replayed"] is None}
    assert gone == set(accounted["gone_as_configured"]) >= {"north:slot south_", "south:slot south_"}


@pytest.mark.extended
def test_whoever_owns_a_member_keeps_the_others_from_nothing_and_blinds_no_status(fleet: Fleet) -> None:
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    for done, undone, why in (
        ("ALTER TABLE keyrotation.audit_head RENAME TO h", "ALTER TABLE keyrotation.h RENAME TO audit_head",
         "database south: its schema of the pipeline's records was changed (UndefinedTable)"),
        ("UPDATE keyrotation.mirror_of SET member = 'north'", "UPDATE keyrotation.mirror_of SET member = 'south'",
         "database south: it is the member north of this home"),
    ):  # fmt: skip
        fleet.execute("south", done)
        assert why in fleet.refused("rotate", request)
        status = json.loads(fleet.typed("status", "--json"))
        assert any("database south refuses was not seen" in each for each in status["attention"])
        assert prefixes(fleet.urls["north"]) == {"v2:"}
        fleet.execute("south", undone)
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


@pytest.mark.extended
def test_a_member_moves_to_another_server_by_a_signed_policy(fleet: Fleet, server: Server, second: Server) -> None:
    """As after pg_upgrade, or by logical replication: the system identifier is another one."""
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS south WITH (FORCE)")
        admin.execute("CREATE DATABASE south")
    dumped = subprocess.run([second.binaries / "pg_dump", fleet.urls["south"]], check=True, capture_output=True).stdout
    load = [str(second.binaries / "psql"), "-q", "-v", "ON_ERROR_STOP=1", server.url("south")]
    subprocess.run(load, check=True, input=dumped, stdout=subprocess.DEVNULL)
    fleet.urls["south"] = server.url("south")
    fleet.typed("cancel", fleet.typed("request", "--reason", "yearly").split()[-1])
    assert any("officers have signed south, system identifier" in each for each in fleet.folder.printed)
    request = fleet.typed("policy", "--reason", "south moves").split()[-1]
    fleet.signed(request)
    fleet.typed("policy")
    fleet.typed("init")
    fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


@pytest.mark.extended
def test_the_preflight_looks_for_no_table_of_a_member_in_the_homes_own_database(fleet: Fleet) -> None:
    fleet.execute("south", "CREATE TABLE letters (id int PRIMARY KEY, body text)")
    file = fleet.folder.path / "keyrotation.toml"
    file.write_text(f'{file.read_text()}\n[[tables]]\nname = "letters"\ncolumns = ["body"]\ndatabases = ["south"]\n')
    fleet.typed("preflight", "--json", expect=1)
    assert not any("is not in the database" in each for each in fleet.folder.printed)


def restored(server: Server, url: str, dump: Path) -> None:
    """Puts the home's own database back to a dump."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA keyrotation CASCADE")
        connection.execute("DROP TABLE clients")
    load = [str(server.binaries / "pg_restore"), "--no-owner", "--exit-on-error", f"--dbname={url}", str(dump)]
    subprocess.run(load, check=True)


def audits(fleet: Fleet) -> list[tuple[int, str]]:
    """The head of the audit, and of each copy."""
    heads = []
    for url in fleet.urls.values():
        with psycopg.connect(url) as connection:
            heads += connection.execute("SELECT seq, hash FROM keyrotation.audit_head").fetchall()
    return heads


@pytest.mark.extended
def test_after_the_home_is_restored_each_copy_is_made_anew_by_signature(
    fleet: Fleet, server: Server, second: Server
) -> None:
    dump = fleet.folder.path / "home.dump"
    command = [str(server.binaries / "pg_dump"), "--format=custom", f"--file={dump}", f"--dbname={fleet.urls['']}"]
    subprocess.run(command, check=True)
    first = audits(fleet)[0][0] + 1
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    fleet.typed("rotate", request, "--through", "rows")
    fleet.execute("south", "INSERT INTO keyrotation.replicas (name, kind, connections) VALUES ('old', 'standby', 1)")
    restored(server, fleet.urls[""], dump)
    before = audits(fleet)
    refused = fleet.refused("inventory")
    assert f"database north: its copy of the audit has events {first} to {before[1][0]}, which this audit" in refused
    text = fleet.signed(reconciling := fleet.typed("reconcile").split()[-1])
    for name, (seq, head) in zip(MEMBERS, before[1:], strict=True):
        assert f"set aside events {first} to {seq} {head} of the copy of the audit in {name}" in text
    assert f"The copy of the records in south has events {first} to {before[2][0]} more." in text
    assert audits(fleet)[1:] == before[1:]
    second.stop()
    fleet.typed("reconcile", expect=1)
    second.start()
    fleet.typed("reconcile")
    (facts,) = (each["facts"] for each in fleet.events("database_reconciled") if each["request"] == reconciling)
    assert isinstance(facts, dict)
    assert facts["members"]["north"]["set_aside"] == {
        "first": first,
        "last": {"seq": before[1][0], "hash": before[1][1]},
    }
    fleet.typed("inventory")
    assert len(set(audits(fleet))) == 1
    for name, (seq, head) in zip(MEMBERS, before[1:], strict=True):
        kept = fleet.folder.path / ".keyrotation" / "former-audit" / f"{name}-{first}-{seq}-{head[:16]}.jsonl"
        lines = [json.loads(line) for line in kept.read_text().splitlines()]
        assert ([each["seq"] for each in lines], lines[-1]["hash"]) == (list(range(first, seq + 1)), head)
        assert kept.stat().st_mode & 0o777 == 0o600
    with psycopg.connect(fleet.urls["south"]) as connection:
        assert connection.execute("SELECT name FROM keyrotation.replicas").fetchall() == [("old",)]
        with pytest.raises(psycopg.Error, match="append-only"):
            connection.execute("DELETE FROM keyrotation.audit_events")
    file = fleet.folder.path / "keyrotation.toml"
    file.write_text(file.read_text().replace("[database]", '[database]\ngone_replicas = ["south:standby old"]'))
    fleet.typed("rotate", fleet.requested("request", "--reason", "after the restore"))
    assert (fleet.live(), fleet.read()) == ({"v3"}, fleet.expected)
    fleet.typed("audit", "verify")


@contextmanager
def clone_of(server: Server) -> Iterator[Server]:
    """A copy of all files, which runs next to it: the same system identifier and timeline."""
    directory = Path(tempfile.mkdtemp(prefix="krtest-", dir=server.directory.parent))
    if server.user:
        shutil.chown(directory, server.user, server.user)
    clone, source = Server(server.binaries, directory, server.user), f"host={server.directory} user=postgres"
    try:
        clone.run("pg_basebackup", "-D", str(directory / "data"), "-d", source, "-c", "fast", "-X", "stream")
        clone.start()
        yield clone
    finally:
        with suppress(subprocess.CalledProcessError):
            clone.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.extended
def test_a_copy_of_a_members_files_is_no_member_until_officers_have_signed_that(fleet: Fleet, second: Server) -> None:
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    original = fleet.urls["south"]
    with clone_of(second) as clone:
        fleet.urls["south"] = clone.url("south")
        assert "database south: it runs on " in fleet.refused("rotate", request)
        assert "so this is a failover or a copy; run `keyrotation reconcile`" in fleet.folder.printed[-1]
        assert prefixes(clone.url("south")) == prefixes(original) == {"v1:"}
        assert prefixes(fleet.urls["north"]) == {"v2:"}
        second.stop()
        signed = fleet.signed(fleet.typed("reconcile").split()[-1])
        assert "continue in south on " in signed
        assert "In south the program goes on with the server " in signed
        assert prefixes(clone.url("south")) == {"v1:"}
        fleet.typed("reconcile")
        fleet.typed("rotate", request)
        assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)
        fleet.typed("audit", "verify")
        second.start()
