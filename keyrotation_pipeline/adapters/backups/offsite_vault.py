"""Key backups in two places: made in the local directory, then copied; a key counts as backed up only in both."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.key_vault import (
    DAMAGED_MANIFEST,
    FileVault,
    is_manifest_of,
    manifest_of,
    newest_first,
    read_manifest,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import KeyBackup


class OffsitePlace(Protocol):
    """What a further place must do for this."""

    def names(self) -> tuple[str, ...]:
        """See `BackupPlace.names`."""

    def read(self, name: str) -> bytes:
        """See `BackupPlace.read`."""

    def write(self, name: str, content: bytes) -> None:
        """Keep a small file and read it again to see that it is the same."""

    def holds(self, name: str, sha256: str) -> bool:
        """Whether exactly this file is there."""


class OffsiteVault:
    """`BackupVault` over a local one and a place elsewhere.

    Args:
        directory: that of `local`.
    """

    def __init__(self, local: FileVault, directory: BackupDirectory, offsite: OffsitePlace) -> None:
        self._local = local
        self._directory = directory
        self._offsite = offsite

    def store_key(
        self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead, made_at: datetime | None = None
    ) -> KeyBackup:
        """See `BackupVault.store_key`."""
        backup = self._local.store_key(version, material, anchor, made_at)
        # The manifest comes last here, too.
        for name in (backup.name, manifest_of(backup.name)):
            self._offsite.write(name, self._directory.read(name))
        return backup

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        """See `BackupVault.key_backup`: what is only in the local directory is not safe yet, so it does not count."""
        local = self._local.key_backup(version, fingerprint)
        if local is not None and self._offsite.holds(local.name, local.sha256):
            return local
        wanted = (each for each in self._elsewhere(version) if each.fingerprint == fingerprint)
        return next((each for each in newest_first(wanted) if self._offsite.holds(each.name, each.sha256)), None)

    def _elsewhere(self, version: KeyVersion) -> Iterator[KeyBackup]:
        for name in self._offsite.names():
            if is_manifest_of(name, version):
                # A damaged manifest vouches for nothing.
                with suppress(*DAMAGED_MANIFEST):
                    yield read_manifest(name, self._offsite.read(name))
