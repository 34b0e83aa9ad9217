"""What a key store holds at one moment, and whether that is what was registered."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from keyrotation_pipeline.errors import KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import KeyRecord


@dataclass(frozen=True, slots=True)
class DamagedKey:
    """An entry that holds no key. It hides none of the others."""

    sentence: str


Entry = KeyMaterial | DamagedKey


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """Every key of a store as they stand together at one moment; not to be pickled.

    Args:
        live: what applications get, in order of versions.
        archived: what they do not get, in order; a version that is in both places is live.
        primary: the version that writes use; None before the first was named.
        revision: names this content; a change that is decided from it carries it.
        pending: keys that a writer which died had sent, and which nobody gets until they are added again.
        roster: digest of the roster that is pinned; None in a store that was made before it was kept there.
        compromised: versions that applications are told never to encrypt under again.
    """

    live: Mapping[KeyVersion, Entry]
    archived: Mapping[KeyVersion, Entry]
    primary: KeyVersion | None
    revision: str
    pending: Mapping[KeyVersion, KeyMaterial] = field(default_factory=dict)
    roster: str | None = None
    compromised: frozenset[KeyVersion] = frozenset()

    @classmethod
    def of(
        cls,
        live: Mapping[KeyVersion, Entry],
        archived: Mapping[KeyVersion, Entry],
        primary: KeyVersion | None,
        revision: str | None = None,
        pending: Mapping[KeyVersion, KeyMaterial] | None = None,
        roster: str | None = None,
        compromised: frozenset[KeyVersion] = frozenset(),
    ) -> Self:
        """The entries in order. Without a revision of the store's own, the content gives one."""
        live = dict(sorted(live.items()))
        archived = {version: entry for version, entry in sorted(archived.items()) if version not in live}
        revision = revision or _revision(live, archived, primary, roster, compromised)
        return cls(live, archived, primary, revision, pending or {}, roster, compromised)

    def __contains__(self, version: object) -> bool:
        return version in self.live or version in self.archived

    @property
    def versions(self) -> tuple[KeyVersion, ...]:
        """Every version in the store, live or archived, in order."""
        return tuple(sorted((*self.live, *self.archived)))

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of every key in the store, live or archived."""
        entries = (*self.live.values(), *self.archived.values())
        return frozenset(entry.fingerprint for entry in entries if isinstance(entry, KeyMaterial))

    def material(self, version: KeyVersion) -> KeyMaterial:
        """A live or archived key.

        Raises:
            KeyStoreDamagedError: there is none, or what is there is not a key.
        """
        entry = self.live.get(version) or self.archived.get(version)
        if entry is None:
            raise KeyStoreDamagedError(
                f"the key store holds no {version}; put it back with `keyrotation restore-key {version}`"
            )
        if isinstance(entry, DamagedKey):
            raise KeyStoreDamagedError(entry.sentence)
        return entry

    def ring(self) -> KeyRing:
        """Every live key and the primary.

        Raises:
            KeyStoreDamagedError: there is no primary, it is not live, or one of the live entries is not a key.
        """
        if self.primary is None:
            raise KeyStoreDamagedError("the key store names no primary; run `keyrotation init`")
        if self.primary not in self.live:
            raise KeyStoreDamagedError(
                f"the key store's primary is {self.primary}, whose key is not live there; "
                f"put it back with `keyrotation restore-key {self.primary}`"
            )
        if self.primary in self.compromised:
            raise KeyStoreDamagedError(
                f"the key store names {self.primary} as the primary, which it also calls compromised; name the version "
                "that replaced it there again"
            )
        return KeyRing({version: self.material(version) for version in self.live}, self.primary, self.compromised)

    def registered(self, record: KeyRecord) -> KeyMaterial:
        """The key of a record, live or archived, if it is the registered one by its whole fingerprint.

        Raises:
            KeyStoreDamagedError: it is not there, or another key is in its place.
        """
        material = self.material(record.version)
        if material.fingerprint != record.fingerprint:
            raise KeyStoreDamagedError(
                f"the key store holds another {record.version} ({material.fingerprint[:16]}) than the registered one "
                f"({record.fingerprint[:16]}); find out whose it is, move it away, and run "
                f"`keyrotation restore-key {record.version}`"
            )
        return material


def _revision(
    live: Mapping[KeyVersion, Entry],
    archived: Mapping[KeyVersion, Entry],
    primary: KeyVersion | None,
    roster: str | None,
    compromised: frozenset[KeyVersion],
) -> str:
    """SHA-256 over places, versions, fingerprints, what is compromised and the roster's digest, 64 hex digits."""
    lines = [f"primary {primary}", f"roster {roster}", *(f"compromised {each}" for each in sorted(compromised))]
    for place, entries in (("live", live), ("archived", archived)):
        lines += [f"{place} {version} {_name(entry)}" for version, entry in entries.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _name(entry: Entry) -> str:
    return entry.sentence if isinstance(entry, DamagedKey) else entry.fingerprint
