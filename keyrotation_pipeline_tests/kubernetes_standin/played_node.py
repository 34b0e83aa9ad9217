"""A node of a real API server that has none: Pods of Jobs are processes of this machine, all others just run.

It binds each Pod to itself and says how it is, as scheduler and kubelet do; the rest is of the server's controllers.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Self

import yaml
from urllib3.exceptions import HTTPError

from keyrotation_pipeline_tests.api_server import MERGE, Caller
from keyrotation_pipeline_tests.clusters import TestCluster
from keyrotation_pipeline_tests.kubernetes_standin.kubelet import Processes
from keyrotation_pipeline_tests.kubernetes_standin.objects import Json

NODE = "played"
HEARTBEAT_SECONDS = 5.0
OVER = {"Succeeded", "Failed"}


def node_of(cluster: TestCluster, folder: Path) -> "PlayedNode":
    """A node whose Pods are those of the namespace of a cluster."""
    content = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    port = int(str(content["server"]).rpartition(":")[2])
    return PlayedNode(
        namespace=cluster.namespace, port=port, certificate=Path(content["certificate-authority"]), folder=folder,
        cluster=cluster,
    )  # fmt: skip


@dataclass(kw_only=True)
class PlayedNode(Processes):
    """See the head of this file. While the server does not answer, processes go on and nothing is told."""

    cluster: TestCluster
    _told_at: float = 0.0

    def __post_init__(self) -> None:
        self._caller = Caller(self.cluster)

    @contextmanager
    def running(self) -> Iterator[Self]:
        with super().running():
            yield self
        self._caller.call("DELETE", f"/api/v1/nodes/{NODE}")

    def content(self, plural: str, name: str) -> Json:
        return self._ask("GET", f"{plural}/{name}")

    def token(self, account: str) -> str:
        return str(self._ask("POST", f"serviceaccounts/{account}/token", {"spec": {}})["status"]["token"])

    def tick(self) -> None:
        with suppress(HTTPError):
            if time.monotonic() - self._told_at > HEARTBEAT_SECONDS:
                self._tell_that_it_is_ready()
                self._told_at = time.monotonic()
            for pod in self._ask("GET", "pods").get("items", ()):
                self._care_for(pod)

    def _care_for(self, pod: Json) -> None:
        name, phase = pod["metadata"]["name"], pod["status"].get("phase")
        process = pod["metadata"].get("labels", {}).get("job-name") or name
        is_job = process != name
        if "deletionTimestamp" in pod["metadata"]:
            self.kill(process)
            self.processes.pop(process, None)
            self._ask("DELETE", f"pods/{name}", {"gracePeriodSeconds": 0})
        elif "nodeName" not in pod["spec"]:
            self._ask("POST", f"pods/{name}/binding", {"metadata": {"name": name}, "target": {"name": NODE}})
        elif phase == "Pending":
            if is_job and process not in self.processes:
                self._start(process, pod["spec"])
            self._say(pod, "Running", {"running": {"startedAt": _now()}})
        elif phase not in OVER and process in self.processes and self.processes[process].poll() is not None:
            code = abs(self.processes[process].returncode)
            self._say(pod, "Failed" if code else "Succeeded", {"terminated": {"exitCode": code, "finishedAt": _now()}})
            del self.processes[process]

    def _start(self, name: str, pod: Json) -> None:
        try:
            self.start(name, pod)
        except HTTPError:  # the next tick tries again
            shutil.rmtree(self.folder / name)
            raise

    def _say(self, pod: Json, phase: str, state: Json) -> None:
        ready = phase == "Running"
        containers = [
            {"name": each["name"], "image": each["image"], "imageID": "", "ready": ready, "restartCount": 0}
            | {"state": state}
            for each in pod["spec"]["containers"]
        ]
        kinds = ("Ready", "ContainersReady", "Initialized", "PodScheduled")
        conditions = [
            {"type": each, "status": str(ready or each in kinds[2:]), "lastTransitionTime": _now()} for each in kinds
        ]
        status = {"phase": phase, "conditions": conditions, "containerStatuses": containers, "startTime": _now()}
        self._ask("PATCH", f"pods/{pod['metadata']['name']}/status", {"status": status})

    def _tell_that_it_is_ready(self) -> None:
        """Else Pods on it are evicted."""
        self._caller.call("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        now = _now()
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now}
        self._caller.call("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": {"conditions": [ready]}}, MERGE)

    def _ask(self, method: str, path: str, body: Json | None = None) -> Json:
        kind = MERGE if method == "PATCH" else "application/json"
        status, answer = self._caller.call(method, f"/api/v1/namespaces/{self.namespace}/{path}", body, kind)
        if status >= HTTPStatus.BAD_REQUEST and status not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
            raise HTTPError(answer.get("message"))
        return answer


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
