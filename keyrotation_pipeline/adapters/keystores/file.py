"""Keys in files: the key store of the embedded default and of single machines.

    keys/            mode 0700
      v2.key         base64 of 32 bytes, mode 0600
      primary        "v2"
      archive/       keys that applications no longer get
        v1.key

A version that a crash left in both places is live, since nothing says yet that its move had been completed; the same
step again completes it.
"""

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from keyrotation_pipeline.adapters.keystores import owner_only
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial

_KEY_FILE = re.compile(rf"({VERSION_PATTERN})\.key")


class FileKeyStore:
    """`ports.KeyStore` in a directory. Processes may share it: each read sees one state, each change happens at once.

    Every method raises KeyStoreError if the directory is missing, if others than the owner could read what is in it,
    or if a file holds something else than it should.

    Args:
        directory: as `create` made it. It may itself be a symbolic link; the files in it may not.
    """

    def __init__(self, directory: Path) -> None:
        self._live = directory.absolute()
        self._archive = self._live / "archive"

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Make the directory, unless it is there, and open it."""
        owner_only.make_directory(directory.absolute())
        return cls(directory)

    @property
    def description(self) -> str:
        """``file <absolute directory>``."""
        return f"file {self._live}"

    def ring(self) -> KeyRing:
        """Every live key and the primary, as they stand together at one moment."""
        with self._reading():
            keys = {version: self._require(self._live, version) for version in _versions_in(self._live)}
            primary = self._primary()
        if primary is None:
            raise KeyStoreError(f"the key store {self._live} names no primary; run `keyrotation init`")
        if primary not in keys:
            raise KeyStoreError(f"{self._live}/primary names {primary}, whose key is not there; restore {primary}.key")
        return KeyRing(keys, primary)

    def versions(self) -> tuple[KeyVersion, ...]:
        """Live versions, in order."""
        with self._reading():
            return _versions_in(self._live)

    def archived(self) -> tuple[KeyVersion, ...]:
        """Archived versions, in order."""
        with self._reading():
            live = _versions_in(self._live)
            return tuple(version for version in _versions_in(self._archive) if version not in live)

    def primary(self) -> KeyVersion | None:
        """The version that writes use; None before the first `set_primary`."""
        with self._reading():
            return self._primary()

    def get(self, version: KeyVersion) -> KeyMaterial:
        """A live or archived key, read afresh."""
        with self._reading():
            return self._either(version)

    def add(self, version: KeyVersion, material: KeyMaterial) -> None:
        """Store a live key. The same key again is no change, also if it is archived: only `restore` brings it back.

        Raises:
            KeyStoreError: a different key is stored under this version, live or archived.
        """
        with self._writing():
            stored = [key for place in (self._live, self._archive) if (key := self._key(place, version)) is not None]
            if any(key != material for key in stored):
                raise KeyStoreError(
                    f"the key store {self._live} holds a different key under {version}; "
                    "no version is used again, so give this key another one"
                )
            if not stored:
                self._put(self._live, version, material)

    def set_primary(self, version: KeyVersion) -> None:
        """Name the version that writes use; it must be live."""
        with self._writing():
            if self._key(self._live, version) is None:
                raise KeyStoreError(
                    f"{version} is not live in {self._live} and cannot be the primary; add its key first"
                )
            if self._primary() != version:
                owner_only.write(self._live / "primary", str(version))

    def archive(self, version: KeyVersion) -> None:
        """Take a key from the applications and keep it in the archive; again is no change; never the primary."""
        with self._writing():
            if version == self._primary():
                raise KeyStoreError(f"{version} is the primary and cannot be archived; name another primary first")
            self._move(version, self._live, self._archive)

    def restore(self, version: KeyVersion) -> None:
        """Give an archived key to the applications again; again is no change."""
        with self._writing():
            self._move(version, self._archive, self._live)

    def destroy(self, version: KeyVersion) -> None:
        """Remove a key from the archive durably; again, or one that was never here, is no change.

        The file is unlinked and not overwritten: journals, snapshots and the wear levelling of flash keep old blocks
        whatever is written over them. Only an encrypted disk makes what may be left of it unreadable.
        """
        with self._writing():
            if version == self._primary() or version in _versions_in(self._live):
                raise KeyStoreError(f"{version} is live in {self._live} and is not destroyed; archive it first")
            for place in filter(Path.is_dir, (self._live, self._archive)):
                owner_only.remove_leftovers(place)
            if (path := _file(self._archive, version)).exists():
                owner_only.remove(path)

    def _reading(self) -> AbstractContextManager[None]:
        return owner_only.locked(self._live, exclusive=False)

    def _writing(self) -> AbstractContextManager[None]:
        return owner_only.locked(self._live, exclusive=True)

    def _move(self, version: KeyVersion, source: Path, target: Path) -> None:
        """Copy, read back, and only then remove the source: the key is whole in one place at every moment."""
        material = self._key(source, version)
        if material is None:
            self._require(target, version)
            return
        existing = self._key(target, version)
        if existing is not None and existing != material:
            raise KeyStoreError(
                f"{_file(source, version)} and {_file(target, version)} hold different keys; "
                f"find out which one encrypted the values under {version} and move the other away"
            )
        if existing is None:
            owner_only.make_directory(target)
            self._put(target, version, material)
        owner_only.remove(_file(source, version))

    def _put(self, place: Path, version: KeyVersion, material: KeyMaterial) -> None:
        owner_only.write(_file(place, version), material.to_base64())
        if self._key(place, version) != material:
            raise KeyStoreError(f"{_file(place, version)} does not read back as written; check the disk")

    def _either(self, version: KeyVersion) -> KeyMaterial:
        material = self._key(self._live, version)
        return self._require(self._archive, version) if material is None else material

    def _require(self, place: Path, version: KeyVersion) -> KeyMaterial:
        material = self._key(place, version)
        if material is None:
            raise KeyStoreError(f"the key store {self._live} holds no {version}; restore it from its backup")
        return material

    def _key(self, place: Path, version: KeyVersion) -> KeyMaterial | None:
        path = _file(place, version)
        text = owner_only.read(path)
        try:
            return None if text is None else KeyMaterial.from_base64(text)
        except InvalidKeyError:
            raise KeyStoreError(f"{path} does not hold the base64 of 32 bytes; restore it from its backup") from None

    def _primary(self) -> KeyVersion | None:
        text = owner_only.read(self._live / "primary")
        try:
            return None if text is None else KeyVersion.parse(text)
        except InvalidKeyError:
            raise KeyStoreError(f"{self._live}/primary does not name a key version; write v1, v2, … there") from None


def _file(place: Path, version: KeyVersion) -> Path:
    return place / f"{version}.key"


def _versions_in(place: Path) -> tuple[KeyVersion, ...]:
    if not place.is_dir():  # nothing has been archived yet
        return ()
    matches = [_KEY_FILE.fullmatch(path.name) for path in place.iterdir()]
    return tuple(sorted(KeyVersion.parse(match[1]) for match in matches if match))
