"""A fleet on two servers, rotated as Kubernetes Jobs on a real API server: how many run at once for each server.

The API server has no kubelet: its node is played, and what is counted are the Jobs that it admitted and not yet ended.
"""

import os
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401 - fixtures
from keyrotation_pipeline_tests.acceptance.test_kubernetes import values_under
from keyrotation_pipeline_tests.acceptance.test_rotation_in_jobs import PLURALS, World, finished
from keyrotation_pipeline_tests.acceptance.test_rotation_on_an_api_server import PATIENCE_SECONDS, is_denied
from keyrotation_pipeline_tests.api_server import MERGE, Caller, needs_api_server, new_namespace
from keyrotation_pipeline_tests.contract.test_dagster_rights import policies_in
from keyrotation_pipeline_tests.kubernetes_standin.played_node import node_of
from keyrotation_pipeline_tests.servers import Server, discard, start_server
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = [
    pytest.mark.extended,
    needs_api_server,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"),
]
ROWS, PARALLEL = 2_000, 2
MEMBERS = ("m1", "m2", "m3", "m4", "m5", "m6")
FLEET = f"""
[reencryption]
shards = 1
parallel_shards = {PARALLEL}
max_rows_per_second = 200
[[tables]]
name = "notes"
columns = ["body"]
databases = "*"
"""


@pytest.fixture
def second() -> Iterator[Server]:
    made = start_server()
    yield made
    discard(made)


@pytest.fixture
def urls(clinic: Clinic, server: Server, second: Server) -> Iterator[Mapping[str, str]]:  # noqa: F811
    """Members on both servers, each with rows."""
    ring, found = KeyRing({KeyVersion(1): clinic.key}, KeyVersion(1)), dict[str, str]()
    for number, name in enumerate(MEMBERS):
        on = (server, second)[number % 2]
        with psycopg.connect(on.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}".encode())
        found[name] = on.url(name)
        with psycopg.connect(found[name]) as connection:
            connection.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
            with connection.cursor().copy("COPY notes FROM STDIN") as copy:
                for row in range(ROWS):
                    copy.write_row((row, encrypt(ring, f"{name} {row}")))
    yield found
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for name in MEMBERS[::2]:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def world(
    clinic: Clinic,  # noqa: F811
    api_server: Path,
    recovery_officer: DemoOfficer,
    server: Server,
    urls: Mapping[str, str],
) -> Iterator[World]:
    folder = clinic.folder.path / "node"
    folder.mkdir()
    with new_namespace(api_server, "fleet") as cluster, node_of(cluster, folder).running() as kubelet:
        made = World(clinic, cluster, kubelet, recovery_officer, server)
        declare(made, urls)
        with policies_in(cluster, cluster.namespace):
            assert eventually(lambda: is_denied(made), 60)
            yield made
        made.fleet.stop()


def declare(world: World, urls: Mapping[str, str]) -> None:
    """Puts members into the configuration, and raises the limits of Dagster as docs/guides/fleet.md says."""
    caller, configuration = Caller(world.cluster), PLURALS["ConfigMap"].format(world.cluster.namespace)

    def change(path: str, data: Mapping[str, Mapping[str, str]]) -> None:
        status, answer = caller.call("PATCH", path, data, MERGE)
        assert status == 200, answer

    text = caller.call("GET", f"{configuration}/keyrotation-configuration")[1]["data"]["keyrotation.toml"]
    members = "".join(f'[[databases]]\nname = "{each}"\nurl = {{ env = "{each.upper()}_URL" }}\n' for each in urls)
    text = text.replace("rehearse_nightly = true\n", "")
    change(f"{configuration}/keyrotation-configuration", {"data": {"keyrotation.toml": f"{text}{FLEET}{members}"}})
    limits = world.text("dagster.yaml").replace("value: routine, limit: 2", f"value: routine, limit: {2 * PARALLEL}")
    change(f"{configuration}/keyrotation-dagster", {"data": {"dagster.yaml": limits}})
    secret = f"/api/v1/namespaces/{world.cluster.namespace}/secrets/keyrotation-database"
    change(secret, {"stringData": {f"{name.upper()}_URL": url for name, url in urls.items()}})


def running(world: World) -> Counter[str]:
    """How many Jobs that re-encrypt have not ended, by the server of their run."""
    made = world.cluster.ask("GET", f"/apis/batch/v1/namespaces/{world.cluster.namespace}/jobs")["items"]
    active = [
        each["metadata"]["labels"]["dagster/run-id"]
        for each in made
        if each["metadata"]["labels"]["dagster/job"] == "reencrypt_rows"
        and not {"succeeded", "failed"} & {*each.get("status", {})}
    ]
    with world.instance() as opened:
        runs = [opened.get_run_by_id(each) for each in active]
    return Counter(run.tags["keyrotation/server"] for run in runs if run is not None)


def test_each_server_gets_no_more_jobs_at_once_than_it_may(
    world: World, urls: Mapping[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    began, most, both = time.monotonic(), defaultdict[str, int](int), 0
    world.execute("init", "toolbox", "keyrotation", "init")
    world.start("code-server")
    request = world.approved_request()
    world.start("daemon")

    def is_over() -> bool:
        nonlocal both
        found = running(world)
        for server, number in found.items():
            most[server] = max(most[server], number)
        both = max(both, found.total())
        return values_under(world.clinic, "v1") == 0 and finished(world, request)

    assert eventually(is_over, PATIENCE_SECONDS), world.kubelet.log("daemon")[-3000:]
    made = Counter(job for job, _, _ in world.jobs())
    with capsys.disabled():
        sys.stdout.write(f"\n{time.monotonic() - began:.0f} s; at once: {dict(most)}, {both}; Jobs: {dict(made)}\n")
    for url in urls.values():
        with psycopg.connect(url) as connection:
            under = connection.execute("SELECT left(body, 3), count(*) FROM notes GROUP BY 1").fetchall()
        assert under == [("v2:", ROWS)]
    assert len(most) == len((world.clinic.database_url, urls["m2"]))
    assert max(most.values()) <= PARALLEL < both <= 2 * PARALLEL
