"""Hardens this process (no core dumps, locked memory), and ties child processes to it."""

import ctypes
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Container, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 1 << 14
_EVERY_USER = ["0", "0", str(2**32 - 1)]


def harden_process() -> None:
    """Disables core dumps and, on Linux, lets only root read this process's memory and environment; idempotent.

    Linux ignores the limit if a program collects the dumps (core(5)), but never dumps a process that is not dumpable. A
    child inherits the limit, and is dumpable again as soon as it runs a program.

    If the machine allows locking memory without a limit, this process is never swapped out: Python's own copies of keys
    and OpenSSL's key schedules cannot be locked one by one. A child does not inherit this.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        if _may_lock_all_memory():
            library.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def _may_lock_all_memory() -> bool:
    """Returns whether memory can be locked without a limit; under one, later allocations beyond it would fail."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    held = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    # The capabilities of a user namespace's root do not lift this limit (capabilities(7), user_namespaces(7)).
    everywhere = Path("/proc/self/uid_map").read_text().split() == _EVERY_USER
    return everywhere and held is not None and bool(int(held[1], 16) & _CAP_IPC_LOCK)


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
