"""The files of deploy/kubernetes on a real API server: what they admit, and what they refuse to whoever has a token.

Applied by the real `kubectl`, as the pages say. There is no node: what Pods do is for other tests.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from keyrotation_pipeline.adapters.keystores.named_versions import text_of_owner
from keyrotation_pipeline.adapters.rollouts.pod_keys import ANNOTATION
from keyrotation_pipeline.defs.launch_refusals import refused_by
from keyrotation_pipeline.errors import LaunchError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline_tests.api_server import MERGE, Caller, needs_api_server, new_namespace
from keyrotation_pipeline_tests.clusters import LAST_APPLIED, TestCluster, TestKeySecrets
from keyrotation_pipeline_tests.contract.forged_jobs import WORKER, forgeries
from keyrotation_pipeline_tests.contract.forged_requests import (
    ACCOUNTS,
    ARCHIVE,
    DAEMON,
    LIVE,
    NAME,
    PIPELINE,
    WORKLOADS,
    Forged,
    of_every_account,
    of_the_pipeline,
)
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, archive, destroy, key, set_primary
from keyrotation_pipeline_tests.contract.racing_writer import owner_of
from keyrotation_pipeline_tests.contract.test_dagster_on_kubernetes import RUNS, instance, launched_run  # noqa: F401
from keyrotation_pipeline_tests.contract.test_dagster_rights import EXAMPLE, POLICIES, as_daemon
from keyrotation_pipeline_tests.contract.test_kubernetes_rights import as_account
from keyrotation_pipeline_tests.kubernetes_standin.defaults import neutral, recorded
from keyrotation_pipeline_tests.kubernetes_standin.samples import answers
from keyrotation_pipeline_tests.pages import TOP, block
from keyrotation_pipeline_tests.programs import needs_kubectl
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = [needs_api_server, needs_kubectl, pytest.mark.external_kubectl]
Json = dict[str, Any]
OURS = ("jobs", "deletions", "workloads", "entries", "archive")


@dataclass
class Installation:
    """What the pages have somebody apply, in a namespace of its own, and the application next to it.

    Args:
        deploy: a copy of deploy/, with that namespace.
    """

    cluster: TestCluster
    deploy: Path

    def typed(self, lines: str) -> "subprocess.CompletedProcess[str]":
        """Types lines of a page, in a folder that has deploy/ and what the page says must be there."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", re.sub(EXAMPLE, self.cluster.namespace, lines)],
            cwd=self.deploy.parent,
            env={**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )

    def apply(self) -> None:
        for name, text in (
            ("storage.env", "DAGSTER_PG_URL=postgresql+psycopg2://db/dagster\n"),
            ("database.env", "KEYROTATION_DATABASE_URL=postgresql://db/clinic\n"),
            ("recovery.asc", "of a test\n"),
            ("keyrotation.toml", "# of a test\n"),
            ("officers/security.asc", "of a test\n"),
        ):
            file = self.deploy.parent / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        others = (f"deploy/kubernetes/{each}.yaml" for each in ("changes-policy", "application"))
        done = self.typed("\n".join([block("cluster"), *(f"kubectl apply --filename {each}" for each in others)]))
        assert done.returncode == 0, done.stderr

    def path(self, of: str) -> str:
        """``apps/v1 deployments/x`` in the namespace."""
        group, _, rest = of.partition(" ")
        return f"/{'apis' if '/' in group else 'api'}/{group}/namespaces/{self.cluster.namespace}/{rest}"

    @cached_property
    def callers(self) -> dict[str, Caller]:
        return {account: Caller.of(self.cluster, account) for account in ACCOUNTS}

    def policies(self) -> dict[str, Json]:
        names = {each: f"keyrotation-{each}.{self.cluster.namespace}" for each in OURS}
        return {
            each: self.cluster.ask("GET", f"{POLICIES}/validatingadmissionpolicies/{name}")
            for each, name in names.items()
        }

    def kept(self) -> list[Json]:
        """What is worth something, as it is now."""
        paths = (f"v1 secrets/{LIVE}", f"v1 secrets/{ARCHIVE}", *(f"apps/v1 {each}/{NAME}" for each in WORKLOADS))
        found = [self.cluster.ask("GET", self.path(each)) for each in paths]
        for each in found:
            each.pop("status", None)
            each["metadata"] = {
                part: value for part, value in each["metadata"].items() if part in {"labels", "finalizers"}
            }
        return found


@pytest.fixture(scope="module")
def installed(api_server: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with new_namespace(api_server, "admission") as cluster:
        deploy = shutil.copytree(TOP / "deploy", tmp_path_factory.mktemp("deploy") / "deploy")
        for file in deploy.rglob("*.yaml"):
            file.write_text(re.sub(EXAMPLE, cluster.namespace, file.read_text()))
        made = Installation(cluster, deploy)
        made.apply()
        make_application(made)
        assert eventually(lambda: refuses(made), 60), "the policies are not at work"
        yield made
        for name in OURS:
            for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
                cluster.ask("DELETE", f"{POLICIES}/{plural}/keyrotation-{name}.{cluster.namespace}")


@pytest.fixture(scope="module")
def cluster(installed: Installation) -> TestCluster:
    """In place of the stand-in."""
    return installed.cluster


def make_application(made: Installation) -> None:
    """Workloads of each kind, and Secrets with keys and with what is not ours."""
    others, ask = {"labels": {"app": NAME}, "annotations": {"others": "x"}}, made.cluster.ask
    keys = {"ENCRYPTION_MASTER_KEY": "eA==", "ENCRYPTION_MASTER_KEY_V2": "eA==", "ENCRYPTION_PRIMARY_VERSION": "djE="}
    live = {"name": LIVE, **others, "annotations": {"others": "x", "keyrotation/owner": text_of_owner(owner_of(V1))}}
    ask("POST", "secrets", {"metadata": live, "data": {**keys, "PEPPER": "eQ=="}})
    archived = {"v1": "eA==", "v2": "eA==", "PEPPER": "eQ=="}
    ask("PATCH", f"secrets/{ARCHIVE}", {"metadata": others, "data": archived})
    container = {"name": "api", "image": "registry.example/api:1", "envFrom": [{"secretRef": {"name": LIVE}}]}
    for plural in WORKLOADS:
        template = {"metadata": others, "spec": {"containers": [container]}}
        spec: Json = {"selector": {"matchLabels": others["labels"]}, "template": template}
        spec |= {"serviceName": NAME} if plural == "statefulsets" else {}
        ask("POST", made.path(f"apps/v1 {plural}"), {"metadata": {"name": NAME, **others}, "spec": spec})
    pod = {"containers": [container], "restartPolicy": "Never"}
    ask("POST", "pods", {"metadata": {"name": NAME}, "spec": pod})
    job = {"suspend": True, "template": {"spec": pod}}
    ask("POST", made.path("batch/v1 jobs"), {"metadata": {"name": NAME}, "spec": job})


def refuses(made: Installation) -> bool:
    """Whether each policy refuses something; they are read anew once a second."""
    ask, dry = made.callers, "?dryRun=All"
    label = {"metadata": {"labels": {"try": "x"}}}
    tried = (
        ask[DAEMON].call("POST", made.path(f"batch/v1 jobs{dry}"), {"metadata": {"name": "try"}, **job_of("busybox")}),
        ask[DAEMON].call("DELETE", made.path(f"v1 pods/{NAME}{dry}")),
        *(ask[PIPELINE].call("PATCH", made.path(f"{each}{dry}"), label, MERGE)
          for each in (f"apps/v1 deployments/{NAME}", f"v1 secrets/{LIVE}", f"v1 secrets/{ARCHIVE}")),
    )  # fmt: skip
    return all("ValidatingAdmissionPolicy" in str(refusal.get("message")) for _, refusal in tried)


def job_of(image: str) -> Json:
    pod = {"restartPolicy": "Never", "containers": [{"name": "try", "image": image}]}
    return {"spec": {"template": {"spec": pod}}}


def test_the_api_server_finds_nothing_wrong_with_a_policy(installed: Installation) -> None:
    def checked() -> bool:
        return all(each.get("status", {}).get("observedGeneration") for each in installed.policies().values())

    assert eventually(checked, 30)
    assert {name: each["status"]["typeChecking"] for name, each in installed.policies().items()} == {
        name: {} for name in OURS
    }


def test_it_adds_to_objects_what_was_recorded(installed: Installation) -> None:
    """`kubernetes_standin.defaults` writes the recording, by which the stand-in goes."""
    assert answers(installed.cluster) == recorded()


def test_every_job_of_a_run_is_admitted(
    installed: Installation,
    instance: dg.DagsterInstance,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with as_daemon(instance, installed.cluster, tmp_path, monkeypatch, DAEMON):
        for case in RUNS:
            for mode in ("routine", "emergency"):
                job, assets = str(case.values[0]), case.values[1]
                launched_run(instance, job, {"keyrotation/mode": mode}, assets)  # type: ignore[arg-type]
    made = installed.cluster.ask("GET", installed.path("batch/v1 jobs"))["items"]
    assert len([each for each in made if each["metadata"]["name"].startswith("dagster-run-")]) >= 2 * len(RUNS)


def test_the_lines_of_the_page_tell_whether_the_policy_is_at_work(installed: Installation) -> None:
    done = installed.typed(block("admitted"))
    assert done.returncode == 0, done.stderr
    assert "created (server dry run)" in done.stdout
    denied = f"ValidatingAdmissionPolicy 'keyrotation-jobs.{installed.cluster.namespace}'"
    assert (denied in done.stderr, "denied request: our image" in done.stderr) == (True, True)


def test_every_job_of_a_run_of_the_chart_is_admitted(
    installed: Installation,
    instance: dg.DagsterInstance,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from keyrotation_pipeline.defs.run_launcher import JobwiseK8sRunLauncher  # noqa: PLC0415

    values = yaml.safe_load((TOP / "deploy" / "helm" / "values.yaml").read_text())
    config = values["runLauncher"]["config"]["customRunLauncher"]["config"]
    config |= {"load_incluster_config": False, "kubeconfig_file": str(installed.cluster.kubeconfig)}
    launcher = JobwiseK8sRunLauncher(**config | {"job_namespace": installed.cluster.namespace})
    launcher.register_instance(instance)
    monkeypatch.setattr(instance, "_run_launcher", launcher)
    with as_daemon(instance, installed.cluster, tmp_path, monkeypatch, DAEMON):
        for job in ("introduce_key", "recovery_drill"):
            run = launched_run(instance, job, {})
            made = installed.cluster.ask("GET", installed.path(f"batch/v1 jobs/dagster-run-{run.run_id}"))
            assert "keyrotation-dagster-instance" in str(made["spec"]), "not that of the chart"


@pytest.mark.parametrize(
    ("refusing", "by"),
    [
        pytest.param("policy", "admission policy keyrotation-jobs.", id="a policy"),
        pytest.param("quota", "quota none-left", id="a quota"),
        pytest.param("rights", "the rights of the account", id="no right"),
    ],
)
def test_a_run_that_is_refused_says_by_what(
    installed: Installation,
    instance: dg.DagsterInstance,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusing: str,
    by: str,
) -> None:
    quotas = installed.path("v1 resourcequotas")
    if refusing == "quota":
        installed.cluster.ask(
            "POST", quotas, {"metadata": {"name": "none-left"}, "spec": {"hard": {"count/jobs.batch": 0}}}
        )
        assert eventually(lambda: "hard" in installed.cluster.ask("GET", f"{quotas}/none-left").get("status", {}), 30)
    account = "keyrotation-reader" if refusing == "rights" else DAEMON
    if refusing == "policy":
        launcher: Any = instance.run_launcher
        monkeypatch.setattr(launcher, "_jobs", {"evidence": {"pod_spec_config": {"node_selector": {"a": "b"}}}})
    with as_daemon(instance, installed.cluster, tmp_path, monkeypatch, account), pytest.raises(LaunchError):
        launched_run(instance, "evidence", {})
    [record] = instance.get_run_records(limit=1)
    assert record.dagster_run.status is dg.DagsterRunStatus.FAILURE
    [failed] = instance.all_logs(record.dagster_run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert str(refused_by(failed.get_dagster_event().message or "")).startswith(by)
    if refusing == "quota":
        installed.cluster.ask("DELETE", f"{quotas}/none-left")


def test_the_job_of_the_page_is_that_of_a_run(
    installed: Installation,
    instance: dg.DagsterInstance,  # noqa: F811
) -> None:
    shown = yaml.safe_load((installed.deploy / "kubernetes" / "dagster" / "job-of-a-run.yaml").read_text())
    jobs, id_shown = installed.path("batch/v1 jobs"), shown["metadata"]["labels"]["dagster/run-id"]
    run = launched_run(instance, "backup", {})
    genuine = json.dumps(installed.cluster.ask("GET", f"{jobs}/dagster-run-{run.run_id}")).replace(run.run_id, id_shown)
    wanted = neutral(json.loads(genuine))
    for each in (wanted["metadata"], wanted["spec"]["template"]["metadata"]):
        del each["labels"]["app.kubernetes.io/version"]  # Dagster's
    assert neutral(installed.cluster.ask("POST", f"{jobs}?dryRun=All", shown)) == wanted


def test_every_change_of_keys_is_admitted(installed: Installation, tmp_path: Path) -> None:
    administrator = TestKeySecrets(installed.cluster, LIVE, installed.cluster.kubeconfig)
    before = [administrator.secret(name)["data"] for name in (LIVE, ARCHIVE)]
    administrator.overwrite({name: None for name in administrator.entries() if name != "PEPPER"})
    administrator.overwrite({"v1": None, "v2": None}, ARCHIVE)
    store = as_account(administrator, PIPELINE, tmp_path).open()
    for version in (V1, V2):
        add(store, version, key(version.number))
    set_primary(store, V1)
    store.set_primary(V2, store.read().revision, "Encryption key v2")
    store.replace(V1, key(7), store.read().revision)
    administrator.overwrite({}, metadata={"annotations": {LAST_APPLIED: '{"data":{"ENCRYPTION_MASTER_KEY":"x"}}'}})
    store.archive(V1, store.read().revision, "Archived key v1")
    store.restore(V1, store.read().revision)
    archive(store, V1)
    destroy(store, V1)
    for text in ("v3x", "v11"):
        add(store, KeyVersion.parse(text), key(3 if text == "v3x" else 11))
    store.publish_compromised(frozenset({KeyVersion(11)}), store.read().revision)
    store.name_owner(owner_of(V2), store.read().revision)
    assert set(administrator.entries()) == {
        "ENCRYPTION_MASTER_KEY_V2", "ENCRYPTION_MASTER_KEY_V3X", "ENCRYPTION_MASTER_KEY_V11", "PEPPER",
        "ENCRYPTION_PRIMARY_VERSION", "ENCRYPTION_COMPROMISED_VERSIONS",
    }  # fmt: skip
    for name, data in zip((LIVE, ARCHIVE), before, strict=True):
        gone = dict.fromkeys(administrator.entries(name))
        administrator.cluster.ask("PATCH", f"secrets/{name}", {"data": {**gone, **data}})


@pytest.mark.parametrize("plural", WORKLOADS)
def test_a_rollout_is_admitted(installed: Installation, plural: str) -> None:
    path = installed.path(f"apps/v1 {plural}/{NAME}")
    for keys in (
        "v1=0123456789abcdef primary=v1",
        "v1=0123456789abcdef v2x=0123456789abcdef primary=v2x",
        "primary=None",
    ):
        difference = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION: f"{keys} secret=12"}}}}}
        status, answer = installed.callers[PIPELINE].call(
            "PATCH", f"{path}?fieldManager=keyrotation", difference, MERGE
        )
        assert status == 200, answer["message"]
        assert answer["spec"]["template"]["metadata"]["annotations"][ANNOTATION] == f"{keys} secret=12"


def test_whoever_has_a_token_gets_nothing_more(
    installed: Installation,
    instance: dg.DagsterInstance,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = launched_run(instance, "recovery_drill", {})
    jobs = installed.path("batch/v1 jobs")
    genuine = installed.cluster.ask("GET", f"{jobs}/dagster-run-{run.run_id}")
    before, counted, admitted, said = installed.kept(), Counter[str](), list[str](), set[str]()
    of_runs = [Forged(DAEMON, f"Job: {what}", "POST", "batch/v1 jobs", job) for what, job in forgeries(genuine)]
    for each in [*of_runs, *of_the_pipeline(), *of_every_account()]:
        path = each.path if each.path.startswith("/") else installed.path(each.path)
        status, answer = installed.callers[each.account].call(each.method, path, each.body, each.kind, each.headers)
        if status < 300 and not is_honest(each, answer, genuine):
            admitted.append(f"{each.account}: {each.what}")
        by = of_refusal(status, answer)
        counted[by] += 1
        said |= {str(answer.get("message")).rpartition("denied request: ")[2].strip()} if by == "policy" else set()
        if status < 300 and each.method == "POST":
            installed.cluster.ask("DELETE", f"{path}/{answer['metadata']['name']}")
    with capsys.disabled():
        sys.stdout.write(f"\nforged requests: {dict(counted)}\n")
    assert admitted == []
    assert installed.kept() == before
    assert sum(counted.values()) - counted["nobody"] >= 250
    # Each condition refuses something that those before it let through.
    every = {each["message"] for policy in installed.policies().values() for each in policy["spec"]["validations"]}
    assert every - said == set()


def is_honest(each: Forged, answer: Json, genuine: Json) -> bool:
    """Whether the server took what was forged away, as it does with fields that are switched off and with its own."""
    if each.path != "batch/v1 jobs":
        return False
    run = genuine["metadata"]["labels"]["dagster/run-id"]
    return neutral(answer) == neutral(json.loads(json.dumps(genuine).replace(run, WORKER[4])))


def of_refusal(status: int, answer: Json) -> str:
    message = str(answer.get("message"))
    if status < 300:
        return "nobody"
    if "ValidatingAdmissionPolicy" in message:
        return "policy"
    return "RBAC" if status == 403 and "is forbidden: User" in message else "API"
