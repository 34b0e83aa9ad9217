"""Writes the encrypted files of the backup directory: keys and dumps; plaintext exists only in pipes."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from keyrotation_pipeline.errors import BackupError, DamagedBackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal
from keyrotation_pipeline.model.backups import DatabaseCopy, KeyCopy, StoredFile, configuration_name, key_file_name
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.model.visible_text import is_hidden
from keyrotation_pipeline.ports.backup_places import LocalPlace
from keyrotation_pipeline.ports.backups import DumpSource, Encryptor
from keyrotation_pipeline.regular_files import opened

_CHUNK_BYTES = 1 << 20
# The packets that name the recipients come first.
_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class EncryptedKeys:
    """`KeyFiles`: each holds the base64 of a key, or a sealed key, and a newline, for ``gpg --decrypt``.

    Args:
        seal: returns that of keys in backups.
    """

    place: LocalPlace
    encryptor: Encryptor
    seal: Callable[[], Seal] = lambda: UNSEALED

    def make(self, version: KeyVersion, material: KeyMaterial, stamp: str) -> KeyCopy:
        """See `KeyFiles.make`."""
        seal = self.seal()
        content = f"{seal.text_of(version, material)}\n".encode()
        file = _small(self.place, self.encryptor, key_file_name(version, stamp), content)
        return KeyCopy(version, material.fingerprint, file, seal.name)


@dataclass(frozen=True, slots=True)
class EncryptedConfiguration:
    """`ConfigurationFiles`: a tar, so that ``gpg --decrypt FILE | tar x`` restores every file to its place.

    Args:
        files: the content by its name in the tar.
    """

    place: LocalPlace
    encryptor: Encryptor
    files: Callable[[], Mapping[str, bytes]]

    def make(self, stamp: str) -> StoredFile:
        """See `ConfigurationFiles.make`."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in sorted(self.files().items()):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o600
                tar.addfile(member, io.BytesIO(content))
        return _small(self.place, self.encryptor, configuration_name(stamp), packed.getvalue())


def unpacked(name: str, packed: bytes) -> Mapping[str, bytes]:
    """Reads the files of a configuration's tar into memory: regular files with plain relative names, and nothing else.

    Modes, owners and times are ignored.

    Raises:
        DamagedBackupError: it is not a tar, or holds anything else.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
            for member in tar:
                # A sparse file can be larger than the tar.
                is_file = member.isreg() and member.size <= len(packed) and _is_plain(member.name)
                content = tar.extractfile(member) if is_file and member.name not in found else None
                if content is None:
                    raise DamagedBackupError(
                        f"{name} holds something that is no file of a configuration; name an older backup with --set"
                    )
                found[member.name] = content.read()
    except (tarfile.TarError, EOFError, UnicodeDecodeError):
        raise DamagedBackupError(
            f"{name} decrypts, but is not the tar of a configuration; name an older backup with --set"
        ) from None
    return found


def _is_plain(name: str) -> bool:
    """Returns whether a name is that of a file beneath the directory into which it is unpacked, on every system."""
    return not is_hidden(name) and all(part not in {"", ".", ".."} for part in name.split("/")) and "\\" not in name


@dataclass(frozen=True, slots=True)
class EncryptedDumps:
    """`DatabaseDumps`."""

    place: LocalPlace
    source: DumpSource
    encryptor: Encryptor

    def make(self, name: str, tables: Sequence[EncryptedTable], source: DumpSource | None = None) -> DatabaseCopy:
        """See `DatabaseDumps.make`."""
        recipients = self.encryptor.recipients()
        with (
            # The innermost ends first: gpg, then pg_dump; only if both succeed does the file get its name.
            self.place.receiving(name) as file,
            (source or self.source).dumping(tables) as dump,
            self.encryptor.encrypting(dump.stream) as message,
        ):
            sha256, size_bytes = _copied(message, file)
            counted = dump.counted()
        stored = StoredFile(name, sha256, size_bytes, recipients)
        _require_as_written(self.place, self.encryptor, stored)
        return DatabaseCopy(
            stored, counted.tables, counted.server_major, counted.content, counted.definition, counted.undumped
        )


def _small(place: LocalPlace, encryptor: Encryptor, name: str, content: bytes) -> StoredFile:
    recipients = encryptor.recipients()
    message = encryptor.encrypt(content)
    place.write(name, message)
    file = StoredFile(name, hashlib.sha256(message).hexdigest(), len(message), recipients)
    _require_as_written(place, encryptor, file)
    return file


def _require_as_written(place: LocalPlace, encryptor: Encryptor, file: StoredFile) -> None:
    """Reads back what was written: the same bytes, for every recipient and nobody else; deletes the file otherwise."""
    try:
        _require_same(place, file)
        with opened(place.path(file.name)) as content:
            encryptor.require_addressed(file.name, content.read(_HEAD_BYTES))
    except BaseException:
        place.remove(file.name)
        raise


def _require_same(place: LocalPlace, file: StoredFile) -> None:
    if not place.holds(file):
        raise BackupError(f"backup {file.name} reads back differently from what was written; check the disk")


def _copied(source: IO[bytes], target: IO[bytes]) -> tuple[str, int]:
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        digest.update(chunk)
        size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes
