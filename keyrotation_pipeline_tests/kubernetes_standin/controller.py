"""The controllers of workloads, one small step for each workload at a tick, as a test drives them.

A container whose image has the tag ``no-such-tag`` is never pulled, and one with the command ``/no-such-program`` never
starts; every other one is ready a tick after its Pod was made.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from keyrotation_pipeline_tests.kubernetes_standin.objects import (
    CREATED_AT,
    TEMPLATE_GENERATION,
    WITH_TEMPLATE,
    Json,
    Key,
    Objects,
    merged,
)
from keyrotation_pipeline_tests.kubernetes_standin.ticking import ticking

TICK_SECONDS = 0.02
_REVISION_LABELS = {
    "deployments": "pod-template-hash",
    "statefulsets": "controller-revision-hash",
    "daemonsets": "controller-revision-hash",
}


class Controller:
    """Deployments, StatefulSets and DaemonSets over `Objects`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._settled_at = -1

    def tick(self) -> None:
        """One step for each workload, unless nothing changed since a tick that had nothing to do."""
        with self._objects.lock:
            before = self._objects.version
            if before == self._settled_at:
                return
            self._step_each()
            self._settled_at = before if self._objects.version == before else -1

    def _step_each(self) -> None:
        for key in [each for each in self._objects.kept if each[0] in WITH_TEMPLATE]:
            self._step(key, self._objects.get(*key))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, it ticks by itself."""
        with ticking(self.tick, TICK_SECONDS):
            yield

    def _step(self, key: Key, owner: Json) -> None:
        if owner["status"].get("observedGeneration") != owner["metadata"]["generation"]:
            self._observe(key, owner)
        else:
            self._move(key, owner)
        self._count(key, self._objects.get(*key))

    def _observe(self, key: Key, owner: Json) -> None:
        """See the new template: a ReplicaSet, or a revision, is made for it."""
        plural, namespace, name = key
        revision = _revision(owner)
        if plural == "deployments" and not self._replica_set(key, owner):
            template = json.loads(json.dumps(owner["spec"]["template"]))
            template["metadata"].setdefault("labels", {})["pod-template-hash"] = revision
            about = {"name": f"{name}-{revision}", "ownerReferences": [_owner(owner)]}
            self._objects.create("replicasets", namespace, {"metadata": about, "spec": {"template": template}})
        self._status(key, {"observedGeneration": owner["metadata"]["generation"]})

    def _move(self, key: Key, owner: Json) -> None:
        """Make, start, end or remove Pods: the first of these that there is to do."""
        pods = self._pods(key, owner)
        new = [pod for pod in pods if self._is_new(key, owner, pod)]
        old = [pod for pod in pods if pod not in new]
        if ended := [pod for pod in pods if "deletionTimestamp" in pod["metadata"]]:
            for pod in ended:
                self._objects.delete("pods", key[1], pod["metadata"]["name"])
        elif waiting := [pod for pod in new if pod["status"]["phase"] == "Pending" and not _stuck(pod)]:
            for pod in waiting:
                self._start(pod)
        elif len(new) < _wanted(key, owner) and not any(map(_stuck, new)):
            self._add(key, owner, new, old)
        elif old and all(map(_is_ready, new)):
            for pod in old:
                self._end(pod)

    def _add(self, key: Key, owner: Json, new: list[Json], old: list[Json]) -> None:
        if key[0] != "deployments" and old:
            self._end(old[-1])  # its place is taken by the new one
            return
        for _ in range(_wanted(key, owner) - len(new)):
            self._make(key, owner)

    def _make(self, key: Key, owner: Json) -> None:
        plural, namespace, name = key
        template, revision = owner["spec"]["template"], _revision(owner)
        labels = {**template["metadata"]["labels"], _REVISION_LABELS[plural]: revision}
        parent, made = owner, f"{name}-{secrets.token_hex(3)[:5]}"
        if plural == "deployments":
            parent = self._replica_set(key, owner)[0]
            made = f"{parent['metadata']['name']}-{secrets.token_hex(3)[:5]}"
        elif plural == "statefulsets":
            labels[_REVISION_LABELS[plural]] = f"{name}-{revision}"
            taken = {pod["metadata"]["name"] for pod in self._pods(key, owner)}
            made = next(each for number in range(99) if (each := f"{name}-{number}") not in taken)
        else:
            labels["pod-template-generation"] = owner["metadata"]["annotations"][TEMPLATE_GENERATION]
        about = {
            "name": made,
            "labels": labels,
            "annotations": template["metadata"].get("annotations") or {},
            "ownerReferences": [_owner(parent)],
        }
        self._objects.create(
            "pods", namespace, {"metadata": about, "spec": template["spec"], "status": {"phase": "Pending"}}
        )

    def _start(self, pod: Json) -> None:
        statuses = []
        for container in pod["spec"]["containers"]:
            status: Json = {"name": container["name"], "ready": True, "state": {"running": {"startedAt": _now()}}}
            if container["image"].endswith(":no-such-tag"):
                status |= {"ready": False, "state": {"waiting": {"reason": "ImagePullBackOff"}}}
            elif container.get("command") == ["/no-such-program"]:
                status |= {"ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
                status["lastState"] = {"terminated": {"exitCode": 127, "reason": "Error", "message": "SECRET-TEXT"}}
            statuses.append(status)
        ready = all(each["ready"] for each in statuses)
        condition = {"type": "Ready", "status": str(ready)}
        started = {"phase": "Running" if ready else "Pending"}
        content = {"status": {**started, "conditions": [condition], "containerStatuses": statuses}}
        self._write(_key(pod), content)

    def _end(self, pod: Json) -> None:
        self._write(_key(pod), {"metadata": {"deletionTimestamp": CREATED_AT}})

    def _count(self, key: Key, owner: Json) -> None:
        pods = [pod for pod in self._pods(key, owner) if "deletionTimestamp" not in pod["metadata"]]
        new = [pod for pod in pods if self._is_new(key, owner, pod)]
        ready, wanted = sum(map(_is_ready, pods)), _wanted(key, owner)
        if key[0] == "daemonsets":
            counts: Json = {"desiredNumberScheduled": wanted, "numberAvailable": ready}
            self._status(key, {**counts, "updatedNumberScheduled": len(new)})
            return
        counts = {"replicas": len(pods), "updatedReplicas": len(new), "readyReplicas": ready}
        if key[0] == "deployments":
            counts["availableReplicas"] = ready
        else:
            counts["updateRevision"] = f"{key[2]}-{_revision(owner)}"
            if len(new) == ready == wanted:
                counts["currentRevision"] = counts["updateRevision"]
        self._status(key, counts)

    def _pods(self, key: Key, owner: Json) -> list[Json]:
        parents = {owner["metadata"]["uid"]}
        if key[0] == "deployments":
            parents = {
                each["metadata"]["uid"]
                for each in self._objects.every("replicasets", key[1])
                if each["metadata"]["ownerReferences"][0]["uid"] in parents
            }
        pods = self._objects.every("pods", key[1])
        return [pod for pod in pods if (pod["metadata"].get("ownerReferences") or [{}])[0].get("uid") in parents]

    def _replica_set(self, key: Key, owner: Json) -> list[Json]:
        name = f"{key[2]}-{_revision(owner)}"
        return [each for each in self._objects.every("replicasets", key[1]) if each["metadata"]["name"] == name]

    def _is_new(self, key: Key, owner: Json, pod: Json) -> bool:
        revision = _revision(owner)
        wanted = f"{key[2]}-{revision}" if key[0] == "statefulsets" else revision
        return bool(pod["metadata"]["labels"].get(_REVISION_LABELS[key[0]]) == wanted)

    def _status(self, key: Key, difference: Json) -> None:
        self._objects.patch(
            *key, lambda before: {**before, "status": {**before.get("status", {}), **difference}}, "status"
        )

    def _write(self, key: Key, difference: Json) -> None:
        """Change what no client may change."""

        self._objects.put(key, merged(self._objects.get(*key), difference), "MODIFIED")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _revision(owner: Json) -> str:
    return hashlib.sha256(json.dumps(owner["spec"]["template"], sort_keys=True).encode()).hexdigest()[:10]


def _owner(parent: Json) -> Json:
    about: dict[str, Any] = {"apiVersion": parent["apiVersion"], "kind": parent["kind"], "controller": True}
    return {**about, "name": parent["metadata"]["name"], "uid": parent["metadata"]["uid"]}


def _key(pod: Json) -> Key:
    return "pods", pod["metadata"]["namespace"], pod["metadata"]["name"]


def _wanted(key: Key, owner: Json) -> int:
    return 1 if key[0] == "daemonsets" else int(owner["spec"].get("replicas", 1))


def _stuck(pod: Json) -> bool:
    return bool(pod["status"].get("containerStatuses")) and not _is_ready(pod)


def _is_ready(pod: Json) -> bool:
    return any((each["type"], each["status"]) == ("Ready", "True") for each in pod["status"].get("conditions") or ())
