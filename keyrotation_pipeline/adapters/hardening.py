"""A process that holds keys leaves no core dump, can be read by root alone, and is not swapped out, if permitted."""

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
    """No core dump from now on, and on Linux only root reads this process's memory and environment; again is no change.

    Linux ignores the limit where a program takes the dumps (core(5)), and dumps nothing of a process that is not
    dumpable. A child has the limit too, and is dumpable again as soon as it runs a program.

    Where the machine lets a process lock memory without a limit, what it uses is never swapped out: Python's own copies
    of keys and OpenSSL's key schedules cannot be locked one by one. Nothing of that is passed on to a child.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        if _may_lock_all_memory():
            library.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def _may_lock_all_memory() -> bool:
    """Whether no limit applies: under one, memory that does not fit would be refused from then on."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    held = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    # What the root of a user namespace holds does not lift this limit (capabilities(7), user_namespaces(7)).
    everywhere = Path("/proc/self/uid_map").read_text().split() == _EVERY_USER
    return everywhere and held is not None and bool(int(held[1], 16) & _CAP_IPC_LOCK)
