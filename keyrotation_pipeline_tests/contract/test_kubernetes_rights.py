"""The rights in deploy/kubernetes: with them everything works, and without any one of them something does not."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from keyrotation_pipeline.audit.store_owner import OwnedKeyStore
from keyrotation_pipeline.defs.schedules import INTRODUCE_KEY, LEGS, REENCRYPT_ROWS, RETIRE_KEY
from keyrotation_pipeline.errors import BlockedError, KeyRotationError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.fleet import RolloutTarget, TargetKind
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.clusters import TestCluster, TestKeySecrets
from keyrotation_pipeline_tests.contract.faulty_walk import world_with
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, archive, destroy, key, set_primary, shape
from keyrotation_pipeline_tests.contract.racing_writer import owner_of
from keyrotation_pipeline_tests.contract.rollout_suite import READ_V2, report_nothing
from keyrotation_pipeline_tests.contract.test_kubernetes_rollout import KIND, Stage
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.unit.rotation.requests import approved
from keyrotation_pipeline_tests.waiting import eventually

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
FIRST = "ENCRYPTION_MASTER_KEY"
_marks = count()
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Secret": "/api/v1/namespaces/{}/secrets",
}
PLURALS = {
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
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


def allow(cluster: TestCluster, role: str, rules: list[dict[str, Any]]) -> None:
    """Let a Role allow these, and wait until the cluster goes by it for the account of the same name."""
    mark = {"apiGroups": ["test"], "resources": [f"mark-{next(_marks)}"], "verbs": ["get"]}
    cluster.ask("PATCH", f"{PATHS['Role'].format(cluster.namespace)}/{role}", {"rules": [*rules, mark]})
    if cluster.standin is not None:  # which goes by what it was sent last
        return
    asked = {"namespace": cluster.namespace, "verb": "get", "group": "test", "resource": mark["resources"][0]}
    spec = {"user": f"system:serviceaccount:{cluster.namespace}:{role}", "resourceAttributes": asked}

    def is_allowed() -> bool:
        review = cluster.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec})
        return bool(review["status"]["allowed"])

    assert eventually(is_allowed)


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


@dataclass
class Accounts:
    """The accounts of pipeline.yaml in a namespace of the tests, and what their Roles allow."""

    stage: Stage
    folder: Path

    def __post_init__(self) -> None:
        workload = self.stage.fleet.workloads[0].name
        self.content = documents("pipeline.yaml", self.cluster_secrets, workload)
        for content in self.content:
            apply(self.cluster_secrets.cluster, content)
        for role in self.roles:
            self.allow(role, role["rules"])
        self._kubeconfigs: dict[str, TestKeySecrets] = {}

    @property
    def cluster_secrets(self) -> TestKeySecrets:
        return self.stage.fleet.secrets

    @property
    def roles(self) -> list[dict[str, Any]]:
        return [content for content in self.content if content["kind"] == "Role"]

    def allow(self, role: dict[str, Any], rules: list[dict[str, Any]]) -> None:
        """Change a Role; the account that is bound to it by all of its bindings is that of its name."""
        allow(self.cluster_secrets.cluster, role["metadata"]["name"], rules)

    def as_(self, account: str) -> Stage:
        """The same stage, as an account of the file finds it."""
        name = account.replace("keyrotation", f"keyrotation-{self.cluster_secrets.name}")
        if name not in self._kubeconfigs:
            self._kubeconfigs[name] = as_account(self.cluster_secrets, name, self.folder)
        return Stage(TestFleet(self._kubeconfigs[name], self.stage.fleet.workloads))


@pytest.fixture
def accounts(stage: Stage, tmp_path: Path) -> Accounts:
    return Accounts(stage, tmp_path)


def changes(stage: Stage, version: KeyVersion) -> None:
    """Everything that is done with keys and Pods, with a key of its own."""
    store = stage.fleet.secrets.open()
    add(store, version, KeyMaterial.generate())
    stage.rollout().roll_out(RolloutTarget(TargetKind.READS, (version,)), lambda _instances: None, report_nothing)
    archive(store, version)
    destroy(store, version)
    store.name_owner(owner_of(version), store.read().revision)


def looks(stage: Stage) -> None:
    """Everything that is looked at."""
    rollout = stage.rollout()
    assert rollout.preflight(V1) == ()
    assert len(rollout.instances()) == len(KIND)
    assert set(rollout.waiting().values()) == set()


def reads(stage: Stage) -> None:
    assert stage.fleet.secrets.open().read().primary == V1


DONE_BY = {"keyrotation": (reads, looks), "keyrotation-observer": (reads, looks), "keyrotation-reader": (reads,)}


def test_each_right_is_needed_and_all_of_them_are_enough(accounts: Accounts) -> None:
    numbers = count(2)

    def everything(account: str) -> None:
        stage = accounts.as_(account)
        for do in DONE_BY[account]:
            do(stage)
        if account == "keyrotation":
            changes(stage, KeyVersion(next(numbers)))

    for account in DONE_BY:
        everything(account)
    for role in accounts.roles:
        account = role["metadata"]["name"].replace(f"-{accounts.cluster_secrets.name}", "")  # the one that is least
        for fewer in one_less(role["rules"]):
            accounts.allow(role, fewer)
            with pytest.raises(KeyRotationError, match="Role in deploy/kubernetes"):
                everything(account)
        accounts.allow(role, role["rules"])
    for account in DONE_BY:
        everything(account)


@pytest.mark.parametrize("account", ["keyrotation-observer", "keyrotation-reader"])
def test_an_account_that_only_reads_changes_no_key_and_no_pod(accounts: Accounts, account: str) -> None:
    store, workload = accounts.as_(account).fleet.secrets.open(), accounts.stage.fleet.workloads[0]
    with pytest.raises(KeyStoreUnavailableError, match="forbids this account to patch Secret"):
        add(store, KeyVersion(2), key(2))
    add(accounts.stage.fleet.secrets.open(), KeyVersion(2), key(2))
    refused = "list|get" if account == "keyrotation-reader" else "patch"
    with pytest.raises(BlockedError, match=rf"refuses to ({refused}) .*HTTP 403"):
        accounts.as_(account).roll_out(READ_V2)
    assert accounts.stage.fleet.found(workload)["metadata"]["generation"] == 1


@pytest.mark.parametrize("account", DONE_BY)
def test_no_account_reaches_another_secret_or_workload(accounts: Accounts, account: str) -> None:
    """There are none of these names: the API server asks for the right first."""
    from kubernetes.client import ApiException  # noqa: PLC0415

    secrets = accounts.as_(account).fleet.secrets
    cluster = replace(secrets.cluster, kubeconfig=secrets.kubeconfig)
    apps = f"/apis/apps/v1/namespaces/{cluster.namespace}"
    others = ["secrets/another", *(f"{apps}/{kind}/another" for kind in ("deployments", "statefulsets", "daemonsets"))]
    for path in others:
        for method in ("GET", "PATCH", "DELETE"):
            with pytest.raises(ApiException, match="403"):
                cluster.ask(method, path, {} if method == "PATCH" else None)
    with pytest.raises(ApiException, match="403"):
        cluster.ask("GET", "secrets")


@pytest.fixture
def policies(accounts: Accounts) -> Iterator[None]:
    """The policies of changes-policy.yaml, at work for the account of a test."""
    secrets, made = accounts.cluster_secrets, list[str]()
    text = (DEPLOY / "changes-policy.yaml").read_text()
    text = text.replace(".pazpaz", f".{secrets.name}").replace(":pazpaz:", f":{secrets.cluster.namespace}:")
    text = text.replace("pazpaz-secrets-archive", secrets.archive)
    for content in yaml.safe_load_all(text.replace(":keyrotation'", f":keyrotation-{secrets.name}'")):
        path = f"/apis/admissionregistration.k8s.io/v1/{PLURALS[content['kind']]}"
        secrets.cluster.ask("POST", path, content)
        made.append(f"{path}/{content['metadata']['name']}")
    yield
    for path in reversed(made):
        secrets.cluster.ask("DELETE", path)


def template(**parts: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"spec": {"template": parts}}


OWNER = {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "0"}]}
WORKLOAD_CHANGES = [
    pytest.param(template(spec={"serviceAccountName": "default"}), id="another account"),
    pytest.param(
        template(spec={"hostNetwork": None, "volumes": [{"name": "n", "hostPath": {"path": "/"}}]}), id="node"
    ),
    pytest.param(template(metadata={"labels": {"another": "one"}}), id="another label"),
    pytest.param(template(metadata={"annotations": {"sidecar.istio.io/inject": "true"}}), id="another annotation"),
    pytest.param(template(metadata={"annotations": {"others": "changed"}}), id="an annotation of others"),
    pytest.param(template(metadata={"annotations": {"others": None}}), id="an annotation less"),
    pytest.param(template(metadata={"annotations": None}), id="no annotation at all"),
    pytest.param({"spec": {"replicas": 0}}, id="no Pods"),
    pytest.param({"spec": {"paused": True}}, id="no rollout"),
    pytest.param({"spec": {"strategy": {"type": "Recreate"}}}, id="all Pods at once"),
    pytest.param({"metadata": OWNER}, id="an owner that is not there"),
]
SET_CHANGES = [
    pytest.param({"spec": {"updateStrategy": {"type": "OnDelete"}}}, id="no rollout of a StatefulSet"),
    pytest.param(
        {"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}}}, id="volumes that are deleted"
    ),
]
SECRET_CHANGES = [
    pytest.param({"data": {"PEPPER": "eA=="}}, id="an entry of the application"),
    pytest.param({"data": {"DATABASE_URL": None}}, id="an entry less"),
    pytest.param({"data": {"LD_PRELOAD": "eA=="}}, id="an entry more"),
    pytest.param({"data": {"v9": "eA=="}}, id="an entry of the archive"),
    pytest.param({"immutable": True}, id="no more changes"),
    pytest.param({"metadata": {"labels": {"another": "one"}}}, id="another label of a Secret"),
    pytest.param({"metadata": OWNER}, id="an owner that is not there"),
]


@pytest.mark.usefixtures("policies")
def test_the_account_that_changes_keys_changes_nothing_else_of_a_workload_or_a_secret(accounts: Accounts) -> None:
    from kubernetes.client import ApiException  # noqa: PLC0415

    secrets, workload = accounts.cluster_secrets, accounts.stage.fleet.workloads[0]
    secrets.overwrite({"DATABASE_URL": "x", "PEPPER": "y"})
    ours = accounts.as_("keyrotation").fleet.secrets
    cluster = replace(ours.cluster, kubeconfig=ours.kubeconfig)
    apps = f"/apis/apps/v1/namespaces/{cluster.namespace}"
    deployment = f"{apps}/deployments/{workload.name}"
    secrets.cluster.ask("PATCH", deployment, template(metadata={"annotations": {"others": "x"}}))
    admitted = []
    for path, wanted in (
        (deployment, WORKLOAD_CHANGES),
        (f"{apps}/statefulsets/{workload.name}", SET_CHANGES),
        (f"secrets/{secrets.name}", SECRET_CHANGES),
    ):
        for case in wanted:
            try:
                cluster.ask("PATCH", path, case.values[0])
            except ApiException as refused:
                assert "ValidatingAdmissionPolicy" in str(refused.body), case.id  # noqa: PT017
            else:
                admitted.append(case.id)
    assert admitted == []
    changes(accounts.as_("keyrotation"), KeyVersion(2))  # everything that is done with keys and Pods is admitted
    secrets.overwrite({"DATABASE_URL": None, "PEPPER": None})


def test_the_policy_knows_every_annotation_that_the_store_writes() -> None:
    """One that is missing there would be refused in production alone."""
    adapters = DEPLOY.parents[1] / "keyrotation_pipeline" / "adapters" / "keystores"
    source = "".join((adapters / f"{each}.py").read_text() for each in ("kubernetes", "kubernetes_archives"))
    written = set(re.findall(r'"(keyrotation/[a-z-]+)"', source))
    assert {"keyrotation/owner", "keyrotation/description"} < written
    policy = (DEPLOY / "changes-policy.yaml").read_text()
    assert {each for each in written if f"'{each}'" not in policy and f"'^{each}" not in policy} == set()


def account_of(job: str) -> str:
    """The account that dagster.yaml gives the runs of a job."""
    launcher = yaml.safe_load((DEPLOY / "dagster" / "dagster.yaml").read_text())["run_launcher"]["config"]
    own = launcher["jobs"].get(job, {}).get("pod_spec_config", {})
    return str(own.get("service_account_name", launcher["service_account_name"]))


def test_a_rotation_is_done_by_runs_that_have_the_accounts_of_their_jobs(accounts: Accounts) -> None:
    secrets = accounts.cluster_secrets
    secrets.overwrite({FIRST: None, PRIMARY_VARIABLE: None})  # the world brings its own first key
    world, seen = world_with(secrets.open()), list[str]()
    world = replace(world, pipeline=replace(world.pipeline, rollout=accounts.stage.rollout()))
    rotation = approved(world)
    jobs = {step: job for job, leg in LEGS.items() for step in leg}
    while world.ledger.request(rotation.id).status is not RequestStatus.FINISHED:
        [task, *_] = runner.next_decision(Situation(world.pipeline), world.ledger.walk(rotation.id)).tasks
        job = REENCRYPT_ROWS if task.shard is not None else jobs.get(task.step, RETIRE_KEY)
        stage = accounts.as_(account_of(job))
        pipeline = replace(
            world.pipeline, keys=OwnedKeyStore(stage.fleet.secrets.open(), world.ledger), rollout=stage.rollout()
        )
        runner.run_step(pipeline, rotation.id, task, world.report)
        if job not in seen:
            seen.append(job)
    assert [(job, account_of(job)) for job in seen] == [
        (INTRODUCE_KEY, "keyrotation"),
        (REENCRYPT_ROWS, "keyrotation-reader"),
        (RETIRE_KEY, "keyrotation"),
    ]
    assert shape(secrets.open().read()) == ((V2,), (V1,), V2)


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
