"""Backups of keys in a directory: one OpenPGP file a key version, and beside it a manifest that says what it is.

``encryption-key-v2-20261124-153000.bin.gpg`` holds what ``gpg --decrypt`` gives back as the base64 of the key and a
newline, as the seed's files do; ``….bin.gpg.json`` holds a `KeyBackup` and the audit head at the time.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from keyrotation_pipeline.adapters.backups.digests import sha256_of
from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.openpgp import Certificate, GnuPG
from keyrotation_pipeline.adapters.openpgp.recipients import require_recipients
from keyrotation_pipeline.errors import BackupError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import KeyBackup, stamp
from keyrotation_pipeline.ports.clock import Clock

_MANIFEST_SCHEMA = 1
DAMAGED_MANIFEST = (BackupError, ValueError, KeyError, TypeError, InvalidKeyError)


class FileVault:
    """`BackupVault` in a local directory.

    Args:
        directory: created when needed, mode 0700.
        recipients: certificate files of who can decrypt.
    """

    def __init__(self, directory: Path, gpg: GnuPG, recipients: Sequence[Path], clock: Clock) -> None:
        self._place = BackupDirectory(directory)
        self._gpg = gpg
        self._recipients = tuple(recipients)
        self._clock = clock

    def store_key(
        self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead, made_at: datetime | None = None
    ) -> KeyBackup:
        """See `BackupVault.store_key`."""
        recipients = [self._gpg.read_certificate(path) for path in self._recipients]
        message = self._gpg.encrypt(f"{material.to_base64()}\n".encode(), recipients)
        made_at = made_at or self._clock.now()
        backup = KeyBackup(
            name=self._free_name(version, made_at),
            version=version,
            sha256=hashlib.sha256(message).hexdigest(),
            fingerprint=material.fingerprint,
            recipients=tuple(recipient.fingerprint for recipient in recipients),
            made_at=made_at,
        )
        self._place.write(backup.name, message)
        self._check(backup, recipients)
        # The manifest comes last: a file without one is not a backup.
        self._place.write(manifest_of(backup.name), _manifest(backup, anchor))
        return backup

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        """See `BackupVault.key_backup`."""
        wanted = (each for each in self._backups(version) if each.fingerprint == fingerprint)
        for backup in newest_first(wanted):
            if self._hash(backup.name) == backup.sha256:
                return backup
        return None

    def _free_name(self, version: KeyVersion, made_at: datetime) -> str:
        stem = f"encryption-key-{version}-{stamp(made_at)}"
        name, again = f"{stem}.bin.gpg", 2
        while self._place.path(name).exists():
            name, again = f"{stem}-{again}.bin.gpg", again + 1
        return name

    def _check(self, backup: KeyBackup, recipients: Sequence[Certificate]) -> None:
        """Read back what was written: the same bytes, for every recipient and for nobody else."""
        if self._hash(backup.name) != backup.sha256:
            raise BackupError(f"backup {backup.name} reads back differently from what was written; check the disk")
        require_recipients(self._gpg, backup.name, self._place.read(backup.name), recipients)

    def _hash(self, name: str) -> str | None:
        try:
            return sha256_of(self._place.path(name))
        except OSError:
            return None

    def _backups(self, version: KeyVersion) -> Iterator[KeyBackup]:
        for name in self._place.names():
            if is_manifest_of(name, version):
                # A damaged manifest vouches for nothing.
                with suppress(*DAMAGED_MANIFEST):
                    yield read_manifest(name, self._place.read(name))


def newest_first(backups: Iterable[KeyBackup]) -> list[KeyBackup]:
    """In order; within a second the later one has the longer name, ``…-2.bin.gpg``."""
    return sorted(backups, key=lambda each: (each.made_at.isoformat(), len(each.name), each.name), reverse=True)


def manifest_of(name: str) -> str:
    """Name of the manifest of one key's file."""
    return f"{name}.json"


def is_manifest_of(name: str, version: KeyVersion) -> bool:
    """Whether a file is the manifest of a backup of `version`."""
    return name.startswith(f"encryption-key-{version}-") and name.endswith(".bin.gpg.json")


def read_manifest(name: str, text: bytes) -> KeyBackup:
    """Read the manifest `name`; damage is one of `DAMAGED_MANIFEST`."""
    return _backup_of(name.removesuffix(".json"), json.loads(text))


def _manifest(backup: KeyBackup, anchor: AuditHead) -> bytes:
    content = {
        "schema": _MANIFEST_SCHEMA,
        "file": backup.name,
        "version": str(backup.version),
        "fingerprint": backup.fingerprint,
        "sha256": backup.sha256,
        "recipients": list(backup.recipients),
        "made_at": backup.made_at.isoformat(),
        "audit": {"seq": anchor.seq, "head": anchor.hash},
    }
    return f"{json.dumps(content, indent=2)}\n".encode()


def _backup_of(name: str, manifest: dict[str, object]) -> KeyBackup:
    return KeyBackup(
        name=name,
        version=KeyVersion.parse(str(manifest["version"])),
        sha256=str(manifest["sha256"]),
        fingerprint=str(manifest["fingerprint"]),
        recipients=tuple(manifest["recipients"]),  # type: ignore[arg-type]
        made_at=datetime.fromisoformat(str(manifest["made_at"])),
    )
