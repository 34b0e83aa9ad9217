"""What Dagster's own accounts may do on Kubernetes: all that they do, and nothing more, whoever has their tokens."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

from keyrotation_pipeline.errors import LaunchError
from keyrotation_pipeline_tests.api_server import missing
from keyrotation_pipeline_tests.clusters import TestCluster, TestKeySecrets
from keyrotation_pipeline_tests.contract.forged_jobs import forgeries, sent
from keyrotation_pipeline_tests.contract.test_dagster_on_kubernetes import (
    DAGSTER,
    RUNS,
    instance,  # noqa: F401 - a fixture
    launched_run,
)
from keyrotation_pipeline_tests.contract.test_kubernetes_rights import PLURALS, allow, apply, as_account, one_less
from keyrotation_pipeline_tests.fleets import IMAGE as POD_IMAGE
from keyrotation_pipeline_tests.waiting import eventually

DAEMON = "keyrotation-dagster"
# The example's namespace, and no name that begins with it.
EXAMPLE = r"(?<![\w-])pazpaz(?![\w/-])"
POLICIES = "/apis/admissionregistration.k8s.io/v1"
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def roles(cluster: TestCluster) -> dict[str, list[dict[str, Any]]]:
    """The accounts of rights.yaml in the namespace of the tests, and the rules of their Roles."""
    from kubernetes import client  # noqa: PLC0415

    found = {}
    for content in yaml.safe_load_all((DAGSTER / "rights.yaml").read_text()):
        if content["kind"] == "RoleBinding":
            content["subjects"][0]["namespace"] = cluster.namespace
        # What the code server in the same Pod reads is in Roles of pipeline.yaml, and tried there.
        ours = content.get("roleRef", {}).get("name", DAEMON) == DAEMON
        if content["kind"] != "NetworkPolicy" and ours:
            with suppress(client.ApiException):  # another module has made it
                apply(cluster, content)
        if content["kind"] == "Role":
            found[content["metadata"]["name"]] = content["rules"]
    for name, rules in found.items():
        allow(cluster, name, rules)
    return found


@contextmanager
def policies_in(cluster: TestCluster, namespace: str) -> Iterator[None]:
    """Inside, the policies of deploy/kubernetes are at work for the accounts of a namespace."""
    made = []
    text = "---\n".join((DAGSTER / file).read_text() for file in ("jobs-policy.yaml", "../changes-policy.yaml"))
    for content in yaml.safe_load_all(re.sub(EXAMPLE, namespace, text)):
        plural = PLURALS[content["kind"]]
        cluster.ask("POST", f"{POLICIES}/{plural}", content)
        made.append(f"{POLICIES}/{plural}/{content['metadata']['name']}")
    yield
    for path in reversed(made):
        cluster.ask("DELETE", path)


@pytest.fixture(scope="module")
def policies(cluster: TestCluster, roles: dict[str, list[dict[str, Any]]]) -> Iterator[None]:
    """The policies of deploy/kubernetes, at work; and those of another installation, with another image."""
    assert roles
    with policies_in(cluster, f"{cluster.namespace}-staging"), policies_in(cluster, cluster.namespace):
        policy = f"{POLICIES}/validatingadmissionpolicies/keyrotation-jobs.{cluster.namespace}-staging"
        content = cluster.ask("GET", policy)
        [image] = [each for each in content["spec"]["validations"] if each["message"] == "our image"]
        image["expression"] = "false"
        cluster.ask("PATCH", policy, {"spec": {"validations": content["spec"]["validations"]}})
        yield


@contextmanager
def as_daemon(
    opened: dg.DagsterInstance, cluster: TestCluster, folder: Path, monkeypatch: pytest.MonkeyPatch, account: str
) -> Iterator[Any]:
    """Inside, the launcher of an instance has the token of an account; gives its client."""
    from dagster_k8s.client import DagsterKubernetesClient  # noqa: PLC0415
    from kubernetes import client, config  # noqa: PLC0415

    found = as_account(TestKeySecrets(cluster, "none", cluster.kubeconfig), account, folder)
    with config.new_client_from_config(str(found.kubeconfig)) as asked:
        ours = DagsterKubernetesClient.production_client(  # type: ignore[no-untyped-call]
            core_api_override=client.CoreV1Api(asked), batch_api_override=client.BatchV1Api(asked)
        )
        monkeypatch.setattr(opened.run_launcher, "_api_client", ours)
        yield ours


def pod_of(cluster: TestCluster, job: str) -> str:
    """A Pod of a Job whose container runs, as far as anybody can see; and a Job that was seen by its controller."""
    name = f"{job}-pod"
    container = {"name": "dagster", "image": POD_IMAGE}
    spec = {"containers": [container], "hostNetwork": True, "terminationGracePeriodSeconds": 0}
    cluster.ask(
        "POST",
        "pods",
        {
            "metadata": {"name": name, "labels": {"job-name": job, "dagster/run-id": job.removeprefix("dagster-run-")}},
            "spec": spec,
        },
    )
    now = "2026-01-05T03:00:00Z"
    running = {"name": "dagster", "ready": True, "restartCount": 0, "image": POD_IMAGE, "imageID": ""}
    running["state"] = {"running": {"startedAt": now}}
    if cluster.standin is not None:
        cluster.ask("PATCH", f"pods/{name}/status", {"status": {"phase": "Running", "containerStatuses": [running]}})
        path = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs/{job}/status"
        cluster.ask("PATCH", path, {"status": {"startTime": now}})
    assert eventually(lambda: "running" in str(cluster.ask("GET", f"pods/{name}")["status"].get("containerStatuses")))
    return name


def test_each_right_of_the_daemon_is_needed_and_all_of_them_are_enough(
    instance: dg.DagsterInstance,  # noqa: F811
    cluster: TestCluster,
    roles: dict[str, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launcher: Any = instance.run_launcher

    def everything(api: Any) -> None:  # noqa: ANN401 - dagster_k8s'
        """Start a run, look after it, say why it failed, end it."""
        run = launched_run(instance, "evidence", {})
        job = f"dagster-run-{run.run_id}"
        pod = pod_of(cluster, job)
        assert launcher.check_run_worker_health(run) == CheckRunHealthResult(WorkerStatus.RUNNING)  # seen, not assumed
        reported = launcher.get_run_worker_debug_info(run)
        assert f"Debug information for pod {pod}" in reported
        assert "Failure fetching" not in reported
        assert "logs for container" not in reported, "what a Pod wrote would be in Dagster's storage"
        assert "Could not find" not in api.get_job_debug_info(job, cluster.namespace)
        assert launcher.terminate(run.run_id)
        assert pod not in names_of_pods(cluster) or cluster.standin is None

    with as_daemon(instance, cluster, tmp_path, monkeypatch, DAEMON) as api:
        require_each_right(cluster, DAEMON, roles[DAEMON], lambda: everything(api))


def names_of_pods(cluster: TestCluster) -> list[str]:
    return [each["metadata"]["name"] for each in cluster.ask("GET", "pods")["items"]]


def require_each_right(
    cluster: TestCluster, role: str, rules: list[dict[str, Any]], everything: Callable[[], None]
) -> None:
    from dagster_k8s.client import DagsterK8sUnrecoverableAPIError  # noqa: PLC0415
    from kubernetes import client  # noqa: PLC0415

    everything()
    for fewer in one_less(rules):
        allow(cluster, role, fewer)
        with pytest.raises((AssertionError, client.ApiException, DagsterK8sUnrecoverableAPIError, LaunchError)):
            everything()
    allow(cluster, role, rules)
    everything()


@pytest.fixture
def as_token(cluster: TestCluster, tmp_path: Path) -> Callable[[str], Ask]:
    """Whoever has the token of an account: asks the API server as it, and raises what is refused."""

    def of(account: str) -> Ask:
        found = as_account(TestKeySecrets(cluster, "none", cluster.kubeconfig), account, tmp_path)
        return TestCluster(found.kubeconfig, cluster.namespace, cluster.standin).ask

    return of


@pytest.mark.usefixtures("policies")
def test_every_job_of_a_run_is_admitted(
    instance: dg.DagsterInstance,  # noqa: F811
    cluster: TestCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with as_daemon(instance, cluster, tmp_path, monkeypatch, DAEMON):
        for case in RUNS:
            job, assets = str(case.values[0]), case.values[1]
            assert isinstance(assets, Sequence)
            run = launched_run(instance, job, {"keyrotation/mode": "emergency"}, assets)
            assert instance.run_launcher.terminate(run.run_id) is not None


@pytest.mark.usefixtures("policies")
def test_whoever_has_the_daemons_token_gets_no_job_but_those_of_runs(
    instance: dg.DagsterInstance,  # noqa: F811
    cluster: TestCluster,
    as_token: Callable[[str], Ask],
) -> None:
    from kubernetes import client  # noqa: PLC0415

    jobs, ask = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs", as_token(DAEMON)
    run = launched_run(instance, "recovery_drill", {})
    genuine = cluster.ask("GET", f"{jobs}/dagster-run-{run.run_id}")
    admitted, by_policy = [], 0
    some = (
        1 if missing() else 8
    )  # where a real API server is there, `test_admission.py` asks that one about all of them
    for what, forged in itertools.islice(forgeries(genuine), 0, None, some):
        try:
            ask("POST", jobs, forged)
        except client.ApiException as refused:
            by_policy += "keyrotation-jobs" in str(refused.body)
        else:
            admitted.append(what)
    assert admitted == []
    assert by_policy > 100 / some
    honest = sent(genuine)
    ask("POST", jobs, honest)
    ask("DELETE", f"{jobs}/{honest['metadata']['name']}")


@pytest.mark.usefixtures("policies")
def test_whoever_has_a_token_of_dagster_ends_runs_and_nothing_of_an_application(
    instance: dg.DagsterInstance,  # noqa: F811
    cluster: TestCluster,
    as_token: Callable[[str], Ask],
) -> None:
    from kubernetes import client  # noqa: PLC0415

    ask, jobs = as_token(DAEMON), f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs"
    name = "api-of-an-application"
    pod = {"containers": [{"name": "api", "image": POD_IMAGE}], "hostNetwork": True, "restartPolicy": "Never"}
    for every, spec in (("pods", pod), (jobs, {"suspend": True, "template": {"spec": pod}})):
        cluster.ask("POST", every, {"metadata": {"name": name}, "spec": spec})
        with pytest.raises(client.ApiException) as refused:
            ask("DELETE", f"{every}/{name}")
        assert "keyrotation-deletions" in str(refused.value.body)
        assert cluster.ask("GET", f"{every}/{name}")["metadata"]["name"] == name
        cluster.ask("DELETE", f"{every}/{name}")
    run = launched_run(instance, "evidence", {})
    ask("DELETE", f"{jobs}/dagster-run-{run.run_id}")
