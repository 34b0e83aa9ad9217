"""Reads backups: files that match their manifests, and the keys in them."""

import hashlib
from pathlib import Path

from keyrotation_pipeline.errors import DamagedBackupError, FingerprintMismatchError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.backups import KeyCopy, StoredFile
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import RecoveryKey

_USE_ANOTHER = "use another copy or an older backup"


def fetch(place: BackupPlace, file: StoredFile, target: Path) -> None:
    """Copy a file from a place and check that it is the one that the manifest names.

    Raises:
        BackupError: the file is missing.
        DamagedBackupError: it is truncated or corrupt.
    """
    place.fetch(file.name, target)
    with target.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    require_same(place, file, target.stat().st_size, sha256)


def read_key(place: BackupPlace, copy: KeyCopy, key: RecoveryKey) -> KeyMaterial:
    """Read the key in a backup, and check its length and fingerprint against the manifest.

    Raises:
        BackupError: the file is missing.
        DamagedBackupError, WrongRecipientError, FingerprintMismatchError: it is not the key of the manifest.
    """
    message = place.read(copy.file.name)
    require_same(place, copy.file, len(message), hashlib.sha256(message).hexdigest())
    material = key_in(copy.file.name, message, key)
    if material.fingerprint != copy.fingerprint:
        raise FingerprintMismatchError(
            f"{copy.file.name} holds the key {material.fingerprint[:16]}, but its manifest says "
            f"{copy.fingerprint[:16]}; {_USE_ANOTHER}"
        )
    return material


def key_in(name: str, message: bytes, key: RecoveryKey) -> KeyMaterial:
    """The key that an encrypted file holds, as ``gpg --decrypt`` would print it.

    Raises:
        DamagedBackupError, WrongRecipientError: it cannot be decrypted, or the content is not a key of 32 bytes.
    """
    try:
        return key_from_base64(key.decrypt(name, message).decode("ascii"))
    except (InvalidKeyError, UnicodeDecodeError):
        pass
    raise DamagedBackupError(f"{name} decrypts, but not to the base64 of 32 bytes, so it holds no key; {_USE_ANOTHER}")


def require_same(place: BackupPlace, file: StoredFile, size_bytes: int, sha256: str) -> None:
    """Refuse a file that is not the one that its manifest names.

    Raises:
        DamagedBackupError: says whether it is cut off or altered.
    """
    if sha256 == file.sha256:
        return
    if size_bytes < file.size_bytes:
        raise DamagedBackupError(
            f"{file.name} in {place.description} is truncated: {size_bytes:,} of {file.size_bytes:,} bytes; "
            f"{_USE_ANOTHER}"
        )
    raise DamagedBackupError(
        f"{file.name} in {place.description} is corrupt: its SHA-256 is not the one in its manifest; {_USE_ANOTHER}"
    )
