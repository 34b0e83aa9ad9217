"""The rights in deploy/kubernetes: with them everything works, and without any one of them something does not."""

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from keyrotation_pipeline.errors import KeyRotationError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.rollout import Aim, Goal
from keyrotation_pipeline_tests.clusters import TestCluster, TestKeySecrets
from keyrotation_pipeline_tests.contract.key_store import V1, add, archive, destroy, key, set_primary
from keyrotation_pipeline_tests.contract.rollout_suite import told_nothing
from keyrotation_pipeline_tests.contract.test_kubernetes_rollout import KIND, Stage
from keyrotation_pipeline_tests.fleets import TestFleet

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Secret": "/api/v1/namespaces/{}/secrets",
}


def documents(file: str, secrets: TestKeySecrets, workload: str) -> list[dict[str, Any]]:
    """What is in a file, with the names of a test in place of the examples'."""
    text = (DEPLOY / file).read_text()
    for example, name in (
        ("pazpaz-secrets-archive", secrets.archive),
        ("[pazpaz-secrets,", f"[{secrets.name},"),
        ("pazpaz-api", workload),
        ("name: keyrotation", f"name: keyrotation-{secrets.name}"),
        ("namespace: pazpaz", f"namespace: {secrets.cluster.namespace}"),
    ):
        text = text.replace(example, name)
    return list(yaml.safe_load_all(text))


def apply(cluster: TestCluster, content: dict[str, Any]) -> None:
    cluster.ask("POST", PATHS[content["kind"]].format(cluster.namespace), content)


def as_account(secrets: TestKeySecrets, account: str, folder: Path) -> TestKeySecrets:
    """The same Secrets, as a ServiceAccount finds them."""
    asked = secrets.cluster.ask("POST", f"serviceaccounts/{account}/token", {"spec": {"expirationSeconds": 3600}})
    content = yaml.safe_load(secrets.cluster.kubeconfig.read_text())
    content["users"] = [
        {"name": each["name"], "user": {"token": asked["status"]["token"]}} for each in content["users"]
    ]
    path = folder / account
    path.write_text(json.dumps(content))
    return TestKeySecrets(secrets.cluster, secrets.name, path)


@pytest.fixture
def stage(new_key_secrets: Callable[[], TestKeySecrets]) -> Iterator[Stage]:
    """A Deployment, a StatefulSet and a DaemonSet under v1; all of one name, as the file has one."""
    secrets = new_key_secrets()
    store = secrets.open()
    add(store, V1, key(1))
    set_primary(store, V1)
    secrets.delete(secrets.archive)
    fleet = TestFleet(secrets)
    for kind in KIND:
        fleet.start(kind, name=f"of-{secrets.name}")
    yield Stage(fleet)
    fleet.stop()


def test_each_right_is_needed_and_all_of_them_are_enough(stage: Stage, tmp_path: Path) -> None:
    secrets = stage.fleet.secrets
    rights = documents("pipeline.yaml", secrets, stage.fleet.workloads[0].name)
    for content in rights:
        apply(secrets.cluster, content)
    role = next(content for content in rights if content["kind"] == "Role")
    stage.fleet.secrets = as_account(secrets, f"keyrotation-{secrets.name}", tmp_path)
    numbers = count(2)

    def everything() -> None:
        version, store = KeyVersion(next(numbers)), stage.fleet.secrets.open()
        add(store, version, KeyMaterial.generate())
        stage.rollout().bring(Goal(Aim.READS, (version,)), lambda _instances: None, told_nothing)
        archive(store, version)
        destroy(store, version)
        store.pin_roster(f"{version.number:064x}", store.read().revision)

    def allow(rules: list[dict[str, Any]]) -> None:
        path = f"{PATHS['Role'].format(secrets.cluster.namespace)}/{role['metadata']['name']}"
        secrets.cluster.ask("PATCH", path, {"rules": rules})

    everything()
    for fewer in one_less(role["rules"]):
        allow(fewer)
        with pytest.raises(KeyRotationError, match="Role in deploy/kubernetes"):
            everything()
    allow(role["rules"])
    everything()


def one_less(rules: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rules without one verb on one kind, and without one name."""
    for number, rule in enumerate(rules):
        others = [*rules[:number], *rules[number + 1 :]]
        for kind in rule["resources"]:
            rest = {**rule, "resources": [each for each in rule["resources"] if each != kind]}
            for verb in rule["verbs"]:
                kept = {**rule, "resources": [kind], "verbs": [each for each in rule["verbs"] if each != verb]}
                yield [each for each in (*others, rest, kept) if each["resources"] and each["verbs"]]
        names = rule.get("resourceNames", [])
        for name in names if len(names) > 1 else ():
            yield [*others, {**rule, "resourceNames": [each for each in names if each != name]}]


def test_the_applications_account_reads_no_secret(
    new_key_secrets: Callable[[], TestKeySecrets], tmp_path: Path
) -> None:
    secrets = new_key_secrets()
    [account] = documents("application.yaml", secrets, f"app-of-{secrets.name}")
    apply(secrets.cluster, account)
    assert account["automountServiceAccountToken"] is False
    with pytest.raises(KeyStoreUnavailableError, match="forbids this account to read Secret"):
        as_account(secrets, account["metadata"]["name"], tmp_path).open().read()


@pytest.mark.parametrize("file", sorted(each.name for each in DEPLOY.glob("*.yaml")))
def test_each_file_is_as_the_api_knows_it(file: str) -> None:
    import kubernetes_validate  # noqa: PLC0415

    for content in yaml.safe_load_all((DEPLOY / file).read_text()):
        kubernetes_validate.validate(content, "1.32", strict=True)
