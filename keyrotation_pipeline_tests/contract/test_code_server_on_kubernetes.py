"""The Pod of Dagster as its manifest starts it: who reaches the code server, what it imports, what its probes say."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import ListRepositoriesResponse
from dagster._serdes import deserialize_value

from keyrotation_pipeline_tests.contract.test_dagster_on_kubernetes import DAGSTER, TOP
from keyrotation_pipeline_tests.waiting import eventually

PLANTED = ("psycopg", "_strptime", "dagster")  # of ours, of the standard library, and the program itself
SOCKET = "/run/keyrotation/code-server.sock"
POD = yaml.safe_load((DAGSTER / "services.yaml").read_text())["spec"]["template"]["spec"]
CONTAINERS: Mapping[str, Any] = {each["name"]: each for each in POD["containers"]}
CODE_SERVER = CONTAINERS["code-server"]


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def tree(pid: int) -> list[int]:
    return [pid, *(each for child in children_of(pid) for each in tree(child))]


def listening(pid: int) -> set[str]:
    """The TCP addresses, as /proc has them, at which a process or one that it has started waits for connections."""
    opened = {str(fd.readlink()) for each in tree(pid) for fd in Path(f"/proc/{each}/fd").iterdir() if fd.is_symlink()}
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in opened}


class Pod:
    """The containers of the Pod as processes that share a directory for the socket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.socket = folder, folder / "home", folder / "code-server.sock"
        self.home.mkdir()
        self.client: Any = DagsterGrpcClient(socket=str(self.socket))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Whoever writes the ConfigMap keyrotation-environment must not write code by it either.
        self.environment = {
            "PATH": path, "HOME": str(self.home), "PYTHONPATH": str(self.home), "DAGSTER_HOME": str(folder),
        }  # fmt: skip

    def here(self, words: list[str]) -> list[str]:
        return [each.replace(SOCKET, str(self.socket)) for each in words]

    @contextmanager
    def code_server(self) -> Iterator["subprocess.Popen[bytes]"]:
        log = self.folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.here([*CODE_SERVER["command"], *CODE_SERVER["args"]]), cwd=self.home, env=self.environment,
                stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        try:
            assert eventually(lambda: process.poll() is not None or self.serves(), 120)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            with suppress(ProcessLookupError):  # all of its processes may have gone already
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def serves(self) -> bool:
        return bool(self.client.health_check_query() == "SERVING")

    def probe(self, name: str) -> int:
        command = self.here(CODE_SERVER[name]["exec"]["command"])
        return subprocess.run(command, env=self.environment, check=False, capture_output=True).returncode


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def test_it_imports_nothing_from_its_volume_and_is_restarted_when_the_process_that_works_has_gone(pod: Pod) -> None:
    noted = pod.folder / "ran"
    for name in PLANTED:
        planted = f"open({str(noted)!r}, 'a').write({name!r})\nraise ImportError('planted')\n"
        (pod.home / f"{name}.py").write_text(planted)
    with pod.code_server() as process:
        listed = pod.client.list_repositories()
        [pointer] = deserialize_value(listed, ListRepositoriesResponse).repository_code_pointer_dict.values()
        assert isinstance(pointer, ModuleCodePointer)
        assert (pointer.working_directory, noted.exists()) == (None, False), "runs import by it, too"
        for worker in children_of(process.pid) or [process.pid]:
            os.kill(worker, signal.SIGKILL)
        assert eventually(lambda: process.poll() is not None or not pod.serves(), 20)


def test_whoever_reaches_the_network_of_the_pod_reaches_no_code_server(pod: Pod) -> None:
    with pod.code_server() as process:
        assert listening(process.pid) == set()
        assert pod.socket.stat().st_mode & 0o022 == 0, "another user of the node's file system cannot connect"
        assert CODE_SERVER["startupProbe"]["exec"] == CODE_SERVER["livenessProbe"]["exec"]
        assert pod.probe("livenessProbe") == 0
    assert pod.socket.exists(), "a process that was killed leaves it"
    assert pod.probe("livenessProbe") == 1
    with pod.code_server():
        assert pod.probe("livenessProbe") == 0


def test_the_daemon_and_the_web_server_find_it_where_it_listens_and_cannot_take_its_place() -> None:
    [origin] = WorkspaceFileTarget([str(DAGSTER / "workspace.yaml")]).create_origins()
    assert (origin.socket, origin.port) == (SOCKET, None)  # type: ignore[attr-defined]
    mounts = {
        name: {each["mountPath"]: (each["name"], each.get("readOnly", False)) for each in container["volumeMounts"]}
        for name, container in CONTAINERS.items()
    }
    folder = str(Path(SOCKET).parent)
    assert mounts["code-server"][folder] == ("socket", False)
    assert mounts["daemon"][folder] == mounts["webserver"][folder] == ("socket", True)
    assert [each for each in POD["volumes"] if each["name"] == "socket"] == [
        {"name": "socket", "emptyDir": {"sizeLimit": "1Mi"}}
    ]
    # What only the code server has, by which a container without it is no way around the socket.
    for name in ("daemon", "webserver"):
        assert not {"/home/keyrotation", "/etc/keyrotation"} & mounts[name].keys()
        assert CONTAINERS[name]["envFrom"] == [{"secretRef": {"name": "keyrotation-dagster-storage"}}]


def test_no_manifest_opens_a_port_and_no_pod_of_the_cluster_is_let_in() -> None:
    text = "".join(file.read_text() for file in sorted(DAGSTER.glob("*.yaml")))
    assert not re.search(r"containerPort|hostPort|kind: Service$|shareProcessNamespace", text, re.MULTILINE)
    policies = [
        each["spec"]
        for name in ("rights", "console")
        for each in yaml.safe_load_all((DAGSTER / f"{name}.yaml").read_text())
        if each["kind"] == "NetworkPolicy"
    ]
    assert [(each["policyTypes"], each["ingress"]) for each in policies] == 2 * [(["Ingress"], [])]
    deployed, of_console = next(yaml.safe_load_all((DAGSTER / "console.yaml").read_text()))["spec"], policies[1]
    assert of_console["podSelector"]["matchLabels"] == deployed["template"]["metadata"]["labels"]
    [selected] = policies[0]["podSelector"]["matchExpressions"]
    for name in ("services", "toolbox"):
        labels = yaml.safe_load((DAGSTER / f"{name}.yaml").read_text())["spec"]["template"]["metadata"]["labels"]
        assert labels[selected["key"]] in selected["values"]


@pytest.mark.parametrize("where", ["manifest", "image", "chart"])
def test_the_code_server_is_one_process_with_no_directory_to_import_from(where: str) -> None:
    [deployment] = yaml.safe_load((TOP / "deploy" / "helm" / "values.yaml").read_text())["dagster-user-deployments"][
        "deployments"
    ]
    ours = [*CODE_SERVER["command"], *CODE_SERVER["args"]]
    last = (TOP / "deploy" / "Dockerfile").read_text().splitlines()[-1]
    # The chart writes `dagster api grpc -h 0.0.0.0 -p PORT` before the arguments, and the commands of the probes.
    started = {
        "manifest": ours,
        "image": yaml.safe_load(last.removeprefix("CMD ")),
        "chart": [*ours[: ours.index("--module-name")], *deployment["dagsterApiGrpcArgs"]],
    }
    assert started[where] == ours
    assert "--empty-working-directory" in ours
    for probe in ("startupProbe", "livenessProbe"):
        assert CODE_SERVER[probe]
        assert deployment[probe], "of the chart, which has one of its own"
