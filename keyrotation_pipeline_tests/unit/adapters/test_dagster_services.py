"""How long `up` waits for services that do not answer (as long as they work), and how it restarts those that end."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters import child_processes, dagster_services
from keyrotation_pipeline.adapters.child_processes import ChildService
from keyrotation_pipeline.adapters.dagster_services import DagsterServices, UiAccess, sole_services
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline_tests.waiting import eventually

BUSY = "while True: pass"
IDLE = "import time; time.sleep(600)"
ENDS = "raise SystemExit(1)"


@contextlib.contextmanager
def started(folder: Path, programs: Mapping[str, str], served: Callable[[], bool]) -> Iterator[DagsterServices]:
    """Services that run these programs, by their names: Dagster itself does not hang on request."""
    services = DagsterServices(folder, folder, UiAccess(0, None), {}, {}, lambda: None)
    for name, program in programs.items():
        (folder / f"{name}.py").write_text(program)
        child = ChildService(name, [name], folder=folder, environment={}, log=services.log)
        services._served[child] = served  # noqa: SLF001  as above
    try:
        yield services
    finally:
        services.stop()


def children(services: DagsterServices) -> list[ChildService]:
    return list(services._served)  # noqa: SLF001  as above


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_services, "IDLE_SECONDS", 1.5)
    monkeypatch.setattr(dagster_services, "TELL_SECONDS", 0.4)


def test_services_that_work_are_waited_for_and_it_is_said_for_which(tmp_path: Path) -> None:
    reported = list[str]()
    with started(tmp_path, {"service": BUSY}, lambda: len(reported) > 5) as services:
        assert services.wait_for(children(services)[0], lambda: False, reported.append)
    assert reported[0].startswith("waiting for service for")
    assert str(tmp_path / "services.log") in reported[0]


@pytest.mark.parametrize("program", [IDLE, ENDS], ids=["do nothing", "have ended"])
def test_services_are_not_waited_for_when_they(tmp_path: Path, program: str) -> None:
    with (
        started(tmp_path, {"service": program}, lambda: False) as services,
        pytest.raises(HomeError, match="does not start; read"),
    ):
        services.wait_for(children(services)[0], lambda: False, lambda _sentence: None)


def test_nobody_is_waited_for_once_it_is_to_stop(tmp_path: Path) -> None:
    with started(tmp_path, {"service": IDLE}, lambda: False) as services:
        assert not services.wait_for(children(services)[0], lambda: True, lambda _sentence: None)


def test_a_killed_service_is_started_again_and_the_others_stay(tmp_path: Path) -> None:
    reported = list[str]()
    with started(tmp_path, {"daemon": IDLE, "webserver": IDLE}, lambda: True) as services:
        daemon, webserver = children(services)
        killed, other = daemon.session, webserver.session
        os.kill(killed, signal.SIGKILL)
        assert eventually(lambda: daemon.has_ended)
        services.wait_while_running(lambda: daemon.session != killed, reported.append)
        assert (daemon.has_ended, webserver.has_ended, webserver.session) == (False, False, other)
    assert reported == [f"daemon ended by itself, and is started again; its log is {services.log}"]


def test_a_service_that_ends_at_once_again_stops_it_by_one_sentence(tmp_path: Path) -> None:
    with (
        started(tmp_path, {"daemon": ENDS}, lambda: True) as services,
        pytest.raises(HomeError, match="daemon does not start; read"),
    ):
        services.wait_while_running(lambda: False, lambda _sentence: None)


def test_a_service_that_ended_long_after_it_was_restarted_is_restarted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_processes, "SETTLED_SECONDS", 0.01)
    with started(tmp_path, {"daemon": ENDS}, lambda: True) as services:
        [daemon] = children(services)
        for _ in range(2):
            assert daemon.restart()
            assert eventually(lambda: daemon.has_ended)


def test_a_home_is_served_by_one_process_and_the_refusal_names_it(tmp_path: Path) -> None:
    with sole_services(tmp_path, UiAccess(3000, None)):
        expected = rf"already serves this home on port 3000 \(process {os.getpid()}\); .*`kill {os.getpid()}` stops it"
        with pytest.raises(HomeError, match=expected), sole_services(tmp_path, UiAccess(3001, None)):
            pass
    with sole_services(tmp_path, UiAccess(3001, None)):
        assert (tmp_path / "up.lock").read_text() == f"{os.getpid()} 3001"
