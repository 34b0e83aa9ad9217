"""Judges a rollout by the API's status of a workload and its Pods: the rules of `kubectl rollout status`."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

Json = dict[str, Any]

# A container that waits for one of these reasons will not start by itself.
_STUCK = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
_QUOTA = re.compile(r"exceeded quota: ([-a-z0-9.]+)")


def pending(found: Json) -> str | None:
    """Returns what a workload's rollout still waits for; None: it is complete."""
    status = found.get("status") or {}
    if status.get("observedGeneration", 0) < found["metadata"].get("generation", 0):
        return "its new template has not been observed yet"
    match found["kind"]:
        case "Deployment":
            return _deployment(found["spec"], status)
        case "StatefulSet":
            return _stateful_set(found["spec"], status)
        case _:
            return _daemon_set(status)


def failed(found: Json, pods: Sequence[Json]) -> str | None:
    """Returns why a rollout will not complete by itself; None: no sign of that.

    Args:
        pods: those of the newest template.
    """
    if stuck := trouble(pods):
        return stuck
    if (found.get("status") or {}).get("observedGeneration", 0) < found["metadata"].get("generation", 0):
        return None  # its conditions belong to an older template
    conditions = {each["type"]: each for each in (found.get("status") or {}).get("conditions") or ()}
    failure, progress = conditions.get("ReplicaFailure") or {}, conditions.get("Progressing") or {}
    if failure.get("status") == "True":
        quota = _QUOTA.search(str(failure.get("message")))
        why = f"quota {quota[1]} is used up" if quota else str(failure.get("reason"))
        return f"its Pods cannot be created ({why})"
    if progress.get("reason") == "ProgressDeadlineExceeded":
        waits = ", ".join(str(pod["metadata"]["name"]) for pod in pods if not _is_ready(pod))
        return f"its progress deadline has passed, and not ready is {waits or 'one of its Pods'}"
    return None


def trouble(pods: Iterable[Json]) -> str | None:
    """Returns the first container that does not start, with the reason and its last exit code; never its output."""
    for pod in pods:
        status = pod.get("status") or {}
        for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            reason = ((each.get("state") or {}).get("waiting") or {}).get("reason")
            if reason in _STUCK:
                ended = (each.get("lastState") or {}).get("terminated") or {}
                code = f", last exit code {ended['exitCode']}" if "exitCode" in ended else ""
                return f"Pod {pod['metadata']['name']}, container {each['name']}: {reason}{code}"
    return None


def not_ready(pods: Iterable[Json]) -> str | None:
    """Returns the first Pod that is not ready, and why, as far as the API says."""
    pod = next((each for each in pods if not _is_ready(each)), None)
    if pod is None:
        return None
    status = pod.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    waiting = (
        ((each.get("state") or {}).get("waiting") or {}).get("reason") for each in status.get("containerStatuses") or ()
    )
    scheduled = conditions.get("PodScheduled") or {}
    why = scheduled.get("reason") if scheduled.get("status") == "False" else next(filter(None, waiting), None)
    return f"Pod {pod['metadata']['name']} is not ready{f': {why}' if why else ''}"


def is_newest(found: Json, replica_sets: Sequence[Json], pod: Json) -> bool:
    """Returns whether a Pod belongs to a workload's present template, as its controller made it.

    Args:
        replica_sets: those of the namespace; a Deployment's Pods belong to these.
    """
    match found["kind"]:
        case "Deployment":
            owned = owned_by(found, replica_sets)
            return any(_template(each) == _template(found) and _owns(each, pod) for each in owned)
        case "StatefulSet":
            revision = (found.get("status") or {}).get("updateRevision")
            return labels_of(pod).get("controller-revision-hash") == revision
        case _:
            generation = (found["metadata"].get("annotations") or {}).get("deprecated.daemonset.template.generation")
            return labels_of(pod).get("pod-template-generation") == generation


def owned_by(owner: Json, things: Iterable[Json]) -> list[Json]:
    """Returns those of the things that a workload made."""
    return [each for each in things if _owns(owner, each)]


def labels_of(thing: Json) -> Json:
    """Returns an object's labels."""
    return thing["metadata"].get("labels") or {}


def _owns(owner: Json, thing: Json) -> bool:
    owners = thing["metadata"].get("ownerReferences") or ()
    return any(each["uid"] == owner["metadata"]["uid"] for each in owners)


def _template(owner: Json) -> Json:
    """Returns the Pod template without the label by which a Deployment distinguishes its ReplicaSets."""
    template = owner["spec"]["template"]
    labels = {name: value for name, value in labels_of(template).items() if name != "pod-template-hash"}
    return {**template, "metadata": {**template["metadata"], "labels": labels}}


def is_over(pod: Json) -> bool:
    """Returns whether every container of a Pod has ended for good; its phase says nothing of ephemeral ones."""
    running = any("running" in (each.get("state") or {}) for each in container_statuses(pod))
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"} and not running


def container_statuses(pod: Json) -> list[Json]:
    """Returns the status of each container that a Pod has, also of init and ephemeral ones."""
    lists = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
    return [status for each in lists for status in (pod.get("status") or {}).get(each) or ()]


def selects(selector: Json, labels: Json) -> bool:
    """Returns whether a workload's selector matches these labels."""
    wanted = (selector.get("matchLabels") or {}).items()
    return all(labels.get(name) == value for name, value in wanted) and all(
        _holds(each, labels) for each in selector.get("matchExpressions") or ()
    )


def _holds(expression: Json, labels: Json) -> bool:
    name, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return labels.get(name) in values
        case "NotIn":
            return labels.get(name) not in values
        case "Exists":
            return name in labels
        case _:
            return name not in labels


def _deployment(spec: Json, status: Json) -> str | None:
    wanted, replicas = spec.get("replicas", 1), status.get("replicas", 0)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated < wanted:
        return f"{updated} of {wanted} Pods are new"
    if replicas > updated:
        return f"{replicas - updated} old Pods have not ended"
    return f"{available} of {updated} new Pods are available" if available < updated else None


def _stateful_set(spec: Json, status: Json) -> str | None:
    wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    updated = status.get("updatedReplicas", 0)
    if updated < wanted:
        return f"{updated} of {wanted} Pods are new"
    if ready < wanted:
        return f"{ready} of {wanted} Pods are ready"
    if status.get("updateRevision") != status.get("currentRevision"):
        return "its new revision is not the current one yet"
    return None


def _daemon_set(status: Json) -> str | None:
    wanted, updated = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
    available = status.get("numberAvailable", 0)
    if updated < wanted:
        return f"{updated} of {wanted} Pods are new"
    return f"{available} of {wanted} new Pods are available" if available < wanted else None


def _is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)
