"""Runs the child processes of `keyrotation up`, which never outlive it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.ports.clock import attempts

STOP_SECONDS = 20
LOOK_SECONDS = 0.2
# One that ends sooner than this after it was started again would end again and again.
SETTLED_SECONDS = 30
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class ChildService:
    """One `python -m`, in a session of its own.

    Args:
        name: as sentences name it.
        arguments: of `python -m`.
        folder: its working directory.
        log: where its output is appended.
        line: what it reads from standard input: a secret, since arguments and environments of processes are visible to
            others and are inherited by runs.
        works_in_child: it is lost, too, when the child that does its work has ended.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
        line: str | None = None,
        works_in_child: bool = False,
    ) -> None:
        self.name = name
        self._command = [sys.executable, "-m", *arguments]
        self._folder = folder
        self._environment = environment
        self._log = log
        self._line = line
        self._works_in_child = works_in_child
        self._had_child = False
        self._restarted_at: float | None = None
        self._process = self._start()

    @property
    def session(self) -> int:
        """The id of its session, and of its process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process itself has ended."""
        return self._process.poll() is not None

    def is_lost(self) -> bool:
        """Returns whether it has ended, or lost the child that does its work.

        It never had one if the code does not load, which the UI shows; and none is visible without /proc.
        """
        if self.has_ended or not self._works_in_child:
            return self.has_ended
        has_child = _has_children(self._process.pid)
        lost, self._had_child = self._had_child and not has_child, has_child
        return lost

    def restart(self) -> bool:
        """Ends what is left of it and starts it again; if that was done just now, returns False and does nothing."""
        now = time.monotonic()
        if self._restarted_at is not None and now - self._restarted_at < SETTLED_SECONDS:
            return False
        end_group(self._process)
        self._had_child, self._restarted_at = False, now
        self._process = self._start()
        return True

    def interrupt(self) -> None:
        """Asks it to end."""
        if not self.has_ended:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Waits for it for a while, then ends it and whatever it has started."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        end_group(self._process)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            started = subprocess.Popen(  # noqa: S603  arguments of our own
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_stop_with_parent,  # noqa: PLW1509  there is one thread
            )
        # If it has already ended, whoever waits for it says so.
        with contextlib.suppress(BrokenPipeError), cast("IO[bytes]", started.stdin) as stdin:
            stdin.write(f"{self._line or ''}\n".encode())
        return started


def _has_children(pid: int) -> bool:
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            if file.read_text().strip():
                return True
    return False


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that began a session, and whatever it has started, and waits for the process itself."""
    for force in (signal.SIGTERM, signal.SIGKILL):
        if _group_ends(process, force):
            break
    process.wait()


def _group_ends(process: subprocess.Popen[bytes], force: signal.Signals, seconds: float = 5) -> bool:
    try:
        os.killpg(process.pid, force)
        for _ in attempts(SystemClock(), pause_seconds=LOOK_SECONDS, patience_seconds=seconds):
            process.poll()  # until then it is a member of its group, as a zombie
            os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def _stop_with_parent() -> None:
    """Runs in the child: makes it end when the parent dies, and handle SIGINT even if the parent ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The sockets that Dagster creates accept commands from whoever may write to them.
    os.umask(os.umask(0o077) | 0o022)
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
