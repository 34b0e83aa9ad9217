"""Where are the backups of keys and database, and do they restore?"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import DatabaseCopy, KeyBackup
from keyrotation_pipeline.model.columns import EncryptedTable
from keyrotation_pipeline.ports.database import CiphertextDatabase


class BackupVault(Protocol):
    """Encrypted copies of keys, outside the key store."""

    def store_key(
        self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead, made_at: datetime | None = None
    ) -> KeyBackup:
        """Encrypt the base64 of one key to every recipient, write it durably and check what was written.

        `made_at` names the file where it is one of a set; else it is now.
        """

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        """The newest backup of exactly this key whose file is there with the hash that the manifest gives."""


class Anchors(Protocol):
    """Audit heads that were written down outside the database, by which one that was restored is known."""

    def heads(self) -> tuple[AuditHead, ...]:
        """Every head that can be found, in order of seq."""

    def keep(self, head: AuditHead) -> None:
        """Write down the newest head.

        Raises:
            BackupError: the operating system refuses.
        """


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

    def locked_until(self, name: str) -> datetime | None:
        """Until when nobody can remove the file; None where anybody with the right can."""


class LocalPlace(BackupPlace, Protocol):
    """The place that backups are made in and copied from."""

    def path(self, name: str) -> Path:
        """Where a file is."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file durably under a name that is complete whenever it is there."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""


class DatabaseDumps(Protocol):
    """Dumps of the application's database that never touch a disk unencrypted."""

    def make(self, name: str, tables: Sequence[EncryptedTable]) -> DatabaseCopy:
        """Dump the whole database into an encrypted file in the local place, and count `tables` in the same snapshot.

        Raises:
            BackupError: pg_dump or gpg ended badly; nothing is left under `name`.
        """


class RecoveryKey(Protocol):
    """The private key that opens backups."""

    @property
    def label(self) -> str:
        """The key's fingerprint, shortened, or what stands in for it."""

    def decrypt(self, name: str, message: bytes) -> bytes:
        """What a small message says.

        Raises:
            WrongRecipientError, DamagedBackupError, RecoveryKeyError: each naming the file.
        """

    def decrypting(self, name: str, path: Path) -> AbstractContextManager[IO[bytes]]:
        """What a file of any size says, as a stream; only after the context ended well is it known to be authentic."""


@dataclass(frozen=True, slots=True)
class RestoredDump:
    """A dump restored into a database of its own. `ignored_errors`: statements that pg_restore went on after."""

    database: CiphertextDatabase
    ignored_errors: int


class DumpRestorer(Protocol):
    """Throw-away servers and directories."""

    def workspace(self) -> AbstractContextManager[Path]:
        """An empty private directory, wiped when the context ends, and those that a killed process left, before."""

    def restored(self, name: str, dump: Path, key: RecoveryKey) -> AbstractContextManager[RestoredDump]:
        """The dump in a scratch server, which is wiped when the context ends.

        Raises:
            DamagedBackupError, WrongRecipientError: the dump cannot be decrypted or restored.
        """


class NewDatabases(Protocol):
    """New databases beside the application's own."""

    def restored(self, database: str, name: str, dump: Path, key: RecoveryKey) -> AbstractContextManager[RestoredDump]:
        """Create `database` and restore the dump into it; it stays when the context ends.

        Raises:
            RequestError: there is one of that name, or the name cannot be one.
            PreflightError: the role may not create databases.
            DamagedBackupError, WrongRecipientError: the dump cannot be decrypted or restored.
        """
