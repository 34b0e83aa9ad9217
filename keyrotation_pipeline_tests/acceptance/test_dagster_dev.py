"""A clone opened as a Dagster user opens any: `dagster dev`, with no variable set and nothing made before."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.adapters.postgres.server.embedded import DAGSTER_DATABASE, EmbeddedServer
from keyrotation_pipeline_tests.acceptance.command import Folder, environment
from keyrotation_pipeline_tests.acceptance.test_next_steps import free_port
from keyrotation_pipeline_tests.acceptance.test_up import processes_about
from keyrotation_pipeline_tests.waiting import eventually

TOP = Path(__file__).parents[2]
DAGSTER = [str(Path(sys.executable).with_name("dagster")), "dev"]
DG = [str(Path(sys.executable).with_name("dg")), "dev"]
START_SECONDS = 400  # 15 alone; the machine of a test may be busy with others
MISSING = "run `keyrotation init` or `keyrotation demo`"
SHOWN = "{ assetNodes { assetKey { path } } }"
HEALTH = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
MATERIALIZE = """mutation { launchRun(executionParams: {selector: {repositoryName: "__repository__",
    repositoryLocationName: "keyrotation_pipeline", pipelineName: "__ASSET_JOB", assetSelection: [{path: ["%s"]}]}}) {
    __typename ... on LaunchRunSuccess { run { runId } } } }"""
RUN = """{ runOrError(runId: "%s") { ... on Run { status eventConnection { events {
    ... on ExecutionStepFailureEvent { failureMetadata { description } } } } } } }"""
TICKS = """{ sensorsOrError(repositorySelector: {repositoryName: "__repository__",
    repositoryLocationName: "keyrotation_pipeline"}) { ... on Sensors { results { name sensorState {
    ticks(limit: 1) { status skipReason error { message } } } } } } }"""


@dataclass(frozen=True)
class Development:
    """A `dagster dev` that answers."""

    port: int

    def ask(self, query: str) -> Any:  # noqa: ANN401
        body = json.dumps({"query": query}).encode()
        question = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(question, timeout=30) as answer:  # noqa: S310  loopback
            [found] = json.load(answer)["data"].values()
        return found

    def answers(self) -> bool:
        with suppress(OSError):
            return bool(self.ask(SHOWN))
        return False

    def assets(self) -> set[str]:
        return {"/".join(each["assetKey"]["path"]) for each in self.ask(SHOWN)}

    def unhealthy(self) -> list[str]:
        """The daemons that Dagster calls unhealthy."""
        daemons = self.ask(HEALTH)["daemonHealth"]["allDaemonStatuses"]
        assert len(daemons) > 5
        return [each["daemonType"] for each in daemons if each["required"] and not each["healthy"]]

    def ticked(self) -> dict[str, dict[str, Any]]:
        """The last tick of each sensor that had one."""
        states = {each["name"]: each["sensorState"]["ticks"] for each in self.ask(TICKS)["results"]}
        return {name: ticks[0] for name, ticks in states.items() if ticks}

    def materialize(self, asset: str) -> tuple[str, str]:
        """How a run of one asset ended, and the sentence of the step that failed."""
        launched = self.ask(MATERIALIZE % asset)
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run = RUN % launched["run"]["runId"]
        assert eventually(lambda: self.ask(run)["status"] in {"SUCCESS", "FAILURE"}, START_SECONDS), self.ask(run)[
            "status"
        ]
        found = self.ask(run)
        sentences = [each["failureMetadata"]["description"] for each in found["eventConnection"]["events"] if each]
        return found["status"], " ".join(sentences)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    made = tmp_path / "clone"
    made.mkdir()
    for name in ("pyproject.toml", "keyrotation_pipeline", "dagster.yaml", "workspace.yaml"):
        (made / name).symlink_to(TOP / name)
    return made


@contextmanager
def developing(clone: Path, command: list[str], **variables: str) -> Iterator[Development]:
    """The command on a free port, with its own process group, as in a terminal; ended by Ctrl-C."""
    opened = Development(free_port())
    log = clone.with_name("log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-p", str(opened.port)], cwd=clone, env=environment(**variables),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )  # fmt: skip
    try:
        assert eventually(lambda: opened.answers() or process.poll() is not None, START_SECONDS), log.read_text()
        assert process.poll() is None, log.read_text()
        yield opened
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_fresh_clone_shows_the_demo_says_what_is_missing_and_then_shows_that_home(clone: Path) -> None:
    with developing(clone, [*DAGSTER, "-w", "workspace.yaml"]) as opened:
        assert opened.assets() >= {"status", "key_version", "rows/clients", "rows/appointments", "compliance_report"}
        assert eventually(lambda: opened.unhealthy() == []), opened.unhealthy()
        status, sentence = opened.materialize("status")
        assert (status, MISSING in sentence) == ("FAILURE", True), sentence
        assert eventually(lambda: MISSING in (opened.ticked().get("rotation_conductor", {}).get("skipReason") or ""))
        ticked = opened.ticked()
        assert {tick["status"] for tick in ticked.values()} <= {"SKIPPED", "STARTED"}, ticked

        Folder(clone, []).run("demo", "--rows", "50")
        assert opened.materialize("status") == ("SUCCESS", "")
        assert eventually(lambda: "no rotation is open" in (opened.ticked()["rotation_conductor"]["skipReason"] or ""))
        assert opened.unhealthy() == []
        server = clone / ".keyrotation" / "postgres" / "log"
        started = server.read_text().count("starting PostgreSQL")
        looked = opened.ticked()["ledger_mirror"]
        assert eventually(lambda: opened.ticked()["ledger_mirror"] != looked)
        assert server.read_text().count("starting PostgreSQL") == started  # it runs on between two ticks

    assert eventually(lambda: processes_about(clone) == []), processes_about(clone)
    # What Dagster makes for itself it removes as its last process ends; where that was killed, it stays, without a run.
    assert eventually(lambda: not list(clone.glob(".tmp_dagster_home*/**/*.db"))), list(clone.iterdir())


def test_what_dagster_dev_leaves_when_it_is_killed_is_not_committed(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text((TOP / ".gitignore").read_text())
    left = ".tmp_dagster_home_a1b2/history/runs.db"
    assert subprocess.run(["git", "check-ignore", "--quiet", left], cwd=tmp_path, check=False).returncode == 0


@pytest.mark.extended
@pytest.mark.parametrize(("command", "home", "files"), [
    pytest.param(DAGSTER, None, (), id="without -w"),
    pytest.param(DG, None, (), id="dg dev"),
    pytest.param([*DAGSTER, "-w", "workspace.yaml"], "dagster-home", (), id="an empty home"),
    pytest.param([*DAGSTER, "-w", "workspace.yaml"], "dagster-home", ("dagster.yaml",), id="our dagster.yaml"),
])  # fmt: skip
def test_every_other_way_to_start_it_runs_what_is_launched(
    clone: Path, command: list[str], home: str | None, files: tuple[str, ...]
) -> None:
    variables = {}
    if home is not None:
        made = clone.with_name(home)
        made.mkdir()
        for name in files:
            (made / name).symlink_to(TOP / name)
        variables["DAGSTER_HOME"] = str(made)
    with developing(clone, command, **variables) as opened:
        assert "rows/clients" in opened.assets()
        assert eventually(lambda: opened.unhealthy() == []), opened.unhealthy()
        status, sentence = opened.materialize("status")
        assert (status, MISSING in sentence) == ("FAILURE", True), sentence
    assert home is None or list(made.rglob("*.db"))


@pytest.mark.extended
def test_a_url_of_postgresql_is_where_it_stores(clone: Path, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "storage") as server:
        url = server.url(DAGSTER_DATABASE).replace("postgresql://", "postgresql+psycopg2://", 1)
        with developing(clone, [*DAGSTER, "-w", "workspace.yaml"], DAGSTER_PG_URL=url) as opened:
            assert eventually(lambda: opened.unhealthy() == []), opened.unhealthy()
            assert opened.materialize("status")[0] == "FAILURE"
            assert list(clone.rglob(".tmp_dagster_home*/**/*.db")) == []
