"""Dagster's web server, daemon and code server as one child process that never outlives us."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.ports.clock import attempts

LOOPBACK = "127.0.0.1"
START_SECONDS = 90
STOP_SECONDS = 20
LOOK_SECONDS = 0.2
PR_SET_PDEATHSIG = 1
INSTANCE_FILES = Path(__file__).parent / "dagster_instance"
LIBC = ctypes.CDLL(None, use_errno=True)


class DagsterServices:
    """`dagster dev` on loopback.

    Args:
        home: Dagster's home; it gets our `dagster.yaml` and `workspace.yaml`, and the services' log.
        folder: where the services look for a `keyrotation.toml` that is not there yet.
        environment: of the child, with what `dagster.yaml` refers to; it must hold no key.
    """

    def __init__(self, home: Path, folder: Path, port: int, environment: Mapping[str, str]) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self.log = home / "services.log"
        self._home = home
        self._folder = folder
        self._port = port
        self._environment = {**environment, "DAGSTER_HOME": str(home)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the services; `wait_until_served` says when they answer.

        Raises:
            HomeError: the port is taken.
        """
        self._refuse_taken_port()
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("dagster.yaml", "workspace.yaml"):
            shutil.copyfile(INSTANCE_FILES / name, self._home / name)
        workspace = str(self._home / "workspace.yaml")
        command = [
            sys.executable, "-m", "dagster", "dev", "-h", LOOPBACK, "-p", str(self._port), "-w", workspace,
            "--log-level", "warning",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  arguments of our own
                command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_stop_with_parent,  # noqa: PLW1509  there is one thread
            )

    def wait_until_served(self, stopped: Callable[[], bool]) -> bool:
        """Wait for the web server; False when `stopped` came first.

        Raises:
            HomeError: the services ended, or do not answer.
        """
        for _ in attempts(SystemClock(), pause_seconds=LOOK_SECONDS, patience_seconds=START_SECONDS):
            if stopped():
                return False
            if not self.running():
                break
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.url}/server_info", timeout=5).close()  # noqa: S310  loopback
                return True
        raise HomeError(f"Dagster does not start; read {self.log} and mend what it says")

    def running(self) -> bool:
        """Whether the services run."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the services and whatever runs they have started; a run that is cut off goes on at the next start."""
        if self._process is None:
            return
        if self.running():
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        for force in (signal.SIGTERM, signal.SIGKILL):
            if self._group_ends(force):
                break
        self._process.wait()

    def _group_ends(self, force: signal.Signals, seconds: float = 5) -> bool:
        try:
            os.killpg(self._group, force)
            for _ in attempts(SystemClock(), pause_seconds=LOOK_SECONDS, patience_seconds=seconds):
                os.killpg(self._group, 0)
        except ProcessLookupError:
            return True
        return False

    @property
    def _group(self) -> int:
        return self._process.pid if self._process is not None else 0

    def _refuse_taken_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, self._port))
            except OSError:
                raise HomeError(
                    f"port {self._port} of {LOOPBACK} is taken; stop what listens there, or choose another with --port"
                ) from None


def _stop_with_parent() -> None:
    """In the child: end when the parent dies, however it dies, and listen to SIGINT even if the parent ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
