"""Creates throw-away GnuPG homes for secret keys, and wipes those that a killed process left.

gpg starts an agent for an imported key; the agent detaches itself and would survive if we are killed. So a guard, a
small shell, waits for the end of a pipe that we hold: when this process ends for any reason, the guard ends the agent
and wipes the home. If even the guard is killed, the next command finds the home unlocked and does the same.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keyrotation_pipeline.adapters.held_directory import held, wipe_abandoned

# In memory if the machine supports it: an imported key may have no passphrase.
_MEMORY = Path("/dev/shm")  # noqa: S108  a directory of mode 0700 is made in it
# Prefix of the homes of imported keys; nothing else has such a name.
_PREFIX = "keyrotation-key-"
_ENVIRONMENT = {"LC_ALL": "C"}
# It ignores signals meant for us; `cat` ends when the last holder of the pipe's other end does.
_GUARD = """
trap '' HUP INT TERM
cat
rm -rf -- "$1/private-keys-v1.d"
test -z "$2" || "$2" --homedir "$1" --kill all
rm -rf -- "$1"
"""
_KILL_SECONDS = 10
_GUARD_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/local/bin:/usr/bin:/bin"}


@contextmanager
def secret_home() -> Iterator[Path]:
    """Yields an empty GnuPG home, in memory if possible; wiped, and its agent ended, with the block or this process."""
    with held(_new_home) as home, _guarded(home):
        yield home


def has_memory() -> bool:
    """Returns whether `secret_home` never touches a disk, unless the machine swaps."""
    return _homes() == _MEMORY


def wipe_abandoned_keys() -> None:
    """Wipes the homes of imported keys whose processes were killed, and ends their agents."""
    wipe_abandoned(_homes().glob(f"{_PREFIX}*"), _end_agent)


def _homes() -> Path:
    return _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def _new_home() -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_homes()))


@contextmanager
def _guarded(home: Path) -> Iterator[None]:
    """Ends the agent of a home and wipes it when the block or this process ends."""
    command = ["/bin/sh", "-c", _GUARD, "guard", str(home), shutil.which("gpgconf") or ""]
    with subprocess.Popen(  # noqa: S603  arguments of our own
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_GUARD_ENVIRONMENT,
        start_new_session=True,
    ):
        yield


def _end_agent(home: Path) -> None:
    if (gpgconf := shutil.which("gpgconf")) is not None:
        kill = [gpgconf, "--homedir", str(home), "--kill", "all"]
        # An agent that does not answer ends when it finds its socket gone, and no longer has the key.
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(kill, capture_output=True, check=False, env=_ENVIRONMENT, timeout=_KILL_SECONDS)  # noqa: S603
