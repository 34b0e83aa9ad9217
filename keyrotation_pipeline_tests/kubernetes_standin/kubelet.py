"""Kubelets: what a Pod template says is a process of this machine, in a mount namespace of its own.

It has the command, environment, volumes and account of the template, its root is read-only but for volumes and ``/tmp``
(where servers of tests are, so that a volume there is not mounted), and it finds the API server as a Pod does. Programs
are those of this Python and not of an image, and it runs as root. Needs root and Linux.
"""

import base64
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from keyrotation_pipeline_tests.kubernetes_standin.objects import CREATED_AT, Json, Objects, merged
from keyrotation_pipeline_tests.kubernetes_standin.rights import Rights
from keyrotation_pipeline_tests.kubernetes_standin.ticking import ticking

TICK_SECONDS = 0.1
IN_CLUSTER = "var/run/secrets/kubernetes.io/serviceaccount"
# Where a Pod has something mounted, or nothing of ours.
EMPTY = ("/opt", "/home", "/run")


@dataclass
class Processes:
    """Starts containers in one namespace of some API server.

    Args:
        certificate: of the API server.
    """

    namespace: str
    port: int
    certificate: Path
    folder: Path
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Inside, Jobs get Pods, and Pods end."""
        try:
            with ticking(self.tick, TICK_SECONDS):
                yield self
        finally:
            for name in [*self.processes]:
                self.kill(name)

    def tick(self) -> None:
        """Starts what is to be started, and notes the end of each process."""
        raise NotImplementedError

    def content(self, plural: str, name: str) -> Json:
        """A Secret or a ConfigMap."""
        raise NotImplementedError

    def token(self, account: str) -> str:
        """A new token of an account."""
        raise NotImplementedError

    def kill(self, name: str) -> None:
        """Ends a process as a node that goes away does."""
        if (process := self.processes.get(name)) is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / name / "log").read_text()

    def start(
        self, name: str, pod: Json, command: Sequence[str] = (), container: str | None = None
    ) -> "subprocess.Popen[bytes]":
        """Starts the only container of a Pod template or the named one, or another command in its place."""
        [found] = [each for each in pod["containers"] if container in {None, each["name"]}]
        root = self.folder / name
        root.mkdir()
        wanted = [*command] or [*found.get("command", ()), *found.get("args", ())]
        script = "\n".join([*self._mounts(root, pod, found), shlex.join(["exec", *wanted])])
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-e", "-c", script],
                env=self._environment(found), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.processes[name] = process
        return process

    def _data(self, plural: str, name: str) -> Mapping[str, bytes]:
        data = self.content(plural, name).get("data") or {}
        return {entry: base64.b64decode(text) if plural == "secrets" else text.encode() for entry, text in data.items()}

    def _environment(self, container: Json) -> dict[str, str]:
        found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
        found |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}
        found["DAGSTER_HOME"] = "/opt/dagster"  # of the image
        for source in container.get("envFrom", ()):
            plural, name = next(
                (plural, source[part]["name"])
                for part, plural in (("secretRef", "secrets"), ("configMapRef", "configmaps"))
                if part in source
            )
            found |= {entry: value.decode() for entry, value in self._data(plural, name).items()}
        return found | {each["name"]: each["value"] for each in container.get("env", ()) if "value" in each}

    def _mounts(self, root: Path, pod: Json, container: Json) -> Iterator[str]:
        """The lines of a shell that make the file system of the container."""
        etc, service = root / "etc", root / "service"
        shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
        service.mkdir()
        (service / "ca.crt").write_bytes(self.certificate.read_bytes())
        (service / "token").write_text(self.token(pod["serviceAccountName"]))
        (service / "namespace").write_text(self.namespace)
        volumes = {each["name"]: each for each in pod.get("volumes", ())}
        shared = hashlib.sha256(json.dumps(pod, sort_keys=True).encode()).hexdigest()[:12]
        mounts = [
            (self._volume(root, shared, volumes[each["name"]]), each["mountPath"], each.get("readOnly", False))
            for each in container.get("volumeMounts", ())
            if each["mountPath"] not in {"/tmp", f"/{IN_CLUSTER}"}
        ]
        for _, path, _ in mounts:
            if path.startswith("/etc/"):
                (etc / path.removeprefix("/etc/")).mkdir(exist_ok=True)
        for path in EMPTY:
            yield f"mount -t tmpfs none {path}"
        yield f"mount --bind {etc} /etc"
        for source, path, read_only in [*mounts, (service, f"/run/{IN_CLUSTER.removeprefix('var/run/')}", True)]:
            yield f"mkdir -p {path}"
            yield f"mount --bind {source} {path}"
            if read_only:
                yield f"mount -o remount,bind,ro {path}"
        yield "mkdir -p /home/keyrotation /opt/dagster"
        yield "mount --bind /tmp /tmp"
        yield "mount -o remount,bind,ro /"
        yield "cd /home/keyrotation"

    def _volume(self, root: Path, pod: str, volume: Json) -> Path:
        name = volume["name"]
        if "emptyDir" in volume:  # of all containers of a Pod
            place = self.folder / f"pod-{pod}-{name}"
            place.mkdir(exist_ok=True)
            return place
        if "persistentVolumeClaim" in volume:
            place = self.folder / f"claim-{volume['persistentVolumeClaim']['claimName']}"
            place.mkdir(exist_ok=True)
            return place
        place = root / f"volume-{name}"
        if not place.exists():
            place.mkdir()
            for plural, part, key in (("secrets", "secret", "secretName"), ("configmaps", "configMap", "name")):
                if part in volume:
                    for entry, value in self._data(plural, volume[part][key]).items():
                        (place / entry).write_bytes(value)
        return place


@dataclass(kw_only=True)
class Kubelet(Processes):
    """That of the stand-in, which has no controller of Jobs: it starts each."""

    objects: Objects
    rights: Rights
    ended: dict[str, int] = field(default_factory=dict)

    def content(self, plural: str, name: str) -> Json:
        return self.objects.get(plural, self.namespace, name)

    def token(self, account: str) -> str:
        return self.rights.token(self.namespace, account)

    def tick(self) -> None:
        """Starts the Pod of each new Job, and notes the end of each process."""
        jobs = {each["metadata"]["name"]: each for each in self.objects.every("jobs", self.namespace)}
        for name, job in jobs.items():
            if name not in self.processes and name not in self.ended:
                self._begin(name, job)
        for name, process in [*self.processes.items()]:
            if process.poll() is not None and name in jobs:
                self._end(name, self.processes.pop(name).returncode)
            elif process.poll() is None and name.startswith("dagster-run-") and name not in jobs:
                self.kill(name)  # its Job was deleted

    def _begin(self, name: str, job: Json) -> None:
        template = job["spec"]["template"]
        labels = {**(template["metadata"].get("labels") or {}), "job-name": name}
        about = {"name": f"{name}-pod", "labels": labels}
        status = {
            "phase": "Running",
            "containerStatuses": [{"name": "dagster", "ready": True, "state": {"running": {}}}],
        }
        self.objects.create("pods", self.namespace, {"metadata": about, "spec": template["spec"], "status": status})
        self.start(name, template["spec"])
        self._status(name, {"active": 1, "startTime": CREATED_AT})

    def _end(self, name: str, code: int) -> None:
        self.ended[name] = code
        self._status(name, {"active": None, **({"failed": 1} if code else {"succeeded": 1})})
        key = ("pods", self.namespace, f"{name}-pod")
        ended: Json = {"status": {"phase": "Failed" if code else "Succeeded", "containerStatuses": []}}
        self.objects.put(key, merged(self.objects.get(*key), ended), "MODIFIED")

    def _status(self, job: str, difference: Json) -> None:
        def change(before: Json) -> Json:
            return {**before, "status": merged(before.get("status", {}), difference)}

        self.objects.patch("jobs", self.namespace, job, change, "status")
