"""The second of the README's two commands: a UI, a daemon, and a rotation that they carry to its end by themselves."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.run import open_home
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.requests import WALK, Step
from keyrotation_pipeline.monitoring.scheduler_health import OPTIONAL, SILENCE
from keyrotation_pipeline.settings import load
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.acceptance.test_demo import leaks
from keyrotation_pipeline_tests.contract.test_alert_channels import http_server

KEY_IN_THE_ENVIRONMENT = "a key that applications get, and Dagster must not"
FOR_AWS = "what the code server and its runs need, and no other child"
START_SECONDS = 180  # 20 are promised; the machine of a test may be busy with others
ROTATION_SECONDS = 600  # likewise
BACKFILL = """mutation { launchPartitionBackfill(backfillParams: {assetSelection: [{path: ["key_version"]}],
    partitionNames: ["v2"], runConfigData: {loggers: {console: {config: {log_level: "DEBUG"}}}}})
    { ... on LaunchBackfillSuccess { backfillId } } }"""
SHUT_DOWN = """mutation { shutdownRepositoryLocation(repositoryLocationName: "keyrotation_pipeline") { __typename } }"""
RUNS_OF_BACKFILL = """{ runsOrError(filter: {tags: [{key: "dagster/backfill", value: "%s"}]}) { ... on Runs { results {
    status eventConnection(limit: 50) { events { ... on MessageEvent { message } } } } } } }"""
CHECKS = """{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks { checks {
    name executionForLatestMaterialization { status } } } } assetMaterializations(limit: 100) { partition } } }"""


@dataclass(frozen=True)
class Ui:
    """The address that `up` prints, in two parts."""

    url: str
    token: str


# Where there is a browser, `test_browser.py` follows a rotation that `up` carries to its end.
@pytest.mark.extended if which("chromium") else pytest.mark.slow
def test_up_carries_an_approved_rotation_to_its_end_and_stops_without_leftovers(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    settings, officers = prepare(tmp_path / "keyrotation.toml", RolloutMode.NONE)
    # So slow that the mirror and the alerts look while rows are on their way.
    slow = settings.path.read_text().replace("shards = 4", "shards = 2\nmax_rows_per_second = 30")
    settings.path.write_text(slow + '[alerts]\nwebhook_url = { file = "webhook" }\n')
    alerts: list[dict[str, Any]] = []
    with ExitStack() as stack:
        (tmp_path / "webhook").write_text(stack.enter_context(http_server(200, alerts)))
        with open_home(load(settings.path), 300, lambda _line: None):  # which pins the webhook's host
            pass
        folder.run("backup")
        folder.run("status", "--count")
        process, ui = stack.enter_context(running_up(folder))
        request = folder.run("request", "--reason", "yearly").strip()
        text = folder.run("approve", request, "--text").encode()
        for officer in officers:
            folder.run("approve", request, "--signature", "-", text=officer.sign(text).decode())
        wait_until(lambda: status(folder)["rotation"] is None and status(folder)["primary"] == "v2", ROTATION_SECONDS)
        wait_until(lambda: set(checks(ui).values()) == {"SUCCEEDED"}, ROTATION_SECONDS)
        pages = [each for each in alerts if each["severity"] != "info"]
        shown = partitions(ui)
        backfill = ask(ui, BACKFILL)["launchPartitionBackfill"]["backfillId"]
        wait_until(lambda: bool(runs_of(ui, backfill)), ROTATION_SECONDS)
        wait_until(lambda: runs_of(ui, backfill)[0]["status"] == "FAILURE", ROTATION_SECONDS)
        assert "nothing of a rotation can be decided at launch" in str(runs_of(ui, backfill))
        assert len([pid for pid in family(process.pid) if " api grpc " in command_of(pid)]) == 1
        looked = {file.stem: json.loads(file.read_text()) for file in (settings.home / "heartbeats").glob("*.json")}
        assert {name: look["stopped"] for name, look in looked.items()} == {
            key: {} for key in SILENCE.keys() - OPTIONAL
        }
        token_shown = [
            pid for pid in family(process.pid) if ui.token in environ_of(pid) + Path(f"/proc/{pid}/cmdline").read_text()
        ]
        readable = [process.pid] if environ_of(process.pid) else []  # by root alone
        keys_in_environments = [pid for pid in family(process.pid) if KEY_IN_THE_ENVIRONMENT in environ_of(pid)]

    assert {key["version"]: key["state"] for key in status(folder)["key_versions"]} == {
        "v1": "archived",
        "v2": "active",
    }
    assert "rotation" in {each["key"].partition("/")[0] for each in alerts}  # announced; and nobody was paged
    assert pages == []
    assert not (settings.home / "heartbeats" / "rotation_conductor.json").exists()
    assert shown["rows/clients"] == shown["rows/appointments"] == {"v2|00", "v2|01"}
    assert all(shown[step] == {"v2"} for step in WALK if step is not Step.ROWS)
    # Our own command has it from the shell; whatever it starts has not.
    assert keys_in_environments == readable
    assert token_shown == []
    assert process.returncode == 0
    assert processes_about(settings.home) == []
    assert leaks(folder, ui.token) == []


@pytest.mark.slow
def test_up_without_a_configuration_says_so_and_dies_whole(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    with running_up(folder) as (process, ui):
        started = set(family(process.pid)) - {process.pid}
        address = tmp_path / ".keyrotation" / "dagster" / "address"
        assert address.read_text() == f"{ui.url}/?token={ui.token}\n"
        assert stat.S_IMODE(address.stat().st_mode) == 0o600
        with pytest.raises(urllib.error.HTTPError, match="403"):
            partitions(Ui(ui.url, "another"))
        assert {"rows/clients", "zero_old_rows_proof"} <= partitions(ui).keys()
        [code_server] = code_servers(process.pid)
        assert ask(ui, SHUT_DOWN)["shutdownRepositoryLocation"]["__typename"] == "PythonError"
        assert code_servers(process.pid) == [code_server]
        assert {pid for pid in started if FOR_AWS in environ_of(pid)} <= set(family(code_server))
        for pid in (process.pid, *family(code_server)):
            if "multiprocessing" not in command_of(pid):  # Python's tracker of resources, which has no secret
                assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())
        # Its child, the one with the code, dies by the hand of the kernel, say: where memory is short.
        [loaded] = [pid for pid in family(code_server) if " api grpc " in command_of(pid)]
        os.kill(loaded, signal.SIGKILL)
        wait_until(lambda: code_servers(process.pid) not in ([], [code_server]) and bool(partitions(ui)), START_SECONDS)
        # So does the daemon, whose end stops neither the web server nor the database.
        others, before = web_servers(process.pid), daemons(process.pid)
        [killed_daemon] = before
        os.kill(killed_daemon, signal.SIGKILL)
        wait_until(lambda: daemons(process.pid) not in ([], before), START_SECONDS)
        assert web_servers(process.pid) == others
        # A second one, on another port, is refused and takes nothing from the first.
        folder.run("up", "--port", "1", expect=1)
        port = ui.url.rpartition(":")[2]
        assert f"serves this home on port {port} (process {process.pid})" in folder.printed[-1]
        assert folder.printed[-1].endswith(f"`kill {process.pid}` stops it\n")
        assert address.read_text() == f"{ui.url}/?token={ui.token}\n"
        assert is_shown(ui)
        # So does the server of Dagster's storage, which no look of a sensor starts again: Dagster looks by it.
        killed = postmaster(tmp_path)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: postmaster(tmp_path) not in {None, killed} and is_shown(ui), START_SECONDS)
        started |= set(family(process.pid)) - {process.pid}
        process.kill()
        process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}/environ").exists() and environ_of(pid) for pid in started), 40)

    assert "no keyrotation.toml yet" in folder.printed[0]
    with EmbeddedServer(tmp_path / ".keyrotation" / "postgres"):
        pass  # the last to leave stops the server that the killed one left running
    assert processes_about(tmp_path) == []


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        folder.run("up", "--port", str(port), expect=1)

    [sentence] = folder.printed[1].splitlines()
    assert sentence == f"port {port} of 127.0.0.1 is taken; stop what listens there, or choose another with --port"
    assert processes_about(tmp_path) == []


@contextmanager
def running_up(folder: Folder, **variables: str) -> Iterator[tuple[subprocess.Popen[str], Ui]]:
    """`keyrotation up` on a free port, once it has printed its URL; ended by SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = folder.path.parent / f"{folder.path.name}-up.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            [KEYROTATION, "up", "--port", str(port)],
            cwd=folder.path,
            env=environment(
                **variables, ENCRYPTION_MASTER_KEY_V9=KEY_IN_THE_ENVIRONMENT, AWS_SECRET_ACCESS_KEY=FOR_AWS
            ),
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        wait_until(
            lambda: f"http://127.0.0.1:{port}" in output.read_text() or process.poll() is not None, START_SECONDS
        )
        folder.printed.append(output.read_text())
        found = re.search(rf"(http://127\.0\.0\.1:{port})/\?token=(\S{{43}}) ", folder.printed[-1])
        assert found, folder.printed[-1]
        folder.printed[-1] = folder.printed[-1].replace(found[2], "TOKEN")
        ui = Ui(found[1], found[2])
        wait_until(lambda: bool(partitions(ui)), START_SECONDS)
        yield process, ui
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.5)


def status(folder: Folder) -> dict[str, Any]:
    return dict(json.loads(folder.run("status", "--json")))


def ask(ui: Ui, query: str) -> dict[str, Any]:
    """The data that answers a GraphQL query."""
    body = json.dumps({"query": query}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {ui.token}"}
    question = urllib.request.Request(f"{ui.url}/graphql", body, headers)  # noqa: S310
    with urllib.request.urlopen(question, timeout=30) as answer:  # noqa: S310
        return dict(json.load(answer)["data"])


def nodes(ui: Ui) -> dict[str, dict[str, Any]]:
    """What the UI shows of each asset."""
    return {"/".join(node["assetKey"]["path"]): node for node in ask(ui, CHECKS)["assetNodes"]}


def runs_of(ui: Ui, backfill: str) -> list[dict[str, Any]]:
    return list(ask(ui, RUNS_OF_BACKFILL % backfill)["runsOrError"]["results"])


def partitions(ui: Ui) -> dict[str, set[str | None]]:
    return {name: {each["partition"] for each in node["assetMaterializations"]} for name, node in nodes(ui).items()}


def is_shown(ui: Ui) -> bool:
    """Whether the UI answers, which it cannot while its storage starts."""
    with suppress(TypeError, OSError):
        return bool(partitions(ui))
    return False


def checks(ui: Ui) -> dict[str, str | None]:
    """Every check of a rotation; `backup_decrypts` is the nightly backup's."""
    return {
        f"{name}:{check['name']}": (check["executionForLatestMaterialization"] or {}).get("status")
        for name, node in nodes(ui).items()
        for check in node["assetChecksOrError"].get("checks", [])
        if check["name"] != "backup_decrypts"
    }


def family(pid: int) -> list[int]:
    """A process and its descendants; PostgreSQL, which detaches itself, is not among them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def code_servers(pid: int) -> list[int]:
    """Of the descendants of a process; web server and daemon share one."""
    return _running(pid, "code-server start")


def daemons(pid: int) -> list[int]:
    return _running(pid, "dagster._daemon run")


def web_servers(pid: int) -> list[int]:
    return _running(pid, "defs.webserver")


def _running(pid: int, command: str) -> list[int]:
    return [each for each in family(pid) if command in command_of(each)]


def postmaster(folder: Path) -> int | None:
    """Process id of the embedded server; None while it has not begun."""
    try:
        return int((folder / ".keyrotation" / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    except (OSError, IndexError):
        return None


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def environ_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def processes_about(path: Path) -> list[str]:
    """Command lines, of other processes, that name a path."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            command = command_of(int(entry.name))
            found += [command] if str(path) in command else []
    return found
