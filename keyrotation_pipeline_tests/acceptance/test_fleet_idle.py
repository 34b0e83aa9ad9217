"""What a fleet in which nothing is to be done costs its databases: `keyrotation up`, and hundreds of members.

IDLE_DATABASES=200 IDLE_MINUTES=16 uv run pytest -s -m extended keyrotation_pipeline_tests/acceptance/test_fleet_idle.py
"""

import base64
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_fleet import Fleet
from keyrotation_pipeline_tests.acceptance.test_forty_databases import create
from keyrotation_pipeline_tests.acceptance.test_up import running_up
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, start_server

pytestmark = pytest.mark.extended

DATABASES, MINUTES = int(os.environ.get("IDLE_DATABASES", "20")), float(os.environ.get("IDLE_MINUTES", "16"))
TABLES = [f"clients{number}" for number in range(10)]
SETTLING_SECONDS = 120  # what a start looks at once
OF_THE_LEAD, OF_A_MEMBER = 150, 1  # transactions a minute


@pytest.fixture
def servers() -> Iterator[tuple[Server, ...]]:
    """Without autovacuum, whose transactions are counted like everybody's."""
    made = [start_server(each, "autovacuum=off") for each in (EMBEDDED_18, DEBIAN)]
    yield tuple(made)
    for each in made:
        discard(each)


def test_idle_databases_are_asked_seldom(
    tmp_path: Path, servers: tuple[Server, ...], security_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> None:
    urls = create(servers, ["", *(f"d{number:03d}" for number in range(DATABASES))])
    fleet = Fleet(Folder(tmp_path, []), urls, (security_officer, privacy_officer))
    members = [each for each in urls if each]
    declared = "".join(f'[[databases]]\nname = "{each}"\nurl = {{ env = "{each.upper()}" }}\n' for each in members)
    tables = "".join(f'[[tables]]\nname = "{each}"\ncolumns = ["name"]\ndatabases = "*"\n' for each in TABLES)
    (tmp_path / "keyrotation.toml").write_text(
        f'rollout.mode = "none"\n[database]\nurl = {{ env = "URL" }}\n{declared}[approvals]\nrequired = 2\n'
        + roster_in_toml(fleet.officers)
        + tables
    )
    for each in members:
        with psycopg.connect(urls[each], autocommit=True) as connection:
            for table in TABLES:
                connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text)".encode())
    fleet.typed("init", ENCRYPTION_MASTER_KEY=base64.b64encode(os.urandom(32)).decode())
    with running_up(fleet.folder, **fleet.variables):
        time.sleep(SETTLING_SECONDS)
        began, before = time.monotonic(), transactions(servers)
        time.sleep(60 * MINUTES)
        after, minutes = transactions(servers), (time.monotonic() - began) / 60
    rates = {each: (after[each] - before[each]) / minutes for each in ("lead", *members)}
    of_members = sorted(rates[each] for each in members)
    sys.stdout.write(
        f"\n{len(members)} databases of {len(TABLES)} tables in {minutes:.0f} min: {rates['lead']:.0f} transactions a"
        f" minute in the lead, {of_members[0]:.2f} to {of_members[-1]:.2f} in a member\n"
    )
    assert 0 < rates["lead"] < OF_THE_LEAD
    assert of_members[0] > 0  # each was asked
    assert of_members[-1] <= OF_A_MEMBER


def transactions(servers: tuple[Server, ...]) -> dict[str, int]:
    """Of each database until now."""
    counted = "SELECT datname, xact_commit + xact_rollback FROM pg_stat_database WHERE datname IS NOT NULL"
    found = dict[str, int]()
    for each in servers:
        with psycopg.connect(each.url(), autocommit=True) as watching:
            found.update((name, count) for name, count in watching.execute(counted) if name != "postgres")
    return found
