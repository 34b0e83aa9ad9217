"""The socket by which a web server that opens no database gets the metrics."""

import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters import child_processes
from keyrotation_pipeline.adapters.child_processes import CommandSocket
from keyrotation_pipeline_tests.waiting import eventually

PRINTS = "import os; print(f'text of {os.getpid()}', flush=True); os.write(2, b'complaint')"


def listening(folder: Path, program: str) -> CommandSocket:
    return CommandSocket(folder / "sock", [sys.executable, "-c", program], folder, {}, folder / "log")


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """Connections, closed at the end."""
    opened: list[socket.socket] = []
    yield opened
    for each in opened:
        each.close()


def ask(folder: Path, asked: list[socket.socket]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(str(folder / "sock"))
    asked.append(connection)
    return connection


def everything(connection: socket.socket, of: CommandSocket) -> bytes:
    """What the command prints, to its end."""
    connection.setblocking(False)
    text = b""

    def at_end() -> bool:
        nonlocal text
        of.poll()
        try:
            part = connection.recv(65536)
        except BlockingIOError:
            return False
        text += part
        return not part

    eventually(at_end, 30)
    return text


def test_each_connection_gets_what_the_command_prints(tmp_path: Path, asked: list[socket.socket]) -> None:
    served = listening(tmp_path, PRINTS)
    assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == 0o600
    served.poll()  # nobody has asked
    assert not (tmp_path / "log").exists()
    texts = {everything(ask(tmp_path, asked), served) for _ in range(2)}
    assert len(texts) == 2
    assert all(each.startswith(b"text of ") for each in texts)
    assert (tmp_path / "log").read_bytes() == b"complaint" * 2
    served.close()
    assert not (tmp_path / "sock").exists()


def test_one_command_runs_at_a_time_and_not_for_ever(
    tmp_path: Path, asked: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_processes, "PATIENCE_SECONDS", 0.5)
    served = listening(tmp_path, "import time; print('begun', flush=True); time.sleep(600)")
    first, second = ask(tmp_path, asked), ask(tmp_path, asked)
    served.poll()
    assert first.recv(100) == b"begun\n"
    began = time.monotonic()
    served.poll()
    second.setblocking(False)
    with pytest.raises(BlockingIOError):
        second.recv(100)
    assert everything(first, served) == b""
    assert time.monotonic() - began > 0.3
    assert everything(second, served) == b"begun\n"
    served.close()


def test_what_still_runs_at_the_end_is_ended(tmp_path: Path, asked: list[socket.socket]) -> None:
    served = listening(tmp_path, "import time; print('begun', flush=True); time.sleep(600)")
    waiting = ask(tmp_path, asked)
    served.poll()
    assert waiting.recv(100) == b"begun\n"
    served.close()
    assert waiting.recv(100) == b""


def test_a_command_that_cannot_be_started_ends_nothing(
    tmp_path: Path, asked: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = listening(tmp_path, PRINTS)
    with monkeypatch.context() as patch:
        patch.setattr(served, "_command", [str(tmp_path / "is not there")])
        assert everything(ask(tmp_path, asked), served) == b""
    assert everything(ask(tmp_path, asked), served).startswith(b"text of ")
    served.close()


def test_whoever_left_a_socket_behind_is_no_obstacle(tmp_path: Path, asked: list[socket.socket]) -> None:
    with socket.socket(socket.AF_UNIX) as left:  # as after `kill -9`
        left.bind(str(tmp_path / "sock"))
    served = listening(tmp_path, PRINTS)
    assert everything(ask(tmp_path, asked), served).startswith(b"text of ")
    served.close()
