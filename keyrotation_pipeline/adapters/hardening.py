"""A process that holds keys leaves no core dump, and other processes of its user cannot read it."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def harden_process() -> None:
    """No core dump from now on, and on Linux only root reads this process's memory and environment; again is no change.

    Linux ignores the limit where a program takes the dumps (core(5)), and dumps nothing of a process that is not
    dumpable. A child has the limit too, and is dumpable again as soon as it runs a program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
