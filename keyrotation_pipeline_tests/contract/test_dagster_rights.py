"""What Dagster's own accounts may do on Kubernetes: all that they do, and nothing more, whoever has their tokens."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

from keyrotation_pipeline_tests.clusters import TestCluster, TestKeySecrets
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
POLICIES = "/apis/admissionregistration.k8s.io/v1"
Content = dict[str, Any]
Change = Callable[[Content, Content, Content], None]  # the specification of a Job, that of its Pod, its container
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
    for content in yaml.safe_load_all(text.replace("pazpaz", namespace)):
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
        with pytest.raises((AssertionError, client.ApiException, DagsterK8sUnrecoverableAPIError)):
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


def put(part: str, value: Any, *, at: str = "run") -> Change:  # noqa: ANN401 - JSON
    """Change one part of the container, of the Pod, or of the Job."""

    def change(job: Content, pod: Content, run: Content) -> None:
        {"run": run, "pod": pod, "job": job}[at][part] = value

    return change


def add(part: str, value: Any, *, at: str = "run") -> Change:  # noqa: ANN401 - JSON
    """Add to a list of the container, or of the Pod."""

    def change(_job: Content, pod: Content, run: Content) -> None:
        target = run if at == "run" else pod
        target[part] = [*target.get(part, []), value]

    return change


def secure(at: str = "run", **different: Any) -> Change:  # noqa: ANN401 - JSON
    """Change parts of the security context of the container, or of the Pod; None removes one."""

    def change(_job: Content, pod: Content, run: Content) -> None:
        target = run if at == "run" else pod
        changed = {**target["securityContext"], **different}
        target["securityContext"] = {part: value for part, value in changed.items() if value is not None}

    return change


def label(name: str, value: str | None) -> Change:
    """Give the Pod a label; None takes it away."""

    def change(job: Content, _pod: Content, _run: Content) -> None:
        labels = job["template"]["metadata"]["labels"]
        labels.pop(name, None)
        if value is not None:
            labels[name] = value

    return change


def volume(name: str, **different: Any) -> Change:  # noqa: ANN401 - JSON
    """Put another source in place of that of a volume."""

    def change(_job: Content, pod: Content, _run: Content) -> None:
        pod["volumes"] = [{"name": name, **different} if each["name"] == name else each for each in pod["volumes"]]

    return change


def mount(path: str, **different: Any) -> Change:  # noqa: ANN401 - JSON
    """Change what is mounted at a path."""

    def change(_job: Content, _pod: Content, run: Content) -> None:
        run["volumeMounts"] = [
            {**each, **different} if each["mountPath"] == path else each for each in run["volumeMounts"]
        ]

    return change


OF_DAGSTER = ("app.kubernetes.io/", "dagster/")  # others are of the cluster, for each Job
SHELL = {"exec": {"command": ["sh", "-c", "true"]}}
KEYS = "pazpaz-secrets"
ANOTHER = {"name": "another", "image": "registry.example/keyrotation:0.1.0"}
WORKER = ["python", "-I", "-m", "keyrotation_pipeline.defs.run_worker", "0b1e7f6e-8a55-4d0b-9a1e-3d8f0a9f7c11"]
FORGERIES = [
    pytest.param(put("image", "registry.example/another:0.1.0"), id="another image"),
    pytest.param(put("image", "registry.example/keyrotation:0.1.0-evil"), id="another tag"),
    pytest.param(put("command", ["sh", "-c", "env"]), id="a command"),
    pytest.param(put("args", ["dagster", "api", "execute_run", "{}"]), id="code of its own"),
    pytest.param(put("args", ["keyrotation", "restore-key", "v1"]), id="our own program"),
    pytest.param(put("args", [*WORKER[:4], "--help"]), id="an option for the id of a run"),
    pytest.param(put("args", [*WORKER, "more"]), id="one more argument"),
    pytest.param(lambda _job, _pod, run: run.pop("args"), id="the program of the image"),
    pytest.param(put("args", ["bash", *WORKER[1:]]), id="another program"),
    pytest.param(put("args", ["python", "-E", *WORKER[2:]]), id="modules of the working directory"),
    pytest.param(put("args", [*WORKER[:2], "-c", *WORKER[3:]]), id="code in place of a module"),
    pytest.param(put("args", [*WORKER[:3], "keyrotation_pipeline.cli", WORKER[4]]), id="another module of ours"),
    pytest.param(put("workingDir", "/home/keyrotation"), id="another directory"),
    pytest.param(put("lifecycle", {"postStart": SHELL}), id="a command after the start"),
    pytest.param(put("livenessProbe", SHELL), id="a command as a probe"),
    pytest.param(put("startupProbe", SHELL), id="a command as a probe of the start"),
    pytest.param(put("readinessProbe", SHELL), id="a command as a probe of readiness"),
    pytest.param(add("env", {"name": "LD_PRELOAD", "value": "/home/keyrotation/evil.so"}), id="a library to preload"),
    pytest.param(add("env", {"name": "PYTHONPATH", "value": "/home/keyrotation"}), id="a path for modules"),
    pytest.param(add("env", {"name": "DAGSTER_HOME", "value": "/home/keyrotation"}), id="another instance of Dagster"),
    pytest.param(
        add("env", {"name": "DAGSTER_RUN_JOB_NAME", "valueFrom": {"secretKeyRef": {"name": KEYS, "key": "k"}}}),
        id="a key in a variable",
    ),
    pytest.param(
        add("env", {"name": "DAGSTER_PG_PASSWORD", "valueFrom": {"secretKeyRef": {"name": KEYS, "key": "k"}}}),
        id="a key as the password",
    ),
    pytest.param(add("envFrom", {"secretRef": {"name": KEYS}}), id="every key in variables"),
    pytest.param(add("envFrom", {"prefix": "LD_", "configMapRef": {"name": "keyrotation-environment"}}), id="a prefix"),
    pytest.param(add("envFrom", {"configMapRef": {"name": "another"}}), id="another ConfigMap"),
    pytest.param(add("volumes", {"name": "keys", "secret": {"secretName": KEYS}}, at="pod"), id="the keys as files"),
    pytest.param(
        add("volumes", {"name": "node", "hostPath": {"path": "/"}}, at="pod"), id="the file system of the node"
    ),
    pytest.param(
        add("volumes", {"name": "all", "projected": {"sources": [{"secret": {"name": KEYS}}]}}, at="pod"),
        id="the keys as projected files",
    ),
    pytest.param(
        add("volumes", {"name": "home-of-others", "persistentVolumeClaim": {"claimName": "pazpaz-data"}}, at="pod"),
        id="the volume of an application",
    ),
    pytest.param(
        add("volumes", {"name": "other", "configMap": {"name": "another"}}, at="pod"), id="another configuration"
    ),
    pytest.param(
        add("volumeMounts", {"name": "home", "mountPath": "/opt/keyrotation/lib"}), id="files in place of the program"
    ),
    pytest.param(add("containers", ANOTHER, at="pod"), id="a second container"),
    pytest.param(add("initContainers", ANOTHER, at="pod"), id="a container before it"),
    pytest.param(put("serviceAccountName", "default", at="pod"), id="another account"),
    pytest.param(put("hostNetwork", True, at="pod"), id="the network of the node"),
    pytest.param(put("hostPID", True, at="pod"), id="the processes of the node"),
    pytest.param(put("hostIPC", True, at="pod"), id="the shared memory of the node"),
    pytest.param(
        put("hostAliases", [{"ip": "192.0.2.1", "hostnames": ["postgres.example"]}], at="pod"), id="another database"
    ),
    pytest.param(put("dnsConfig", {"nameservers": ["192.0.2.1"]}, at="pod"), id="another server of names"),
    pytest.param(put("dnsPolicy", "Default", at="pod"), id="the names of the node"),
    pytest.param(put("hostname", "postgres", at="pod"), id="the name of another"),
    pytest.param(put("subdomain", "databases", at="pod"), id="an address of its own"),
    pytest.param(secure("pod", runAsNonRoot=None), id="as root"),
    pytest.param(secure("pod", runAsNonRoot=False), id="as root, expressly"),
    pytest.param(secure("pod", runAsUser=1), id="another user"),
    pytest.param(secure("pod", runAsGroup=0), id="the group of root"),
    pytest.param(secure("pod", fsGroup=0), id="the group of root for files"),
    pytest.param(secure("pod", supplementalGroups=[0]), id="one more group"),
    pytest.param(secure("pod", sysctls=[{"name": "kernel.shm_rmid_forced", "value": "0"}]), id="settings of a kernel"),
    pytest.param(secure("pod", seLinuxOptions={"type": "spc_t"}), id="another context of SELinux"),
    pytest.param(secure("pod", appArmorProfile={"type": "Unconfined"}), id="no AppArmor"),
    pytest.param(secure("pod", seccompProfile={"type": "Unconfined"}), id="every system call"),
    pytest.param(secure(allowPrivilegeEscalation=True), id="more privileges"),
    pytest.param(secure(runAsNonRoot=False), id="as root in its container"),
    pytest.param(secure(privileged=True), id="privileged"),
    pytest.param(secure(readOnlyRootFilesystem=False), id="a program that can be replaced"),
    pytest.param(secure(capabilities={"drop": ["NET_RAW"]}), id="most capabilities"),
    pytest.param(secure(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), id="a capability"),
    pytest.param(secure(runAsUser=1), id="another user in its container"),
    pytest.param(secure(runAsGroup=0), id="the group of root in its container"),
    pytest.param(secure(seccompProfile={"type": "Unconfined"}), id="every system call in its container"),
    pytest.param(secure(procMount="Unmasked"), id="all of /proc"),
    pytest.param(secure(seLinuxOptions={"type": "spc_t"}), id="another context of SELinux in its container"),
    pytest.param(secure(appArmorProfile={"type": "Unconfined"}), id="no AppArmor in its container"),
    pytest.param(put("terminationMessagePath", "/opt/dagster/dagster.yaml"), id="an empty file over another"),
    pytest.param(put("envFrom", []), id="the configuration of the working directory"),
    pytest.param(mount("/home/keyrotation", mountPath="/opt/dagster-home"), id="a volume at another path"),
    pytest.param(mount("/opt/dagster", name="home"), id="the home as the instance"),
    pytest.param(mount("/opt/dagster", name="configuration"), id="another file as the instance"),
    pytest.param(mount("/etc/keyrotation", name="home"), id="the home as the configuration"),
    pytest.param(mount("/etc/keyrotation", subPath="other"), id="a part of a volume"),
    pytest.param(mount("/etc/keyrotation", subPathExpr="$(DAGSTER_RUN_JOB_NAME)"), id="a part by a variable"),
    pytest.param(put("volumeDevices", [{"name": "home", "devicePath": "/dev/home"}]), id="a device"),
    pytest.param(volume("configuration", configMap={"name": "keyrotation-dagster"}), id="a volume under another name"),
    pytest.param(volume("instance", persistentVolumeClaim={"claimName": "keyrotation-home"}), id="the home by a name"),
    pytest.param(
        volume("instance", configMap={"name": "keyrotation-dagster", "items": [{"key": "k", "path": "dagster.yaml"}]}),
        id="another entry as the instance",
    ),
    pytest.param(
        volume("configuration", configMap={"name": "keyrotation-configuration", "items": [{"key": "k", "path": "k"}]}),
        id="another entry as the configuration",
    ),
    pytest.param(
        volume("recovery", secret={"secretName": "keyrotation-recovery", "items": [{"key": "k", "path": "k"}]}),
        id="another entry as the recovery key",
    ),
    pytest.param(put("nodeName", "mine", at="pod"), id="a node"),
    pytest.param(put("nodeSelector", {"kubernetes.io/hostname": "mine"}, at="pod"), id="a node by its label"),
    pytest.param(put("affinity", {"nodeAffinity": {}}, at="pod"), id="a node by preference"),
    pytest.param(put("tolerations", [{"operator": "Exists"}], at="pod"), id="every node"),
    pytest.param(put("priorityClassName", "system-cluster-critical", at="pod"), id="before every Pod"),
    pytest.param(put("priority", 1000000, at="pod"), id="before every Pod by a number"),
    pytest.param(put("runtimeClassName", "other", at="pod"), id="another runtime"),
    pytest.param(put("schedulerName", "mine", at="pod"), id="another scheduler"),
    pytest.param(put("resourceClaims", [{"name": "d", "resourceClaimName": "d"}], at="pod"), id="a device of a node"),
    pytest.param(put("restartPolicy", "OnFailure", at="pod"), id="a container again"),
    pytest.param(put("parallelism", 500, at="job"), id="many Pods at a time"),
    pytest.param(put("completions", 500, at="job"), id="many Pods one after another"),
    pytest.param(put("completionMode", "Indexed", at="job"), id="numbered Pods"),
    pytest.param(put("backoffLimit", 1000, at="job"), id="a second Pod"),
    pytest.param(lambda job, _pod, _run: job.pop("backoffLimit"), id="as many Pods as Kubernetes tries"),
    pytest.param(
        put("podFailurePolicy", {"rules": [{"action": "Ignore", "onPodConditions": []}]}, at="job"),
        id="a second Pod by a rule",
    ),
    pytest.param(put("manualSelector", True, at="job"), id="the Pods of others"),
    pytest.param(label("app", "pazpaz-api"), id="a Pod of an application"),
    pytest.param(label("app.kubernetes.io/name", "keyrotation-dagster"), id="a Pod of the code server"),
    pytest.param(label("app.kubernetes.io/instance", "pazpaz"), id="a Pod of an application by its instance"),
    pytest.param(label("app.kubernetes.io/part-of", "pazpaz"), id="a Pod of a part of an application"),
    pytest.param(label("app.kubernetes.io/component", "api"), id="a Pod of an application by its component"),
    pytest.param(label("dagster/run-id", None), id="a Pod of no run"),
    pytest.param(lambda job, _pod, _run: job["template"]["metadata"].pop("labels"), id="a Pod of nothing"),
    pytest.param(
        lambda job, _pod, _run: job["template"]["metadata"].update(annotations={"sidecar.istio.io/inject": "true"}),
        id="an annotation that adds a container",
    ),
]


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
    metadata = {part: genuine["metadata"][part] for part in ("labels",)}
    for number, case in enumerate([*FORGERIES, pytest.param(lambda _job, _pod, _run: None, id="none")]):
        change: Any = case.values[0]
        forged = copy.deepcopy({"metadata": {**metadata, "name": f"forged-{number}"}, "spec": genuine["spec"]})
        forged["spec"].pop("selector", None)
        template = forged["spec"]["template"]
        labels = template["metadata"]["labels"]
        template["metadata"]["labels"] = {each: labels[each] for each in labels if each.startswith(OF_DAGSTER)}
        change(forged["spec"], template["spec"], template["spec"]["containers"][0])
        if case.id == "none":
            ask("POST", jobs, forged)
            ask("DELETE", f"{jobs}/forged-{number}")
            continue
        with pytest.raises(client.ApiException) as refused:
            ask("POST", jobs, forged)
        assert "keyrotation-jobs" in str(refused.value.body), case.id


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
