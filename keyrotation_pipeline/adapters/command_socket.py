"""Runs a command for whoever connects to a Unix socket, which gets what it prints."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE_SECONDS = 60.0
WAITING_CONNECTIONS = 4  # each of these is answered, in turn


class CommandSocket:
    """A listening socket in a directory that only its owner may enter; one command runs at a time.

    The process that holds it needs no second thread, and keeps nothing in memory of what a command loads.

    Args:
        command: with its arguments.
        environment: of the command.
        log: where its errors are appended.
    """

    def __init__(
        self, path: Path, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self._path, self._command, self._folder = path, command, folder
        self._environment, self._log = environment, log
        self._running: subprocess.Popen[bytes] | None = None
        self._until = 0.0
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            self._socket.bind(os.fspath(path))
        finally:
            os.umask(before)
        self._socket.listen(WAITING_CONNECTIONS)
        self._socket.settimeout(0)

    def poll(self) -> None:
        """Starts the command for the next connection, if the one before has ended; ends one that takes too long."""
        if self._running is not None and self._running.poll() is None:
            if time.monotonic() > self._until:
                self._running.kill()
            return
        # Nobody asks, or the system refuses a connection or a process: whoever asked reads nothing, and asks again.
        with contextlib.suppress(OSError):
            connection, _ = self._socket.accept()
            with connection, self._log.open("ab") as log:
                self._running = subprocess.Popen(  # noqa: S603  arguments of our own
                    self._command, cwd=self._folder, env=self._environment,
                    stdin=subprocess.DEVNULL, stdout=connection.fileno(), stderr=log,
                )  # fmt: skip
            self._until = time.monotonic() + PATIENCE_SECONDS

    def close(self) -> None:
        """Ends a command that still runs, and removes the socket."""
        if self._running is not None and self._running.poll() is None:
            self._running.kill()
            self._running.wait()
        self._socket.close()
        self._path.unlink(missing_ok=True)
