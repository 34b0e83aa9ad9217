"""Reading backups: manifests, files that are what their manifests say, and the keys in them."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from keyrotation_pipeline.errors import BackupError, DamagedBackupError, FingerprintMismatchError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.backups import BackupSet, KeyCopy, StoredFile, is_manifest
from keyrotation_pipeline.ports.backups import BackupPlace, RecoveryKey

_DAMAGED = (BackupError, ValueError, KeyError, TypeError, AttributeError, InvalidKeyError)
_USE_ANOTHER = "use another copy or an older backup"


@dataclass(frozen=True, slots=True)
class KeptSets:
    """The sets of one place, newest first, and the manifests there that cannot be read."""

    place: BackupPlace
    sets: tuple[BackupSet, ...]
    damaged: tuple[str, ...]

    @property
    def newest(self) -> BackupSet | None:
        """The newest set that has a dump."""
        return next((each for each in self.sets if each.dump is not None), None)


def kept_sets(place: BackupPlace) -> KeptSets:
    """What a place keeps, by its manifests.

    Raises:
        BackupError: the place cannot be read.
    """
    sets, damaged = [], []
    for name in place.names():
        if is_manifest(name):
            try:
                sets.append(BackupSet.from_json(place.read(name)))
            except _DAMAGED:
                damaged.append(name)
    return KeptSets(place, tuple(sorted(sets, key=lambda each: each.made_at, reverse=True)), tuple(damaged))


def key_copies(place: BackupPlace, version: KeyVersion) -> Iterator[KeyCopy]:
    """Every key file of a version in a place, newest first, by the manifest beside each; damaged manifests left out."""
    names = [name for name in place.names() if name.startswith(f"encryption-key-{version}-")]
    # The stamp in the name sorts; within a second the later one has the longer name.
    for name in sorted(names, key=lambda each: (each.split(".")[0].split("-")[3:5], len(each), each), reverse=True):
        if name.endswith(".bin.gpg.json"):
            with suppress(*_DAMAGED):
                yield _key_copy(version, name.removesuffix(".json"), place.read(name))


def is_intact(place: BackupPlace, file: StoredFile) -> bool:
    """Whether a file is there with the hash that its manifest gives."""
    with suppress(BackupError):
        return place.digest(file.name) == file.sha256
    return False


def fetch(place: BackupPlace, file: StoredFile, target: Path) -> None:
    """Copy a file from a place and see that it is the one that the manifest names.

    Raises:
        BackupError: it is not there.
        DamagedBackupError: it is truncated or corrupt.
    """
    place.fetch(file.name, target)
    with target.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    require_same(place, file, target.stat().st_size, sha256)


def read_key(place: BackupPlace, copy: KeyCopy, key: RecoveryKey) -> KeyMaterial:
    """The key in a backup, whose length and fingerprint are as its manifest says.

    Raises:
        BackupError: the file is not there.
        DamagedBackupError, WrongRecipientError, FingerprintMismatchError: it is not what it should be.
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
        DamagedBackupError, WrongRecipientError: it cannot be decrypted, or what it says is not a key of 32 bytes.
    """
    try:
        return KeyMaterial.from_base64(key.decrypt(name, message).decode("ascii"))
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
    if file.size_bytes and size_bytes < file.size_bytes:
        raise DamagedBackupError(
            f"{file.name} in {place.description} is truncated: {size_bytes:,} of {file.size_bytes:,} bytes; "
            f"{_USE_ANOTHER}"
        )
    raise DamagedBackupError(
        f"{file.name} in {place.description} is corrupt: its SHA-256 is not the one in its manifest; {_USE_ANOTHER}"
    )


def _key_copy(version: KeyVersion, name: str, manifest: bytes) -> KeyCopy:
    content = json.loads(manifest)
    if content["version"] != str(version):
        raise ValueError("another version")
    recipients = tuple(map(str, content["recipients"]))
    # These manifests say nothing of the size.
    return KeyCopy(version, str(content["fingerprint"]), StoredFile(name, str(content["sha256"]), 0, recipients))
