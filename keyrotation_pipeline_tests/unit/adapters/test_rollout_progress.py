"""How far a rollout is, as `kubectl rollout status` would say it, and why one will not go on by itself."""

from typing import Any

import pytest

from keyrotation_pipeline.adapters.rollouts.progress import failed, is_newest, not_ready, pending, selects

Json = dict[str, Any]


def workload(kind: str = "Deployment", wanted: int = 2, generation: int = 2, **status: Any) -> Json:  # noqa: ANN401
    about = {"generation": generation, "uid": "u1"}
    return {
        "kind": kind,
        "metadata": about,
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": 2, **status},
    }


DONE: Json = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
READY: Json = {"updatedReplicas": 2, "readyReplicas": 2, "updateRevision": "b", "currentRevision": "b"}
ON_NODES: Json = {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3}


@pytest.mark.parametrize(
    ("found", "waits"),
    [
        pytest.param(workload(**DONE), None, id="complete"),
        pytest.param(workload(generation=3, **DONE), "has not been observed", id="not observed"),
        pytest.param(workload(**DONE | {"updatedReplicas": 1}), "1 of 2 Pods are new", id="not all are new"),
        pytest.param(workload(**DONE | {"replicas": 3}), "1 old Pods have not ended", id="an old one is left"),
        pytest.param(workload(**DONE | {"availableReplicas": 1}), "1 of 2 new Pods are available", id="not available"),
        pytest.param(workload(wanted=0), None, id="scaled to none"),
        pytest.param(workload(wanted=1), "0 of 1 Pods are new", id="no status yet"),
        pytest.param(workload("StatefulSet", **READY), None, id="StatefulSet complete"),
        pytest.param(workload("StatefulSet", **READY | {"updatedReplicas": 1}), "1 of 2", id="StatefulSet not new"),
        pytest.param(workload("StatefulSet", **READY | {"readyReplicas": 1}), "1 of 2", id="StatefulSet not ready"),
        pytest.param(
            workload("StatefulSet", **READY | {"currentRevision": "a"}), "revision", id="StatefulSet on two revisions"
        ),
        pytest.param(workload("DaemonSet", **ON_NODES), None, id="DaemonSet complete"),
        pytest.param(
            workload("DaemonSet", **ON_NODES | {"updatedNumberScheduled": 2}), "2 of 3", id="DaemonSet not new"
        ),
        pytest.param(
            workload("DaemonSet", **ON_NODES | {"numberAvailable": 1}), "1 of 3 new", id="DaemonSet not available"
        ),
    ],
)
def test_a_rollout_is_complete_when_kubectl_says_so(found: Json, waits: str | None) -> None:
    reported = pending(found)
    assert reported is None if waits is None else reported is not None and waits in reported


def pod(reason: str = "", **more: object) -> Json:
    status = {"name": "web", "state": {"waiting": {"reason": reason}} if reason else {"running": {}}, **more}
    return {"metadata": {"name": "api-1"}, "status": {"containerStatuses": [status]}}


def condition(kind: str, status: str, reason: str, message: str = "SECRET-TEXT") -> Json:
    return workload(conditions=[{"type": kind, "status": status, "reason": reason, "message": message}])


@pytest.mark.parametrize(
    ("found", "pods", "why"),
    [
        pytest.param(workload(), [pod()], None, id="running"),
        pytest.param(workload(), [pod("ContainerCreating")], None, id="being made"),
        pytest.param(
            workload(),
            [pod(), pod("CrashLoopBackOff", lastState={"terminated": {"exitCode": 3, "message": "SECRET-TEXT"}})],
            "Pod api-1, container web: CrashLoopBackOff, last exit code 3",
            id="crash loop",
        ),
        pytest.param(workload(), [pod("ImagePullBackOff")], "container web: ImagePullBackOff", id="bad image"),
        pytest.param(workload(), [pod("CreateContainerConfigError")], "CreateContainerConfigError", id="no such entry"),
        pytest.param(
            condition("Progressing", "False", "ProgressDeadlineExceeded"),
            [pod("ContainerCreating")],
            "progress deadline has passed, and not ready is api-1",
            id="deadline",
        ),
        pytest.param(condition("Progressing", "True", "NewReplicaSetAvailable"), [], None, id="progressing"),
        pytest.param(
            condition("ReplicaFailure", "True", "FailedCreate", 'pods "x" is forbidden: exceeded quota: small, used 1'),
            [],
            "its Pods cannot be created (quota small is used up)",
            id="quota",
        ),
        pytest.param(
            condition("ReplicaFailure", "True", "FailedCreate"), [], "cannot be created (FailedCreate)", id="refused"
        ),
        pytest.param(
            condition("Progressing", "False", "ProgressDeadlineExceeded") | {"metadata": {"generation": 3}},
            [],
            None,
            id="deadline of an older template",
        ),
    ],
)
def test_a_rollout_that_does_not_go_on_by_itself_says_which_pod_and_why(
    found: Json, pods: list[Json], why: str | None
) -> None:
    reported = failed(found, pods)
    assert reported is None if why is None else reported is not None and why in reported
    assert "SECRET-TEXT" not in str(reported)


READY_NOW: Json = {"conditions": [{"type": "Ready", "status": "True"}]}
UNSCHEDULABLE: Json = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}


@pytest.mark.parametrize(
    ("pods", "reported"),
    [
        pytest.param([], None, id="no Pod"),
        pytest.param([{**pod(), "status": READY_NOW}], None, id="ready"),
        pytest.param([{**pod(), "status": {}}], "Pod api-1 is not ready", id="just made"),
        pytest.param([{**pod(), "status": UNSCHEDULABLE}], "Pod api-1 is not ready: Unschedulable", id="no room"),
        pytest.param([pod("ContainerCreating")], "Pod api-1 is not ready: ContainerCreating", id="being made"),
    ],
)
def test_a_pod_that_is_waited_for_is_named(pods: list[Json], reported: str | None) -> None:
    assert not_ready(pods) == reported


@pytest.mark.parametrize(
    ("selector", "taken"),
    [
        ({"matchLabels": {"app": "api"}}, True),
        ({"matchLabels": {"app": "web"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["api", "web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["api"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, False),
        ({"matchLabels": {"app": "api"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_a_selector_takes_pods_as_the_api_does(selector: Json, taken: bool) -> None:
    assert selects(selector, {"app": "api"}) is taken


def of(owner: str = "", **labels: str) -> Json:
    return {"metadata": {"labels": labels, "ownerReferences": [{"uid": owner}] if owner else []}}


def test_a_pod_is_of_the_newest_template_by_what_its_controller_made() -> None:
    template: Json = {"metadata": {"labels": {"app": "api"}}, "spec": {"containers": []}}
    found = {"kind": "Deployment", "metadata": {"uid": "u1"}, "spec": {"template": template}}
    labels = {"app": "api", "pod-template-hash": "x"}
    new: Json = {"metadata": {"uid": "r2", "ownerReferences": [{"uid": "u1"}]}}
    new["spec"] = {"template": {**template, "metadata": {"labels": labels}}}
    old: Json = {"metadata": {"uid": "r1", "ownerReferences": [{"uid": "u1"}]}}
    old["spec"] = {"template": {**template, "metadata": {"labels": labels, "annotations": {"a": "b"}}}}
    assert [is_newest(found, [old, new], of(each)) for each in ("r1", "r2", "u1")] == [False, True, False]

    stateful = workload("StatefulSet", **READY)
    assert [is_newest(stateful, [], of(**{"controller-revision-hash": each})) for each in "ab"] == [False, True]

    daemons = workload("DaemonSet")
    daemons["metadata"]["annotations"] = {"deprecated.daemonset.template.generation": "2"}
    assert [is_newest(daemons, [], of(**{"pod-template-generation": each})) for each in "12"] == [False, True]
