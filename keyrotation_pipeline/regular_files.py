"""Opens files that somebody else names, such as secrets, certificates and backups, without waiting for what is no file.

A FIFO would be waited for until somebody writes to it, and a device read without end. What the kernel makes up under
/proc looks like a regular file, and holds the environment of processes.
"""

import errno
import io
import os
import stat
from pathlib import Path

_OPEN_DESCRIPTORS = ("/dev/stdin", "/dev/fd/", "/proc/")


def opened(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file, or a link to one, for reading.

    Raises:
        OSError: it cannot be opened, or is none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    mode = status.st_mode
    if not stat.S_ISREG(mode) or status.st_dev == _device_of("/proc"):
        os.close(descriptor)
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "not a regular file", os.fspath(path))
    return open(descriptor, "rb")  # noqa: PTH123  for the caller


def _device_of(directory: str) -> int | None:
    try:
        return Path(directory).stat().st_dev
    except OSError:
        return None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Reads a regular file; raises as `opened`."""
    with opened(path) as file:
        return file.read()


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8") -> str:
    """Reads a regular file as text; every line ends with a line feed.

    Raises:
        OSError: as `opened`.
        UnicodeDecodeError: it is none of this encoding.
    """
    with io.TextIOWrapper(opened(path), encoding=encoding) as file:
        return file.read()


def read_typed(path: str | os.PathLike[str], most_bytes: int = -1) -> bytes:
    """Reads a file that somebody has typed; also what their shell has opened: standard input, or ``<(gpg -ab …)``.

    Args:
        most_bytes: more are not read; -1: all are.

    Raises:
        OSError: as `opened`.
    """
    if os.path.abspath(path).startswith(_OPEN_DESCRIPTORS):  # noqa: PTH100  a link would be followed
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(most_bytes)
    with opened(path) as file:
        return file.read(most_bytes)
