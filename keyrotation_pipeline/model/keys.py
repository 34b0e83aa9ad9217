"""Key versions: their records and states (NIST SP 800-57), the stored keys, their usage and cryptoperiod."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Self

from keyrotation_pipeline.errors import (
    BrokenSealError,
    InvalidKeyError,
    KeyStoreDamagedError,
    MissingSourceKeyError,
)
from keyrotation_pipeline.fieldcrypto.grammar import FIRST, PLAINTEXT, SECOND, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing, in_both_generations, versions_as_text
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.fieldcrypto.wrapping_keys import Origin
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.requests import Request, RequestAction, Step, Walk


class KeyState(StrEnum):
    """State of one key version."""

    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    ARCHIVED = "archived"
    DESTROYED = "destroyed"
    COMPROMISED = "compromised"


# To deactivated also from pre-activation and archived: where a database was restored to an earlier state, its rows may
# be under a version that is neither primary nor, in the key store, still live.
ALLOWED_TRANSITIONS: dict[KeyState, frozenset[KeyState]] = {
    KeyState.PRE_ACTIVATION: frozenset(
        {KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.ARCHIVED, KeyState.COMPROMISED}
    ),
    KeyState.ACTIVE: frozenset({KeyState.DEACTIVATED, KeyState.COMPROMISED}),
    # A rollback makes an earlier version primary again.
    KeyState.DEACTIVATED: frozenset({KeyState.ARCHIVED, KeyState.ACTIVE, KeyState.COMPROMISED}),
    KeyState.ARCHIVED: frozenset({KeyState.DESTROYED, KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.COMPROMISED}),
    KeyState.COMPROMISED: frozenset({KeyState.DESTROYED}),
    KeyState.DESTROYED: frozenset(),
}

# Never the primary again; only officers' signatures lead there.
LOST = frozenset({KeyState.COMPROMISED, KeyState.DESTROYED})
# Applications have it, and values are under it.
IN_USE = frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED})
# Applications had it, and were seen to be without it.
GONE = frozenset({KeyState.ARCHIVED, KeyState.DESTROYED})
# Its key may be in the archive of the key store alone; a compromised one stays compromised wherever that is.
SHELVED = frozenset({KeyState.ARCHIVED, KeyState.COMPROMISED, KeyState.DESTROYED})


@dataclass(frozen=True, slots=True)
class KeyMade:
    """The result of the step `key_version`: a key that reads back, and its backup.

    Args:
        from_archive: it was used before, and was restored from the archive of the key store.
    """

    version: KeyVersion
    fingerprint: str
    backup: str
    backup_sha256: str
    recipients: tuple[str, ...]
    from_archive: bool = False


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The record of a key version: never the key.

    Args:
        fingerprint: 64 hex digits, SHA-256 over a fixed label and the key; shown as its first 16.
    """

    version: KeyVersion
    state: KeyState
    fingerprint: str
    created_at: datetime


def active_version(records: Iterable[KeyRecord]) -> KeyVersion | None:
    """The version that is active; None: none is, such as before `init`, or where the primary is compromised."""
    return next((each.version for each in records if each.state is KeyState.ACTIVE), None)


def other_generation(version: KeyVersion, fingerprint: str, records: Iterable[KeyRecord]) -> KeyVersion | None:
    """Returns a registered version of the other generation that has the same number or key: no key may serve both."""
    return next(
        (
            each.version
            for each in records
            if each.version.generation != version.generation
            and (each.version == version.other_generation or each.fingerprint == fingerprint)
        ),
        None,
    )


@dataclass(frozen=True, slots=True)
class DamagedKey:
    """An entry that holds no valid key. It does not hide the others.

    Args:
        message: what is wrong, and what to do first.
        lost: the version that is then to be restored; None: the message says all.
    """

    message: str
    lost: KeyVersion | None = None

    @classmethod
    def of(cls, place: str, version: KeyVersion, error: InvalidKeyError, remedy: str = "remove it") -> Self:
        """A text in a place of a store that holds no key."""
        if isinstance(error, BrokenSealError):
            return cls(f"{place} {error}")
        return cls(f"{place} does not hold the base64 of 32 bytes; {remedy}", version)

    def sentence(self, *, recovery_key_named: bool) -> str:
        """What is wrong, and everything that is to be done."""
        if self.lost is None:
            return self.message
        return f"{self.message}, then run {restore_command(self.lost, recovery_key_named=recovery_key_named)}"


def restore_command(*versions: KeyVersion | str, recovery_key_named: bool) -> str:
    """What restores keys; with the file of the recovery key, where the configuration does not say where it is."""
    option = "" if recovery_key_named else " --key FILE"
    return f"`keyrotation restore-key {' '.join(map(str, versions))}{option}`"


KeyEntry = KeyMaterial | DamagedKey


@dataclass(frozen=True, slots=True)
class StoreOwner:
    """Whose a key store is, as it says itself.

    Args:
        home: id of the home, 32 hex digits.
        places: the databases whose values are under its keys, each with system identifier and schema.
        roster: digest of the roster that is pinned.
        head: the newest event of the audit of whoever changed the store last, when it was about to.
    """

    home: str
    places: tuple[str, ...]
    roster: str
    head: AuditHead


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """A snapshot of every key in a store; not to be pickled.

    Args:
        live: what applications get, in order of versions.
        archived: what they no longer get, in order; a version that is in both places is live.
        primary: the version that writes use; None before the first was named.
        revision: identifies this content; a change based on it carries it.
        pending: keys from an interrupted write, which nobody gets until they are added again.
        owner: whose it is; None: it does not say so, as one from before that was stored there.
        roster: digest of the roster that is pinned, by `owner`, or as earlier versions stored it.
        compromised: versions that applications must never encrypt under again.
        left_behind: archived versions whose key an earlier state of the store still gives; a sentence each.
        undelivered: why the application's own list is not that of the live keys; None: it is, or there is none.
        foreign: that this list also holds keys which are not in the store; None: it holds none.
        sealed_by: kind and name of the wrapping key that the configuration names; empty: it names none.
        unsealed: versions that are not stored under that, in order.
        canary: a key that encrypts nothing, under that, which applications open before theirs are sealed.
        unversioned: it is one plain key, to which nothing is added, an owner neither, before it is converted.
    """

    live: Mapping[KeyVersion, KeyEntry]
    archived: Mapping[KeyVersion, KeyEntry]
    primary: KeyVersion | None
    revision: str
    pending: Mapping[KeyVersion, KeyMaterial] = field(default_factory=dict)
    roster: str | None = None
    compromised: frozenset[KeyVersion] = frozenset()
    left_behind: Mapping[KeyVersion, str] = field(default_factory=dict)
    undelivered: str | None = None
    foreign: str | None = None
    owner: StoreOwner | None = None
    unversioned: bool = False
    sealed_by: str = ""
    unsealed: tuple[KeyVersion, ...] = ()
    canary: KeyMaterial | None = None
    recovery_key_named: bool = True

    def under(self, sealed_by: str, unsealed: Iterable[KeyVersion], canary: KeyMaterial | None) -> Self:
        """The same with what is sealed."""
        return replace(self, sealed_by=sealed_by, unsealed=tuple(sorted(set(unsealed))), canary=canary)

    @classmethod
    def of(
        cls,
        live: Mapping[KeyVersion, KeyEntry],
        archived: Mapping[KeyVersion, KeyEntry],
        primary: KeyVersion | None,
        revision: str | None = None,
        pending: Mapping[KeyVersion, KeyMaterial] | None = None,
        roster: str | None = None,
        compromised: frozenset[KeyVersion] = frozenset(),
        left_behind: Mapping[KeyVersion, str] | None = None,
        owner: StoreOwner | None = None,
    ) -> Self:
        """The entries in order. Without a revision of the store's own, the content gives one."""
        live = dict(sorted(live.items()))
        archived = {version: entry for version, entry in sorted(archived.items()) if version not in live}
        if misused := in_both_generations({**live, **archived}):
            # Neither is given to anybody. Which of them is right, the registered fingerprints say.
            both = DamagedKey(
                f"the key store holds {' and '.join(map(str, misused))}, one number or one key in both "
                "generations of the format; move away the one that `keyrotation status` does not show"
            )
            live, archived = (
                {version: both if version in misused else entry for version, entry in entries.items()}
                for entries in (live, archived)
            )
        revision = revision or _revision(live, archived, primary, owner or roster, compromised)
        roster = roster if owner is None else owner.roster
        return cls(
            live, archived, primary, revision, pending or {}, roster, compromised, left_behind or {}, owner=owner
        )

    def __contains__(self, version: object) -> bool:
        return version in self.live or version in self.archived

    @property
    def versions(self) -> tuple[KeyVersion, ...]:
        """Every version in the store, live or archived, in order."""
        return tuple(sorted((*self.live, *self.archived)))

    @property
    def fingerprints(self) -> frozenset[str]:
        """The fingerprints of every key in the store, live or archived."""
        return frozenset(key.fingerprint for key in self.materials)

    @property
    def materials(self) -> tuple[KeyMaterial, ...]:
        """Every key in the store, live or archived, that is not damaged."""
        entries = (*self.live.values(), *self.archived.values())
        return tuple(entry for entry in entries if isinstance(entry, KeyMaterial))

    @property
    def sources(self) -> Mapping[str, tuple[KeyVersion, SourceKey]]:
        """The keys of other libraries, by the name that they were imported from; they are in the archive alone."""
        return {key.name: (version, key) for version, key in self.archived.items() if isinstance(key, SourceKey)}

    def source(self, name: str) -> tuple[KeyVersion, SourceKey]:
        """The key of another library that was imported from a variable, and its number.

        Raises:
            MissingSourceKeyError: there is none.
        """
        if (found := self.sources.get(name)) is None:
            raise MissingSourceKeyError(name)
        return found

    @property
    def present(self) -> KeyMaterial | None:
        """The primary's key; None: there is none, or it is damaged."""
        entry = None if self.primary is None else self.live.get(self.primary)
        return entry if isinstance(entry, KeyMaterial) else None

    def material(self, version: KeyVersion) -> KeyMaterial:
        """A live or archived key.

        Raises:
            KeyStoreDamagedError: there is none, or the entry is not a key.
        """
        entry = self.live.get(version) or self.archived.get(version)
        if entry is None:
            raise KeyStoreDamagedError(f"the key store holds no {version}; put it back with {self.restore(version)}")
        if isinstance(entry, DamagedKey):
            raise KeyStoreDamagedError(entry.sentence(recovery_key_named=self.recovery_key_named))
        return entry

    def restore(self, version: KeyVersion) -> str:
        """The command that restores a key."""
        return restore_command(version, recovery_key_named=self.recovery_key_named)

    def ring(self) -> KeyRing:
        """Every live key and the primary, and what opens values of other libraries.

        Raises:
            KeyStoreDamagedError: there is no primary, it is not live, or one of the live entries is not a key.
        """
        if self.primary is None:
            raise KeyStoreDamagedError(
                "the key store names no primary; if its key was lost, put it back with `keyrotation restore-key`, "
                "else run `keyrotation init`"
            )
        if self.primary not in self.live and self.primary != PLAINTEXT:
            raise KeyStoreDamagedError(
                f"the key store's primary is {self.primary}, whose key is not live there; "
                f"put it back with {self.restore(self.primary)}"
            )
        if self.primary in self.compromised:
            raise KeyStoreDamagedError(
                f"the key store names {self.primary} as the primary, which it also calls compromised; name the version "
                "that replaced it there again"
            )
        live = {version: self.material(version) for version in self.live}
        return KeyRing({**live, **dict(self.sources.values())}, self.primary, self.compromised)

    def registered(self, record: KeyRecord) -> KeyMaterial:
        """The key of a record, live or archived, if it is the registered one by its whole fingerprint.

        Raises:
            KeyStoreDamagedError: it is missing, or another key is in its place.
        """
        material = self.material(record.version)
        if material.fingerprint != record.fingerprint:
            raise KeyStoreDamagedError(
                f"the key store holds another {record.version} ({material.fingerprint[:16]}) than the registered one "
                f"({record.fingerprint[:16]}); find out whose it is, move it away, and run "
                f"{self.restore(record.version)}"
            )
        return material


@dataclass(frozen=True, slots=True)
class WrappingKeyOrigin:
    """Where the wrapping key comes from, as it said when it was asked.

    Args:
        name: its kind and name.
    """

    name: str
    origin: Origin
    asked_at: datetime


def not_sealed(unsealed: Iterable[KeyVersion], sealed_by: str) -> str | None:
    """Returns that versions are not stored under the wrapping key, as a sentence; None: there are no such."""
    if not sealed_by or not (versions := versions_as_text(unsealed)):
        return None
    return f"{versions} in the key store is not under {sealed_by}; run `keyrotation reseal`"


def _revision(
    live: Mapping[KeyVersion, KeyEntry],
    archived: Mapping[KeyVersion, KeyEntry],
    primary: KeyVersion | None,
    owner: StoreOwner | str | None,
    compromised: frozenset[KeyVersion],
) -> str:
    """SHA-256 over places, versions, fingerprints, what is compromised and whose they are, 64 hex digits."""
    lines = [f"primary {primary}", f"owner {owner}", *(f"compromised {each}" for each in sorted(compromised))]
    for place, entries in (("live", live), ("archived", archived)):
        lines += [f"{place} {version} {_name(entry)}" for version, entry in entries.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _name(entry: KeyEntry) -> str:
    return entry.message if isinstance(entry, DamagedKey) else entry.fingerprint


# Encryptions under one key by generation: with random nonces the chance of a repeated one stays below 2^-32.
GCM_LIMIT_ENCRYPTIONS = 2**32
_LIMITS = {FIRST: GCM_LIMIT_ENCRYPTIONS, SECOND: 2**80}


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """An upper bound on the encryptions under one key, as far as the server's statistics know of writes.

    Args:
        by_applications: rows inserted or updated, times the encrypted columns of their table: as if every write
            had encrypted every column. Since the statistics began: a reset or a crash of the server empties them.
        by_rotations: values that the pipeline itself re-encrypted to this version.

    Source: NIST SP 800-38D, section 8.3: at most 2^32 invocations per key with random 96-bit IVs. C2SP XAES-256-GCM:
    2^80 messages.
    """

    version: KeyVersion
    by_applications: int
    by_rotations: int

    @property
    def encryptions(self) -> int:
        """The bound."""
        return self.by_applications + self.by_rotations

    @property
    def share(self) -> float:
        """The bound as a share of the limit; 1.0 is the limit."""
        return self.encryptions / self.limit

    @property
    def limit(self) -> int:
        """The encryptions that the key may do."""
        return _LIMITS[self.version.generation]

    @property
    def message(self) -> str:
        """How many, and what this rests on."""
        return (
            f"{self.version} encrypted at most {self.encryptions:,} values, {self.share:.2%} of the limit "
            f"{self.limit_name}, by the writes in the server's statistics, which a reset or a crash empties"
        )

    @property
    def limit_name(self) -> str:
        """The limit as it is written, ``2^32`` or ``2^80``."""
        return f"2^{self.limit.bit_length() - 1}"

    @property
    def exhausted(self) -> bool:
        """Whether the key may have reached the limit of encryptions."""
        return self.encryptions >= self.limit

    @property
    def half_used(self) -> bool:
        """Whether it is time to plan a rotation for this reason."""
        return 2 * self.encryptions >= self.limit


EMERGENCY_WITHIN = timedelta(hours=24)
REMINDER = timedelta(days=60)
# The source procedure, section 2.1, by quarter.
DUTIES = (
    "review the key rotation procedure",
    "make the new key, and deploy it in addition to the old one",
    "re-encrypt all data, and retire the old key",
    "audit the rotation, and update the documentation",
)


@dataclass(frozen=True, slots=True)
class RotationDue:
    """When the running or the next rotation must be finished, and which rule says so."""

    at: datetime
    rule: str

    def overdue(self, now: datetime) -> bool:
        """Whether that time has passed."""
        return now > self.at

    def soon(self, now: datetime) -> bool:
        """Whether it is time to plan it: 60 days ahead."""
        return now > self.at - REMINDER


@dataclass(frozen=True, slots=True)
class Duty:
    """What the calendar asks for in a quarter, such as ``2026-Q4``."""

    quarter: str
    message: str


def duty_of(now: datetime) -> Duty:
    """The duty of the quarter of a moment."""
    quarter = (now.month - 1) // 3
    return Duty(f"{now.year}-Q{quarter + 1}", DUTIES[quarter])


def rotation_due(
    primary: KeyVersion,
    keys: Sequence[KeyRecord],
    requests: Sequence[Request],
    declared: Mapping[KeyVersion, datetime] = MappingProxyType({}),
) -> RotationDue | None:
    """When the primary must be rotated; None when it was never registered.

    Args:
        declared: when imported keys came into use, as far as declared. For the others it is not known: the latest
            possible moment is then used.

    Source: the source procedure, sections 1.2 and 2.2: every 12 months, and within 24 hours of an incident.
    """
    emergencies = [each.requested_at for each in requests if each.is_emergency and not each.is_over]
    if emergencies:
        return RotationDue(
            min(emergencies) + EMERGENCY_WITHIN, "an emergency rotation ends within 24 hours of its request"
        )
    if (since := promoted_at(primary, requests) or declared.get(primary)) is not None:
        return RotationDue(_a_year_after(since), f"12 months after {primary} became the primary")
    registered = activated_at(primary, keys, requests)
    if registered is None:
        return None
    if any(rotation.target == primary for rotation in _rotations(requests)):
        return RotationDue(
            _a_year_after(registered), f"12 months after {primary} was made, whose promotion is not recorded yet"
        )
    return RotationDue(
        _a_year_after(registered),
        f"12 months after {primary} was imported, whose age is not known; "
        "write [keys] activated_at, and run `keyrotation init` again",
    )


def activated_at(primary: KeyVersion, keys: Sequence[KeyRecord], requests: Sequence[Request]) -> datetime | None:
    """When a version became the primary as far as the pipeline saw it: by promotion, or at the latest when imported."""
    return promoted_at(primary, requests) or next((key.created_at for key in keys if key.version == primary), None)


def promoted_at(primary: KeyVersion, requests: Sequence[Request]) -> datetime | None:
    """When a version was promoted to be the primary; None for an imported key."""
    promotions = [
        record.finished_at
        for rotation in _rotations(requests)
        if rotation.target == primary and (record := rotation.done(Step.PRIMARY_KEY_ROLLOUT)) is not None
    ]
    return max(promotions, default=None)


def _rotations(requests: Sequence[Request]) -> Iterator[Walk]:
    """Yields what makes keys; a rollback makes one the primary again, but does not restart its cryptoperiod."""
    return (each for each in requests if isinstance(each, Walk) and each.action is RequestAction.ROTATE)


def _a_year_after(at: datetime) -> datetime:
    try:
        return at.replace(year=at.year + 1)
    except ValueError:  # 29 February
        return at.replace(year=at.year + 1, day=28)
