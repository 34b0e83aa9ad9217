"""Workloads for tests in the cluster of `clusters`: made and changed through the API alone.

On a real cluster their Pods run `KEYROTATION_TEST_IMAGE` in the host's network, so that a node without one is enough.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from keyrotation_pipeline.adapters.rollouts import progress
from keyrotation_pipeline.adapters.rollouts.templates import Workload
from keyrotation_pipeline_tests.clusters import TestCluster, TestKeySecrets
from keyrotation_pipeline_tests.waiting import eventually

IMAGE = os.environ.get("KEYROTATION_TEST_IMAGE", "registry.k8s.io/pause:3.10")
PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
BROKEN: dict[str, Any] = {"command": ["/no-such-program"]}
CRASHES = "CrashLoopBackOff|RunContainerError|CreateContainerError"
_numbers = itertools.count()


@dataclass
class TestFleet:
    """Workloads that get their keys from one Secret, and what makes their Pods."""

    __test__ = False
    secrets: TestKeySecrets
    workloads: list[Workload] = field(default_factory=list)

    @property
    def cluster(self) -> TestCluster:
        return self.secrets.cluster

    def start(self, kind: str = "Deployment", replicas: int = 1, name: str = "", **parts: Any) -> Workload:  # noqa: ANN401
        """Make a workload; its container gets the whole Secret unless `parts` of the container say otherwise."""
        name = name or f"api-{next(_numbers)}"
        labels = {"app": name, "kind": kind}
        spec: dict[str, Any] = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [self.container(**parts)]}},
        }
        spec["template"]["spec"] |= {"hostNetwork": True, "terminationGracePeriodSeconds": 0}
        if kind != "DaemonSet":
            spec["replicas"] = replicas
        if kind == "StatefulSet":
            spec["serviceName"] = name
        workload = Workload(kind, name, "api")
        self.ask("POST", workload, {"metadata": {"name": name}, "spec": spec}, named=False)
        self.workloads.append(workload)
        self.settle()
        return workload

    def container(self, **parts: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        source = [{"secretRef": {"name": self.secrets.name}}]
        return {"name": "api", "image": IMAGE, "envFrom": source, **parts}

    def change(self, workload: Workload, **parts: Any) -> None:  # noqa: ANN401 - JSON
        """Give a workload's container other `parts`, as a deployment does."""
        template = {"spec": {"containers": [self.container(**parts)]}}
        self.ask("PATCH", workload, {"spec": {"template": template}})

    def found(self, workload: Workload) -> dict[str, Any]:
        content: dict[str, Any] = self.ask("GET", workload)
        return content

    def pods(self, workload: Workload) -> list[dict[str, Any]]:
        every = self.cluster.ask("GET", "pods")["items"]
        return [pod for pod in every if pod["metadata"].get("labels", {}).get("app") == workload.name]

    def ask(self, method: str, workload: Workload, body: Any = None, *, named: bool = True) -> Any:  # noqa: ANN401
        path = f"/apis/apps/v1/namespaces/{self.cluster.namespace}/{PLURALS[workload.kind]}"
        return self.cluster.ask(method, f"{path}/{workload.name}" if named else path, body)

    def stop(self) -> None:
        """Delete every workload, and its Pods."""
        for workload in self.workloads:
            self.ask("DELETE", workload, {"propagationPolicy": "Foreground"})
        if self.cluster.standin is not None:
            for workload in self.workloads:
                for pod in self.pods(workload):
                    self.cluster.ask("DELETE", f"pods/{pod['metadata']['name']}")
        self.workloads.clear()

    def settle(self) -> None:
        """Wait until every workload runs its newest template."""

        def settled() -> bool:
            self.tick()
            return all(progress.pending(self.found(each)) is None for each in self.workloads)

        assert eventually(settled)

    def tick(self) -> None:
        """Let the cluster's controllers work for a moment."""
        if self.cluster.standin is not None:
            self.cluster.standin.controller.tick()
        else:
            time.sleep(0.5)

    @contextmanager
    def controlled(self) -> Iterator[None]:
        """Inside, controllers work by themselves."""
        if self.cluster.standin is None:
            yield
            return
        with self.cluster.standin.controller.running():
            yield


FleetMaker = Callable[[], TestFleet]
