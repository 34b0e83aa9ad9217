"""A rotation as Kubernetes Jobs on a real API server whose node is played: killed Pods, an outage, a revert."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from urllib3.exceptions import HTTPError

from keyrotation_pipeline.adapters.rollouts.pod_keys import ANNOTATION, annotated
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401 - fixtures
from keyrotation_pipeline_tests.acceptance.test_kubernetes import values_under
from keyrotation_pipeline_tests.acceptance.test_rotation_in_jobs import World, ended, finished
from keyrotation_pipeline_tests.api_server import Caller, needs_api_server, new_namespace
from keyrotation_pipeline_tests.contract.test_dagster_rights import policies_in
from keyrotation_pipeline_tests.kubernetes_standin.played_node import node_of
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = [
    pytest.mark.extended,
    needs_api_server,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"),
]
PATIENCE_SECONDS = 1800.0  # only a failure takes so long
OUTAGE_SECONDS = 30.0
NEW = "ENCRYPTION_MASTER_KEY_V2"


@pytest.fixture
def world(
    clinic: Clinic,  # noqa: F811
    api_server: Path,
    recovery_officer: DemoOfficer,
    server: Server,
) -> Iterator[World]:
    folder = clinic.folder.path / "node"
    folder.mkdir()
    with new_namespace(api_server, "jobs") as cluster, node_of(cluster, folder).running() as kubelet:
        made = World(clinic, cluster, kubelet, recovery_officer, server)
        with policies_in(cluster, cluster.namespace):
            assert eventually(lambda: is_denied(made), 60)
            yield made
        made.fleet.stop()


def is_denied(world: World) -> bool:
    """Whether the policies are at work, the last of which this one is."""
    daemon = {"Impersonate-User": f"system:serviceaccount:{world.cluster.namespace}:keyrotation-dagster"}
    path = f"/apis/batch/v1/namespaces/{world.cluster.namespace}/jobs?dryRun=All"
    pod = {"restartPolicy": "Never", "containers": [{"name": "try", "image": "busybox"}]}
    job = {"metadata": {"name": "try"}, "spec": {"template": {"spec": pod}}}
    _, answer = Caller(world.cluster).call("POST", path, job, headers=daemon)
    return "ValidatingAdmissionPolicy" in str(answer.get("message"))


def annotation(world: World) -> str:
    """What the template of the application's Pods says of their keys."""
    return annotated(world.fleet.found(world.fleet.workloads[0])["spec"]["template"])


def annotate(world: World, text: str) -> None:
    """What `kubectl rollout undo` does."""
    difference = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION: text}}}}}
    world.fleet.ask("PATCH", world.fleet.workloads[0], difference)


def begun(world: World, job: str) -> list[str]:
    """The Jobs at work whose runs have begun: one that is killed earlier waits out `start_timeout_seconds`."""
    with world.instance() as opened:
        runs = {name: opened.get_run_by_id(name.removeprefix("dagster-run-")) for name in world.at_work(job)}
    return [name for name, run in runs.items() if run is not None and run.status is dg.DagsterRunStatus.STARTED]


@contextmanager
def away(api_server: Path) -> Iterator[None]:
    """Inside, the API server is gone: no connection is accepted."""
    file = api_server.with_name("apiserver.pid")
    process = int(file.read_text())
    command = Path(f"/proc/{process}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    os.kill(process, signal.SIGKILL)
    yield
    start = 'setsid nohup "$@" >> apiserver.log 2>&1 < /dev/null & echo $! > apiserver.pid'  # as `up` has it
    subprocess.run(["bash", "-c", start, "start", *command], cwd=api_server.parent, check=True)


def test_a_rotation_runs_through_killed_pods_outages_and_reverts(
    world: World, api_server: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began, seen = time.monotonic(), list[str]()

    def until(true: Callable[[], bool]) -> None:
        def looked() -> bool:
            try:
                return true()
            except (HTTPError, OSError):  # an outage
                return False

        assert eventually(looked, PATIENCE_SECONDS), world.kubelet.log("daemon")[-3000:]

    world.execute("init", "toolbox", "keyrotation", "init")
    world.start("code-server")
    request = world.approved_request()
    world.start("daemon")

    until(lambda: NEW in world.secrets.entries())
    with_v2 = world.secrets.entries()[NEW]
    world.secrets.overwrite({NEW: None})  # as an apply of an older manifest, which somebody corrects
    time.sleep(3)
    world.secrets.overwrite({NEW: with_v2})
    seen.append("the Secret reverted")
    until(lambda: "v2=" in annotation(world))
    before = annotation(world)
    until(lambda: "primary=v2" in annotation(world))
    annotate(world, before)
    seen.append("the rollout undone")
    until(lambda: bool(world.at_work("introduce_key") or world.at_work("reencrypt_rows")))
    with away(api_server):
        time.sleep(OUTAGE_SECONDS)
    seen.append(f"the API server away for {OUTAGE_SECONDS:.0f} s")
    for job in ("reencrypt_rows", "retire_key"):
        until(lambda job=job: bool(begun(world, job)))  # type: ignore[misc]
        world.kubelet.kill(begun(world, job)[0])
        seen.append(f"a Pod of {job} killed")
    until(lambda: values_under(world.clinic, "v1") == 0 and finished(world, request))
    until(lambda: ended(world, "backup") and ended(world, "evidence"))

    made = Counter((job, account) for job, account, _ in world.jobs())
    with world.instance() as opened:
        failed = Counter(run.job_name for run in opened.get_runs() if run.status is not dg.DagsterRunStatus.SUCCESS)
    with capsys.disabled():
        sys.stdout.write(f"\n{time.monotonic() - began:.0f} s; {seen}; Jobs: {dict(made)}; failed: {dict(failed)}\n")
    assert values_under(world.clinic, "v2") > 0
    assert set(world.secrets.entries()) == {NEW, "ENCRYPTION_PRIMARY_VERSION", "PEPPER"}
    assert world.secrets.entries(world.secrets.archive) == {"v1": base64_of(world.clinic.key)}
