"""A key store in two dictionaries."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from keyrotation_pipeline.adapters.keystores import changes
from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry, StoredKeys, StoreOwner
from keyrotation_pipeline_tests.fakes.journal import OWNER, Journal


@dataclass
class FakeKeyStore:
    """`KeyStore` in two dictionaries. Each move of a key is two changes, between which it can die.

    After a change that was answered, reads are no longer late: an adapter waits until it sees what it changed.
    A test may leave the revision out, and then means the present one.

    Args:
        unavailable, damaged: what every call then says.
        shown: what reads show while they are late; None: the present.
        loses_answer: the next change is made, and whoever asked for it does not learn so.
        broken: live versions whose entry is not a key.
        sent: what a writer that died had sent.
        reads: how often the store was read.
        undelivered: why the application's list is not that of the live keys; every change writes it, as in Kubernetes.
        descriptions: what came with each change that takes one.
    """

    live: dict[KeyVersion, KeyMaterial]
    primary_version: KeyVersion | None
    journal: Journal = field(default_factory=Journal)
    shelf: dict[KeyVersion, KeyMaterial] = field(default_factory=dict)
    description: str = "fake key store"
    residual_copies: str | None = None
    unavailable: str | None = None
    damaged: str | None = None
    shown: StoredKeys | None = None
    loses_answer: bool = False
    broken: set[KeyVersion] = field(default_factory=set)
    sent: dict[KeyVersion, KeyMaterial] = field(default_factory=dict)
    reads: int = 0
    descriptions: list[str] = field(default_factory=list)
    owner: StoreOwner | None = None
    compromised: frozenset[KeyVersion] = frozenset()
    undelivered: str | None = None
    sealed_by: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def place_of(self, version: KeyVersion) -> str:
        return f"entry {version} of the fake key store"

    def preflight(self) -> tuple[Problem, ...]:
        return ()

    def made(self, version: KeyVersion) -> None:  # noqa: ARG002
        return

    def wrapping_key(self) -> None:
        return

    def offer_canary(self, canary: KeyMaterial, revision: str) -> StoredKeys:
        raise NotImplementedError

    def reseal(self, revision: str) -> StoredKeys:
        raise NotImplementedError

    def read(self) -> StoredKeys:
        self.reads += 1
        present = self.contents()
        return present if self.shown is None else self.shown

    def be_late(self) -> None:
        """From now on reads show the store as it is now, until a change of it is seen or `shown` is None again."""
        self.shown = self.contents()

    def add(
        self, version: KeyVersion, material: KeyMaterial, revision: str | None = None, *, archived: bool = False
    ) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_adding(stored, version, material, decided):
                self.journal.note(f"keys.add {version}")
                (self.shelf if archived else self.live)[version] = material
        return self.contents()

    def replace(self, version: KeyVersion, material: KeyMaterial, revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_replacing(stored, version, material, decided):
                self.journal.note(f"keys.replace {version}")
                self.live[version] = material
        return self.contents()

    def set_primary(self, version: KeyVersion, revision: str | None = None, description: str = "") -> StoredKeys:
        self.descriptions.append(description)
        with self._changing(revision) as (stored, decided):
            if changes.needs_promoting(stored, version, decided):
                self.journal.note(f"keys.set_primary {version}")
                self.primary_version = version
        return self.contents()

    def archive(self, version: KeyVersion, revision: str | None = None, description: str = "") -> StoredKeys:
        self.descriptions.append(description)
        with self._changing(revision) as (stored, decided):
            if changes.needs_archiving(stored, version, decided):
                self.journal.note(f"keys.archive {version}")
                self._move(version, self.live, self.shelf)
        return self.contents()

    def restore(self, version: KeyVersion, revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_restoring(stored, version, decided) or version in self.shelf:
                self.journal.note(f"keys.restore {version}")
                self._move(version, self.shelf, self.live)
        return self.contents()

    def destroy(self, version: KeyVersion, revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_destroying(stored, version, decided):
                self.journal.note(f"keys.destroy {version}")
                del self.shelf[version]
        return self.contents()

    def name_owner(self, owner: StoreOwner, revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_naming(stored, owner, decided):
                self.journal.note("keys.name_owner")
                self.owner = owner
        return self.contents()

    @property
    def roster(self) -> str | None:
        return None if self.owner is None else self.owner.roster

    @roster.setter
    def roster(self, digest: str | None) -> None:
        self.owner = None if digest is None else replace(self.owner or OWNER, roster=digest)

    def publish_compromised(self, versions: frozenset[KeyVersion], revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_publishing(stored, versions, decided):
                self.journal.note("keys.publish_compromised")
                self.compromised |= versions
        return self.contents()

    @contextmanager
    def _changing(self, revision: str | None) -> Iterator[tuple[StoredKeys, str]]:
        with self.lock:
            stored = self.contents()
            yield stored, revision or stored.revision
            self.undelivered = self.shown = None
            if self.loses_answer:
                self.loses_answer = False
                raise KeyStoreUnavailableError("the fake key store has not answered; try again")

    def _move(
        self, version: KeyVersion, source: dict[KeyVersion, KeyMaterial], target: dict[KeyVersion, KeyMaterial]
    ) -> None:
        target[version] = source[version]
        self.journal.note(f"keys.move {version}")
        del source[version]

    def contents(self) -> StoredKeys:
        """What it holds, late or not, without a read that would count."""
        if self.unavailable is not None:
            raise KeyStoreUnavailableError(self.unavailable)
        if self.damaged is not None:
            raise KeyStoreDamagedError(self.damaged)
        broken = {version: DamagedKey(f"{version} is not a key; restore it") for version in self.broken}
        live: dict[KeyVersion, KeyEntry] = {**self.live, **broken}
        stored = StoredKeys.of(
            live,
            self.shelf,
            self.primary_version,
            pending=self.sent,
            owner=self.owner,
            compromised=self.compromised,
        )
        return replace(stored, undelivered=self.undelivered)

    def __reduce__(self) -> tuple[Callable[[int], "FakeKeyStore"], tuple[int]]:
        # What travels is how to find it: this process keeps every fake that was pickled.
        _PICKLED[id(self)] = self
        return _pickled, (id(self),)

    # For tests: what is in it, without a read that would count.
    def versions(self) -> tuple[KeyVersion, ...]:
        return tuple(self.contents().live)

    def archived(self) -> tuple[KeyVersion, ...]:
        return tuple(self.contents().archived)

    def primary(self) -> KeyVersion | None:
        return self.primary_version

    def get(self, version: KeyVersion) -> KeyMaterial:
        return self.contents().material(version)


_PICKLED: dict[int, FakeKeyStore] = {}


def _pickled(number: int) -> FakeKeyStore:
    return _PICKLED[number]
