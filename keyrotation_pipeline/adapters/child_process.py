"""Children that do not outlive us: the kernel ends them with the thread that started them, however that ends.

Linux has PR_SET_PDEATHSIG (prctl(2)); `setpriv` of util-linux sets it and then becomes the program itself. A child
cannot be told so from here: code of ours between fork and exec is not safe beside threads. Elsewhere nothing is done.
"""

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def ending_with_us(command: Sequence[str], signal: str = "KILL") -> list[str]:
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
