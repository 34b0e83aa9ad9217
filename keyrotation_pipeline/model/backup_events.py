"""Events of backups, recovery tests, time stamps and reports."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, ClassVar

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import AuditHead, EventKind, Fact
from keyrotation_pipeline.model.comparison import TableCompared
from keyrotation_pipeline.model.records import Alias


@dataclass(frozen=True, slots=True)
class BackupKeyPinned(Fact):
    """Manifests that verify by this public key are ours. It is base64 of its SubjectPublicKeyInfo (RFC 8410)."""

    kind: ClassVar = EventKind.BACKUP_KEY_PINNED
    public: str


@dataclass(frozen=True, slots=True)
class SigningBegun(Fact):
    """From this event on each one is signed by the pipeline. It counts for nothing otherwise.

    Args:
        public: the key, base64 of its SubjectPublicKeyInfo; the same one signs backups.
        before: the newest event before, which nobody signed; by its hash this one vouches for what there was.
    """

    kind: ClassVar = EventKind.SIGNING_BEGUN
    public: str
    before: AuditHead


@dataclass(frozen=True, slots=True)
class BackupSealed(Fact):
    """A manifest was signed and written. The record has its name and SHA-256, and whether its set has a dump.

    Args:
        made_from: manifest of the set that was re-encrypted for this one; None: it holds the state at that moment.
    """

    kind: ClassVar = EventKind.BACKUP_SEALED
    manifest: str
    sha256: str
    has_dump: bool
    made_from: str | None = None


@dataclass(frozen=True, slots=True)
class BackupIncomplete(Fact):
    """A backup is missing some of its parts; `failures` has a sentence for each.

    Args:
        manifest: of what was still made; None: nothing was.
        files: what was made, by name, with the SHA-256.
    """

    kind: ClassVar = EventKind.BACKUP_INCOMPLETE
    manifest: Annotated[str | None, Alias("set")]
    failures: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackupRekeyIntended(Fact):
    """A set is about to be made from another one. Files with this stamp but no manifest are from a killed run."""

    kind: ClassVar = EventKind.BACKUP_REKEY_INTENDED
    manifest: Annotated[str, Alias("set")]
    made_from: str
    target: KeyVersion


@dataclass(frozen=True, slots=True)
class BackupRekeyed(Fact):
    """A set was made whose dump holds the rows of another one under one other key version.

    Args:
        left_behind: versions that the other dump needs, and this one does not.
        values: how many were decrypted and compared, by table.
        left_out: of the other dump, since it holds no row and only a superuser can restore it.
        failures: why it is not in every place yet.
    """

    kind: ClassVar = EventKind.BACKUP_REKEYED
    manifest: Annotated[str, Alias("set")]
    made_from: str
    target: KeyVersion
    left_behind: tuple[KeyVersion, ...]
    values: Mapping[str, int]
    files: Mapping[str, str]
    places: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditTimestamped(Fact):
    """An authority has signed that it saw a head of this audit, and when.

    Args:
        seq, hash: the head. The token covers the hash itself, so that `openssl ts` needs nothing else.
        stamped_at: by the authority's clock.
        response: the authority's TimeStampResp, DER in base64.
        trusted: the certificates that it was verified with, DER in base64 each, as configured then.
    """

    kind: ClassVar = EventKind.AUDIT_TIMESTAMPED
    seq: int
    hash: str
    stamped_at: datetime
    authority: str
    response: str
    trusted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TimestampFailed(Fact):
    """The authority stopped giving time stamps."""

    kind: ClassVar = EventKind.TIMESTAMP_FAILED
    authority: str
    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointWitnessed(Fact):
    """A witness has signed that the audit only grew.

    Args:
        witness: the witness, as officers signed it.
        checkpoint: the signed note (C2SP): origin, number of events, root of their tree, then the signatures of the
            home and of the witness.
    """

    kind: ClassVar = EventKind.CHECKPOINT_WITNESSED
    witness: str
    checkpoint: str


@dataclass(frozen=True, slots=True)
class CheckpointRefused(Fact):
    """A witness stopped signing, or has signed another history. Recorded once.

    Args:
        origin: the name of the audit's tree there.
        signed: how many events it has signed, if they are not the first ones of this audit; None: it only fails.
    """

    kind: ClassVar = EventKind.CHECKPOINT_REFUSED
    witness: str
    origin: str
    reason: str
    signed: int | None = None


@dataclass(frozen=True, slots=True)
class MemberDumped:
    """What is shown of the dump of a fleet's member; `place` is the database's name and system identifier."""

    dump: str
    place: str


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What is shown of the event that a backup was made.

    Args:
        keys: fingerprints by version.
        dump: file name; None: only keys were backed up.
        dump_needs: versions that its values are under.
        removed: older local files that were removed.
        warnings: one sentence for each thing to improve.
        members: the dumps of a fleet's members, by name.
    """

    manifest: Annotated[str, Alias("set")]
    keys: Mapping[str, str]
    recipients: tuple[str, ...]
    dump: str | None
    dump_needs: tuple[str, ...]
    places: tuple[str, ...]
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    members: Mapping[str, MemberDumped] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackupsExamined(Fact):
    """The newest backup was looked for in every place.

    Its signed manifest is verified, every other file compared by name and size.

    Args:
        manifest: of the newest set that each of `places` holds completely; None: there is none.
        places: that were looked at.
        problems: one sentence for each reason why a newer set does not count, or why nobody could look.
    """

    kind: ClassVar = EventKind.BACKUPS_EXAMINED
    manifest: str | None
    places: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DumpRestored:
    """What a report needs of the dump that a recovery test restored: how many rows each of its tables had.

    Args:
        file: its name.
        compared: of tables with values of another library, how they differ from those of the time of the test.
    """

    rows: Mapping[str, int]
    file: str = ""
    compared: tuple[TableCompared, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberRestored:
    """What a report needs of the dump of a fleet's member that a recovery test restored; as `RecoveryTestFacts`."""

    member: str
    place: str
    manifest: Annotated[str, Alias("set")]
    sha256: str | None
    rows: Mapping[str, int]
    file: str = ""
    compared: tuple[TableCompared, ...] = ()
    older: DumpRestored | None = None


@dataclass(frozen=True, slots=True)
class RecoveryTestFacts:
    """What a report needs of the event that a recovery test passed; `objectives` are the allowed seconds, by name.

    Args:
        manifest, sha256: of the set that was restored, as the audit has it sealed; None: it has no such set.
        scratch_server: system identifier of the server that it was restored into, which was made for it.
    """

    place: str
    rto_seconds: float
    rpo_seconds: float
    objectives: Mapping[str, float]
    manifest: Annotated[str | None, Alias("set")] = None
    sha256: str | None = None
    scratch_server: str | None = None
    newest: DumpRestored | None = None
    older: DumpRestored | None = None
    members: tuple[MemberRestored, ...] = ()

    @property
    def compared(self) -> Iterator[tuple[str, TableCompared]]:
        """Each table with values of another library that was compared, after the dump's file; the newest dumps last."""
        of_members = tuple(dump for each in self.members for dump in (each.older, each))
        dumps: tuple[DumpRestored | MemberRestored | None, ...] = (self.older, self.newest, *of_members)
        yield from ((dump.file, table) for dump in dumps if dump is not None for table in dump.compared)


@dataclass(frozen=True, slots=True)
class ReportWritten(Fact):
    """A report was written. By its hash a file is known again, and one that was changed is not.

    Args:
        files: SHA-256 in hex of each file that holds a report, by its name; of a pack its manifest, too.
    """

    kind: ClassVar = EventKind.REPORT_WRITTEN
    format: str
    files: Mapping[str, str]
