"""Children that do not outlive us: the kernel ends them with the thread that started them, however that ends.

Linux has PR_SET_PDEATHSIG (prctl(2)); `setpriv` of util-linux sets it and then becomes the program itself. A child
cannot be told so from here: code of ours between fork and exec is not safe beside threads. Elsewhere nothing is done.
Beside that, how much children work, by which they are known to be alive.
"""

import shutil
import subprocess
from collections.abc import Container, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def die_with_parent(command: Sequence[str], signal: str = "KILL") -> list[str]:
    """A command line whose process gets `signal` when we end."""
    setpriv = _setpriv()
    return list(command) if setpriv is None else [setpriv, "--pdeathsig", signal, "--", *command]


@cache
def _setpriv() -> str | None:
    """Path of a setpriv that can do it; that of busybox cannot."""
    if (found := shutil.which("setpriv", path=_PATH)) is None:
        return None
    probe = [found, "--pdeathsig", "KILL", "--", "true"]
    tried = subprocess.run(probe, capture_output=True, check=False, env={"PATH": _PATH})  # noqa: S603  arguments of our own
    return found if tried.returncode == 0 else None


def cpu_ticks(sessions: Container[int]) -> int:
    """Processor time of all processes of these sessions, in the kernel's ticks (proc(5)); 0 where there is no /proc."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            # What stands before is the name, which may hold anything.
            _, _, _, session, *more = file.read_text().rpartition(")")[2].split()
            ticks += sum(map(int, more[7:11])) if int(session) in sessions else 0
    return ticks
