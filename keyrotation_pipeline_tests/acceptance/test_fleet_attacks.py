"""Whoever owns a member of a fleet, or its server, passes another database off as it, or changes it late."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from keyrotation_pipeline.adapters.fleet import members, retirement
from keyrotation_pipeline.adapters.fleet.retirement import FleetEvidence
from keyrotation_pipeline.adapters.postgres.member import PostgresMember
from keyrotation_pipeline.model.proof import MemberEvidence
from keyrotation_pipeline_tests.acceptance.test_fleet import Fleet, fleet, second  # noqa: F401
from keyrotation_pipeline_tests.servers import Server, pooler

pytestmark = pytest.mark.extended


def administer(server: Server, *statements: LiteralString) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for each in statements:
            admin.execute(each)


@contextmanager
def after_evidence(member: str, change: Callable[[], None]) -> Iterator[None]:
    """Something happens once between the evidence of a member and the commit."""
    due, taken = [change], FleetEvidence.members

    def meanwhile(self: FleetEvidence, *arguments: Any) -> Iterator[MemberEvidence]:  # noqa: ANN401
        for each in taken(self, *arguments):
            yield each
            if due and each.member == member:
                due.pop()()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FleetEvidence, "members", meanwhile)
        yield
    assert not due


def test_a_database_by_a_second_name_is_not_signed_as_a_member(
    fleet: Fleet,  # noqa: F811
    server: Server,
    second: Server,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Another member, or the home's own database, by another name of its host."""
    file = fleet.folder.path / "keyrotation.toml"
    entry, before = '[[databases]]\nname = "west"\nurl = { env = "WEST" }\n', file.read_text()
    file.write_text(before.replace("[approvals]", f"{entry}[approvals]"))
    for database, there, known in (("south", second, "[[databases]] south"), ("", server, "[database]")):
        (host := tmp_path / f"host {database}").symlink_to(there.directory)
        fleet.urls["west"] = fleet.urls[database].replace(str(there.directory), str(host).replace(" ", "%20"))
        refused = fleet.refused("policy", "--reason", "west opens")
        assert refused.startswith("[[databases]] west is ")
        assert f", and so is {known}; correct its url, or leave it out" in refused
    del fleet.urls["west"]
    file.write_text(before)
    with pooler(second, "session") as pooled:
        refused = fleet.refused("inventory", SOUTH=pooled.url("south"))
    assert "goes through a pooler" in refused
    assert "give the server's own address as [[databases]] south url" in refused
    fleet.typed("inventory")


@pytest.mark.parametrize("kept_open", [members.KEPT_OPEN, 1])
def test_a_copy_that_takes_a_members_place_after_its_evidence_keeps_the_key(
    fleet: Fleet,  # noqa: F811
    second: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    kept_open: int,
) -> None:
    """Relations, fences and their transactions are the same there; of many members, each is connected to anew."""
    monkeypatch.setattr(members, "KEPT_OPEN", kept_open)
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "zero_old_rows_proof")

    def swap() -> None:
        administer(
            second,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'south'",
            "ALTER DATABASE south RENAME TO former",
            "CREATE DATABASE south TEMPLATE former",
        )

    with after_evidence("south", swap):
        refused = fleet.retired(request)
    assert "database south has changed since it gave its evidence: the fence or the file of clients" in refused
    administer(second, "DROP DATABASE south WITH (FORCE)", "ALTER DATABASE former RENAME TO south")
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


FENCE = "keyrotation_retired_key_versions"
RELATION, FILE = "a relation was created, changed or dropped", "the fence or the file of clients is another one"
CHANGES: dict[LiteralString, str] = {
    "ALTER TABLE clients ADD COLUMN extra text": RELATION,
    "CREATE TABLE child () INHERITS (clients)": "the fence or the file of child is another one",
    "CREATE TABLE parts (id int, t text) PARTITION BY RANGE (id); CREATE TABLE p PARTITION OF parts DEFAULT": RELATION,
    "ALTER TABLE clients RENAME TO customers": "table south:clients is not in the database",
    "ALTER TABLE clients RENAME COLUMN name TO called": "database south: column name is not in table clients",
    "ALTER SCHEMA public RENAME TO former; CREATE SCHEMA public": "table south:clients is not in the database",
    "ALTER TABLE clients SET UNLOGGED": FILE,
    "TRUNCATE clients": FILE,
    f"ALTER TABLE clients DROP CONSTRAINT {FENCE}": FILE,
    "ALTER TABLE clients RENAME TO former; CREATE TABLE clients (LIKE former INCLUDING ALL)": FILE,
    "ALTER TABLE clients ENABLE ROW LEVEL SECURITY; ALTER TABLE clients FORCE ROW LEVEL SECURITY": RELATION,
    "CREATE RULE loud AS ON INSERT TO clients DO ALSO NOTHING": RELATION,
    "UPDATE keyrotation.mirror_of SET member = 'north'": "database south: it is the member north of this home",
    "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event) SELECT seq + 1, body, hash, "
    "repeat('a', 64), event FROM keyrotation.audit_events ORDER BY seq DESC LIMIT 1": "database south: its copy of the "
    "audit, in the schema keyrotation, is not this home's",
    "DROP SCHEMA keyrotation CASCADE": "database south: it does not say that it is a member of this home",
}


def test_what_its_owner_changes_after_its_evidence_keeps_the_key(fleet: Fleet, second: Server) -> None:  # noqa: F811
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "zero_old_rows_proof")
    administer(second, "CREATE DATABASE kept TEMPLATE south")
    for change, sentence in CHANGES.items():
        with after_evidence("south", partial(fleet.execute, "south", change)):
            assert sentence in fleet.retired(request), change
        administer(second, "DROP DATABASE south WITH (FORCE)", "CREATE DATABASE south TEMPLATE kept")
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)
    fleet.typed("audit", "verify")


@contextmanager
def in_comparison(moment: str, database: str, change: Callable[[], None]) -> Iterator[None]:
    """Something happens once, just before a member is asked one of the questions of its comparison."""
    due, asked = [change], getattr(PostgresMember, moment)

    def then(self: PostgresMember, *arguments: Any) -> Any:  # noqa: ANN401  whatever is asked
        if due and is_compared and self.connection.info.dbname == database:
            due.pop()()
        return asked(self, *arguments)

    is_compared, same = list[bool](), FleetEvidence.require_same

    def comparing(self: FleetEvidence, *arguments: Any) -> None:  # noqa: ANN401
        is_compared.append(True)
        same(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresMember, moment, then)
        patch.setattr(FleetEvidence, "require_same", comparing)
        yield
    assert not due


QUESTIONS = ("limited", "require_copy", "state", "has_reached")


def test_a_member_whose_session_or_server_ends_while_it_is_compared_keeps_the_key(
    fleet: Fleet,  # noqa: F811
    second: Server,  # noqa: F811
) -> None:
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "zero_old_rows_proof")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'south'"
    for moment in QUESTIONS:
        with in_comparison(moment, "south", partial(administer, second, end)):
            assert fleet.retired(request).startswith("database south: the connection was lost; run this again")
    for moment in QUESTIONS:
        with in_comparison(moment, "south", second.stop):
            assert fleet.retired(request).startswith("database south: ")
        second.start()
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


def processes(server: Server) -> list[int]:
    """Of the server, and of each of its sessions."""
    postmaster = (server.directory / "data" / "postmaster.pid").read_text().split()[0]
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", postmaster], check=True, capture_output=True, text=True)
    return [int(postmaster), *map(int, found.stdout.split())]


def frozen(server: Server) -> None:
    for each in processes(server):
        os.kill(each, signal.SIGSTOP)


def thawed(server: Server) -> None:
    for each in processes(server):
        os.kill(each, signal.SIGCONT)


@pytest.mark.parametrize("moment", QUESTIONS)
def test_a_server_that_never_answers_again_is_named_in_time(
    fleet: Fleet,  # noqa: F811
    second: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """It is stopped as by a debugger: its sockets stay open, and take what is sent."""
    monkeypatch.setattr(retirement, "ASKED_FOR_SECONDS", 2.0)
    monkeypatch.setattr(retirement, "KEPT_AWAKE_SECONDS", 0.5)
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "zero_old_rows_proof")
    at = list[float]()

    def freeze() -> None:
        at.append(time.monotonic())
        frozen(second)

    try:
        with in_comparison(moment, "south", freeze):
            why = fleet.retired(request)
        took = time.monotonic() - at[0]
    finally:
        thawed(second)
    assert why.startswith("database south: it has not answered within 2 seconds; find out what its server does")
    assert took < 10
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)
    fleet.typed("audit", "verify")
