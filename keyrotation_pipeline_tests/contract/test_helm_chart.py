"""The official Helm chart of Dagster with our values: what it renders is what the plain manifests say.

The chart is of Dagster's own repository, and in no package: `helm pull dagster/dagster --version 1.13.27 --untar`, then
`KEYROTATION_TEST_CHART` names its directory. `helm` is on the path, or `KEYROTATION_TEST_HELM` names it, or the package
helm-python-sdk, which has Helm in it, is installed.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from keyrotation_pipeline_tests.clusters import TestCluster
from keyrotation_pipeline_tests.contract.test_dagster_on_kubernetes import (
    DAGSTER,
    IMAGE,
    RUNS,
    TOP,
    container_of,
    launched_run,
    secrets_of,
)
from keyrotation_pipeline_tests.contract.test_dagster_rights import DAEMON, as_daemon, policies, roles  # noqa: F401

CHART, HELM = "KEYROTATION_TEST_CHART", "KEYROTATION_TEST_HELM"
VALUES = TOP / "deploy" / "helm" / "values.yaml"
POLICIES = TOP / "deploy" / "helm" / "network-policies.yaml"
READ_ONLY = {"name": "DAGSTER_WEBSERVER_READ_ONLY", "value": "true"}
Content = dict[str, Any]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Content]:
    """What `helm template` makes of the chart, after it has validated our values by the chart's own schema."""
    if not (named := os.environ.get(CHART)):
        pytest.skip(
            "the chart is not here; `helm pull dagster/dagster --version "
            f"{importlib.metadata.version('dagster')} --untar`, and name its directory in {CHART}"
        )
    chart = tmp_path_factory.mktemp("helm") / "dagster"
    shutil.copytree(named, chart)
    for schema in chart.rglob("values.schema.json"):
        # Kubernetes' own part is at an address that a test does not ask; every object is validated below.
        schema.write_text(json.dumps(without_addresses(json.loads(schema.read_text()))))
    return [each for each in yaml.safe_load_all(templated(chart, VALUES)) if each]


def templated(chart: Path, values: Path) -> str:
    """What Helm makes of a chart: the program, or the library that a package brings."""
    if helm := os.environ.get(HELM) or shutil.which("helm"):
        command = [helm, "template", "keyrotation", str(chart), "--namespace", "pazpaz", "--values", str(values)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout
    library = pytest.importorskip("helm_python", reason=f"Helm is not here; name it in {HELM}, or use helm-python-sdk")
    with library.Chart.load(str(chart)) as loaded:
        given = yaml.safe_load(values.read_text())
        loaded.validate_schema(given)
        made = loaded.render(given, name="keyrotation", namespace="pazpaz")
    return "\n---\n".join(text for name, text in sorted(made.items()) if name.endswith(".yaml"))


def without_addresses(schema: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(schema, dict):
        kept = {name: without_addresses(value) for name, value in schema.items()}
        return {name: value for name, value in kept.items() if name != "$ref" or not str(value).startswith("https:")}
    return [without_addresses(each) for each in schema] if isinstance(schema, list) else schema


def found(rendered: list[Content], kind: str, name: str) -> Content:
    [content] = [each for each in rendered if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return content


@pytest.fixture
def dagster_yaml(rendered: list[Content]) -> Content:
    data = found(rendered, "ConfigMap", "keyrotation-dagster-instance")["data"]
    content: Content = yaml.safe_load(data["dagster.yaml"])
    return content


def test_the_chart_is_that_of_our_dagster() -> None:
    """So that what is compared here is what somebody installs."""
    version = importlib.metadata.version("dagster")
    assert f"--version {version} " in VALUES.read_text()
    if named := os.environ.get(CHART):
        assert yaml.safe_load((Path(named) / "Chart.yaml").read_text())["version"] == version


def test_its_instance_is_ours_but_for_the_storage(dagster_yaml: Content) -> None:
    ours = yaml.safe_load((DAGSTER / "dagster.yaml").read_text())
    launcher = ours["run_launcher"]["config"]
    launcher["instance_config_map"] = "keyrotation-dagster-instance"
    launcher["postgres_password_secret"] = "keyrotation-dagster-postgresql"
    launcher["env_secrets"].remove("keyrotation-dagster-storage")
    launcher["volumes"][0]["configMap"]["name"] = launcher["instance_config_map"]
    assert dagster_yaml.pop("schedules") == {"use_threads": True, "num_workers": 4}  # the chart's default
    for part in ("run_storage", "event_log_storage", "schedule_storage"):
        assert dagster_yaml.pop(part)["config"]["postgres_db"]["scheme"] == "postgresql+psycopg2"
    assert dagster_yaml.pop("scheduler")["class"] == "DagsterDaemonScheduler"
    kept = dagster_yaml.pop("retention")
    for part, ticks in ours.pop("retention").items():
        assert ticks["purge_after_days"].items() <= kept[part]["purge_after_days"].items()
    assert dagster_yaml.pop("compute_logs")["class"] == ours.pop("compute_logs")["class"]
    del ours["storage"]
    assert dagster_yaml == ours


def test_every_object_is_as_the_api_knows_it_and_every_pod_as_hardened_as_ours(rendered: list[Content]) -> None:
    import kubernetes_validate  # noqa: PLC0415

    accounts = {}
    for content in rendered:
        kubernetes_validate.validate(without_nulls(content), "1.32", strict=True)
        if content["kind"] != "Deployment":
            continue
        pod = content["spec"]["template"]["spec"]
        accounts[content["metadata"]["name"]] = pod["serviceAccountName"]
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["fsGroup"]) == (True, 10001)
        assert container_of(content)["image"] == IMAGE
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert accounts == {
        "keyrotation-dagster-keyrotation-code-server": DAEMON,
        "keyrotation-dagster-daemon": DAEMON,
        "keyrotation-dagster-webserver": DAEMON,
    }
    kinds = {content["kind"] for content in rendered}
    assert not kinds & {"Role", "RoleBinding", "ServiceAccount", "Secret"}, "rights.yaml and pipeline.yaml have them"


def without_nulls(content: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(content, dict):
        return {name: without_nulls(value) for name, value in content.items() if value is not None}
    return [without_nulls(each) for each in content] if isinstance(content, list) else content


def test_the_web_server_is_only_looked_at(rendered: list[Content]) -> None:
    container = container_of(found(rendered, "Deployment", "keyrotation-dagster-webserver"))
    assert READ_ONLY in container["env"]
    assert not [each for each in rendered if each["metadata"]["name"].endswith("-read-only")]
    assert ways_in(rendered) == []


def ways_in(contents: Iterable[Content]) -> list[str]:
    """The objects by which somebody outside of the cluster reaches one of its Pods."""
    return [
        f"{each['kind']} {each['metadata']['name']}"
        for each in contents
        if each["kind"] in {"Ingress", "HTTPRoute"}
        or (each["kind"] == "Service" and each["spec"].get("type", "ClusterIP") != "ClusterIP")
        or (each["kind"] == "Service" and each["spec"].get("externalIPs"))
        or "hostPort" in str(each)
        or "hostNetwork" in str(each)
    ]


def test_nothing_leads_to_a_web_server_from_outside_of_the_cluster() -> None:
    manifests = [
        each
        for file in sorted((TOP / "deploy" / "kubernetes").rglob("*.yaml"))
        for each in yaml.safe_load_all(file.read_text())
        if "Policy" not in each.get("kind", "Policy")  # policies name what they forbid; some files are of Dagster
    ]
    assert {each["kind"] for each in manifests} >= {"Deployment", "CronJob"}
    assert ways_in(manifests) == []
    values = yaml.safe_load(VALUES.read_text())
    assert values["dagsterWebserver"]["service"]["type"] == "ClusterIP"
    assert not values.get("ingress", {}).get("enabled")
    closed = [each["spec"] for each in yaml.safe_load_all(POLICIES.read_text()) if not each["spec"]["ingress"]]
    webserver = {"matchLabels": {"component": "dagster-webserver"}}
    assert closed == [{"podSelector": webserver, "policyTypes": ["Ingress"], "ingress": []}]


def test_a_chart_that_renders_no_manifests_of_ours_leaves_no_port_open(rendered: list[Content]) -> None:
    """The policies select the chart's Pods by the labels that it gives them, and let in what Dagster needs."""
    labels = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in rendered
        if each["kind"] == "Deployment"
    }
    selected = {}
    for policy in yaml.safe_load_all(POLICIES.read_text()):
        wanted = policy["spec"]["podSelector"]["matchLabels"].items()
        selected[policy["metadata"]["name"]] = [name for name, of in labels.items() if wanted <= of.items()]
        for rule in policy["spec"]["ingress"]:
            [source] = rule["from"][0]["podSelector"]["matchExpressions"]
            assert {of.get(source["key"]) for of in labels.values()} >= {*source["values"]}
    assert selected == {
        "keyrotation-webserver-of-the-chart": ["keyrotation-dagster-webserver"],
        "keyrotation-code-server-of-the-chart": ["keyrotation-dagster-keyrotation-code-server"],
    }


def test_every_pod_of_the_chart_has_the_token_of_its_account(rendered: list[Content]) -> None:
    """The chart asks for it in the web server alone: with an account that mounts none, the daemon launches no run."""
    accounts = {
        content["metadata"]["name"]: content.get("automountServiceAccountToken", True)
        for content in yaml.safe_load_all((DAGSTER / "rights.yaml").read_text())
        if content["kind"] == "ServiceAccount"
    }
    pods = [each["spec"]["template"]["spec"] for each in rendered if each["kind"] == "Deployment"]
    assert [pod.get("automountServiceAccountToken", accounts[pod["serviceAccountName"]]) for pod in pods] == [
        True
    ] * len(pods)


def test_the_account_of_dagster_mounts_its_token() -> None:
    """Without the chart, too: that of its daemon says nothing of it, and takes what the account says."""
    accounts = [
        each for each in yaml.safe_load_all((DAGSTER / "rights.yaml").read_text()) if each["kind"] == "ServiceAccount"
    ]
    assert [(each["metadata"]["name"], each.get("automountServiceAccountToken", True)) for each in accounts] == [
        (DAEMON, True)
    ]


def test_the_variable_of_the_values_makes_a_web_server_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster_webserver.cli import cli  # noqa: PLC0415

    assert READ_ONLY in yaml.safe_load(VALUES.read_text())["dagsterWebserver"]["env"]
    for value, is_read_only in (("", False), (READ_ONLY["value"], True)):
        monkeypatch.setenv(READ_ONLY["name"], value)
        context = cli.make_context("dagster-webserver", [], auto_envvar_prefix="DAGSTER_WEBSERVER")
        assert context.params["read_only"] is is_read_only


def test_the_workspace_names_our_code_location(rendered: list[Content]) -> None:
    data = found(rendered, "ConfigMap", "keyrotation-dagster-workspace-yaml")["data"]
    [ours], [chart] = (
        yaml.safe_load(text)["load_from"] for text in ((DAGSTER / "workspace.yaml").read_text(), data["workspace.yaml"])
    )
    assert chart["grpc_server"] == {
        "host": "keyrotation-code-server",
        "port": 4000,
        "location_name": ours["grpc_server"]["location_name"],
    }


def named_in(content: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    """The Secrets, claims, ConfigMaps and accounts that an object needs."""
    if isinstance(content, list):
        for each in content:
            yield from named_in(each)
    if not isinstance(content, dict):
        return
    for part, value in content.items():
        if part in {"secretRef", "secretKeyRef"} and not value.get("optional"):
            yield "Secret", value["name"]
        elif part in {"configMapRef", "configMap"}:
            yield "ConfigMap", value["name"]
        elif part in {"serviceAccountName", "service_account_name"}:
            yield "ServiceAccount", value
        elif part == "secretName":
            yield "Secret", value
        elif part == "claimName":
            yield "PersistentVolumeClaim", value
        yield from named_in(value)


def test_the_values_list_everything_that_is_to_be_created_before_it(
    rendered: list[Content], dagster_yaml: Content
) -> None:
    launcher = dagster_yaml["run_launcher"]["config"]
    needed = {*named_in(rendered), *named_in(launcher)}
    needed |= {("Secret", launcher["postgres_password_secret"])}
    needed |= {("Secret", each) for each in launcher["env_secrets"]}
    needed |= {("ConfigMap", each) for each in launcher["env_config_maps"]}
    made = {(each["kind"], each["metadata"]["name"]) for each in rendered}
    assert needed - made == listed()


def listed() -> set[tuple[str, str]]:
    """The list at the head of the values."""
    line = r"^# +(Secret|ConfigMap|ServiceAccount|PersistentVolumeClaim) ([a-z, -]+)"
    lines = re.findall(line, VALUES.read_text(), re.MULTILINE)
    return {(kind, name.strip()) for kind, names in lines for name in names.split(",")}


@pytest.mark.usefixtures("policies")
def test_its_runs_are_admitted(
    dagster_yaml: Content, cluster: TestCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance is read by Dagster, and its Jobs pass the policy of the daemon's account."""
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "never-in-a-manifest")
    for part in ("run_storage", "event_log_storage", "schedule_storage"):
        dagster_yaml.pop(part, None)
    dagster_yaml.pop("local_artifact_storage")  # nothing is stored outside of the test
    dagster_yaml["run_launcher"]["config"] |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(cluster.kubeconfig),
        "job_namespace": cluster.namespace,
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(dagster_yaml))
    jobs = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs"
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        assert opened.get_concurrency_config().pool_config.default_pool_limit == 4
        with as_daemon(opened, cluster, tmp_path, monkeypatch, DAEMON):
            for case in RUNS[-4:]:
                run = launched_run(opened, str(case.values[0]), {}, case.values[1])  # type: ignore[arg-type]
                job = cluster.ask("GET", f"{jobs}/dagster-run-{run.run_id}")
                assert "keyrotation-recovery" in secrets_of(job)
                assert opened.run_launcher.terminate(run.run_id) is not None
