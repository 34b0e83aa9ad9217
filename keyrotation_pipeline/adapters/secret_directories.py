"""Makes private directories for secrets, locked while they are used and wiped afterwards.

They hold restored databases, and GnuPG homes for imported keys. The lock is `flock`, which ends with its process in
any case; no child inherits it. So an unlocked directory was left by a killed process, and is wiped.

gpg starts an agent for an imported key; the agent detaches itself and would survive if we are killed. So a guard, a
small shell, waits for the end of a pipe that we hold: when this process ends for any reason, the guard ends the agent
and wipes the home. If even the guard is killed, the next command finds the home unlocked and does the same.
"""

import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keyrotation_pipeline.errors import HomeError

_TRIES = 20


@contextmanager
def held(make: Callable[[], Path]) -> Iterator[Path]:
    """Yields a new private directory, locked until the context ends, and then wiped.

    Args:
        make: creates it, empty; called again if another process wiped it before it was locked.

    Raises:
        HomeError: it cannot be locked.
    """
    directory, descriptor = _made(make)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)


def wipe_abandoned(directories: Iterable[Path], end: Callable[[Path], None] = lambda _directory: None) -> None:
    """Wipes those directories of ours that no process has locked.

    Args:
        end: ends what still runs in a directory, before it is wiped.
    """
    for directory in directories:
        # Others may appear, disappear or belong to another user.
        with suppress(OSError):
            _wipe_unheld(directory, end)


def _made(make: Callable[[], Path]) -> tuple[Path, int]:
    for _ in range(_TRIES):
        directory = make()
        with suppress(FileNotFoundError):
            descriptor = _opened(directory)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still_there(directory, descriptor):
                return directory, descriptor
            os.close(descriptor)
    raise HomeError(f"{directory} is wiped again and again by another process; find out by which one")


def _wipe_unheld(directory: Path, end: Callable[[Path], None]) -> None:
    descriptor = _opened(directory)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
            return
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end(directory)
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(descriptor)


def _opened(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _is_still_there(directory: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(directory.lstat(), os.fstat(descriptor))
    return False


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
