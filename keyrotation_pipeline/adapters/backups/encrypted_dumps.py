"""Database dumps from pg_dump through gpg into the backup directory: in plain they exist in pipes only."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from keyrotation_pipeline.adapters.backups.digests import sha256_of
from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.openpgp import Certificate, GnuPG
from keyrotation_pipeline.adapters.openpgp.recipients import require_recipients
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.dump import dumping
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.backups import DatabaseCopy, StoredFile
from keyrotation_pipeline.model.columns import EncryptedTable

_CHUNK_BYTES = 1 << 20
# The packets that name the recipients come first.
_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True)
class EncryptedDumps:
    """`DatabaseDumps`.

    Args:
        connect: opens a connection to `url`.
        binaries: directory of the pg_dump to use; None finds one.
        recipients: certificate files of who can decrypt.
    """

    url: str
    connect: Callable[[], Connection]
    binaries: Path | None
    place: BackupDirectory
    gpg: GnuPG
    recipients: tuple[Path, ...]

    def make(self, name: str, tables: Sequence[EncryptedTable]) -> DatabaseCopy:
        """See `DatabaseDumps.make`."""
        recipients = [self.gpg.read_certificate(path) for path in self.recipients]
        with (
            # Innermost ends first: gpg, then pg_dump, and only when both ended well does the file get its name.
            self.place.receiving(name) as file,
            dumping(self.connect, self.url, self.binaries, tables) as dump,
            self.gpg.encrypting(dump.stream, recipients) as message,
        ):
            sha256, size_bytes = _copied(message, file)
        self._check(name, sha256, recipients)
        named = tuple(recipient.fingerprint for recipient in recipients)
        return DatabaseCopy(StoredFile(name, sha256, size_bytes, named), dump.tables)

    def _check(self, name: str, sha256: str, recipients: Sequence[Certificate]) -> None:
        path = self.place.path(name)
        try:
            same = sha256_of(path) == sha256
            with path.open("rb") as file:
                require_recipients(self.gpg, name, file.read(_HEAD_BYTES), recipients)
        except BaseException:
            self.place.remove(name)
            raise
        if not same:
            self.place.remove(name)
            raise BackupError(f"backup {name} reads back differently from what was written; check the disk")


def _copied(source: IO[bytes], target: IO[bytes]) -> tuple[str, int]:
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        digest.update(chunk)
        size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes
