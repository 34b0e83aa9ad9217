"""Protects a process that holds keys: no core dump, memory readable only by root, and not swapped out if permitted."""

import ctypes
import re
import resource
import sys
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
