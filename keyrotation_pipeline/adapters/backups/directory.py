"""Stores backups in a local directory, atomically: files of mode 0600, in a directory of mode 0700."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

from keyrotation_pipeline.errors import AbsentBackupError, BackupError, DamagedBackupError, ManifestError
from keyrotation_pipeline.model.backups import StoredFile, StoredVersion, is_manifest
from keyrotation_pipeline.model.manifest import LARGEST_BYTES
from keyrotation_pipeline.model.older_versions import OlderVersions
from keyrotation_pipeline.regular_files import opened

_SMALL_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_UNFINISHED = ".tmp"
_CLAIMED = f".claimed{_UNFINISHED}"
_ABANDONED_SECONDS = 3600


class Source(Protocol):
    """What a place sends."""

    def read(self, size: int, /) -> bytes:
        """Returns at most so many bytes; none at the end."""


class BackupDirectory:
    """`LocalPlace` in a directory, which is created on the first write."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.older = OlderVersions()

    def with_versions(self) -> "BackupDirectory":
        """See `BackupPlace.with_versions`: a directory has one version of each file."""
        return self

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
        # What is no regular file is listed, too, and refused when it is read: passed over, an older set would be taken.
        entries = (path for path in self._directory.iterdir() if not path.is_dir())
        return tuple(sorted(path.name for path in entries if not path.name.startswith(".")))

    def path(self, name: str) -> Path:
        """See `LocalPlace.path`."""
        return self._directory / name

    def read(self, name: str, most_bytes: int = LARGEST_BYTES) -> bytes:
        """See `BackupPlace.read`."""
        with self._reading(name), opened(self.path(name)) as file:
            return read_small(name, self.description, os.fstat(file.fileno()).st_size, file, most_bytes)

    def fetch(self, file: StoredFile, target: Path) -> None:
        """See `BackupPlace.fetch`."""
        with self._reading(file.name), opened(self.path(file.name)) as source:
            fetch_bounded(file, self.description, os.fstat(source.fileno()).st_size, source, target)

    def digest(self, file: StoredFile) -> str:
        """See `BackupPlace.digest`."""
        with self._reading(file.name), opened(self.path(file.name)) as source:
            return digest_bounded(file, source)

    def holds(self, file: StoredFile) -> bool:
        """See `BackupPlace.holds`: by reading it."""
        try:
            path = self.path(file.name)
            return path.stat().st_size == file.size_bytes and sha256_of(path) == file.sha256
        except OSError:
            return False

    def probably_holds(self, file: StoredFile) -> bool:
        """See `BackupPlace.probably_holds`."""
        try:
            size_bytes = self.path(file.name).stat().st_size
        except OSError:
            return False
        return size_bytes == file.size_bytes and (size_bytes > _SMALL_BYTES or self.holds(file))

    def unfinished(self) -> tuple[str, ...]:
        """See `BackupPlace.unfinished`."""
        names = [path.name for path in self._directory.glob(f".*{_UNFINISHED}")]
        return tuple(sorted(name[1 : -len(_UNFINISHED)] for name in names if not name.endswith(_CLAIMED)))

    @contextmanager
    def claiming(self, name: str) -> Iterator[bool]:
        """See `LocalPlace.claiming`; what a killed process has claimed is free again after an hour."""
        claim = self._directory / f".{name}{_CLAIMED}"
        with self._failing_plainly(name):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                os.close(os.open(claim, os.O_CREAT | os.O_EXCL, 0o600))
                is_ours = True
            except FileExistsError:
                is_ours = False
        try:
            yield is_ours
        finally:
            if is_ours:
                claim.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """See `LocalPlace.write`."""
        with self.receiving(name) as file:
            file.write(content)

    def put(self, name: str, source: Path) -> None:
        """See `BackupPlace.put`."""
        with opened(source) as content, self.receiving(name) as file:
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
            _sync(self._directory)

    def remove(self, name: str) -> None:
        """See `LocalPlace.remove`."""
        with self._failing_plainly(name), suppress(FileNotFoundError):
            self.path(name).unlink()
            _sync(self._directory)

    def locked_until(self, name: str) -> datetime | None:  # noqa: ARG002  a directory locks nothing
        """See `BackupPlace.locked_until`."""
        return None

    def versions(self, prefix: str) -> tuple[StoredVersion, ...]:
        """See `BackupPlace.versions`: a directory has one version of each file."""
        return tuple(StoredVersion(name) for name in self.names() if name.startswith(prefix))

    def _remove_abandoned(self) -> None:
        """Removes what nothing was written to for an hour: unfinished files and claims, mostly of killed processes."""
        now = time.time()
        for unfinished in self._directory.glob(f".*{_UNFINISHED}"):
            with suppress(FileNotFoundError):
                if now - unfinished.stat().st_mtime > _ABANDONED_SECONDS:
                    unfinished.unlink()

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise AbsentBackupError(
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


def write_new(path: Path, content: bytes) -> bool:
    """Writes a file of mode 0600 whole and durably, unless there is one of its name; returns whether it did."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with private_file(unfinished) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link fails if somebody has created the file meanwhile; a rename would replace it.
        path.hardlink_to(unfinished)
    except FileExistsError:
        return False
    finally:
        unfinished.unlink(missing_ok=True)
    _sync(path.parent)
    return True


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def read_small(name: str, place: str, size_bytes: int, source: Source, most_bytes: int) -> bytes:
    """Reads a file into memory, unless it is larger than it may be.

    Args:
        size_bytes: what the place says before the first byte; never more than it may be is read, whatever follows.

    Raises:
        ManifestError: it is too large and named like a manifest or its signature: the place's other sets can be read.
        DamagedBackupError: it is too large.
    """
    content = b"" if size_bytes > most_bytes else source.read(most_bytes + 1)
    if (size_bytes := max(size_bytes, len(content))) <= most_bytes:
        return content
    if is_manifest(name.removesuffix(".sig")):
        raise ManifestError(name, f"it has {size_bytes:,} bytes")
    raise DamagedBackupError(
        f"{name} in {place} has {size_bytes:,} bytes, so it is not what its name says; use another copy"
    )


def fetch_bounded(file: StoredFile, place: str, size_bytes: int, source: Source, target: Path) -> None:
    """Copies a file from a place, as far as the size in its manifest.

    Args:
        size_bytes: as for `read_small`.

    Raises:
        DamagedBackupError: it is larger; nothing stays.
    """
    if size_bytes <= file.size_bytes:
        with fetched_file(file.name, target) as copy:
            size_bytes = 0
            for chunk in bounded(source, file.size_bytes):
                copy.write(chunk)
                size_bytes += len(chunk)
        if size_bytes <= file.size_bytes:
            return
        target.unlink()
    raise DamagedBackupError(
        f"{file.name} in {place} has more than the {file.size_bytes:,} bytes in its manifest, so somebody "
        "replaced it; use another copy or an older backup, and find out who"
    )


def digest_bounded(file: StoredFile, source: Source) -> str:
    """Returns the SHA-256, hex, of what a place sends as a file; of a larger one only that of its beginning."""
    digest = hashlib.sha256()
    for chunk in bounded(source, file.size_bytes):
        digest.update(chunk)
    return digest.hexdigest()


def bounded(source: Source, size_bytes: int) -> Iterator[bytes]:
    """Yields what a source holds, and never more than one byte beyond a size."""
    left = size_bytes + 1
    while left and (chunk := source.read(min(left, _CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, hex."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
