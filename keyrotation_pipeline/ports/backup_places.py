"""Where are backups stored?"""

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

from keyrotation_pipeline.model.backups import StoredFile, StoredVersion
from keyrotation_pipeline.model.manifest import LARGEST_BYTES
from keyrotation_pipeline.model.older_versions import OlderVersions


class BackupPlace(Protocol):
    """Stores encrypted files under plain names: a directory, a bucket."""

    @property
    def description(self) -> str:
        """The place in one plain phrase, as messages name it."""

    @property
    def older(self) -> OlderVersions:
        """What is kept of deleted and overwritten files, and the versions in which files are read."""

    def with_versions(self) -> "BackupPlace":
        """Returns the place for reading, with every version in it, listed once.

        Raises:
            BackupError: it does not answer. An account that may not list versions is no error, see `OlderVersions`.
        """

    def require_usable(self) -> None:
        """Refuses a place that could not store a backup reliably.

        Raises:
            BackupError: it does not exist, or would lose what is overwritten.
        """

    def names(self) -> tuple[str, ...]:
        """Returns every visible file's name, in order."""

    def read(self, name: str, most_bytes: int = LARGEST_BYTES) -> bytes:
        """Reads a small file.

        Raises:
            AbsentBackupError: it is not there.
            VersionRightError: it is to be read in a version, which the account may not.
            DamagedBackupError: it is larger; of a manifest a `ManifestError`.
            BackupError: it cannot be read.
        """

    def fetch(self, file: StoredFile, target: Path) -> None:
        """Copies a file of any size to `target`, which must not exist; its mode is then 0600.

        Raises:
            BackupError: as `read`.
            DamagedBackupError: it is larger than its manifest says; not more than that is written, and nothing stays.
        """

    def put(self, name: str, source: Path) -> None:
        """Stores a copy of a file of any size, durably, and reads it back to check that it is the same.

        Raises:
            BackupError: it cannot be written, or reads back differently.
        """

    def digest(self, file: StoredFile) -> str:
        """Returns the SHA-256, hex, of a stored file, read to its end, or to one byte more than its manifest says.

        Raises:
            BackupError: as `read`.
        """

    def holds(self, file: StoredFile) -> bool:
        """Returns whether exactly this file is there, by the place's own checksum if it has one.

        Raises:
            BackupError: the place does not answer.
        """

    def probably_holds(self, file: StoredFile) -> bool:
        """Returns whether a file is probably there, by what is cheap to check: its size, and a small one's checksum.

        Raises:
            BackupError: the place does not answer.
        """

    def unfinished(self) -> tuple[str, ...]:
        """Returns names of files whose upload has begun and not ended: under way, or of a process that was killed.

        Raises:
            BackupError: the place does not answer.
        """

    def locked_until(self, name: str) -> datetime | None:
        """Returns until when nobody can remove the file; None: whoever has the right may remove it now."""

    def versions(self, prefix: str) -> tuple[StoredVersion, ...]:
        """Returns every version of the files with a prefix: overwritten or deleted content may still be readable.

        Raises:
            BackupError: the place does not answer, or denies access.
        """


class LocalPlace(BackupPlace, Protocol):
    """The place where backups are made, and copied from."""

    def path(self, name: str) -> Path:
        """Returns the path of a file."""

    def claiming(self, name: str) -> AbstractContextManager[bool]:
        """Yields whether no other process has claimed the name of a file that is to be made; none can meanwhile.

        Raises:
            BackupError: the operating system refuses.
        """

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file durably and atomically."""

    def receiving(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Yields a new file of any size, which gets its name, durably, only if the context ends without an error.

        Raises:
            BackupError: the operating system refuses.
        """

    def remove(self, name: str) -> None:
        """Removes a file; a missing one is no error."""
