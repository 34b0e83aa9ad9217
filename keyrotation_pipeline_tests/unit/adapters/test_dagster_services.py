"""How long `up` waits for services that do not answer: as long as they work."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters import dagster_services
from keyrotation_pipeline.adapters.dagster_services import DagsterServices, UiAccess
from keyrotation_pipeline.errors import HomeError

BUSY = "while True: pass"
IDLE = "import time; time.sleep(600)"
ENDS = "raise SystemExit(1)"


@contextlib.contextmanager
def started(folder: Path, program: str) -> Iterator[DagsterServices]:
    (folder / "service.py").write_text(program)
    services = DagsterServices(folder, folder, UiAccess(0, None), {}, {}, lambda: None)
    services._start(["service"], {})  # noqa: SLF001  Dagster itself does not hang on request
    try:
        yield services
    finally:
        services.stop()


def waiting(services: DagsterServices) -> Callable[..., bool]:
    """Wait for a code server whose answers a test decides."""
    return partial(services._wait_for, "the code server")  # noqa: SLF001  as above


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_services, "IDLE_SECONDS", 1.5)
    monkeypatch.setattr(dagster_services, "TELL_SECONDS", 0.4)


def test_services_that_work_are_waited_for_and_it_is_said_for_which(tmp_path: Path) -> None:
    reported = list[str]()
    with started(tmp_path, BUSY) as services:
        assert waiting(services)(lambda: len(reported) > 5, lambda: False, reported.append)
    assert reported[0].startswith("waiting for the code server of Dagster for")
    assert str(tmp_path / "services.log") in reported[0]


@pytest.mark.parametrize("program", [IDLE, ENDS], ids=["do nothing", "have ended"])
def test_services_are_not_waited_for_when_they(tmp_path: Path, program: str) -> None:
    with started(tmp_path, program) as services, pytest.raises(HomeError, match="does not start; read"):
        waiting(services)(lambda: False, lambda: False, lambda _sentence: None)


def test_nobody_is_waited_for_once_it_is_to_stop(tmp_path: Path) -> None:
    with started(tmp_path, IDLE) as services:
        assert not waiting(services)(lambda: False, lambda: True, lambda _sentence: None)
