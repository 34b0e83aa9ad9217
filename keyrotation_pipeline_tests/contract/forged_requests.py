"""Requests of whoever has the token of one of our accounts, none of which may succeed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from keyrotation_pipeline_tests.api_server import APPLY, JSON_PATCH, MERGE, STRATEGIC
from keyrotation_pipeline_tests.clusters import LAST_APPLIED
from keyrotation_pipeline_tests.contract.forged_jobs import OWNER

Json = dict[str, Any]
PIPELINE, OBSERVER, READER = "keyrotation", "keyrotation-observer", "keyrotation-reader"
DAEMON, APPLICATION = "keyrotation-dagster", "pazpaz-api"
ACCOUNTS = (PIPELINE, OBSERVER, READER, DAEMON, APPLICATION)
WORKLOADS = {"deployments": "Deployment", "statefulsets": "StatefulSet", "daemonsets": "DaemonSet"}
NAME, LIVE, ARCHIVE = "pazpaz-api", "pazpaz-secrets", "pazpaz-secrets-archive"
KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE9"
RIGHT = "v1=0123456789abcdef primary=v1 secret=12"


@dataclass(frozen=True)
class Forged:
    """One request.

    Args:
        account: who sends it.
        path: without the API's root and the namespace: ``apps/v1 deployments/pazpaz-api``; of the cluster with ``/``.
    """

    account: str
    what: str
    method: str
    path: str
    body: Any = None
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def pods(**parts: Any) -> Json:  # noqa: ANN401 - JSON
    """A change of a template."""
    return {"spec": {"template": parts}}


def noted(annotations: Json) -> Json:
    """A change of annotations."""
    return {"metadata": {"annotations": annotations}}


# Merge patches of a declared workload of any kind.
OF_WORKLOADS: list[tuple[str, Json]] = [
    ("another account", pods(spec={"serviceAccountName": "default"})),
    ("the node's network", pods(spec={"hostNetwork": True})),
    ("the node's files", pods(spec={"volumes": [{"name": "n", "hostPath": {"path": "/"}}]})),
    ("another image", pods(spec={"containers": [{"name": "api", "image": "registry.example/evil:1"}]})),
    ("a host's address", pods(spec={"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["db"]}]})),
    ("every node", pods(spec={"tolerations": [{"operator": "Exists"}]})),
    ("a node", pods(spec={"nodeSelector": {"mine": "true"}})),
    ("a shorter farewell", pods(spec={"terminationGracePeriodSeconds": 0})),
    ("a label of Pods", pods(metadata={"labels": {"another": "one"}})),
    ("a finalizer of Pods", pods(metadata={"finalizers": ["example.com/mine"]})),
    ("an owner of Pods", pods(metadata={"ownerReferences": [OWNER]})),
    ("a name of Pods", pods(metadata={"name": "mine"})),
    ("an annotation that injects", pods(**noted({"sidecar.istio.io/inject": "true"}))),
    ("a restart", pods(**noted({"kubectl.kubernetes.io/restartedAt": "now"}))),
    ("an annotation that looks like ours", pods(**noted({"keyrotation/keys2": RIGHT}))),
    ("a changed annotation of others", pods(**noted({"others": "changed"}))),
    ("an annotation of others less", pods(**noted({"others": None}))),
    ("no annotation at all", pods(metadata={"annotations": None})),
    ("another text in ours", pods(**noted({"keyrotation/keys": "anything"}))),
    ("a key in ours", pods(metadata={"annotations": {"keyrotation/keys": f"v1={KEY} primary=v1 secret=12"}})),
    ("a long text in ours", pods(metadata={"annotations": {"keyrotation/keys": f"{RIGHT}{'1' * 5000}"}})),
    ("a line more in ours", pods(metadata={"annotations": {"keyrotation/keys": f"{RIGHT}\nx"}})),
    ("ours, and no account", pods(metadata={"annotations": {"keyrotation/keys": RIGHT}}, spec={"hostPID": True})),
    ("a finalizer", {"metadata": {"finalizers": ["example.com/mine"]}}),
    ("an owner, with which it goes", {"metadata": {"ownerReferences": [OWNER]}}),
    ("a label", {"metadata": {"labels": {"another": "one"}}}),
    ("a label less", {"metadata": {"labels": {"app": None}}}),
    ("an annotation", noted({"argocd.argoproj.io/sync-options": "Prune=false"})),
    ("an annotation less", noted({"others": None})),
    ("our annotation elsewhere", noted({"keyrotation/keys": RIGHT})),
    ("a Pod that counts later", {"spec": {"minReadySeconds": 86400}}),
    ("no history", {"spec": {"revisionHistoryLimit": 0}}),
]
RETENTION, DELETED = "persistentVolumeClaimRetentionPolicy", {"whenDeleted": "Delete", "whenScaled": "Delete"}
OF_ONE_KIND: list[tuple[str, str, Json]] = [
    ("deployments", "no Pods", {"spec": {"replicas": 0}}),
    ("deployments", "no rollout", {"spec": {"paused": True}}),
    ("deployments", "a rollout that fails at once", {"spec": {"progressDeadlineSeconds": 1}}),
    ("deployments", "all Pods at once", {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}),
    ("deployments", "another strategy", {"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": "100%"}}}}),
    ("deployments", "a count of DaemonSets", noted({"deprecated.daemonset.template.generation": "9"})),
    ("statefulsets", "no Pods", {"spec": {"replicas": 0}}),
    ("statefulsets", "volumes that are deleted", {"spec": {RETENTION: DELETED, "ordinals": {"start": 100}}}),
    ("statefulsets", "volumes deleted when scaled", {"spec": {RETENTION: {"whenScaled": "Delete"}}}),
    ("statefulsets", "other numbers", {"spec": {"ordinals": {"start": 100}}}),
    ("statefulsets", "no rollout", {"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}}}),
    ("statefulsets", "part of a rollout", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 9}}}}),
    ("statefulsets", "another order", {"spec": {"podManagementPolicy": "Parallel"}}),
    ("statefulsets", "another Service", {"spec": {"serviceName": "another"}}),
    ("daemonsets", "no rollout", {"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}}}),
    ("daemonsets", "all Pods at once", {"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}}}}),
    ("daemonsets", "another selector", {"spec": {"selector": {"matchLabels": {"app": "another"}}}}),
]  # fmt: skip
# Merge patches of either Secret, of the one that Pods get, and of the archive.
OF_SECRETS: list[tuple[str, Json]] = [
    ("an entry more", {"data": {"LD_PRELOAD": "eA=="}}),
    ("an entry of the application", {"data": {"PEPPER": "eA=="}}),
    ("an entry of the application less", {"data": {"PEPPER": None}}),
    ("every entry less", {"data": None}),
    ("an entry as text", {"stringData": {"LD_PRELOAD": "x"}}),
    ("no more changes", {"immutable": True}),
    ("changes, expressly", {"immutable": False}),
    ("another type", {"type": "kubernetes.io/tls"}),
    ("a finalizer", {"metadata": {"finalizers": ["example.com/mine"]}}),
    ("an owner, with which it goes", {"metadata": {"ownerReferences": [OWNER]}}),
    ("a label", {"metadata": {"labels": {"another": "one"}}}),
    ("a label less", {"metadata": {"labels": {"app": None}}}),
    ("a reflector's annotation", noted({"reflector.v1.k8s.emberstack.com/reflection-allowed": "true"})),
    ("another reflector's", noted({"replicator.v1.mittwald.de/replicate-to": "*"})),
    ("an annotation of others less", noted({"others": None})),
    ("an annotation of others changed", noted({"others": "changed"})),
    ("kubectl's copy of the keys", noted({LAST_APPLIED: "{}"})),
]  # fmt: skip
OF_LIVE: list[tuple[str, Json]] = [
    ("an entry of the archive", {"data": {"v9": KEY}}),
    ("a name in small letters", {"data": {"encryption_master_key_v2": KEY}}),
    ("a name that is none", {"data": {"ENCRYPTION_MASTER_KEY_V": KEY}}),
    ("a second name of v1", {"data": {"ENCRYPTION_MASTER_KEY_V1": KEY}}),
    ("a name with a zero", {"data": {"ENCRYPTION_MASTER_KEY_V02": KEY}}),
    ("a name that begins like ours", {"data": {"ENCRYPTION_ANYTHING": KEY}}),
    ("two versions at a time", {"data": {"ENCRYPTION_MASTER_KEY_V3": KEY, "ENCRYPTION_MASTER_KEY_V4": KEY}}),
    ("every key less", {"data": {"ENCRYPTION_MASTER_KEY": None, "ENCRYPTION_MASTER_KEY_V2": None}}),
    ("a key in place of another", {"data": {"ENCRYPTION_MASTER_KEY": None, "ENCRYPTION_MASTER_KEY_V3": KEY}}),
    ("the last number there is", {"data": {"ENCRYPTION_MASTER_KEY_V999999": KEY}}),
    ("a number far ahead", {"data": {"ENCRYPTION_MASTER_KEY_V12": KEY}}),
    ("a number that is none", {"data": {"ENCRYPTION_MASTER_KEY_V1000000": KEY}}),
    ("no primary", {"data": {"ENCRYPTION_PRIMARY_VERSION": None}}),
    ("an annotation of the archive", noted({"keyrotation/description-v1": "x"})),
    ("no owner", noted({"keyrotation/owner": None})),
    ("an annotation like ours", noted({"keyrotation/anything": "x"})),
]
OF_ARCHIVE: list[tuple[str, Json]] = [
    ("an archived key, changed", {"data": {"v1": KEY[::-1]}}),
    ("an entry of the live Secret", {"data": {"ENCRYPTION_MASTER_KEY_V3": KEY}}),
    ("two versions at a time", {"data": {"v3": KEY, "v4": KEY}}),
    ("every archived key less", {"data": {"v1": None, "v2": None}}),
    ("one key in place of another", {"data": {"v1": None, "v9": KEY}}),
    ("a name with a zero", {"data": {"v03": KEY}}),
    ("a name in capitals", {"data": {"V3": KEY}}),
    ("a number that is none", {"data": {"v1000000": KEY}}),
    ("the owner", noted({"keyrotation/owner": "{}"})),
    ("a description of nothing", noted({"keyrotation/description-": "x"})),
]


def of_the_pipeline() -> Iterator[Forged]:
    """What a Role allows the account that changes keys, since it knows no fields."""
    for plural, kind in WORKLOADS.items():
        path = f"apps/v1 {plural}/{NAME}"
        of_kind = [(what, body) for each, what, body in OF_ONE_KIND if each == plural]
        for what, body in [*OF_WORKLOADS, *of_kind]:
            yield Forged(PIPELINE, f"{plural}: {what}", "PATCH", path, body, MERGE)
        applied = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": NAME}, "spec": {"minReadySeconds": 9}}
        by_server = f"{path}?fieldManager=keyrotation&force=true"
        yield Forged(PIPELINE, f"{plural}: server-side apply", "PATCH", by_server, applied, APPLY)
        changed = pods(spec={"containers": [{"name": "api", "env": [{"name": "LD_PRELOAD", "value": "x"}]}]})
        yield Forged(PIPELINE, f"{plural}: a variable by its list", "PATCH", path, changed, STRATEGIC)
        operation = {"op": "add", "path": "/spec/template/spec/hostPID", "value": True}
        yield Forged(PIPELINE, f"{plural}: one operation", "PATCH", path, [operation], JSON_PATCH)
    for name, own in ((LIVE, OF_LIVE), (ARCHIVE, OF_ARCHIVE)):
        for what, body in [*OF_SECRETS, *own]:
            yield Forged(PIPELINE, f"{name}: {what}", "PATCH", f"v1 secrets/{name}", body, MERGE)
        applied = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"LD_PRELOAD": "eA=="}}
        by_server = f"v1 secrets/{name}?fieldManager=keyrotation&force=true"
        yield Forged(PIPELINE, f"{name}: server-side apply", "PATCH", by_server, applied, APPLY)
        operation = {"op": "add", "path": "/data/LD_PRELOAD", "value": "eA=="}
        yield Forged(PIPELINE, f"{name}: one operation", "PATCH", f"v1 secrets/{name}", [operation], JSON_PATCH)


POD = {"containers": [{"name": "one", "image": "registry.example/one:1", "envFrom": [{"secretRef": {"name": LIVE}}]}]}
OF_POD = {"metadata": {"name": "forged"}, "spec": POD}
TEMPLATE = {"metadata": {"labels": {"app": "forged"}}, "spec": POD}
SELECTED = {
    "metadata": {"name": "forged"},
    "spec": {"selector": {"matchLabels": {"app": "forged"}}, "template": TEMPLATE},
}
ONCE = {"spec": {"template": {"spec": {**POD, "restartPolicy": "Never"}}}}
ADMIN = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
POLICY = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
EVERYTHING = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
AS_ADMIN = {"Impersonate-User": "admin", "Impersonate-Group": "system:masters"}
# Method, path and body; what no account of ours may do.
OF_NOBODY: list[tuple[str, str, str, Any]] = [
    ("makes a Pod", "POST", "v1 pods", OF_POD),
    ("makes a Deployment", "POST", "apps/v1 deployments", SELECTED),
    ("makes a StatefulSet", "POST", "apps/v1 statefulsets", SELECTED),
    ("makes a DaemonSet", "POST", "apps/v1 daemonsets", SELECTED),
    ("makes a ReplicaSet", "POST", "apps/v1 replicasets", SELECTED),
    ("makes a CronJob", "POST", "batch/v1 cronjobs", {
        "metadata": {"name": "f"}, "spec": {"schedule": "* * * * *", "jobTemplate": ONCE},
    }),
    ("changes the watch", "PATCH", "batch/v1 cronjobs/keyrotation-watch", {"spec": {"suspend": True}}),
    ("changes a Job", "PATCH", "batch/v1 jobs/forged", {"spec": {"suspend": True}}),
    ("says how a Job ended", "PATCH", "batch/v1 jobs/forged/status", {"status": {"succeeded": 1}}),
    ("deletes every Job", "DELETE", "batch/v1 jobs", None),
    ("deletes every Pod", "DELETE", "v1 pods", None),
    ("changes a Pod", "PATCH", "v1 pods/forged", {"metadata": {"labels": {"app": NAME}}}),
    ("runs a command in a Pod", "POST", f"v1 pods/{NAME}/exec?command=env", None),
    ("attaches to a Pod", "POST", f"v1 pods/{NAME}/attach", None),
    ("forwards a port of a Pod", "POST", f"v1 pods/{NAME}/portforward", None),
    ("adds a container to a Pod", "PATCH", f"v1 pods/{NAME}/ephemeralcontainers", {"spec": {}}),
    ("evicts a Pod", "POST", f"v1 pods/{NAME}/eviction", {"metadata": {"name": NAME}}),
    ("binds a Pod", "POST", f"v1 pods/{NAME}/binding", {"target": {"name": "mine"}}),
    ("says how a Pod is", "PATCH", f"v1 pods/{NAME}/status", {"status": {"phase": "Failed"}}),
    ("reads what a Pod wrote", "GET", f"v1 pods/{NAME}/log", None),
    ("asks a Pod", "GET", f"v1 pods/{NAME}/proxy/", None),
    ("asks a Service", "GET", "v1 services/pazpaz-api/proxy/", None),
    ("lists the Secrets", "GET", "v1 secrets", None),
    ("watches the Secrets", "GET", "v1 secrets?watch=true&timeoutSeconds=1", None),
    ("reads another Secret", "GET", "v1 secrets/keyrotation-database", None),
    ("reads the recovery key", "GET", "v1 secrets/keyrotation-recovery", None),
    ("makes a Secret", "POST", "v1 secrets", {"metadata": {"name": "forged"}}),
    ("makes a token as a Secret", "POST", "v1 secrets", {
        "metadata": {"name": "f", "annotations": {"kubernetes.io/service-account.name": "keyrotation"}},
        "type": "kubernetes.io/service-account-token",
    }),
    ("deletes the keys", "DELETE", f"v1 secrets/{LIVE}", None),
    ("deletes the archive", "DELETE", f"v1 secrets/{ARCHIVE}", None),
    ("deletes every Secret", "DELETE", "v1 secrets", None),
    ("replaces the keys", "PUT", f"v1 secrets/{LIVE}", {"metadata": {"name": LIVE}}),
    ("has a token of the pipeline", "POST", "v1 serviceaccounts/keyrotation/token", {"spec": {}}),
    ("has a token of the daemon", "POST", "v1 serviceaccounts/keyrotation-dagster/token", {"spec": {}}),
    ("changes an account", "PATCH", "v1 serviceaccounts/keyrotation", {"secrets": [{"name": LIVE}]}),
    ("scales the application", "PATCH", f"apps/v1 deployments/{NAME}/scale", {"spec": {"replicas": 0}}),
    ("says how the application is", "PATCH", f"apps/v1 deployments/{NAME}/status", {"status": {"replicas": 0}}),
    ("replaces the application", "PUT", f"apps/v1 deployments/{NAME}", SELECTED),
    ("deletes the application", "DELETE", f"apps/v1 deployments/{NAME}", None),
    ("deletes its data", "DELETE", "v1 persistentvolumeclaims/keyrotation-home", None),
    ("changes Dagster", "PATCH", "apps/v1 deployments/keyrotation-dagster", {"spec": {"replicas": 0}}),
    ("changes what runs read", "PATCH", "v1 configmaps/keyrotation-dagster", {"data": {"dagster.yaml": ""}}),
    ("reads what runs read", "GET", "v1 configmaps/keyrotation-environment", None),
    ("opens Dagster", "DELETE", "networking.k8s.io/v1 networkpolicies/keyrotation-dagster", None),
    ("gives itself a Role", "POST", "rbac.authorization.k8s.io/v1 roles", {
        "metadata": {"name": "f"}, "rules": [EVERYTHING],
    }),
    ("widens its Role", "PATCH", "rbac.authorization.k8s.io/v1 roles/keyrotation", {"rules": [EVERYTHING]}),
    ("binds a Role", "POST", "rbac.authorization.k8s.io/v1 rolebindings", {
        "metadata": {"name": "f"}, "roleRef": ADMIN,
    }),
    ("binds a Role of the cluster", "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
        "metadata": {"name": "f"}, "roleRef": ADMIN,
    }),
    ("takes a policy away", "DELETE", f"{POLICY}/keyrotation-jobs.pazpaz", None),
    ("changes a policy", "PATCH", f"{POLICY}/keyrotation-jobs.pazpaz", {"spec": {"failurePolicy": "Ignore"}}),
    ("lists the nodes", "GET", "/api/v1/nodes", None),
    ("makes a namespace", "POST", "/api/v1/namespaces", {"metadata": {"name": "forged"}}),
    ("has a certificate", "POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", {
        "metadata": {"name": "f"},
    }),
]  # fmt: skip
# What single accounts lack, though others have it.
OF_OTHERS: dict[str, list[tuple[str, str, str, Any]]] = {
    OBSERVER: [
        ("changes the keys", "PATCH", f"v1 secrets/{LIVE}", {"data": {"ENCRYPTION_MASTER_KEY_V3": KEY}}),
        ("changes the archive", "PATCH", f"v1 secrets/{ARCHIVE}", {"data": {"v3": KEY}}),
        ("rolls out", "PATCH", f"apps/v1 deployments/{NAME}", pods(**noted({"keyrotation/keys": RIGHT}))),
        ("starts a run", "POST", "batch/v1 jobs", {"metadata": {"name": "f"}, **ONCE}),
        ("ends a run", "DELETE", "batch/v1 jobs/forged", None),
    ],
    DAEMON: [
        ("changes the keys", "PATCH", f"v1 secrets/{LIVE}", {"data": {"ENCRYPTION_MASTER_KEY_V3": KEY}}),
        ("changes the archive", "PATCH", f"v1 secrets/{ARCHIVE}", {"data": {"v3": KEY}}),
        ("rolls out", "PATCH", f"apps/v1 deployments/{NAME}", pods(**noted({"keyrotation/keys": RIGHT}))),
        ("ends a Pod of the application", "DELETE", f"v1 pods/{NAME}", None),
        ("ends a Job of the application", "DELETE", f"batch/v1 jobs/{NAME}", None),
    ],
}  # fmt: skip
OF_OTHERS[READER] = [*OF_OTHERS[OBSERVER], ("lists the Pods", "GET", "v1 pods", None)]
OF_OTHERS[PIPELINE] = [each for each in OF_OTHERS[OBSERVER] if "run" in each[0]]
OF_OTHERS[APPLICATION] = [
    *OF_OTHERS[READER],
    ("reads the keys", "GET", f"v1 secrets/{LIVE}", None),
    ("reads the archive", "GET", f"v1 secrets/{ARCHIVE}", None),
    ("reads the application", "GET", f"apps/v1 deployments/{NAME}", None),
    ("ends a Pod of the application", "DELETE", f"v1 pods/{NAME}", None),
]


def of_every_account() -> Iterator[Forged]:
    """What RBAC knows."""
    for account in ACCOUNTS:
        for what, method, path, body in [*OF_NOBODY, *OF_OTHERS[account]]:
            kind = MERGE if method == "PATCH" else "application/json"
            yield Forged(account, what, method, path, body, kind)
        yield Forged(account, "is an administrator", "GET", "v1 secrets", headers=AS_ADMIN)
