"""`keyrotation up` over a home, as an operator starts it, and waiting for what it does."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")
LONGEST_SECONDS = 3_600.0


def awaited(look: Callable[[], Found | None], what: str) -> Found:
    """What `look` finds in the end.

    Raises:
        SystemExit: it finds nothing within an hour.
    """
    until = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < until:
        if (found := look()) is not None:
            return found
        time.sleep(0.5)
    raise SystemExit(f"{what} did not come within {LONGEST_SECONDS:,.0f} s")


@contextmanager
def up(config: Path, home: Path) -> Iterator[int]:
    """Web server and daemon, once the sensors have looked; gives the process id of `keyrotation up`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = str(Path(sys.executable).parent / "keyrotation")
    command = [program, "up", "--no-token", "--port", port, "--config", str(config)]
    log = config.with_name("up.log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603
        try:
            awaited(lambda: _has_looked(process, home / "heartbeats" / "incident_flag.json"), "the sensor's first look")
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def _has_looked(process: subprocess.Popen[bytes], tick: Path) -> bool | None:
    if process.poll() is not None:
        raise SystemExit("`keyrotation up` has ended; the machine may be too busy, see --without-dagster")
    return tick.exists() or None
