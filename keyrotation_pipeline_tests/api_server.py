"""A real Kubernetes API server with its controllers and without a node: what it admits, defaults and allows.

It is started from the directory that `KEYROTATION_TEST_API_SERVER` names, by default ``shared/kubernetes`` next to this
checkout or above it: ``up DIRECTORY`` starts it, ``down DIRECTORY`` ends it. Where there is none its tests are skipped.
Workers of one run share one server, which ends with the last file that uses it: idle it takes a twentieth of a core.
"""

import fcntl
import json
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from keyrotation_pipeline_tests.clusters import TestCluster
from keyrotation_pipeline_tests.pages import TOP

VARIABLE = "KEYROTATION_TEST_API_SERVER"
PORTS = 4  # one after another
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


def programs() -> Path | None:
    """The directory of ``up`` and ``down``."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    found = (above / "shared" / "kubernetes" for above in TOP.parents)
    return next((each for each in found if (each / "up").is_file()), None)


def missing() -> str | None:
    """Why no API server can be started here; None: one can."""
    if programs() is None:
        return f"no API server here: {VARIABLE} names the directory of its programs"
    return None if shutil.which("etcd") else "no etcd here: apt-get install etcd-server"


needs_api_server = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kubeconfig of an administrator."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "api-server"
    folder.mkdir(exist_ok=True)
    with _counted(folder, 1) as users:
        if users == 1:
            run("up", folder, KUBE_PORT=str(free_ports()))
    yield folder / "admin.conf"
    with _counted(folder, -1) as users:
        if users == 0:
            run("down", folder)


def run(program: str, folder: Path, **environment: str) -> None:
    """Start or end the server of a folder."""
    with (folder / program).with_suffix(".log").open("wb") as log:  # a pipe would stay open: what it starts keeps it
        command = [str(programs() or "") + f"/{program}", str(folder)]
        subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, **environment}, timeout=180)


@contextmanager
def _counted(folder: Path, more: int) -> Iterator[int]:
    """Inside, no other worker starts or ends it; gives how many use it now."""
    with (folder / "users").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        users = int(file.read() or 0) + more
        yield users
        file.truncate(0)
        file.write(str(users))


def free_ports() -> int:
    """The first of some consecutive free ports."""
    while True:
        first = random.randrange(20000, 30000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + PORTS):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first


@contextmanager
def new_namespace(kubeconfig: Path, prefix: str) -> Iterator[TestCluster]:
    """A namespace of a test's own."""
    cluster = TestCluster(kubeconfig, f"{prefix}-{os.urandom(3).hex()}", None)
    cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": cluster.namespace}})
    yield cluster
    cluster.ask("DELETE", f"/api/v1/namespaces/{cluster.namespace}")


@dataclass(frozen=True)
class Caller:
    """Whoever has a token: asks the server, and looks at what it answers.

    Args:
        token: None: an administrator.
    """

    cluster: TestCluster
    token: str | None = None

    @classmethod
    def of(cls, cluster: TestCluster, account: str) -> "Caller":
        asked = cluster.ask("POST", f"serviceaccounts/{account}/token", {"spec": {"expirationSeconds": 3600}})
        return cls(cluster, asked["status"]["token"])

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        content = yaml.safe_load(self.cluster.kubeconfig.read_text())
        user, trusted = content["users"][0]["user"], content["clusters"][0]["cluster"]["certificate-authority"]
        if self.token is not None:
            return urllib3.PoolManager(ca_certs=trusted, headers={"Authorization": f"Bearer {self.token}"})
        return urllib3.PoolManager(ca_certs=trusted, cert_file=user["client-certificate"], key_file=user["client-key"])

    @cached_property
    def _server(self) -> str:
        return str(yaml.safe_load(self.cluster.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,  # noqa: ANN401 - JSON
        kind: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """One call: the status, and the object or the refusal."""
        answer = self._pool.request(
            method,
            f"{self._server}{path}",
            body=None if body is None else json.dumps(body),
            headers={**self._pool.headers, "Content-Type": kind, **(headers or {})},
            retries=False,
            timeout=30,
        )
        try:
            return answer.status, json.loads(answer.data)
        except ValueError:
            return answer.status, {"message": answer.data.decode(errors="replace")}
