"""Backs up single keys during a rotation: sets of one key, made in the local directory and copied from there.

``encryption-key-v2-20261124-153000-3fa9c1d2.bin.gpg`` holds the key, ``backup-20261124-153000-3fa9c1d2.json`` describes
it. A key counts as backed up only if every place has it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.backups.catalog import copy_set, new_stamp, sets_of
from keyrotation_pipeline.backups.completeness import backup_status
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import BackupSet, BackupStatus, KeyBackup, KeyCopy, key_backup_in
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.ports.backup_places import BackupPlace, LocalPlace
from keyrotation_pipeline.ports.backups import KeyFiles
from keyrotation_pipeline.ports.clock import Clock


@dataclass(frozen=True, slots=True)
class KeyVault:
    """`BackupVault` over the places of backups.

    Args:
        database: name and system identifier, for the manifests.
        pinned: reads the pinned roster, for the manifests.
    """

    database: str
    local: LocalPlace
    offsite: tuple[BackupPlace, ...]
    key_files: KeyFiles
    clock: Clock
    trust: ManifestTrust
    pinned: Callable[[], Roster | None] = lambda: None

    def store_key(self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead) -> KeyBackup:
        """See `BackupVault.store_key`."""
        roster = self.pinned()
        with new_stamp(self.local, self.clock.now(), self.trust.pipeline) as stamp:
            copy = self.key_files.make(version, material, stamp)
            made = BackupSet(stamp, self.database, (copy,), None, anchor, roster.digest if roster else None)
            self.trust.write(self.local, made)
        for place in self.offsite:
            copy_set(self.local, place, made)
        return key_backup_in(made, copy)

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        """See `BackupVault.key_backup`; if there is a remote place, the local one does not count."""
        needed = self.offsite or (self.local,)
        for made, copy in self._copies(version, fingerprint):
            if all(place.holds(copy.file) for place in needed):
                return key_backup_in(made, copy)
        return None

    def status(self, records: Sequence[KeyRecord]) -> BackupStatus:
        """See `BackupVault.status`."""
        return backup_status((*self.offsite, self.local), self.trust, records)

    def _copies(self, version: KeyVersion, fingerprint: str) -> Iterator[tuple[BackupSet, KeyCopy]]:
        """Yields sets with this key, of each place, newest first; the local ones cost nothing to read."""
        for place in (self.local, *self.offsite):
            for made in sets_of(place, self.trust):
                for copy in made.keys:
                    if (copy.version, copy.fingerprint) == (version, fingerprint):
                        yield made, copy
