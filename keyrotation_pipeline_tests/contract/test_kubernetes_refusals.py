"""What an API server refuses of what we, Dagster and administrators send: the stand-in as a real one."""

import base64
from copy import deepcopy
from itertools import count
from typing import Any

import pytest

from keyrotation_pipeline_tests.clusters import TestCluster

_numbers = count()
CONTAINER = {"name": "api", "image": "registry.example/api:1"}
SECRET = {"metadata": {"name": "refused"}, "type": "Opaque", "data": {"KEY": "eA=="}}
POD = {"metadata": {"labels": {"app": "refused"}}, "spec": {"containers": [CONTAINER]}}
WORKLOAD = {
    "metadata": {"name": "refused"},
    "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "refused"}}, "template": POD},
}
JOB = {
    "metadata": {"name": "refused"},
    "spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [CONTAINER]}}},
}
PATHS = {
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
}
BODIES: dict[str, dict[str, Any]] = {"Secret": SECRET, "Deployment": WORKLOAD, "Job": JOB}
A_MEBIBYTE = base64.b64encode(b"x" * 1024 * 1024).decode()
LONG = "x" * 64


def with_(kind: str, path: str, value: object) -> dict[str, Any]:
    """A good object with one thing in it that is not."""
    body = deepcopy(BODIES[kind])
    body["metadata"]["name"] = f"refused-{next(_numbers)}"
    place: Any = body
    *parents, last = path.split("/")
    for each in parents:
        place = place[int(each)] if isinstance(place, list) else place.setdefault(each, {})
    if isinstance(place, list):
        place.insert(int(last), value)
    else:
        place[last] = value
    return body


TEMPLATE, IN_JOB = "spec/template/spec/containers", "spec/template/spec"


@pytest.mark.parametrize(
    ("kind", "path", "value", "status"),
    [
        pytest.param("Secret", "metadata/name", "No_Such", 422, id="a name that is none"),
        pytest.param("Secret", "metadata/namespace", "another", 400, id="another namespace"),
        pytest.param("Secret", "metadata/labels", {"app": LONG}, 422, id="a label too long"),
        pytest.param("Secret", "metadata/labels", {"app": "a b"}, 422, id="a label with a space"),
        pytest.param("Secret", "metadata/annotations", {"a b": "x"}, 422, id="an annotation of no name"),
        pytest.param("Secret", "metadata/annotations", {"a/b/c": "x"}, 422, id="an annotation with two slashes"),
        pytest.param("Secret", "metadata/annotations", {"a": "x" * 262_144}, 422, id="annotations of 256 KiB"),
        pytest.param("Secret", "metadata/annotations", {"a": 1}, 400, id="an annotation that is no text"),
        pytest.param("Secret", "data", {"A B": "eA=="}, 422, id="an entry with a space"),
        pytest.param("Secret", "data", {"..": "eA=="}, 422, id="an entry of two dots"),
        pytest.param("Secret", "data", {"A": "x"}, 400, id="no base64"),
        pytest.param("Secret", "data", {"A": A_MEBIBYTE, "B": "eA=="}, 422, id="more than a mebibyte"),
        pytest.param("Deployment", "spec/replicas", -1, 422, id="less than no Pod"),
        pytest.param("Deployment", "spec/selector", {"matchLabels": {"app": "x"}}, 422, id="another selector"),
        pytest.param("Deployment", f"{TEMPLATE}/0", CONTAINER, 422, id="two containers of one name"),
        pytest.param("Deployment", TEMPLATE, [], 422, id="no container"),
        pytest.param("Deployment", f"{TEMPLATE}/0/name", "A", 422, id="a container's name in capitals"),
        pytest.param(
            "Deployment", f"{TEMPLATE}/0/env", [{"name": "A=B", "value": "x"}], 422, id="a variable of no name"
        ),
        pytest.param(
            "Deployment", f"{TEMPLATE}/0/volumeMounts", [{"name": "x", "mountPath": "/x"}], 422, id="no such volume"
        ),
        pytest.param(
            "Deployment",
            f"{TEMPLATE}/0/resources",
            {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
            422,
            id="more requested than allowed",
        ),
        pytest.param("Deployment", f"{TEMPLATE}/0/resources", {"limits": {"cpu": "much"}}, 400, id="no quantity"),
        pytest.param("Deployment", "spec/template/spec/restartPolicy", "Never", 422, id="Pods that end"),
        pytest.param("Job", "spec/backoffLimit", -1, 422, id="less than no retry"),
        pytest.param("Job", "metadata/name", LONG, 422, id="a Job's name too long"),
        pytest.param("Job", f"{IN_JOB}/restartPolicy", "Always", 422, id="a Job that never ends"),
        pytest.param("Job", f"{IN_JOB}/containers/0", CONTAINER, 422, id="a Job with two containers of one name"),
        pytest.param("Job", "spec/ttlSecondsAfterFinished", -1, 422, id="a Job that went before it ended"),
    ],
)
def test_it_is_refused_with_this_status(cluster: TestCluster, kind: str, path: str, value: object, status: int) -> None:
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415

    collection = PATHS[kind].format(cluster.namespace)
    with pytest.raises(ApiException) as caught:
        cluster.ask("POST", collection, with_(kind, path, value))
    assert caught.value.status == status


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_without_that_it_is_taken(cluster: TestCluster, kind: str) -> None:
    collection = PATHS[kind].format(cluster.namespace)
    cluster.ask("POST", collection, BODIES[kind])
    cluster.ask("DELETE", f"{collection}/refused", {"propagationPolicy": "Background"})
