"""Requests with their state, confirmations, listings and announcements."""

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import takewhile
from typing import Any, Self

from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.model.approval import rendered
from keyrotation_pipeline.model.audit import instant
from keyrotation_pipeline.model.earlier_summaries import FIRST_CONFIRMATION
from keyrotation_pipeline.model.fleet import Gone, RolloutTarget
from keyrotation_pipeline.model.signed_summary import CONFIRMATION

ID_DIGITS, SHOWN_ID_DIGITS = 32, 8
# Not within quotes, a path, a host or a hyphenated name, all of which somebody else has chosen.
_ID = re.compile(
    rf'("(?:[^"\\]|\\.)*")|(?<![\w./-])([0-9a-f]{{{SHOWN_ID_DIGITS}}})[0-9a-f]{{{ID_DIGITS - SHOWN_ID_DIGITS}}}'
    r"(?![\w-]|\.\w)",
    re.ASCII,
)


def with_short_ids(text: str) -> str:
    """The same with the first digits of each request's id, which every command takes for it."""
    return _ID.sub(lambda found: found[1] or found[2], text)


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
    """What a request asks for, as in its canonical text."""

    ROTATE = "rotate"
    ROLLBACK = "rollback"
    DECRYPT = "decrypt"
    RECONCILE = "reconcile"
    DESTROY = "destroy"
    POLICY = "policy"
    REPLACE_KEY = "replace-key"

    @property
    def walks(self) -> bool:
        """Whether a request of this action is a `Walk`."""
        return self is RequestAction.ROTATE or self.goes_back

    @property
    def goes_back(self) -> bool:
        """Whether it leads to an earlier key, and undoes a rotation."""
        return self in {RequestAction.ROLLBACK, RequestAction.DECRYPT}


class RotationType(StrEnum):
    """Why the rotation happens, the values of the procedure's `key_rotation_audit.rotation_type`."""

    ROUTINE = "routine"
    EMERGENCY = "emergency"


class RequestStatus(StrEnum):
    """The status of a request. The phase of a walk (a `Step`, or one of these) is what users see."""

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

    @property
    def order(self) -> tuple[str, str, int]:
        """Its name, to be compared: the order in which a walk has its steps."""
        return _order(self.step, self.table, self.shard)


def _order(step: Step, table: str | None, shard: int | None) -> tuple[str, str, int]:
    return step, table or "", -1 if shard is None else shard


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the ledger holds it.

    Args:
        id: 128 random bits as 32 hex digits.
        source: the key version that it is about; the primary, if it is about none.
        source_fingerprint: of the source's key, 64 hex digits.
        approvals: primary-key fingerprints of the officers whose signatures are stored (verified when used).
        supersedes: the request that ends when this one starts, which undoes it (a rollback) or takes it over.
        audit_head: seq and hash of the audit when the request was opened.
        blocked_by: sentence of the last attempt that ended early, None once a later attempt got further.
        rollout_pending: whether that attempt waited in vain for a rollout, and did not fail.
        not_before: it may be signed at once, but nothing of it starts earlier; None: it starts when it is signed.
        manual: people carry it out, and the conductor starts no step; the signed text says so.
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
    rollout_pending: bool = False
    supersedes: str | None = None
    not_before: datetime | None = None
    manual: bool = False

    @property
    def failure(self) -> str | None:
        """Why the last attempt failed; None: it did not, or waited for a rollout in vain."""
        return None if self.rollout_pending else self.blocked_by

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status in {RequestStatus.CANCELLED, RequestStatus.FINISHED}

    @property
    def is_emergency(self) -> bool:
        """Whether an incident asks for it, so that it goes before all others."""
        return self.type is RotationType.EMERGENCY

    @property
    def waits_to_supersede(self) -> bool:
        """Whether it has not started, and ends, undoes or takes over what runs then; every emergency does."""
        follows = self.supersedes is not None or (self.action.walks and self.is_emergency)
        return follows and self.status is RequestStatus.REQUESTED


@dataclass(frozen=True, slots=True)
class Walk(Request):
    """A request that is carried out in steps: a rotation, or a rollback.

    Args:
        steps: those that are finished, in the order of their names.
        promotion_xid: `pg_current_xact_id()` just after promotion, which identifies later row versions.
    """

    steps: tuple[StepRecord, ...] = ()
    promotion_xid: int | None = None

    @property
    def kind(self) -> str:
        """``routine`` or ``emergency``, ``rollback`` or ``decrypt``: as in `status` and the procedure's table."""
        return str(self.action if self.action.goes_back else self.type)

    @property
    def encrypts_plaintext(self) -> bool:
        """Whether it encrypts columns that held plaintext; after a rollback applications write plaintext again."""
        return self.action is RequestAction.ROTATE

    @property
    def gives_back(self) -> bool:
        """Whether it gives the values of these columns their old form again, in which plaintext needs no key."""
        return self.action is RequestAction.DECRYPT

    def label(self, step: Step) -> str:
        """What a step does, in a few words."""
        old, new = self.source, self.target
        return {
            Step.KEY_VERSION: f"Key {new}",
            Step.DUAL_KEY_ROLLOUT: f"All read {new}",
            Step.PRIMARY_KEY_ROLLOUT: f"All write {new}",
            Step.ROWS: "Rows",
            Step.ZERO_OLD_ROWS_PROOF: f"No {old} left",
            Step.RETIRED_KEY: f"{old} retired",
            Step.ARCHIVED_KEY: f"{old} archived",
            Step.KEY_ROTATION_AUDIT: "Audit",
            Step.COMPLIANCE_REPORT: "Report",
        }[step]

    def done(self, step: Step, table: str | None = None, shard: int | None = None) -> StepRecord | None:
        """The record of a finished step (or shard), if it is finished."""
        for found in self.steps[self._place(_order(step, table, shard)) :][:1]:
            if (found.step, found.table, found.shard) == (step, table, shard):
                return found
        return None

    def tables_of(self, member: str) -> frozenset[str]:
        """The tables of a fleet's member that have a finished shard."""
        own = f"{member}:"
        later = self.steps[self._place(_order(Step.ROWS, own, None)) :]
        return frozenset(takewhile(lambda table: table.startswith(own), (each.table or "" for each in later)))

    def with_step(self, record: StepRecord) -> Self:
        """The same with one more finished step. A walk may have thousands, so none is compared with all others."""
        place = self._place(record.order)
        return replace(self, steps=(*self.steps[:place], record, *self.steps[place:]))

    def _place(self, order: tuple[str, str, int]) -> int:
        return bisect_left(self.steps, order, key=lambda each: each.order)

    def done_shards(self) -> dict[tuple[str | None, int | None], StepRecord]:
        """The record of every finished shard, by table and number: for who asks about many."""
        return {(each.table, each.shard): each for each in self.steps if each.step is Step.ROWS}


CONFIRMATION_HEADERS = (CONFIRMATION, FIRST_CONFIRMATION)


@dataclass(frozen=True, slots=True)
class ConfirmationText:
    """The facts that are signed. `render` gives the canonical bytes, one field a line, ending with a newline.

    Args:
        keys: each version of the target with its fingerprint.
        gone: silent instances that the officer says have ended.
        audit_head: seq and hash of the event that began this rollout, which identifies it.
        header: the present one, or of a stored text the one that it has.
    """

    request: str
    target: RolloutTarget
    database: str
    key_store: str
    keys: Sequence[str]
    gone: Sequence[Gone]
    audit_head: tuple[int, str]
    header: str = CONFIRMATION

    def render(self) -> bytes:
        """The canonical text in UTF-8.

        Raises:
            ApprovalError: a field holds a character that two people could read differently.
        """
        seq, head = self.audit_head
        return rendered(
            self.header,
            (
                ("Request", self.request),
                ("Rollout", str(self.target.kind)),
                ("Confirms", f"every application instance {self._statement}"),
                ("Database", self.database),
                ("Key store", self.key_store),
                ("Keys", ", ".join(self.keys)),
                ("Gone", ", ".join(map(_named, self.gone)) or "none"),
                ("Audit head", f"{seq} {head}"),
            ),
        )

    @property
    def _statement(self) -> str:
        return self.target.first_statement if self.header == FIRST_CONFIRMATION else self.target.statement()


def _named(gone: Gone) -> str:
    # Applications choose their names: quoted, so that one cannot look like several.
    at = gone.reported_at.astimezone(UTC).isoformat(timespec="microseconds")
    return f"{json.dumps(gone.name, ensure_ascii=False)} last heard of {at}"


_HELD = re.compile(
    rf"^Authorises: hold ({VERSION_PATTERN}(?:, {VERSION_PATTERN})*) compromised, never to be the primary again; ",
    re.MULTILINE | re.ASCII,
)


def held_in_words(versions: Sequence[KeyVersion]) -> str:
    """The beginning of the line `Authorises`; empty where none is compromised."""
    return f"hold {', '.join(map(str, versions))} compromised, never to be the primary again; " if versions else ""


def held_in(text: bytes) -> frozenset[KeyVersion]:
    """The versions that a signed text calls compromised."""
    found = _HELD.search(text.decode(errors="replace"))
    return frozenset(map(KeyVersion.parse, found[1].split(", "))) if found else frozenset()


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that is not over.

    Args:
        signed_by: names of the officers who have signed.
        missing: names of those who have not.
        required: how many must.
    """

    request: Request
    signed_by: tuple[str, ...]
    missing: tuple[str, ...]
    required: int

    def as_json(self) -> dict[str, Any]:
        """As `requests --json` has it."""
        return {
            **_asked_for(self.request),
            "reason": self.request.reason,
            "incident": self.request.incident,
            "signed_by": list(self.signed_by),
            "missing": list(self.missing),
            "required": self.required,
            "status": str(self.request.status),
            "not_before": instant(self.request.not_before),
            "manual": self.request.manual,
            "start_by": instant(self.request.start_by),
            "finish_by": instant(self.request.finish_by),
        }


@dataclass(frozen=True, slots=True)
class PastRequest:
    """A request that is over.

    Args:
        rows: how many it re-encrypted; None: its action re-encrypts none.
    """

    request: Request
    rows: int | None

    @property
    def seconds(self) -> float | None:
        """How long it took; None: it never started."""
        begun, ended = self.request.started_at, self.request.finished_at
        return round((ended - begun).total_seconds(), 3) if begun and ended else None

    @property
    def outcome(self) -> str:
        """How it ended; for a cancelled walk also after which step."""
        request = self.request
        if isinstance(request, Walk) and request.status is RequestStatus.CANCELLED and request.steps:
            return f"{request.status} after {max(request.steps, key=lambda each: each.finished_at).step}"
        return str(request.status)

    def as_json(self) -> dict[str, Any]:
        """As `history --json` has it."""
        return {
            **_asked_for(self.request),
            "started_at": instant(self.request.started_at),
            "finished_at": instant(self.request.finished_at),
            "seconds": self.seconds,
            "rows": self.rows,
            "outcome": self.outcome,
        }


def _asked_for(request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "action": str(request.action),
        "type": str(request.type),
        "from": str(request.source),
        "to": str(request.target),
    }


@dataclass(frozen=True, slots=True)
class Announcement:
    """One message.

    Args:
        request: id of the rotation or rollback.
        subject: one line.
        cancels: whether it withdraws the previous one.
    """

    request: str
    subject: str
    text: str
    cancels: bool = False

    @property
    def key(self) -> str:
        """The key of the alert that carries it."""
        return f"rotation/{self.request}/cancelled" if self.cancels else announced_key(self.request)


def announced_key(request: str) -> str:
    """The alert key of a request's announcement."""
    return f"rotation/{request}/announced"
