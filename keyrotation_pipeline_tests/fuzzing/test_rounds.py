"""Random rounds. Each prints its plan; `KEYROTATION_FUZZ_SEED=1234 KEYROTATION_FUZZ_ROUNDS=1` repeats that of 1234."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.fuzzing import formats
from keyrotation_pipeline_tests.fuzzing.disturbances import SETTINGS
from keyrotation_pipeline_tests.fuzzing.formats import Format
from keyrotation_pipeline_tests.fuzzing.home import Home, RefusedError
from keyrotation_pipeline_tests.fuzzing.plans import Plan
from keyrotation_pipeline_tests.fuzzing.rounds import Round, Servers
from keyrotation_pipeline_tests.fuzzing.tables import Kind, Table
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, start_server

SEED = int(os.environ.get("KEYROTATION_FUZZ_SEED", "20261201"))
ROUNDS = int(os.environ.get("KEYROTATION_FUZZ_ROUNDS", "120"))
FORMATS = tuple(filter(None, os.environ.get("KEYROTATION_FUZZ_FORMATS", "").split(";")))


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Servers that rounds stop and start."""
    with own_server(EMBEDDED_18) as first:
        if not (DEBIAN / "pg_ctl").exists():
            yield Servers(first, None)
            return
        with own_server(DEBIAN) as further:
            yield Servers(first, further)


def of(name: str) -> Format:
    """A format by its name."""
    return next(each for each in formats.ALL if each.name == name)


@contextmanager
def own_server(binaries: Path) -> Iterator[Server]:
    """A server with a tablespace `further`."""
    server = start_server(binaries, *SETTINGS)
    try:
        place = server.directory / "further"
        place.mkdir()
        if server.user:
            shutil.chown(place, server.user, server.user)
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE TABLESPACE further LOCATION '{place}'".encode())
        yield server
    finally:
        discard(server)


class LostAnswers(Home):
    """Stores each signature, and loses the answer."""

    def typed(self, *arguments: str, text: str | None = None, **variables: str) -> str:
        if text is None:
            return "what is signed"
        self.said["signatures"] += 1
        if self.said["signatures"] % 2:
            raise RefusedError("the connection was lost")
        raise RefusedError("an officer has signed this request already; another officer must sign it too")


def test_every_officer_signs_although_answers_are_lost(
    tmp_path: Path, security_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> None:
    home = LostAnswers(tmp_path, (security_officer, privacy_officer))
    home.approve("a request", 10.0)
    assert home.said == {"signatures": 2 * len(home.officers)}


def carried_out(plan: Plan, servers: Servers, folder: Path, officers: tuple[DemoOfficer, ...]) -> Round:
    """A round; what it found is printed with its plan."""
    print(plan)  # noqa: T201
    done = Round(plan, servers, folder, officers)
    try:
        done.carry_out()
    finally:
        print(*(f"FOUND {found}" for found in done.journal.findings[:20]), sep="\n")  # noqa: T201
        print(dict(sorted(done.report.items())))  # noqa: T201
        print(*(f"{number}: {said[:400]}" for said, number in done.home.said.most_common(20)), sep="\n")  # noqa: T201
    return done


FEW = [
    pytest.param(
        Plan(
            1,
            of("native"),
            (Table("clients", Kind.PARTITIONED, formats.EVERYWHERE, 60),),
            ("ALTER COLUMN TYPE", "immediate restart", "DETACH", "ATTACH", "sessions ended"),
            ("rotate",),
            2,
        ),
        id="a marker, everywhere",
    ),
    pytest.param(
        Plan(
            2,
            of("fernet"),
            (Table("clients", Kind.INHERITED, (formats.TEXTS[0], formats.BYTES), 60),),
            ("VACUUM FULL", "TRUNCATE", "fast restart"),
            ("rotate",),
            1,
            environment=("subscriber",),
        ),
        id="a MAC, next to a subscriber",
        marks=pytest.mark.extended,
    ),
    pytest.param(
        Plan(
            3,
            of("aes-gcm in pairs"),
            (Table("clients", Kind.PLAIN, formats.PAIRS, 40),),
            ("ADD COLUMN", "CLUSTER", "old snapshot"),
            ("rotate", "rollback"),
            0,
        ),
        id="only decryption, there and back",
        marks=pytest.mark.extended,
    ),
    pytest.param(
        Plan(
            4,
            of("native"),
            (Table("clients", Kind.PLAIN, formats.EVERYWHERE, 200),),
            ("ALTER COLUMN TYPE", "CLUSTER", "VACUUM FULL", "sessions ended"),
            ("emergency",),
            2,
        ),
        id="an emergency, which writes without locking first",
        marks=pytest.mark.extended,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("plan", FEW)
def test_a_few_rounds(
    plan: Plan, servers: Servers, tmp_path: Path, security_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> None:
    done = carried_out(plan, servers, tmp_path, (security_officer, privacy_officer))
    assert done.journal.findings == []
    assert done.journal.counts["late writes refused"] > 0


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_nothing_is_lost(
    seed: int,
    servers: Servers,
    tmp_path: Path,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> None:
    plan = Plan.of(seed, FORMATS)
    done = carried_out(plan, servers, tmp_path, (security_officer, privacy_officer))
    assert done.journal.findings == []
