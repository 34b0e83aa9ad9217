"""Backups of keys in a directory: one OpenPGP file a key version, and beside it a manifest that says what it is.

``encryption-key-v2-20261124-153000.bin.gpg`` holds what ``gpg --decrypt`` gives back as the base64 of the key and a
newline, as the seed's files do; ``….bin.gpg.json`` holds a `KeyBackup` and the audit head at the time.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from keyrotation_pipeline.adapters.openpgp import Certificate, GnuPG
from keyrotation_pipeline.errors import BackupError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.ports import Clock, KeyBackup

_MANIFEST_SCHEMA = 1


class FileVault:
    """`BackupVault` in a local directory.

    Args:
        directory: created when needed, mode 0700.
        recipients: certificate files of who can decrypt.
    """

    def __init__(self, directory: Path, gpg: GnuPG, recipients: Sequence[Path], clock: Clock) -> None:
        self._directory = directory
        self._gpg = gpg
        self._recipients = tuple(recipients)
        self._clock = clock

    def store_key(self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead) -> KeyBackup:
        """See `BackupVault.store_key`."""
        recipients = [self._gpg.read_certificate(path) for path in self._recipients]
        message = self._gpg.encrypt(f"{material.to_base64()}\n".encode(), recipients)
        backup = KeyBackup(
            name=self._free_name(version, made_at := self._clock.now()),
            version=version,
            sha256=hashlib.sha256(message).hexdigest(),
            fingerprint=material.fingerprint,
            recipients=tuple(recipient.fingerprint for recipient in recipients),
            made_at=made_at,
        )
        self._write(backup.name, message)
        self._check(backup, recipients)
        # The manifest comes last: a file without one is not a backup.
        self._write(f"{backup.name}.json", _manifest_of(backup, anchor))
        return backup

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        """See `BackupVault.key_backup`."""
        wanted = (each for each in self._backups(version) if each.fingerprint == fingerprint)
        # Within a second the later one has the longer name, `…-2.bin.gpg`.
        for backup in sorted(
            wanted, key=lambda each: (each.made_at.isoformat(), len(each.name), each.name), reverse=True
        ):
            if self._hash(backup.name) == backup.sha256:
                return backup
        return None

    def _free_name(self, version: KeyVersion, made_at: datetime) -> str:
        stem = f"encryption-key-{version}-{made_at:%Y%m%d-%H%M%S}"
        name, again = f"{stem}.bin.gpg", 2
        while (self._directory / name).exists():
            name, again = f"{stem}-{again}.bin.gpg", again + 1
        return name

    def _write(self, name: str, content: bytes) -> None:
        """Write durably under a name that is complete whenever it is there, mode 0600."""
        beside = self._directory / f".{name}.tmp"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._directory / name)
            directory = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise BackupError(
                f"backup {name} cannot be written to {self._directory} ({error.strerror}); mend that and run it again"
            ) from None

    def _check(self, backup: KeyBackup, recipients: Sequence[Certificate]) -> None:
        """Read back what was written: the same bytes, for every recipient and for nobody else."""
        if self._hash(backup.name) != backup.sha256:
            raise BackupError(f"backup {backup.name} reads back differently from what was written; check the disk")
        named = set(self._gpg.recipient_keys((self._directory / backup.name).read_bytes()))
        missing = [each for each in recipients if named.isdisjoint(each.encryption_keys)]
        if missing:
            raise BackupError(f"backup {backup.name} cannot be decrypted with {missing[0].label}; export it again")
        if strangers := named.difference(*(each.encryption_keys for each in recipients)):
            raise BackupError(f"backup {backup.name} is encrypted to the unknown key {min(strangers)}; look into gpg")

    def _hash(self, name: str) -> str | None:
        try:
            return hashlib.sha256((self._directory / name).read_bytes()).hexdigest()
        except OSError:
            return None

    def _backups(self, version: KeyVersion) -> Iterator[KeyBackup]:
        for path in self._directory.glob(f"encryption-key-{version}-*.bin.gpg.json"):
            try:
                yield _backup_of(path.name.removesuffix(".json"), json.loads(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, InvalidKeyError):
                # A damaged manifest vouches for nothing.
                continue


def _manifest_of(backup: KeyBackup, anchor: AuditHead) -> bytes:
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
