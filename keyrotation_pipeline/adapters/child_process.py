"""Makes child processes die with their parent: the kernel ends them with the thread that started them.

Linux has PR_SET_PDEATHSIG (prctl(2)); `setpriv` of util-linux sets it and then becomes the program itself. A child
A child cannot be set up so from here: our own code between fork and exec is not safe with threads. On other systems
nothing is done. Also measures the CPU time of children, which shows that they are alive.
"""

import shutil
import subprocess
from collections.abc import Container, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def die_with_parent(command: Sequence[str], signal: str = "KILL") -> list[str]:
    """Returns a command line whose process gets `signal` when this process ends."""
    setpriv = _setpriv()
    return list(command) if setpriv is None else [setpriv, "--pdeathsig", signal, "--", *command]


@cache
def _setpriv() -> str | None:
    """Returns the path of a setpriv that supports this; busybox's does not."""
    if (found := shutil.which("setpriv", path=_PATH)) is None:
        return None
    probe = [found, "--pdeathsig", "KILL", "--", "true"]
    tried = subprocess.run(probe, capture_output=True, check=False, env={"PATH": _PATH})  # noqa: S603  arguments of our own
    return found if tried.returncode == 0 else None


def cpu_ticks(sessions: Container[int]) -> int:
    """Returns the CPU time of all processes of these sessions, in kernel ticks (proc(5)); 0 without /proc."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has just ended
            # The name before it may hold anything.
            _, _, _, session, *more = file.read_text().rpartition(")")[2].split()
            ticks += sum(map(int, more[7:11])) if int(session) in sessions else 0
    return ticks
