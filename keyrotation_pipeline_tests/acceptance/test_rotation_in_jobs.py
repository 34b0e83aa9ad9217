"""A whole rotation as Kubernetes Jobs, from the manifests of deploy/kubernetes as they are.

Daemon, code server and every run are processes with the command, environment, volumes and account of their manifests,
at the stand-in of an API server, whose Roles and admission policies decide. The Pod of one run is killed, and so is the
daemon, at the worst moment. Afterwards the backups are tested and the next rotation is rehearsed, as jobs too.
"""

import os
import re
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
import psycopg
import pytest
import yaml

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401 - fixtures
from keyrotation_pipeline_tests.acceptance.test_kubernetes import TABLES, values_under
from keyrotation_pipeline_tests.clusters import TestCluster, TestKeySecrets
from keyrotation_pipeline_tests.contract.test_dagster_on_kubernetes import DAGSTER, IMAGE
from keyrotation_pipeline_tests.contract.test_dagster_rights import policies_in
from keyrotation_pipeline_tests.contract.test_kubernetes_rights import PATHS
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.kubernetes_standin.kubelet import Kubelet, Processes
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"),
]
PLURALS = {
    **PATHS,
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
}
CERTIFICATES = "/etc/keyrotation"


@pytest.fixture
def namespace(cluster: TestCluster) -> Iterator[TestCluster]:
    """A namespace that holds nothing but this test."""
    if cluster.standin is None:
        pytest.skip("runs are processes of this machine here; on a real cluster follow dagster-on-kubernetes.md")
    name = f"jobs-{os.urandom(3).hex()}"
    cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield TestCluster(cluster.kubeconfig, name, cluster.standin)
    cluster.ask("DELETE", f"/api/v1/namespaces/{name}")


class World:
    """What docs/clusters/dagster-on-kubernetes.md has somebody apply, and the processes that come of it."""

    def __init__(
        self, folder: Clinic, cluster: TestCluster, kubelet: Processes, recovery: DemoOfficer, server: Server
    ) -> None:
        self.clinic, self.cluster, self.kubelet, self.recovery = folder, cluster, kubelet, recovery
        self.secrets = TestKeySecrets(cluster, "pazpaz-secrets", cluster.kubeconfig)
        self.secrets.open().create()
        self.secrets.overwrite({"ENCRYPTION_MASTER_KEY": base64_of(folder.key), "PEPPER": "x"})
        self.secrets.delete(self.secrets.archive)
        self.fleet = TestFleet(self.secrets)
        self.fleet.start(replicas=2, name="pazpaz-api")
        for file in ("../pipeline.yaml", "home.yaml", "rights.yaml"):
            for content in yaml.safe_load_all(self.text(file)):
                if content["kind"] in PLURALS:
                    cluster.ask("POST", PLURALS[content["kind"]].format(cluster.namespace), content)
        services, toolbox = (
            yaml.safe_load(self.text(f"{name}.yaml"))["spec"]["template"]["spec"] for name in ("services", "toolbox")
        )
        watch = yaml.safe_load(self.text("watch.yaml"))["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        for variable in services["containers"][0]["env"]:
            variable["value"] = IMAGE  # as kustomization.yaml has it
        pods = (services, toolbox, watch)
        self.containers = {each["name"]: (pod, each["name"]) for pod in pods for each in pod["containers"]}
        self.configure(recovery, server)

    def text(self, file: str) -> str:
        """A file of deploy/kubernetes/dagster, in this namespace."""
        return re.sub(r"(namespace: )pazpaz\b", rf"\g<1>{self.cluster.namespace}", (DAGSTER / file).read_text())

    def configure(self, recovery: DemoOfficer, server: Server) -> None:
        """The ConfigMaps and Secrets."""
        people = (*self.clinic.officers, recovery)
        names = [officer.certificate.name for officer in people]
        roster = "".join(
            f'[[approvals.officers]]\nname = "{each.name}"\ncertificate = "{CERTIFICATES}/{each.certificate.name}"\n'
            for each in self.clinic.officers
        )
        keys = (
            f'[keys]\nstore = "kubernetes-secret"\n[keys.kubernetes-secret]\nnamespace = "{self.cluster.namespace}"\n'
        )
        rest = (
            f'name = "{self.secrets.name}"\n[rollout]\nmode = "kubernetes"\n'
            '[[rollout.workloads]]\nkind = "Deployment"\nname = "pazpaz-api"\ncontainer = "api"\n'
            f"{TABLES}[backup]\nrecipients = {[f'{CERTIFICATES}/{each}' for each in (names[0], names[2])]}\n"
            '[recovery]\nsecret_key = { file = "/etc/keyrotation-recovery/recovery.asc" }\nrehearse_nightly = true\n'
        )
        url = '[database]\nurl = { env = "KEYROTATION_DATABASE_URL" }\n'
        files = {each.certificate.name: each.certificate.read_text() for each in people}
        environment = {
            "KEYROTATION_CONFIG": f"{CERTIFICATES}/keyrotation.toml",
            "KEYROTATION_HOME": "/home/keyrotation/home",
            "HOME": "/home/keyrotation",
        }
        for name, data in (
            ("keyrotation-configuration", {"keyrotation.toml": f"{url}{keys}{rest}{roster}", **files}),
            ("keyrotation-dagster", {file: self.text(file) for file in ("dagster.yaml", "workspace.yaml")}),
            ("keyrotation-environment", environment),
        ):
            self.cluster.ask(
                "POST", PLURALS["ConfigMap"].format(self.cluster.namespace), {"metadata": {"name": name}, "data": data}
            )
        database = f"dagster_{os.urandom(3).hex()}"
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {database}")
        self.storage = server.url(database).replace("postgresql://", "postgresql+psycopg2://", 1)
        for name, data in (
            ("keyrotation-dagster-storage", {"DAGSTER_PG_URL": self.storage}),
            ("keyrotation-database", {"KEYROTATION_DATABASE_URL": self.clinic.database_url}),
            ("keyrotation-recovery", {"recovery.asc": decryption_key(recovery)}),
            ("keyrotation-ui", {"token": "0" * 64}),
        ):
            self.cluster.ask("POST", "secrets", {"metadata": {"name": name}, "stringData": data})

    @property
    def home(self) -> Path:
        return self.kubelet.folder / "claim-keyrotation-home" / "home"

    def start(self, container: str, name: str = "", *command: str) -> "subprocess.Popen[bytes]":
        """Starts a container as the Pod that it is of, or a command in it."""
        pod, of = self.containers[container]
        return self.kubelet.start(name or container, pod, command, of)

    def execute(self, name: str, of: str, *command: str) -> str:
        """What `kubectl exec` into a Deployment does; gives its output."""
        process = self.start(of, name, *command)
        assert process.wait(120) == 0, self.kubelet.log(name)
        del self.kubelet.processes[name]
        return self.kubelet.log(name)

    def approved_request(self) -> str:
        """A request that is opened and signed in a Pod: its text names the hosts that a Pod knows."""
        reported = self.execute("request", "toolbox", "keyrotation", "request", "--reason", "yearly rotation")
        [request] = re.findall(r"^[0-9a-f]{32}$", reported, re.MULTILINE)
        self.execute("text", "toolbox", "sh", "-c", f"keyrotation approve {request} --text > text")
        claim = self.home.parent
        for number, officer in enumerate(self.clinic.officers):
            (claim / f"{number}.asc").write_bytes(officer.sign((claim / "text").read_bytes(), "--armor"))
            self.execute(
                f"approve-{number}", "toolbox", "keyrotation", "approve", request, "--signature", f"{number}.asc"
            )
        return str(request)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Dagster's storage, to look into."""
        folder = self.clinic.folder.path / "looking"
        folder.mkdir(exist_ok=True)
        content = {"storage": {"postgres": {"postgres_url": self.storage}}, "telemetry": {"enabled": False}}
        (folder / "dagster.yaml").write_text(yaml.safe_dump(content))
        with dg.DagsterInstance.from_config(str(folder)) as opened:
            yield opened

    def jobs(self) -> list[tuple[str, str, str]]:
        """Every Job that was created: the job of Dagster, its account, its name."""
        made = self.cluster.ask("GET", f"/apis/batch/v1/namespaces/{self.cluster.namespace}/jobs")["items"]
        return [
            (
                content["metadata"]["labels"]["dagster/job"],
                content["spec"]["template"]["spec"]["serviceAccountName"],
                content["metadata"]["name"],
            )
            for content in made
        ]

    def at_work(self, job: str) -> list[str]:
        """The Jobs of a job whose processes run."""
        return [name for of, _, name in self.jobs() if of == job and name in self.kubelet.processes]


def decryption_key(officer: DemoOfficer) -> str:
    """Exports the encryption subkey alone, as the page says."""
    command = ["gpg", "--homedir", str(officer.home), "--batch", "--armor", "--export-secret-subkeys"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def world(
    clinic: Clinic,  # noqa: F811
    namespace: TestCluster,
    recovery_officer: DemoOfficer,
    server: Server,
) -> Iterator[World]:
    standin, node = namespace.standin, clinic.folder.path / "node"
    assert standin is not None
    node.mkdir()
    kubelet = Kubelet(
        objects=standin.objects, rights=standin.rights, namespace=namespace.namespace, port=standin.port,
        certificate=namespace.kubeconfig.with_name("certificate.pem"), folder=node,
    )  # fmt: skip
    made = World(clinic, namespace, kubelet, recovery_officer, server)
    with policies_in(namespace, namespace.namespace), made.fleet.controlled(), kubelet.running():
        yield made
    made.fleet.stop()


def test_a_rotation_runs_as_jobs_through_a_killed_pod_and_a_killed_daemon(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    world.execute("init", "toolbox", "keyrotation", "init")
    world.start("code-server")
    request = world.approved_request()
    world.start("daemon")

    most_rows = 0

    def until(true: Callable[[], bool], seconds: float = 600) -> None:  # only a failure takes so long
        def looked() -> bool:
            nonlocal most_rows
            most_rows = max(most_rows, len(world.at_work("reencrypt_rows")))
            return true()

        assert eventually(looked, seconds), world.kubelet.log("daemon")[-3000:]

    until(lambda: bool(world.at_work("reencrypt_rows")))
    refuse_second_pod(world, world.at_work("reencrypt_rows")[0])  # which stands still, until it is killed
    world.kubelet.kill(world.at_work("reencrypt_rows")[0])
    world.kubelet.kill("daemon")
    world.start("daemon", "daemon-again")
    until(lambda: values_under(world.clinic, "v1") == 0 and finished(world, request))
    until(lambda: ended(world, "backup") and ended(world, "evidence"))
    for job in ("recovery_drill", "rehearsal"):
        where = ("--workspace", "/opt/dagster/workspace.yaml", "--location", "keyrotation_pipeline")
        world.execute(f"launch-{job}", "code-server", "dagster", "job", "launch", *where, "--job", job)
        until(lambda job=job: ended(world, job))  # type: ignore[misc]

    made = Counter((job, account) for job, account, _ in world.jobs())
    with world.instance() as opened:
        failed = Counter(run.job_name for run in opened.get_runs() if run.status is not dg.DagsterRunStatus.SUCCESS)
    facts = f"Jobs by account: {dict(made)}; at most {most_rows} for rows; failed: {dict(failed)}"
    with capsys.disabled():
        sys.stdout.write(f"\n{time.monotonic() - began:.0f} s; {facts}\n")
    assert dict(made.keys()) == {
        "introduce_key": "keyrotation",
        "reencrypt_rows": "keyrotation-reader",
        "retire_key": "keyrotation",
        "backup": "keyrotation-reader",
        "evidence": "keyrotation-observer",
        "recovery_drill": "keyrotation-reader",
        "rehearsal": "keyrotation-reader",
    }
    assert most_rows <= 2
    # The one that was killed, and perhaps one whose daemon was killed before it had a Job.
    assert failed["reencrypt_rows"] in {1, 2}
    assert set(failed) == {"reencrypt_rows"}
    assert values_under(world.clinic, "v2") > 0
    world.execute("watch", "watch")  # finds nothing wrong, and sees that Dagster works
    put_lost_key_back(world)


def refuse_second_pod(world: World, job: str) -> None:
    """Kubernetes may start another Pod for a Job, as after an outage of its API server."""
    path = f"/apis/batch/v1/namespaces/{world.cluster.namespace}/jobs/{job}"
    template = world.cluster.ask("GET", path)["spec"]["template"]["spec"]

    def is_begun() -> bool:
        with world.instance() as opened:
            run = opened.get_run_by_id(job.removeprefix("dagster-run-"))
        return run is not None and run.status is dg.DagsterRunStatus.STARTED

    assert eventually(is_begun, 120)
    os.killpg(world.kubelet.processes[job].pid, signal.SIGSTOP)
    assert world.kubelet.start("second", template).wait(120) == 1
    assert "was begun by another Pod" in world.kubelet.log("second")
    del world.kubelet.processes["second"]


def put_lost_key_back(world: World) -> None:
    """As somebody does it from outside: the recovery key is in no Pod, and the root filesystem is read-only."""
    before = world.secrets.entries()
    world.secrets.overwrite({"ENCRYPTION_MASTER_KEY_V2": None})
    process = world.start("toolbox", "refused", "keyrotation", "restore-key", "v2")
    assert process.wait(120) == 1
    assert (
        "cannot be read here; put it there as a regular file, or give it with `--key /dev/stdin < recovery.asc`"
        in flat(world.kubelet.log("refused"))
    )
    stdin = world.home.parent / "recovery.asc"  # what `kubectl exec --stdin` passes on
    stdin.write_text(decryption_key(world.recovery))
    world.execute("restored", "toolbox", "sh", "-c", "keyrotation restore-key v2 --key /dev/stdin < recovery.asc")
    assert world.secrets.entries() == before


def flat(text: str) -> str:
    """Without the line breaks of a narrow terminal."""
    return " ".join(text.split())


def finished(world: World, request: str) -> bool:
    with psycopg.connect(world.clinic.database_url) as connection:
        query = "SELECT completion_date IS NOT NULL FROM keyrotation.key_rotation_audit WHERE request = %s"
        row = connection.execute(query, (request,)).fetchone()
    return row is not None and bool(row[0])


def ended(world: World, job: str) -> bool:
    """Whether a job was launched, and every run of it is over: its Pod may only start a while after its Job is made."""
    with world.instance() as opened:
        runs = [run for run in opened.get_runs() if run.job_name == job]
    return bool(runs) and all(run.is_finished for run in runs)
