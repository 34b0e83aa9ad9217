"""Where are backups kept?"""

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

from keyrotation_pipeline.model.backups import StoredFile, StoredVersion


class BackupPlace(Protocol):
    """Where encrypted files are kept under plain names: a directory, a bucket."""

    @property
    def description(self) -> str:
        """The place in one plain phrase, as messages name it."""

    def require_usable(self) -> None:
        """Refuse a place that could not keep a backup.

        Raises:
            BackupError: it is not there, or would lose what is overwritten.
        """

    def names(self) -> tuple[str, ...]:
        """Every file's name, in order."""

    def read(self, name: str) -> bytes:
        """A small file.

        Raises:
            BackupError: it is not there or cannot be read.
        """

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file of any size to `target`, which must not exist; its mode is then 0600.

        Raises:
            BackupError: as `read`.
        """

    def put(self, name: str, source: Path) -> None:
        """Keep a copy of a file of any size, durably, and read it again to see that it is the same.

        Raises:
            BackupError: it cannot be written, or reads back differently.
        """

    def digest(self, name: str) -> str:
        """SHA-256, hex, of a file as it is there now, read to its end.

        Raises:
            BackupError: as `read`.
        """

    def holds(self, name: str, sha256: str) -> bool:
        """Whether exactly this file is there, by the checksum that the place keeps where it keeps one.

        Raises:
            BackupError: the place does not answer.
        """

    def probably_holds(self, file: StoredFile) -> bool:
        """Whether a file seems to be there, by what costs nothing to ask: its size, and the checksum of a small one.

        Raises:
            BackupError: the place does not answer.
        """

    def locked_until(self, name: str) -> datetime | None:
        """Until when nobody can remove the file; None where anybody with the right can."""

    def versions(self, prefix: str) -> tuple[StoredVersion, ...]:
        """Every version of the files whose names begin so: what was overwritten or deleted may still be read.

        Raises:
            BackupError: the place does not answer, or does not let us look.
        """


class LocalPlace(BackupPlace, Protocol):
    """The place that backups are made in and copied from."""

    def path(self, name: str) -> Path:
        """Where a file is."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file durably under a name that is complete whenever it is there."""

    def receiving(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file of any size that gets its name, durably, only if the context ends well.

        Raises:
            BackupError: the operating system refuses.
        """

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
