"""What was asked for, and where it stands; of a request that walks also the steps that are done."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion


class Step(StrEnum):
    """The walk, in order. Each is a Dagster asset of the same name (`ROWS`: one per table)."""

    KEY_VERSION = "key_version"
    DUAL_KEY_ROLLOUT = "dual_key_rollout"
    PRIMARY_KEY_ROLLOUT = "primary_key_rollout"
    ROWS = "rows"
    ZERO_OLD_ROWS_PROOF = "zero_old_rows_proof"
    RETIRED_KEY = "retired_key"
    ARCHIVED_KEY = "archived_key"
    KEY_ROTATION_AUDIT = "key_rotation_audit"
    COMPLIANCE_REPORT = "compliance_report"


WALK: tuple[Step, ...] = tuple(Step)


class RequestAction(StrEnum):
    """What a request asks for, as its canonical text says it."""

    ROTATE = "rotate"
    ROLLBACK = "rollback"
    RECONCILE = "reconcile"
    DESTROY = "destroy"
    POLICY = "policy"
    REPLACE_KEY = "replace-key"

    @property
    def walks(self) -> bool:
        """Whether a request of it is a `Walk`."""
        return self in {RequestAction.ROTATE, RequestAction.ROLLBACK}


class RotationType(StrEnum):
    """Why the rotation happens, as the seed's `key_rotation_audit.rotation_type` has it."""

    ROUTINE = "routine"
    EMERGENCY = "emergency"


class RequestStatus(StrEnum):
    """Where a request stands as a whole. The phase of a walk (a `Step`, or one of these) is what users see."""

    REQUESTED = "requested"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FINISHED = "finished"


MAY_FOLLOW: Mapping[RequestStatus, frozenset[RequestStatus]] = {
    RequestStatus.REQUESTED: frozenset({RequestStatus.RUNNING, RequestStatus.PAUSED, RequestStatus.CANCELLED}),
    RequestStatus.RUNNING: frozenset({RequestStatus.PAUSED, RequestStatus.CANCELLED, RequestStatus.FINISHED}),
    RequestStatus.PAUSED: frozenset({RequestStatus.REQUESTED, RequestStatus.RUNNING, RequestStatus.CANCELLED}),
    RequestStatus.CANCELLED: frozenset(),
    RequestStatus.FINISHED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A finished step, or a finished shard of `ROWS` (then with `table` and `shard`). `facts` holds no secret."""

    step: Step
    table: str | None
    shard: int | None
    finished_at: datetime
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the ledger holds it.

    Args:
        id: 128 random bits as 32 hex digits.
        source: the key version that it is about; the primary, where it is about none.
        source_fingerprint: of the source's key, 64 hex digits.
        approvals: primary-key fingerprints of the officers whose signatures are stored (verified when used).
        supersedes: the request that ends when this one starts, which undoes it (a rollback) or takes it over.
        audit_head: seq and hash of the audit when the request was opened.
        blocked_by: sentence of the last failed attempt, None once a later attempt got further.
        not_before: it may be signed at once, but nothing of it starts earlier; None: it starts when it is signed.
        manual: people carry it out, and the conductor leaves it; so says the text that officers sign.
    """

    id: str
    type: RotationType
    action: RequestAction
    source: KeyVersion
    source_fingerprint: str
    target: KeyVersion
    reason: str
    incident: str | None
    requested_by: str
    requested_at: datetime
    start_by: datetime
    finish_by: datetime
    audit_head: tuple[int, str]
    status: RequestStatus
    approvals: tuple[str, ...]
    started_at: datetime | None = None
    finished_at: datetime | None = None
    blocked_by: str | None = None
    supersedes: str | None = None
    not_before: datetime | None = None
    manual: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing can come of it any more."""
        return self.status in {RequestStatus.CANCELLED, RequestStatus.FINISHED}

    @property
    def waits_to_supersede(self) -> bool:
        """Whether it stands beside the request that it is to undo or to take over, and has not started."""
        return self.supersedes is not None and self.status is RequestStatus.REQUESTED


@dataclass(frozen=True, slots=True)
class Walk(Request):
    """A request that is carried out in steps: a rotation, or a rollback.

    Args:
        promotion_xid: `pg_current_xact_id()` just after promotion, by which later row versions are known.
    """

    steps: tuple[StepRecord, ...] = ()
    promotion_xid: int | None = None

    @property
    def kind(self) -> str:
        """``routine`` or ``emergency``, or ``rollback``: as `status` and the seed's table name it."""
        return str(self.action if self.action is RequestAction.ROLLBACK else self.type)

    def done(self, step: Step, table: str | None = None, shard: int | None = None) -> StepRecord | None:
        """The record of a finished step (or shard), if it is finished."""
        for record in self.steps:
            if (record.step, record.table, record.shard) == (step, table, shard):
                return record
        return None
