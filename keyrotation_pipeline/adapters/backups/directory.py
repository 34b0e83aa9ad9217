"""Stores backups in a local directory, atomically: files of mode 0600, in a directory of mode 0700."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from keyrotation_pipeline.adapters.backups.encrypted_files import sha256_of
from keyrotation_pipeline.errors import BackupError, ManifestError
from keyrotation_pipeline.model.backups import StoredFile, StoredVersion, is_manifest
from keyrotation_pipeline.model.manifest import LARGEST_BYTES

_SMALL_BYTES = 1 << 20
_UNFINISHED = ".tmp"
_ABANDONED_SECONDS = 3600


class BackupDirectory:
    """`LocalPlace` in a directory, which is created on the first write."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def description(self) -> str:
        """``directory <path>``."""
        return f"directory {self._directory}"

    def require_usable(self) -> None:
        """See `BackupPlace.require_usable`."""
        with self._failing_plainly("set"):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_abandoned()

    def names(self) -> tuple[str, ...]:
        """See `BackupPlace.names`."""
        if not self._directory.is_dir():
            return ()
        return tuple(
            sorted(path.name for path in self._directory.iterdir() if path.is_file() and not path.name.startswith("."))
        )

    def path(self, name: str) -> Path:
        """See `LocalPlace.path`."""
        return self._directory / name

    def read(self, name: str) -> bytes:
        """See `BackupPlace.read`."""
        with self._reading(name), self.path(name).open("rb") as file:
            require_small(name, self.description, os.fstat(file.fileno()).st_size)
            return file.read()

    def fetch(self, name: str, target: Path) -> None:
        """See `BackupPlace.fetch`."""
        with self._reading(name), self.path(name).open("rb") as source, fetched_file(name, target) as file:
            shutil.copyfileobj(source, file)

    def digest(self, name: str) -> str:
        """See `BackupPlace.digest`."""
        with self._reading(name):
            return sha256_of(self.path(name))

    def holds(self, name: str, sha256: str) -> bool:
        """See `BackupPlace.holds`: by reading it."""
        try:
            return sha256_of(self.path(name)) == sha256
        except OSError:
            return False

    def probably_holds(self, file: StoredFile) -> bool:
        """See `BackupPlace.probably_holds`."""
        try:
            size_bytes = self.path(file.name).stat().st_size
        except OSError:
            return False
        return size_bytes == file.size_bytes and (size_bytes > _SMALL_BYTES or self.holds(file.name, file.sha256))

    def write(self, name: str, content: bytes) -> None:
        """See `LocalPlace.write`."""
        with self.receiving(name) as file:
            file.write(content)

    def put(self, name: str, source: Path) -> None:
        """See `BackupPlace.put`."""
        with source.open("rb") as content, self.receiving(name) as file:
            shutil.copyfileobj(content, file)
        if sha256_of(self.path(name)) != sha256_of(source):
            raise BackupError(f"{name} reads back differently from {self.description}; check the disk")

    @contextmanager
    def receiving(self, name: str) -> Iterator[IO[bytes]]:
        """See `LocalPlace.receiving`."""
        temporary = self._directory / f".{name}{_UNFINISHED}"
        with self._failing_plainly(name):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with private_file(temporary) as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path(name))
            finally:
                temporary.unlink(missing_ok=True)
            self._sync()

    def remove(self, name: str) -> None:
        """See `LocalPlace.remove`."""
        with self._failing_plainly(name):
            self.path(name).unlink(missing_ok=True)
            self._sync()

    def locked_until(self, name: str) -> datetime | None:  # noqa: ARG002  a directory locks nothing
        """See `BackupPlace.locked_until`."""
        return None

    def versions(self, prefix: str) -> tuple[StoredVersion, ...]:
        """See `BackupPlace.versions`: a directory has one version of each file."""
        return tuple(StoredVersion(name) for name in self.names() if name.startswith(prefix))

    def _remove_abandoned(self) -> None:
        """Removes unfinished files of killed processes; a write in progress never pauses for an hour."""
        now = time.time()
        for unfinished in self._directory.glob(f".*{_UNFINISHED}"):
            with suppress(FileNotFoundError):
                if now - unfinished.stat().st_mtime > _ABANDONED_SECONDS:
                    unfinished.unlink()

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise BackupError(
                f"{name} is not in {self.description}; name one that `keyrotation backup --list` shows"
            ) from None
        except OSError as error:
            raise BackupError(
                f"{name} cannot be read from {self.description} ({error.strerror}); check the disk"
            ) from None

    @contextmanager
    def _failing_plainly(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BackupError(
                f"backup {name} cannot be written to {self._directory} ({error.strerror}); fix that and run it again"
            ) from None


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """Yields a new or emptied file of mode 0600, open for writing."""
    with suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file


@contextmanager
def fetched_file(name: str, target: Path) -> Iterator[IO[bytes]]:
    """`private_file` for content from a place; blames the local disk, not the place, if it cannot be written.

    Raises:
        BackupError: names the directory and why.
    """
    try:
        with private_file(target) as file:
            yield file
    except OSError as error:
        raise BackupError(
            f"{name} cannot be copied to {target.parent} ({error.strerror}); free space there, and run it again"
        ) from None


def require_small(name: str, place: str, size_bytes: int) -> None:
    """Refuses to read into memory a file that is larger than any of ours that is read whole.

    Raises:
        ManifestError: it is too large and named like a manifest, so that the place's other sets can still be read.
        BackupError: it is too large.
    """
    if size_bytes > LARGEST_BYTES and is_manifest(name):
        raise ManifestError(name, f"it has {size_bytes:,} bytes")
    if size_bytes > LARGEST_BYTES:
        raise BackupError(f"{name} in {place} has {size_bytes:,} bytes, so it is not what its name says; remove it")
