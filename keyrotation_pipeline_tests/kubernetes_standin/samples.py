"""Objects from which a server's defaults are learned: each kind with as little as it may have, and with much."""

from collections.abc import Iterator
from typing import Any

from keyrotation_pipeline_tests.clusters import TestCluster
from keyrotation_pipeline_tests.kubernetes_standin.defaults import neutral
from keyrotation_pipeline_tests.kubernetes_standin.objects import KINDS

Json = dict[str, Any]
NAME = "recorded-sample"
LABELS = {"app": "recorded"}


def probe(how: str, **what: Any) -> Json:  # noqa: ANN401 - JSON
    return {how: what}


def pod(restart: str | None = None, *, full: bool) -> Json:
    """The specification of a Pod."""
    least: Json = {"containers": [{"name": "one", "image": "registry.example/one:1"}]}
    least |= {"restartPolicy": restart} if restart else {}
    if not full:
        return least
    container = {
        **least["containers"][0],
        "env": [
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
        "envFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}],
        "ports": [{"containerPort": 4000}],
        "securityContext": {"capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("c", "s", "t", "h", "p", "k", "d")],
    }
    if restart != "Never":
        container["livenessProbe"] = probe("exec", command=["true"])
        container["readinessProbe"] = probe("httpGet", port=80)
        container["startupProbe"] = probe("grpc", port=4000)
    sources = [{"secret": {"name": "s"}}, {"serviceAccountToken": {"path": "token"}}]
    volumes: list[Json] = [
        {"name": "c", "configMap": {"name": "c"}},
        {"name": "s", "secret": {"secretName": "s"}},
        {"name": "t", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "h", "hostPath": {"path": "/"}},
        {"name": "p", "projected": {"sources": sources}},
        {"name": "k", "persistentVolumeClaim": {"claimName": "k"}},
        {"name": "d", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]
    before = {"name": "before", "image": "registry.example/one:1"}
    return {
        **least,
        "containers": [container],
        "initContainers": [before],
        "imagePullSecrets": [],
        "serviceAccountName": "default",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001},
        "volumes": volumes,
    }


def workload(kind: str, *, full: bool) -> Json:
    spec: Json = {
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": pod(full=full)},
    }
    if kind == "statefulsets":
        spec["serviceName"] = NAME
    if kind == "statefulsets" and full:
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        spec["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
    return {"spec": spec}


def samples() -> Iterator[tuple[str, Json]]:
    """A kind by its plural, and an object of it."""
    for full in (False, True):
        labels = {"labels": LABELS} if full else {}
        template = {"spec": pod("Never", full=full), **({"metadata": labels} if full else {})}
        yield "jobs", {"metadata": labels, "spec": {"template": template}}
        template = {"spec": {"template": template}}
        yield "cronjobs", {"spec": {"schedule": "*/5 * * * *", "jobTemplate": template}}
        for kind in ("deployments", "statefulsets", "daemonsets"):
            yield kind, workload(kind, full=full)
    yield "secrets", {"data": {"a": "eA=="}}
    yield "secrets", {}
    yield "configmaps", {"data": {"a": "x"}}
    yield "serviceaccounts", {}
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    yield "persistentvolumeclaims", {"spec": claim}
    rule = {"from": [{"podSelector": {"matchLabels": LABELS}}], "ports": [{"port": 4000}]}
    yield "networkpolicies", {"spec": {"podSelector": {}, "ingress": [rule]}}
    yield "roles", {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}


def answers(cluster: TestCluster) -> dict[str, list[dict[str, Json]]]:
    """What a server makes of each of them, without keeping it."""
    found: dict[str, list[dict[str, Json]]] = {}
    for number, (plural, sample) in enumerate(samples()):
        answered = ask(cluster, plural, f"{NAME}-{number}", sample)
        sent = {**sample, "metadata": {"name": "{name}", **sample.get("metadata", {})}}
        found.setdefault(plural, []).append({"sent": sent, "answered": answered})
    return found


def ask(cluster: TestCluster, plural: str, name: str, sample: Json) -> Json:
    """What a server makes of one."""
    group = KINDS[plural][0]
    path = f"/{'apis' if '/' in group else 'api'}/{group}/namespaces/{cluster.namespace}/{plural}?dryRun=All"
    body = {**sample, "metadata": {**sample.get("metadata", {}), "name": name}}
    return neutral(cluster.ask("POST", path, body))
