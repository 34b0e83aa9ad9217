"""Audit events of keys, and of recovery tests."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Self

from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.model.audit import EventKind, Fact
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.proof import AccountedReplica, MemberEvidence, Proven
from keyrotation_pipeline.model.records import UNLESS_EMPTY, Alias


@dataclass(frozen=True, slots=True)
class KeyCreationIntended(Fact):
    """A key was generated, and is about to be stored."""

    kind: ClassVar = EventKind.KEY_CREATION_INTENDED
    version: KeyVersion
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KeyImportIntended(Fact):
    """An existing key is about to be stored."""

    kind: ClassVar = EventKind.KEY_IMPORT_INTENDED
    version: KeyVersion
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KeyRestoreIntended(Fact):
    """A key is about to be live again: from the archive, or from a backup (then with `source`)."""

    kind: ClassVar = EventKind.KEY_RESTORE_INTENDED
    version: KeyVersion
    fingerprint: str
    source: str | None = None
    place: str | None = None
    decrypted: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRegistered(Fact):
    """A version was registered."""

    kind: ClassVar = EventKind.KEY_REGISTERED
    version: KeyVersion
    state: KeyState
    fingerprint: str
    created_at: datetime

    @classmethod
    def of(cls, record: KeyRecord) -> Self:
        """The record of a new version."""
        return cls(record.version, record.state, record.fingerprint, record.created_at)


@dataclass(frozen=True, slots=True)
class KeyActivationDeclared(Fact):
    """When an imported key came into use, from `[keys] activated_at`."""

    kind: ClassVar = EventKind.KEY_ACTIVATION_DECLARED
    version: KeyVersion
    activated_at: datetime


@dataclass(frozen=True, slots=True)
class SourceKeyImported(Fact):
    """The one key of another library was imported. A rotation is to encrypt its values; no application gets it.

    Args:
        name: of the variable that it was imported from, by which the columns name it.
    """

    kind: ClassVar = EventKind.SOURCE_KEY_IMPORTED
    version: KeyVersion
    fingerprint: str
    name: str


@dataclass(frozen=True, slots=True)
class KeyStateChanged(Fact):
    """The state of a version changed."""

    kind: ClassVar = EventKind.KEY_STATE_CHANGED
    version: KeyVersion
    before: Annotated[KeyState, Alias("from")]
    after: Annotated[KeyState, Alias("to")]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KeyReplacementProposed(Fact):
    """An imported key decrypts no value. Officers are about to be asked to replace it.

    Args:
        before, after: fingerprints of the two keys.
        tried, opened: values under the version that the other key was tried on, and how many of them it decrypts.
    """

    kind: ClassVar = EventKind.KEY_REPLACEMENT_PROPOSED
    version: KeyVersion
    before: str
    after: str
    tried: int
    opened: int


@dataclass(frozen=True, slots=True)
class KeyReplaced(Fact):
    """The key of a version was replaced, as officers signed."""

    kind: ClassVar = EventKind.KEY_REPLACED
    version: KeyVersion
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class KeysResealIntended(Fact):
    """Stored keys are about to be sealed under another wrapping key. The keys stay."""

    kind: ClassVar = EventKind.KEYS_RESEAL_INTENDED
    wrapping_key: str
    versions: tuple[KeyVersion, ...]


@dataclass(frozen=True, slots=True)
class KeysResealed(Fact):
    """Stored keys were sealed under another wrapping key, and read back."""

    kind: ClassVar = EventKind.KEYS_RESEALED
    wrapping_key: str
    versions: tuple[KeyVersion, ...]


@dataclass(frozen=True, slots=True)
class WrappingKeyDescribed(Fact):
    """A pre-flight asked the wrapping key's KMS or token where it comes from.

    Args:
        origin: what it said, in its own words.
        exposed: why a copy of it may be elsewhere; empty: nothing says that there is one.
    """

    kind: ClassVar = EventKind.WRAPPING_KEY_DESCRIBED
    wrapping_key: str
    origin: tuple[str, ...]
    exposed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrimaryChangeIntended(Fact):
    """The key store is about to name another primary."""

    kind: ClassVar = EventKind.PRIMARY_CHANGE_INTENDED
    source: Annotated[KeyVersion, Alias("from")]
    target: Annotated[KeyVersion, Alias("to")]


@dataclass(frozen=True, slots=True)
class PrimaryChanged(Fact):
    """The key store names another primary."""

    kind: ClassVar = EventKind.PRIMARY_CHANGED
    source: Annotated[KeyVersion, Alias("from")]
    target: Annotated[KeyVersion, Alias("to")]


@dataclass(frozen=True, slots=True)
class RetirementIntended(Fact):
    """Versions are about to be withdrawn from the applications."""

    kind: ClassVar = EventKind.RETIREMENT_INTENDED
    versions: tuple[KeyVersion, ...]
    target: KeyVersion


@dataclass(frozen=True, slots=True)
class ReplicasAccounted(Fact):
    """Why no standby or subscriber seen since the request can still show an old value.

    Args:
        gone_as_signed: those declared gone in the text that officers signed.
        gone_as_configured: those declared gone only in the configuration.
    """

    kind: ClassVar = EventKind.REPLICAS_ACCOUNTED
    replicas: tuple[AccountedReplica, ...]
    gone_as_signed: tuple[str, ...]
    gone_as_configured: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberProven(Fact):
    """A member of a fleet gave its evidence, which the retirement compares again just before it is committed."""

    kind: ClassVar = EventKind.MEMBER_PROVEN
    evidence: MemberEvidence


@dataclass(frozen=True, slots=True)
class KeyRetired(Fact):
    """The evidence for withdrawing versions from the applications.

    Args:
        tables, values, not_searched, not_read_again: of the members of a fleet, too; the time, the position and the
            versions refused are of the home's own database, and the events of the members have theirs.
        members: whose own evidence, which events hold, was found the same just before the commit.
        not_searched, not_seen: what the evidence does not cover.
        not_read_again: relations whose older pages nobody has read since the search began.
        searched_from: when that search began; None: everything was read under the locks.
        format: of the values.
        identified_by: how the key of a value was identified.
    """

    kind: ClassVar = EventKind.KEY_RETIRED
    version: KeyVersion
    tables: tuple[str, ...]
    old_values: int
    values: int
    fence_lsn: str
    proven_at: datetime
    fenced_against: tuple[KeyVersion, ...]
    taken_from_applications: tuple[KeyVersion, ...]
    target: KeyVersion
    target_backup: str
    not_searched: tuple[str, ...] = ()
    not_seen: tuple[str, ...] = ()
    not_read_again: tuple[str, ...] = ()
    searched_from: datetime | None = None
    format: str = NATIVE.name
    identified_by: IdentifiedBy = NATIVE.identified_by
    members: Annotated[tuple[str, ...], UNLESS_EMPTY] = ()

    @property
    def unread(self) -> str | None:
        """What a search before the transaction cannot have seen (ADR 16), and what reads it; None: nothing."""
        if not self.not_read_again or self.searched_from is None:
            return None
        began, ended = (f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" for at in (self.searched_from, self.proven_at))
        return (
            f"not read again for the retirement of {', '.join(map(str, self.taken_from_applications))}: what was "
            f"written between {began} and {ended} UTC, unencrypted or in undeclared columns, into pages that were "
            f"there before of {', '.join(self.not_read_again)}; run `keyrotation inventory`"
        )


@dataclass(frozen=True, slots=True)
class ProvenAgain(Fact):
    """The proof was repeated, because of a finding of the retirement."""

    kind: ClassVar = EventKind.PROVEN_AGAIN
    proof: Proven
    because: str


@dataclass(frozen=True, slots=True)
class HeldFile:
    """An encrypted copy of a key that stays; `locked_until` None: not locked.

    Args:
        version: its id, where it is not the current version of its name.
    """

    file: str
    place: str
    locked_until: datetime | None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class KeyDestructionIntended(Fact):
    """A key and its local backups are about to be removed permanently."""

    kind: ClassVar = EventKind.KEY_DESTRUCTION_INTENDED
    version: KeyVersion
    fingerprint: str
    files: tuple[str, ...]
    held: tuple[HeldFile, ...]


@dataclass(frozen=True, slots=True)
class KeyDestroyed(Fact):
    """A key and its files were removed."""

    kind: ClassVar = EventKind.KEY_DESTROYED
    version: KeyVersion
    fingerprint: str
    files: tuple[str, ...]
    held: tuple[HeldFile, ...]


@dataclass(frozen=True, slots=True)
class RecoveryTestFailed(Fact):
    """A recovery test failed; `failure` is the kind of error, `reason` its sentence."""

    kind: ClassVar = EventKind.RECOVERY_TEST_FAILED
    place: str
    recovery_key: str
    failure: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecoveryTestDue(Fact):
    """A recovery test is due since this day, and waits for an officer."""

    kind: ClassVar = EventKind.RECOVERY_TEST_DUE
    since: str
