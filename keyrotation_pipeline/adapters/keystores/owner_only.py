"""Reads and writes small secret files that only their owner can read; each write is atomic and durable.

A process may die at any point: a reader sees the old content or the new one, and a temporary file that is left behind
is never read and is removed by the next write.
"""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreUnavailableError

DIRECTORY_MODE = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# A key or a version name is far shorter; anything longer is neither.
_MOST_BYTES = 4096
_TEMPORARY_PREFIX, _TEMPORARY_SUFFIX = ".writing-", ".tmp"


def make_directory(directory: Path) -> None:
    """Creates a directory with mode 0700 (its parents with the usual one), durably; leaves an existing one unchanged.

    Raises:
        KeyStoreUnavailableError: it cannot be created.
    """
    if directory.is_dir():
        return
    with _failing_plainly(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        _sync_directory(directory.parent)


@contextmanager
def locked(directory: Path, *, exclusive: bool) -> Iterator[None]:
    """Locks the directory against writers (shared) or everybody (exclusive); the lock ends with the process.

    Raises:
        KeyStoreDamagedError: it is missing, not a directory, or open to other users.
        KeyStoreUnavailableError: we may not enter it.
    """
    descriptor = _open_directory(directory)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & _OTHERS:
            raise KeyStoreDamagedError(
                f"{directory} is open to other users than its owner; run `chmod 700 {directory}`"
            )
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def names(directory: Path) -> tuple[str, ...]:
    """Returns the names in a directory; none if it does not exist.

    Raises:
        KeyStoreUnavailableError: the operating system refuses; says why.
    """
    try:
        return tuple(path.name for path in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise _refused(directory, "read", error) from None


def read(path: Path, most_bytes: int = _MOST_BYTES) -> str | None:
    """Returns the content of a file, without white space around it; None if it does not exist.

    Raises:
        KeyStoreDamagedError: not a regular file of reasonable size that only its owner can read; the message never
            shows what is in it.
        KeyStoreUnavailableError: the operating system does not let us read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        # Refuses a link: its target is not covered by this directory's mode, nor replaced by the rename.
        if error.errno == errno.ELOOP:
            raise KeyStoreDamagedError(f"{path} is a symbolic link; put the file itself there") from None
        raise _refused(path, "opened", error) from None
    try:
        _require_private(path, os.fstat(descriptor))
        content = os.read(descriptor, most_bytes + 1)
    except OSError as error:
        raise _refused(path, "read", error) from None
    finally:
        os.close(descriptor)
    if len(content) > most_bytes or not content.isascii():
        raise KeyStoreDamagedError(f"{path} holds something other than a key or a version; restore it from a backup")
    return content.decode("ascii").strip()


def write(path: Path, text: str) -> None:
    """Replaces a file's content atomically and durably. Only under the exclusive lock of its directory.

    Raises:
        KeyStoreUnavailableError: the operating system refuses; says why.
    """
    with _failing_plainly(path):
        _remove_leftovers(path.parent)
        descriptor, temporary = tempfile.mkstemp(_TEMPORARY_SUFFIX, _TEMPORARY_PREFIX, path.parent)  # its mode is 0600
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        _sync_directory(path.parent)


def remove(path: Path) -> None:
    """Removes a file durably.

    Raises:
        KeyStoreUnavailableError: the operating system refuses; says why.
    """
    with _failing_plainly(path):
        path.unlink()
        _sync_directory(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Removes, durably, the leftovers of killed writers: under the exclusive lock, no other writer is alive.

    Raises:
        KeyStoreUnavailableError: the operating system refuses; says why.
    """
    with _failing_plainly(directory):
        if _remove_leftovers(directory):
            _sync_directory(directory)


@contextmanager
def _failing_plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refused(path, "written or removed", error) from None


def _refused(path: Path, what: str, error: OSError) -> KeyStoreUnavailableError:
    return KeyStoreUnavailableError(f"{path} cannot be {what} ({error.strerror}); fix that and try again")


def _open_directory(directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise KeyStoreDamagedError(
            f"there is no key store at {directory}; if it was lost, restore its keys with `keyrotation restore-key`, "
            "else run `keyrotation init`"
        ) from None
    except NotADirectoryError:
        raise KeyStoreDamagedError(f"{directory} is not a directory; correct [keys.file] directory") from None
    except PermissionError:
        raise KeyStoreUnavailableError(f"{directory} may not be read by this user; run as its owner") from None
    except OSError as error:
        raise _refused(directory, "opened", error) from None


def _require_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyStoreDamagedError(f"{path} is not a regular file; put the file itself there")
    if stat.S_IMODE(status.st_mode) & _OTHERS:
        raise KeyStoreDamagedError(
            f"{path} is open to other users than its owner; run `chmod 600 {path}`, and rotate if others could read it"
        )


def _remove_leftovers(directory: Path) -> int:
    leftovers = list(directory.glob(f"{_TEMPORARY_PREFIX}*{_TEMPORARY_SUFFIX}"))
    for leftover in leftovers:
        leftover.unlink()
    return len(leftovers)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
