"""Events of requests: opened, signed, started, paused, finished; and of rehearsals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Officer, Roster, RosterChange, Signature
from keyrotation_pipeline.model.audit import AuditHead, EventKind, Fact, FormerEvents
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.fleet import Gone, TargetKind
from keyrotation_pipeline.model.records import UNLESS_EMPTY, Alias
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, RotationType, Step, StepRecord


@dataclass(frozen=True, slots=True)
class RosterPinned(Fact):
    """The roster that approves from now on.

    Args:
        changes: by a reconciliation, the signed changes that led to it and that the database had lost.
    """

    kind: ClassVar = EventKind.ROSTER_PINNED
    required: int
    officers: tuple[Officer, ...]
    recipients: tuple[str, ...]
    recipient_names: Mapping[str, str]
    changes: tuple[RosterChange, ...] = ()

    @classmethod
    def of(cls, roster: Roster, changes: Sequence[RosterChange] = ()) -> Self:
        """The record of a roster."""
        return cls(roster.required, roster.officers, roster.recipients, roster.recipient_names, tuple(changes))

    @property
    def roster(self) -> Roster:
        """The roster as a value."""
        return Roster(self.required, self.officers, self.recipients, self.recipient_names)


@dataclass(frozen=True, slots=True)
class HostsPinned(Fact):
    """The hosts that the configuration named at `init`. Later ones are signed with each request."""

    kind: ClassVar = EventKind.HOSTS_PINNED
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberJoined(Fact):
    """A database that a rule among the hosts covers is a member of the fleet from now on.

    Args:
        place: its name, system identifier and schema, as the rule says.
    """

    kind: ClassVar = EventKind.MEMBER_JOINED
    member: str
    place: str


@dataclass(frozen=True, slots=True)
class HomeNamed(Fact):
    """The random id of the home. It tells its key store and its backups from those of others.

    Args:
        home: 32 hex digits; only the first in an audit counts.
    """

    kind: ClassVar = EventKind.HOME_NAMED
    home: str


@dataclass(frozen=True, slots=True)
class ServerSeen(Fact):
    """Where the database ran before a walk. In the middle of a walk it does not count.

    Args:
        members: the same of each member of a fleet.
    """

    kind: ClassVar = EventKind.SERVER_SEEN
    server: DatabaseServer
    members: Annotated[Mapping[str, DatabaseServer], UNLESS_EMPTY] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestOpened(Fact):
    """A request, with the exact text that officers sign."""

    kind: ClassVar = EventKind.REQUEST_OPENED
    type: RotationType
    action: RequestAction
    source: Annotated[KeyVersion, Alias("from")]
    fingerprint: str
    target: Annotated[KeyVersion, Alias("to")]
    requested_by: str
    requested_at: datetime
    start_by: datetime
    finish_by: datetime
    audit_head: AuditHead
    reason: str
    incident: str | None
    supersedes: str | None
    approval_text: str
    not_before: datetime | None = None

    @classmethod
    def of(cls, request: Request, text: bytes) -> Self:
        """The record of a new request."""
        return cls(
            type=request.type,
            action=request.action,
            source=request.source,
            fingerprint=request.source_fingerprint,
            target=request.target,
            requested_by=request.requested_by,
            requested_at=request.requested_at,
            start_by=request.start_by,
            finish_by=request.finish_by,
            audit_head=AuditHead(*request.audit_head),
            reason=request.reason,
            incident=request.incident,
            supersedes=request.supersedes,
            approval_text=text.decode(),
            not_before=request.not_before,
        )


@dataclass(frozen=True, slots=True)
class SignatureAdded(Fact):
    """An officer signed. The signature is public: it can be verified again from the audit and the certificates.

    Args:
        signature: its bytes in hex.
    """

    kind: ClassVar = EventKind.SIGNATURE_ADDED
    officer: str
    signed_at: datetime
    signature: str

    @classmethod
    def of(cls, signature: Signature) -> Self:
        """The record of a signature."""
        return cls(signature.officer, signature.signed_at, signature.signature.hex())


@dataclass(frozen=True, slots=True)
class StatusChanged(Fact):
    """The status of a request changed. `by`: the other request that caused it, if any."""

    kind: ClassVar = EventKind.STATUS_CHANGED
    before: Annotated[RequestStatus, Alias("from")]
    after: Annotated[RequestStatus, Alias("to")]
    at: datetime
    by: str | None = None


@dataclass(frozen=True, slots=True)
class StepFinished(Fact):
    """A step or a shard is done; `facts` are its own."""

    kind: ClassVar = EventKind.STEP_FINISHED
    step: Step
    table: str | None
    shard: int | None
    finished_at: datetime
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, record: StepRecord) -> Self:
        """The record of a finished step."""
        return cls(record.step, record.table, record.shard, record.finished_at, record.facts)


@dataclass(frozen=True, slots=True)
class RolloutConfirmed(Fact):
    """An officer confirmed that a rollout is done. The signature is public, as those of approvals.

    Args:
        gone: silent instances that the officer says have ended.
        signature: its bytes in hex.
        text: what was signed.
    """

    kind: ClassVar = EventKind.ROLLOUT_CONFIRMED
    rollout: TargetKind
    gone: tuple[Gone, ...]
    officer: str
    signature: str
    text: str


@dataclass(frozen=True, slots=True)
class PromotionRecorded(Fact):
    """From transaction `xid` on every instance writes under the new primary."""

    kind: ClassVar = EventKind.PROMOTION_RECORDED
    xid: int


@dataclass(frozen=True, slots=True)
class Blocked(Fact):
    """What stopped the last attempt. `rollout_pending`: it waited in vain for a rollout, and did not fail."""

    kind: ClassVar = EventKind.BLOCKED
    sentence: str
    rollout_pending: Annotated[bool, UNLESS_EMPTY] = False


@dataclass(frozen=True, slots=True)
class Unblocked(Fact):
    """A later attempt succeeded."""

    kind: ClassVar = EventKind.UNBLOCKED


@dataclass(frozen=True, slots=True)
class CancelIntended(Fact):
    """A version that was being distributed is about to be withdrawn."""

    kind: ClassVar = EventKind.CANCEL_INTENDED
    withdraws: KeyVersion


@dataclass(frozen=True, slots=True)
class TreeLeft:
    """The tree of the audit at witnesses that it does not continue, and how many events a witness signed there."""

    origin: str
    witness: str
    signed: int


@dataclass(frozen=True, slots=True)
class MemberReconciled:
    """How a member of a fleet goes on.

    Args:
        server: where it runs, if that was signed in the middle of a walk.
        set_aside: what its copy of the audit held beyond the audit; kept in a file, and the copy is made anew.
    """

    server: DatabaseServer | None = None
    set_aside: FormerEvents | None = None


@dataclass(frozen=True, slots=True)
class DatabaseReconciled(Fact):
    """A restored database and the key store are consistent again.

    Args:
        accepted: heads stored outside that are not in this audit, and no longer have to be.
        server: where the database runs, if that was signed in the middle of a walk.
        left_tree: what witnesses have signed and this audit does not continue; they begin another tree.
        members: of a fleet, those that go on elsewhere, or whose copy of the audit is made anew.
    """

    kind: ClassVar = EventKind.DATABASE_RECONCILED
    found: str
    primary: KeyVersion
    in_rows: tuple[KeyVersion, ...]
    states: Mapping[str, str]
    ended: tuple[str, ...]
    accepted: tuple[AuditHead, ...]
    server: DatabaseServer | None = None
    left_tree: TreeLeft | None = None
    members: Annotated[Mapping[str, MemberReconciled], UNLESS_EMPTY] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RotationAuditWritten(Fact):
    """A row of the source procedure's `key_rotation_audit`, as written now."""

    kind: ClassVar = EventKind.ROTATION_AUDIT_WRITTEN
    id: str
    rotation_date: datetime
    old_key_version: str
    new_key_version: str
    rotation_type: str
    initiated_by: str
    completion_date: datetime | None
    records_reencrypted: int
    notes: str


# Steps whose time grows with the rows.
GROW_WITH_ROWS = frozenset({Step.ROWS, Step.ZERO_OLD_ROWS_PROOF, Step.RETIRED_KEY})
# Their real duration depends on the applications.
ROLLOUTS = (Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT, Step.ARCHIVED_KEY)
NOT_REHEARSED = (
    "rollouts: no application reads the restored database",
    "the application's concurrent load, standbys, and the disk of the real server",
    "officers' signatures (throw-away officers signed), the key store and the places of backups in use",
    "owners, grants, and what an unprivileged role cannot restore (publications, event triggers, foreign servers)",
)


@dataclass(frozen=True, slots=True)
class RehearsalFinding:
    """What would stop the rotation.

    Args:
        step: where; ``request`` before the first one.
        sentence: what the real rotation would say there.
    """

    step: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Rehearsed(Fact):
    """A rehearsal, as far as it got.

    Args:
        request: whose rotation; None: the next one, which nobody has requested yet.
        dump, made_at: the backup that was restored.
        server: where it was restored, in one phrase.
        dump_rows, rows_now: rows of the declared tables in the backup, and in the database in use.
        seconds: by step, as measured on the backup; only of finished steps.
        findings: empty: nothing that was rehearsed would stop it.
        members: of a fleet that were rehearsed with it, each with its dump; rows are theirs, too.
    """

    kind: ClassVar = EventKind.REHEARSED
    request: str | None
    source: KeyVersion
    target: KeyVersion
    dump: str
    made_at: datetime
    server: str
    dump_rows: int
    rows_now: int
    seconds: Mapping[str, float]
    findings: tuple[RehearsalFinding, ...]
    members: Annotated[Mapping[str, str], UNLESS_EMPTY] = field(default_factory=dict, hash=False)

    @property
    def predicted_seconds(self) -> Mapping[str, float]:
        """By step, for the present database; without the rollouts."""
        ratio = self.rows_now / self.dump_rows if self.dump_rows else 1.0
        return {
            step: seconds * (ratio if step in GROW_WITH_ROWS else 1.0)
            for step, seconds in self.seconds.items()
            if step not in ROLLOUTS
        }

    @property
    def total_seconds(self) -> float | None:
        """All of it without the rollouts; None where the rehearsal did not finish."""
        return None if self.findings else sum(self.predicted_seconds.values())
