"""`KeyRotation` in a project of somebody else, by the page dagster-project, with Dagster's own daemon."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.demo.run import open_home
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline_tests.acceptance import foreign_defs
from keyrotation_pipeline_tests.acceptance.command import Folder, environment
from keyrotation_pipeline_tests.acceptance.test_demo import PLAINTEXTS, keys_of
from keyrotation_pipeline_tests.acceptance.test_up import wait_until
from keyrotation_pipeline_tests.pages import block, fenced

pytestmark = [pytest.mark.extended, pytest.mark.slow]
ROTATION_SECONDS = 900  # a machine of tests may be busy; what was killed is missed after five minutes
# As create-dagster writes it.
PYPROJECT = """
[project]
name = "clinic_data"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["dagster"]

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "clinic_data"
"""
DEFINITIONS = """
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
RESOURCES = """
import dagster as dg

defs = dg.Definitions(resources={"pipeline": "theirs"}, executor=dg.multiprocess_executor)
"""


@dataclass(frozen=True)
class Project:
    """Somebody else's project, with a clinic whose rows are under v1."""

    folder: Folder
    officers: tuple[DemoOfficer, ...]
    dagster_home: Path

    @property
    def environment(self) -> dict[str, str]:
        """As in the virtual environment in which the project is installed."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        source, heard = self.folder.path / "src", self.dagster_home / "heard.txt"
        return environment(
            PATH=path, PYTHONPATH=str(source), DAGSTER_HOME=str(self.dagster_home), CLINIC_HEARD=str(heard)
        )

    def type(self, line: str) -> str:
        """One command to its end; gives back what it printed."""
        done = subprocess.run(
            shlex.split(line, comments=True), cwd=self.folder.path, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout[-3000:])
        return done.stdout

    def failures_received(self) -> list[str]:
        """The jobs whose failures their own alert received."""
        heard = self.dagster_home / "heard.txt"
        return heard.read_text().split() if heard.exists() else []

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.folder.run("status", "--json")))

    @contextmanager
    def dagster(self) -> Iterator[subprocess.Popen[bytes]]:
        """`dg dev` on a free port, in a process group of its own."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with (self.dagster_home / "dev.log").open("ab") as log:
            process = subprocess.Popen(
                ["dg", "dev", "--port", str(port)], cwd=self.folder.path, env=self.environment,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait(120)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    root, dagster_home = tmp_path / "clinic-data", tmp_path / "dagster-home"
    defs = root / "src" / "clinic_data" / "defs"
    defs.mkdir(parents=True)
    dagster_home.mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT)
    [yaml] = [each.text for each in fenced() if each.language == "yaml" and "run_monitoring" in each.text]
    (dagster_home / "dagster.yaml").write_text(yaml + "telemetry: {enabled: false}\nnux: {enabled: false}\n")
    for package in (defs.parent, defs):
        (package / "__init__.py").touch()
    (defs.parent / "definitions.py").write_text(DEFINITIONS)
    (defs / "resources.py").write_text(RESOURCES)
    shutil.copy(foreign_defs.__file__, defs / "theirs.py")
    declared, officers = prepare(root / "keyrotation.toml", RolloutMode.NONE)
    declared.path.write_text(declared.path.read_text().replace("shards = 4", "shards = 2"))
    with open_home(declared, 300, lambda _line: None), EmbeddedServer(declared.home / "postgres"):
        pass
    with EmbeddedServer(declared.home / "postgres"):
        yield Project(Folder(root, []), officers, dagster_home)


def typed(project: Project) -> list[str]:
    """What the commands of the page print, without the last, which stays in the foreground."""
    *lines, last = [line for line in block("component").splitlines() if line]
    assert last.split()[:2] == ["dg", "dev"]
    return [project.type(line) for line in lines]


def test_the_commands_of_the_page_add_the_component_to_what_is_there(project: Project) -> None:
    *_, listed = typed(project)
    assets = {each["asset_key"] for each in json.loads(project.type("dg list defs --json"))["assets"]}

    assert {"clients", "key_version", "rotation/key_version", "rotation/rows/clients"} <= assets
    assert {each for each in assets if not each.startswith("rotation/")} == {"clients", "key_version"}
    assert all(name in listed for name in ("rotation_backup", "rotation_conductor", "backup", "conductor"))


def test_a_rotation_inside_another_project_ends_with_proof_and_retirement_and_takes_nothing_of_theirs(
    project: Project,
) -> None:
    typed(project)
    with project.dagster() as killed:
        request = project.folder.run("request", "--reason", "yearly").strip()
        text = project.folder.run("approve", request, "--text").encode()
        for officer in project.officers:
            project.folder.run("approve", request, "--signature", "-", text=officer.sign(text).decode())
        wait_until(lambda: "evidence" in succeeded(project), ROTATION_SECONDS)
        wait_until(lambda: project.status()["primary"] == "v2", ROTATION_SECONDS)
        os.killpg(killed.pid, signal.SIGKILL)  # in the middle of it
    with project.dagster():
        wait_until(lambda: project.status()["rotation"] is None, ROTATION_SECONDS)
        # The second comes a minute after the first, which our own alert has had time to hear of.
        wait_until(lambda: project.failures_received().count("backup") > 1, ROTATION_SECONDS)
        wait_until(lambda: "rotation_evidence" in succeeded(project), ROTATION_SECONDS)

    states = {key["version"]: key["state"] for key in project.status()["key_versions"]}
    assert states == {"v1": "archived", "v2": "active"}
    with dg.DagsterInstance.from_config(str(project.dagster_home)) as instance:
        proven = dg.AssetKey(["rotation", "zero_old_rows_proof"])
        assert set(instance.get_materialized_partitions(proven)) == {"v2"}
        assert set(instance.get_materialized_partitions(dg.AssetKey(["rotation", "rows", "clients"]))) == {
            "v2|00", "v2|01",
        }  # fmt: skip
        materialized = {key.to_user_string() for key in instance.all_asset_keys() if instance.has_asset_key(key)}
        assert {key for key in materialized if not key.startswith("rotation/")} == {"clients"}
        assert instance.get_dynamic_partitions("key_version") == ["theirs"]
        assert instance.get_dynamic_partitions("rotation_key_version") == ["v2"]
    with open_pipeline(settings.load(project.folder.path / "keyrotation.toml"), actor="test") as pipeline:
        reported = [json.loads(event.body)["facts"]["job"] for event in pipeline.ledger.events(EventKind.RUN_FAILED)]
    # Of ours, what was killed; of theirs nothing.
    assert all(job.startswith("rotation_") for job in reported), reported
    assert leaking(project) == []


def succeeded(project: Project) -> set[str]:
    """The jobs that had a run that succeeded."""
    with dg.DagsterInstance.from_config(str(project.dagster_home)) as instance:
        return {run.job_name for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))}


def leaking(project: Project) -> list[Path]:
    """Files of their Dagster that hold a key or a plaintext."""
    keys = keys_of(project.folder)
    assert keys
    forms = [form for key in keys for form in (key, key.hex().encode())]
    contents = {file: file.read_bytes() for file in project.dagster_home.rglob("*") if file.is_file()}
    return [file for file, content in contents.items() if any(map(content.count, forms)) or PLAINTEXTS.search(content)]
