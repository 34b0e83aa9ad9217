"""Stores keys in files: the key store of the embedded default and of single machines.

    keys/            mode 0700
      v2.key         base64 of 32 bytes, or a sealed key, mode 0600
      primary        "v2"
      compromised    "v1", only after a compromise: versions that nothing is encrypted under again
      canary         under a seal: a key that encrypts nothing, which each instance opens before its own are sealed
      owner          whose the keys are: home, databases, pinned roster, and the audit at the last change (JSON)
      application.env   only for an application with a library of its own: the live keys in that library's notation
      archive/       keys that applications no longer get
        v1.key

A version that a crash left in both places is live, since nothing says yet that its move was completed; repeating the
step completes it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

from keyrotation_pipeline.adapters.keystores import changes, owner_only
from keyrotation_pipeline.adapters.keystores.key_list import in_order
from keyrotation_pipeline.adapters.keystores.named_versions import (
    compromised_named,
    owner_named,
    primary_named,
    text_of_owner,
)
from keyrotation_pipeline.adapters.keystores.seal_checks import seal_problems
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import BARE_KEYS, KeyNotation
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import versions_as_text
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY, WrappingKeyState
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry, StoredKeys, StoreOwner

APPLICATION_FILE = "application.env"
# As much as a secret in AWS holds; a variable of a process may have twice as much.
MOST_LIST_BYTES = 65_536
_MOST_OWNER_BYTES = 65_536
First = Callable[[StoredKeys], None]
_Key = TypeVar("_Key", KeyMaterial, KeyMaterial | None)
_KEY_FILE = re.compile(rf"({VERSION_PATTERN})\.key")


class FileKeyStore:
    """`ports.KeyStore` in a directory. Processes may share it: each read sees one state, each change is atomic.

    A directory that is missing or open to other users is damaged; one that the operating system does not let us enter
    or write to is unavailable.

    Args:
        directory: as `create` made it. It may itself be a symbolic link; the files in it may not.
        variable: the name under which an application with a library of its own reads its list of keys.
        notation: of that list.
        seal: of the key files.
    """

    def __init__(
        self,
        directory: Path,
        variable: str | None = None,
        notation: KeyNotation = BARE_KEYS,
        seal: Seal = UNSEALED,
    ) -> None:
        self._live = directory.absolute()
        self._variable, self._notation, self._seal = variable, notation, seal
        self._archive = self._live / "archive"
        self._primary_file = self._live / "primary"
        self._owner_file = self._live / "owner"
        self._roster_file = self._live / "roster"  # of earlier versions
        self._compromised_file = self._live / "compromised"
        self._canary_file = self._live / CANARY

    @classmethod
    def create(cls, directory: Path, variable: str | None = None, notation: KeyNotation = BARE_KEYS) -> Self:
        """Creates the directory unless it exists, and opens it."""
        owner_only.make_directory(directory.absolute())
        return cls(directory, variable, notation)

    @property
    def description(self) -> str:
        """``file <absolute directory>``, and its seal."""
        return f"file {self._live}{self._seal.description}"

    @property
    def residual_copies(self) -> None:
        """See `KeyStore.residual_copies`."""
        return

    def place_of(self, version: KeyVersion) -> str:
        """``file <path of the key file>``."""
        return f"file {_file(self._live, version)}"

    def preflight(self) -> tuple[Problem, ...]:
        """See `KeyStore.preflight`."""
        return tuple(seal_problems(self._seal, self.read().unsealed)) if self._seal.wrapping else ()

    def read(self) -> StoredKeys:
        """Reads everything in the directory, under one lock. A key file that holds no key does not hide the others."""
        with owner_only.locked(self._live, exclusive=False):
            stored = self._stored()
        if self._is_delivered(stored):
            return stored
        # A process died between a change and its delivery.
        with self._changing() as stored:
            return stored

    def made(self, version: KeyVersion) -> None:  # noqa: ARG002
        """See `KeyStore.made`."""
        return

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str, *, archived: bool = False) -> StoredKeys:
        """Stores a live key, or one that is archived from the start."""
        with self._changing() as stored:
            # If it is in both places, the archived one may still differ.
            if (archived_key := self._key(self._archive, version)) is not None and archived_key != material:
                raise changes.different(version)
            if changes.needs_adding(stored, version, material, revision):
                place = self._archive if archived else self._live
                if not archived:
                    self._require_deliverable(_with(stored, version, material), version)
                owner_only.make_directory(place)
                self._put(place, version, material)
            return self._stored()

    def replace(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:
        """Replaces a live key by another, with one rename."""
        with self._changing() as stored:
            if changes.needs_replacing(stored, version, material, revision):
                self._require_deliverable(_with(stored, version, material), version)
                self._put(self._live, version, material)
            return self._stored()

    def set_primary(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:  # noqa: ARG002
        """Names the version that writes use; it must be live."""
        with self._changing() as stored:
            if changes.needs_promoting(stored, version, revision):
                self._require_deliverable(replace(stored, primary=version), version)
                owner_only.write(self._primary_file, str(version))
            return self._stored()

    def archive(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:  # noqa: ARG002
        """Withdraws a key from the applications and stores it in the archive; never the primary."""
        with self._changing() as stored:
            if changes.needs_archiving(stored, version, revision):
                self._move(version, self._live, self._archive)
            return self._stored()

    def restore(self, version: KeyVersion, revision: str, first: First = lambda _: None) -> StoredKeys:
        """Gives an archived key to the applications again.

        Args:
            first: is done once it is decided that the key comes back, before it does, under the lock.
        """
        with self._changing() as stored:
            # An archived copy of a live key was left by an interrupted restore.
            left = self._key(self._archive, version) is not None
            if changes.needs_restoring(stored, version, revision) or left:
                restored = self._require(self._archive, version)
                self._require_deliverable(_with(stored, version, restored), version)
                first(stored)
                self._move(version, self._archive, self._live)
            return self._stored()

    def destroy(self, version: KeyVersion, revision: str, first: First = lambda _: None) -> StoredKeys:
        """Removes a key from the archive durably; repeating it, or removing one that was never here, changes nothing.

        The file is unlinked and not overwritten: journals, snapshots and the wear levelling of flash keep old blocks
        whatever is written over them. Only an encrypted disk makes the remains unreadable.

        Args:
            first: is done once it is decided that the key goes, before it does, under the lock.
        """
        with self._changing() as stored:
            wanted = changes.needs_destroying(stored, version, revision)
            for place in filter(Path.is_dir, (self._live, self._archive)):
                owner_only.remove_leftovers(place)
            if wanted:
                first(stored)
                owner_only.remove(_file(self._archive, version))
            return self._stored()

    def publish_compromised(self, versions: frozenset[KeyVersion], revision: str) -> StoredKeys:
        """See `KeyStore.publish_compromised`."""
        with self._changing() as stored:
            if changes.needs_publishing(stored, versions, revision):
                owner_only.write(self._compromised_file, versions_as_text(stored.compromised | versions))
            return self._stored()

    @property
    def sealed_by(self) -> str:
        """See `KeyStore.sealed_by`."""
        return self._seal.name

    def wrapping_key(self) -> WrappingKeyState | None:
        """See `KeyStore.wrapping_key`."""
        return self._seal.state()

    def offer_canary(self, canary: KeyMaterial, revision: str) -> StoredKeys:
        """See `KeyStore.offer_canary`."""
        with self._changing() as stored:
            if changes.needs_canary(stored, canary, revision):
                owner_only.write(self._canary_file, self._seal.text_of(CANARY, canary))
            return self._stored()

    def reseal(self, revision: str) -> StoredKeys:
        """See `KeyStore.reseal`."""
        with self._changing() as stored:
            if changes.needs_resealing(stored, revision):
                for version in stored.unsealed:
                    for place in (self._live, self._archive):
                        if (material := self._key(place, version)) is not None:
                            self._put(place, version, material)
                if self._is_exposed:
                    owner_only.remove(self._live / APPLICATION_FILE)
            return self._stored()

    @property
    def _is_exposed(self) -> bool:
        """Whether the application's list from before the seal is there, with all live keys."""
        return self._variable is not None and (self._live / APPLICATION_FILE).exists()

    def name_owner(self, owner: StoreOwner, revision: str) -> StoredKeys:
        """Stores whose the keys are."""
        with self._changing() as stored:
            if changes.needs_naming(stored, owner, revision):
                owner_only.write(self._owner_file, text_of_owner(owner))
            if self._roster_file.exists():
                owner_only.remove(self._roster_file)
            return self._stored()

    @contextmanager
    def _changing(self) -> Iterator[StoredKeys]:
        with owner_only.locked(self._live, exclusive=True):
            yield self._stored()
            if not self._is_delivered(stored := self._stored()):
                owner_only.write(self._live / APPLICATION_FILE, self._delivery(stored))

    def _is_delivered(self, stored: StoredKeys) -> bool:
        """Returns whether the application's file has the live keys; true where there is none, or none can be made."""
        delivery = self._delivery(stored)
        return not delivery or owner_only.read(self._live / APPLICATION_FILE, MOST_LIST_BYTES) == delivery

    def _require_deliverable(self, after: StoredKeys, version: KeyVersion) -> None:
        """Refuses a version with which the application's file would have more than is read of it."""
        if len(self._delivery(after)) >= MOST_LIST_BYTES:
            raise KeyStoreError(
                f"{self._live / APPLICATION_FILE} would hold more than {MOST_LIST_BYTES:,} bytes with {version}; "
                "finish a rotation, which withdraws older keys, then run the same again"
            )

    def _delivery(self, stored: StoredKeys) -> str:
        """Returns ``NAME=new,old``: the primary where it encrypts, then the others, the newest next to it."""
        if self._variable is None or self._seal.wrapping is not None:  # `keyrotation exec` delivers it
            return ""
        if (keys := in_order(stored.live, stored.primary)) is None:
            return ""
        return f"{self._variable}={self._notation.text_of(keys)}"

    def _stored(self) -> StoredKeys:
        stored = StoredKeys.of(
            self._entries(self._live),
            self._entries(self._archive),
            primary_named(owner_only.read(self._primary_file), str(self._primary_file)),
            roster=owner_only.read(self._roster_file),
            compromised=compromised_named(owner_only.read(self._compromised_file), str(self._compromised_file)),
            owner=owner_named(owner_only.read(self._owner_file, _MOST_OWNER_BYTES), str(self._owner_file)),
        )
        if self._seal.wrapping is None:
            return stored
        return stored.under(self._seal.name, self._unsealed(), self._seal.canary_of(owner_only.read(self._canary_file)))

    def _unsealed(self) -> Iterator[KeyVersion]:
        if self._is_exposed:
            yield from _versions_in(self._live)
        for place in (self._live, self._archive):
            for version in _versions_in(place):
                with suppress(KeyStoreDamagedError):  # which the entry itself says
                    if not self._seal.is_under(owner_only.read(_file(place, version)) or ""):
                        yield version

    def _entries(self, place: Path) -> dict[KeyVersion, KeyEntry]:
        return {version: self._entry(place, version) for version in _versions_in(place)}

    def _entry(self, place: Path, version: KeyVersion) -> KeyEntry:
        try:
            return self._required(version, place)
        except InvalidKeyError as error:
            return DamagedKey.of(str(_file(place, version)), version, error, "move it away")
        except KeyStoreDamagedError as error:
            return DamagedKey(str(error))

    def _move(self, version: KeyVersion, source: Path, target: Path) -> None:
        """Copies, reads back, and only then removes the source: the key is complete in one place at every moment."""
        material, existing = self._require(source, version), self._key(target, version)
        if existing is not None and existing != material:
            raise KeyStoreDamagedError(
                f"{_file(source, version)} and {_file(target, version)} hold different keys; "
                f"find out which one encrypted the values under {version} and move the other away"
            )
        if existing is None:
            owner_only.make_directory(target)
            self._put(target, version, material)
        owner_only.remove(_file(source, version))

    def _put(self, place: Path, version: KeyVersion, material: KeyMaterial) -> None:
        owner_only.write(_file(place, version), self._seal.text_of(version, material))
        if self._key(place, version) != material:
            raise KeyStoreDamagedError(f"{_file(place, version)} does not read back as written; check the disk")

    def _require(self, place: Path, version: KeyVersion) -> KeyMaterial:
        return self._whole(place, version, self._required)

    def _required(self, version: KeyVersion, place: Path) -> KeyMaterial:
        material = self._opened(version, place)
        if material is None:
            raise KeyStoreDamagedError(
                f"{_file(place, version)} is missing; restore it with `keyrotation restore-key {version}`"
            )
        return material

    def _key(self, place: Path, version: KeyVersion) -> KeyMaterial | None:
        return self._whole(place, version, self._opened)

    def _opened(self, version: KeyVersion, place: Path) -> KeyMaterial | None:
        text = owner_only.read(_file(place, version))
        return None if text is None else self._seal.key_of(version, text)

    def _whole(self, place: Path, version: KeyVersion, read: Callable[[KeyVersion, Path], _Key]) -> _Key:
        try:
            return read(version, place)
        except InvalidKeyError as error:
            damaged = DamagedKey.of(str(_file(place, version)), version, error, "move it away")
            raise KeyStoreDamagedError(damaged.sentence(recovery_key_named=True)) from None


def _with(stored: StoredKeys, version: KeyVersion, material: KeyMaterial) -> StoredKeys:
    return replace(stored, live={**stored.live, version: material})


def _file(place: Path, version: KeyVersion) -> Path:
    return place / f"{version}.key"


def _versions_in(place: Path) -> tuple[KeyVersion, ...]:
    matches = [_KEY_FILE.fullmatch(name) for name in owner_only.names(place)]
    return tuple(KeyVersion.parse(match[1]) for match in matches if match)
