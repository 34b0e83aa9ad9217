"""Locks directories of secrets while they are used: an unlocked one was left by a killed process.

The lock is `flock`, which ends with its process in any case; no child inherits it.
"""

import fcntl
import os
import shutil
import stat
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
