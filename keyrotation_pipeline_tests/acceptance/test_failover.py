"""A failover in the middle of a rotation: the database is its name and system identifier, wherever it is reached."""

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.postgres.retirement.replicas import write_down
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, sealed
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.servers import EMBEDDED_18, Server, discard, loopback_address, standby_of, start_server
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = pytest.mark.slow
V1 = KeyVersion(1)
ROWS = 60


@dataclass
class Pair:
    """A primary and its standby, each at an address of its own, and a clinic on them."""

    primary: Server
    standby: Server
    folder: Folder
    officers: tuple[DemoOfficer, ...]
    request: str = ""

    @property
    def both(self) -> str:
        hosts = f"{loopback_address(1)},{loopback_address(2)}"
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    def configure(self, url: str, *gone: str) -> None:
        roster = roster_in_toml(self.officers)
        (self.folder.path / "keyrotation.toml").write_text(
            f'[database]\nurl = "{url}"\ngone_replicas = {list(gone)}\n[rollout]\nmode = "none"\n'
            f'[[tables]]\nname = "clients"\ncolumns = ["name"]\n[reencryption]\nshards = 2\n{roster}'
        )

    @property
    def settings(self) -> settings.Settings:
        return settings.load(self.folder.path / "keyrotation.toml")

    def signed(self, command: str) -> str:
        """Has officers sign the request that a command prints; gives back its text."""
        return self.sign(self.folder.run(command).split()[-1])

    def sign(self, request: str) -> str:
        text = self.folder.run("approve", request, "--text")
        for officer in self.officers:
            signature = self.folder.path / "signature"
            signature.write_bytes(officer.sign(text.encode()))
            self.folder.run("approve", request, "--signature", "signature")
        return text

    def walk(self, through: Step | None = None, tasks: int = 1000) -> None:
        with open_pipeline(self.settings, actor="test") as pipeline:
            walk = runner.run(pipeline, self.request, lambda _progress: None, through)
            for _ in zip(walk, range(tasks), strict=False):
                pass

    def fail_over(self) -> None:
        """The primary dies when its standby has everything, and the standby takes its place."""
        with psycopg.connect(self.primary.url(), autocommit=True) as connection:
            (lsn,) = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchall()[0]
            replayed = "SELECT replay_lsn >= %s::pg_lsn FROM pg_stat_replication"
            assert eventually(lambda: connection.execute(replayed, (lsn,)).fetchone() == (True,))
        self.promote()

    def promote(self) -> None:
        self.primary.stop()
        self.standby.run("pg_ctl", "-D", str(self.standby.directory / "data"), "-w", "promote")

    def versions(self) -> set[str]:
        with psycopg.connect(self.standby.url()) as connection:
            return {str(name)[:3] for (name,) in connection.execute("SELECT name FROM public.clients").fetchall()}


@pytest.fixture
def pair(tmp_path: Path, security_officer: DemoOfficer, privacy_officer: DemoOfficer) -> Iterator[Pair]:
    """An initialised clinic under v1, on a primary with a standby, with an approved rotation."""
    primary = start_server(EMBEDDED_18, f"listen_addresses={loopback_address(1)}", "max_wal_senders=5")
    try:
        with standby_of(primary, f"listen_addresses={loopback_address(2)}") as standby:
            made = Pair(primary, standby, Folder(tmp_path, []), (security_officer, privacy_officer))
            key = KeyMaterial.generate()
            with connect(primary.url()) as connection:
                connection.execute("CREATE TABLE public.clients (id int PRIMARY KEY, name text)")
                rows = [(number, sealed(KeyRing({V1: key}, V1), 1, f"name {number}")) for number in range(ROWS)]
                insert(connection, "public.clients", rows)
            made.configure(made.both)
            initialise(made.settings, KeyRing({V1: key}, V1), actor="test")
            with open_pipeline(made.settings, actor="test") as pipeline:
                opened = open_request(pipeline, reason="yearly rotation", requested_by="test")
                for officer in made.officers:
                    add_approval(pipeline, opened, officer.sign(pipeline.ledger.approval_text(opened.id)))
            made.request = opened.id
            yield made
    finally:
        if (primary.directory / "data" / "postmaster.pid").exists():
            discard(primary)


@pytest.mark.parametrize(
    "so_far",
    [
        pytest.param(lambda pair: pair.walk(tasks=4), id="in rows"),
        pytest.param(lambda pair: pair.walk(Step.ROWS), id="before the proof"),
        pytest.param(lambda pair: pair.walk(Step.ZERO_OLD_ROWS_PROOF), id="after the proof"),
    ],
)
@pytest.mark.parametrize("several", [pytest.param(True, id="several hosts"), pytest.param(False, id="another address")])
def test_a_promoted_rotation_continues_where_the_database_now_is(
    pair: Pair, so_far: Callable[[Pair], None], several: bool
) -> None:
    if not several:
        pair.configure(f"postgresql://postgres@{loopback_address(1)}/postgres")
    so_far(pair)
    pair.fail_over()
    # The standby that was seen is the primary now, and nobody's replica.
    there = f"postgresql://postgres@{loopback_address(2)}/postgres"
    pair.configure(pair.both if several else there, "standby@local")
    # A copy of the database would say the same of itself, so officers sign where the walk goes on.
    moved = f"a walk is under way that was requested where the database ran on .*{pair.standby.directory}"
    with pytest.raises(KeyRotationError, match=rf"{moved}.*; run `keyrotation reconcile`"):
        pair.walk()
    assert re.search(moved, pair.folder.run("status"))
    assert f"continue on {socket.gethostname()}, " in pair.signed("reconcile")
    pair.folder.run("reconcile")
    pair.walk()
    assert pair.versions() == {"v2:"}
    pair.folder.run("audit", "verify")


def test_outside_a_walk_a_failover_asks_for_nothing(pair: Pair) -> None:
    pair.walk()
    pair.fail_over()
    pair.configure(pair.both, "standby@local")
    assert "reconcile" not in pair.folder.run("status")
    pair.request = pair.folder.run("request", "--reason", "the next one").split()[-1]
    pair.sign(pair.request)
    pair.walk()
    assert pair.versions() == {"v3:"}


def test_the_tail_of_the_log_lost_just_after_retirement_leads_to_reconcile(pair: Pair) -> None:
    pair.walk(Step.ZERO_OLD_ROWS_PROOF)
    with connect(pair.primary.url()) as connection:
        write_down(connection)
    pair.configure(pair.both, "standby@local")
    with psycopg.connect(pair.standby.url(), autocommit=True) as standby:
        standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        standby.execute("SELECT pg_reload_conf()")
    with psycopg.connect(pair.primary.url(), autocommit=True) as primary:
        assert eventually(lambda: primary.execute("SELECT count(*) FROM pg_stat_replication").fetchone() == (0,))
    pair.walk(Step.RETIRED_KEY)
    pair.promote()
    with pytest.raises(KeyRotationError, match="keyrotation reconcile"):
        pair.walk()
    assert "keyrotation reconcile" in pair.folder.run("status")
    pair.signed("reconcile")
    pair.folder.run("reconcile")
    pair.folder.run("verify")
