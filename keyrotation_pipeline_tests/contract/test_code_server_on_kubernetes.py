"""The code server as its manifest starts it: what it imports, and what its probes say when it is gone."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import ListRepositoriesResponse
from dagster._serdes import deserialize_value

from keyrotation_pipeline_tests.contract.test_dagster_on_kubernetes import DAGSTER, TOP, container_of
from keyrotation_pipeline_tests.waiting import eventually

PLANTED = ("psycopg", "_strptime", "dagster")  # of ours, of the standard library, and the program itself
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_imports_nothing_from_its_volume_and_is_restarted_when_the_process_that_works_has_gone(
    tmp_path: Path,
) -> None:
    container = container_of(next(yaml.safe_load_all((DAGSTER / "code-server.yaml").read_text())))
    home, noted, port = tmp_path / "home", tmp_path / "ran", free_port()
    home.mkdir()
    for name in PLANTED:
        (home / f"{name}.py").write_text(f"open({str(noted)!r}, 'a').write({name!r})\nraise ImportError('planted')\n")
    command = [str(port) if each == "4000" else each for each in (*container["command"], *container["args"])]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Whoever writes the ConfigMap keyrotation-environment must not write code by it either.
    environment = {"PATH": path, "HOME": str(home), "PYTHONPATH": str(home), "DAGSTER_HOME": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
    try:
        assert [container[each]["grpc"] for each in PROBES] == [{"port": 4000, "service": "DagsterApi"}] * 3
        client: Any = DagsterGrpcClient(host="127.0.0.1", port=port)
        assert eventually(lambda: process.poll() is not None or client.health_check_query() == "SERVING", 120)
        assert process.poll() is None, (tmp_path / "log").read_text()
        listed = client.list_repositories()
        [pointer] = deserialize_value(listed, ListRepositoriesResponse).repository_code_pointer_dict.values()
        assert isinstance(pointer, ModuleCodePointer)
        assert (pointer.working_directory, noted.exists()) == (None, False), "runs import by it, too"
        for worker in children_of(process.pid) or [process.pid]:
            os.kill(worker, signal.SIGKILL)
        assert eventually(lambda: process.poll() is not None or client.health_check_query() != "SERVING", 20)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("where", ["manifest", "image", "chart"])
def test_the_code_server_is_one_process_with_no_directory_to_import_from(where: str) -> None:
    container = container_of(next(yaml.safe_load_all((DAGSTER / "code-server.yaml").read_text())))
    [deployment] = yaml.safe_load((TOP / "deploy" / "helm" / "values.yaml").read_text())["dagster-user-deployments"][
        "deployments"
    ]
    ours = [*container["command"], *container["args"]]
    last = (TOP / "deploy" / "Dockerfile").read_text().splitlines()[-1]
    # The chart writes `dagster api grpc -h 0.0.0.0 -p PORT` before the arguments, and the commands of the probes.
    started = {
        "manifest": ours,
        "image": yaml.safe_load(last.removeprefix("CMD ")),
        "chart": [*ours[: ours.index("--module-name")], *deployment["dagsterApiGrpcArgs"]],
    }
    assert started[where] == ours
    assert "--empty-working-directory" in ours
    for probe in PROBES:
        assert container[probe]
        assert probe == "readinessProbe" or deployment[probe], "of the chart, which has one of its own"
