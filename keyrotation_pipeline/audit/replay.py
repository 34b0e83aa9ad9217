"""Replay: what the audit makes one believe of rosters, requests, keys and steps.

The chain is the ledger: there is no other record of these. Whoever owns the database can append events. So an event
counts only if it could happen when it did: nothing comes back that was over, and what no officer may do alone (another
roster, a compromised or destroyed key) is done by a request of that kind, which enough officers have signed. Whether
the signatures are good is checked where the certificates are: this module sees only events.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from itertools import chain, takewhile
from typing import Any

from keyrotation_pipeline.audit.checkpoint import FEWEST_EVENTS, HASH_BYTES, Checkpoint
from keyrotation_pipeline.audit.events import AuditEntry, entry_of
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster, Signature, left_to_people, signed_fields
from keyrotation_pipeline.model.audit import EVENTS_DIFFER_BY, GENESIS, AuditEvent, AuditHead, Fact, Note, hash_of
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyReplaced, KeyStateChanged
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, KeyRecord, KeyState
from keyrotation_pipeline.model.request_events import (
    Blocked,
    DatabaseReconciled,
    PromotionRecorded,
    RequestOpened,
    RosterPinned,
    RotationAuditWritten,
    SignatureAdded,
    StatusChanged,
    StepFinished,
    Unblocked,
)
from keyrotation_pipeline.model.requests import (
    MAY_FOLLOW,
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    StepRecord,
    Walk,
    held_in,
)

# Another roster is pinned by a signed change of the rules, or again after the database was restored.
_PINNING = frozenset({RequestAction.POLICY, RequestAction.RECONCILE})
_BY_SIGNATURES = frozenset({KeyState.COMPROMISED, KeyState.DESTROYED})


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What is believed after the events heard so far.

    Args:
        head: the last of them.
        requests: by id; a `Walk` with its steps in order of name.
        texts: the exact bytes to sign, by request.
        signatures: by request, in order of time.
        compromised_by: by version, the request that called it compromised.
        audit_rows: of `key_rotation_audit`, by request.
        hashes: 32 bytes of each event, in order.
        counted: the seqs of the events that changed something.
        latest: the latest time of an event.
        faults: a phrase for each event that cannot have happened, and changed nothing, or that is out of order.
    """

    head: AuditHead = field(default_factory=lambda: AuditHead(0, GENESIS))
    roster: Roster | None = None
    keys: dict[KeyVersion, KeyRecord] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, tuple[Signature, ...]] = field(default_factory=dict)
    compromised_by: dict[KeyVersion, str] = field(default_factory=dict)
    audit_rows: dict[str | None, RotationAuditWritten] = field(default_factory=dict)
    hashes: bytes = b""
    counted: tuple[int, ...] = ()
    latest: datetime | None = None
    faults: tuple[str, ...] = ()

    def live(self) -> frozenset[str]:
        """Requests that are not over."""
        return frozenset(request.id for request in self.requests.values() if not request.is_over)

    def leads_through(self, anchor: AuditHead) -> bool:
        """Whether a head that was written down is in this audit."""
        return anchor.seq == 0 or _hash_at(self.hashes, anchor.seq) == anchor.hash

    def apply(self, events: Iterable[AuditEvent]) -> "LedgerState":
        """What is believed after these events too, which follow those heard before; this one stays as it is.

        Raises:
            AuditError: one does not follow the one before, was changed, or cannot be read.
        """
        later = iter(events)
        if (first := next(later, None)) is None:
            return self
        after = _changing(self)
        for event in chain((first,), later):
            after.apply(event)
        return after.belief()

    @classmethod
    def resumed(cls, checkpoint: Checkpoint, counted: Iterable[AuditEvent]) -> "LedgerState":
        """What was believed at a checkpoint.

        Args:
            counted: the events of `COUNTING` kinds, in order; those later than the checkpoint are not looked at.

        Raises:
            AuditError: they are not those that the checkpoint was made of.
        """
        after = _changing(cls())
        for event in takewhile(lambda event: event.seq <= checkpoint.seq, counted):
            after.skip_to(event.seq - 1, checkpoint.hashes)
            after.apply(event)
        after.skip_to(checkpoint.seq, checkpoint.hashes)
        if after.faults or after.hashes != checkpoint.hashes or tuple(after.counted) != checkpoint.counted:
            raise AuditError("the audit is not the one of the checkpoint; run `keyrotation audit verify`")
        after.latest = checkpoint.latest
        return after.belief()

    def checkpoint(self) -> Checkpoint | None:
        """What is kept of this replay; None: there were faults, or it is too short to be worth it."""
        if self.faults or self.latest is None or self.head.seq < FEWEST_EVENTS:
            return None
        return Checkpoint(self.hashes, self.counted, self.latest)


def _changing(belief: LedgerState) -> "_Hearing":
    return _Hearing(**{each.name: _copied(getattr(belief, each.name)) for each in fields(belief)})


def _copied(value: Any) -> Any:  # noqa: ANN401  of any field
    """A value to be changed, in place of one that must stay as it is."""
    match value:
        case dict():
            return dict(value)
        case bytes():
            return bytearray(value)
        case tuple():
            return list(value)
        case _:
            return value


def _hash_at(hashes: bytes | bytearray, seq: int) -> str:
    """The hash of an event in hex; empty, if there are not so many."""
    return hashes[(seq - 1) * HASH_BYTES : seq * HASH_BYTES].hex() if seq else GENESIS


class _ImpossibleError(Exception):
    """An event that cannot have happened. Its text is the rest of a sentence that begins with the event."""


@dataclass(slots=True)
class _Hearing:
    """A belief while it is made."""

    head: AuditHead
    roster: Roster | None
    keys: dict[KeyVersion, KeyRecord]
    requests: dict[str, Request]
    texts: dict[str, bytes]
    signatures: dict[str, tuple[Signature, ...]]
    compromised_by: dict[KeyVersion, str]
    audit_rows: dict[str | None, RotationAuditWritten]
    hashes: bytearray
    counted: list[int]
    latest: datetime | None
    faults: list[str]

    def belief(self) -> LedgerState:
        """As it is now, to stay."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        frozen = {"hashes": bytes(self.hashes), "counted": tuple(self.counted), "faults": tuple(self.faults)}
        return LedgerState(**{**content, **frozen})

    def skip_to(self, seq: int, hashes: bytes) -> None:
        """Take over that the events up to this one changed nothing."""
        self.hashes += hashes[len(self.hashes) : seq * HASH_BYTES]
        self.head = AuditHead(seq, _hash_at(self.hashes, seq))

    def apply(self, event: AuditEvent) -> None:
        follows = event.seq == self.head.seq + 1 and event.previous == self.head.hash
        entry = entry_of(event)
        if not follows or entry.seq != event.seq or hash_of(event.previous, event.body) != event.hash:
            raise AuditError(
                f"audit event {event.seq} does not follow event {self.head.seq}, or one of them was changed; "
                "run `keyrotation audit verify`"
            )
        self.head = AuditHead(event.seq, event.hash)
        self.hashes += bytes.fromhex(event.hash)
        if (entry.kind, entry.request) != (event.kind, event.request):
            self.faults.append(f"event {entry.seq} is filed under another kind or request than its own")
        if self.latest is not None and entry.at < self.latest - EVENTS_DIFFER_BY:
            self.faults.append(
                f"event {entry.seq} is dated {entry.at:%Y-%m-%d %H:%M:%S}, before events that it follows"
            )
        self.latest = max(self.latest or entry.at, entry.at)
        try:
            self._apply(entry)
        except _ImpossibleError as error:
            self.faults.append(f"event {entry.seq} ({entry.kind}) {error}")

    def _apply(self, entry: AuditEntry) -> None:
        fact = entry.fact()
        if isinstance(fact, RequestOpened) and not self._has(fact.audit_head):
            self.faults.append(f"event {entry.seq} opens a request that is to be signed for another audit")
        if (rule := _RULES.get(type(fact))) is not None:
            rule(self, entry.request, fact)
            self.counted.append(entry.seq)

    def _has(self, head: AuditHead) -> bool:
        return head.hash == _hash_at(self.hashes, head.seq)

    def known(self, request: str | None) -> Request:
        """A request that was opened before."""
        if request is None or request not in self.requests:
            raise _ImpossibleError("is of a request that was never opened")
        return self.requests[request]

    def require_signed(self, request: str | None, *actions: RequestAction, by: Roster | None = None) -> Request:
        """A running request to do one of these, signed by enough officers: of `by`, else of the pinned roster."""
        stored = self.known(request)
        _require(stored.action in actions, f"is by a request to {stored.action}")
        _require(stored.status is RequestStatus.RUNNING, f"is by a request that is {stored.status}")
        self._require_enough(stored, by or self.roster)
        return stored

    def require_held_compromised(self, request: str | None, version: KeyVersion) -> Request:
        """An emergency request, not over, that enough officers have signed, and whose text holds the version lost.

        It may not have begun yet: the last signature is what calls a version compromised.
        """
        stored = self.known(request)
        _require(stored.type is RotationType.EMERGENCY, f"is by a {stored.type} request")
        _require(not stored.is_over, f"is by a request that is {stored.status}")
        self._require_enough(stored, self.roster)
        _require(version in held_in(self.texts[stored.id]), f"is by a request that does not hold {version} compromised")
        return stored

    @staticmethod
    def _require_enough(request: Request, roster: Roster | None) -> None:
        officers = {officer.fingerprint for officer in roster.officers} if roster else set()
        enough = roster is not None and len(officers.intersection(request.approvals)) >= roster.required
        _require(enough, "is by a request that too few have signed")


def by_name(step: StepRecord) -> tuple[str, str, int]:
    """What finished steps are ordered by, to be compared."""
    return step.step, step.table or "", -1 if step.shard is None else step.shard


def _pinned(heard: _Hearing, request: str | None, fact: RosterPinned) -> None:
    if heard.roster is not None:
        # Who reconciles a restored database is an officer by the roster that it has lost, and that is pinned again.
        again = heard.known(request).action is RequestAction.RECONCILE
        heard.require_signed(request, *_PINNING, by=fact.roster if again else None)
    heard.roster = fact.roster


def _opened(heard: _Hearing, request: str | None, fact: RequestOpened) -> None:
    if request is None or request in heard.requests:
        raise _ImpossibleError("opens a request that is there already")
    content: dict[str, Any] = {
        "id": request,
        "type": fact.type,
        "action": fact.action,
        "source": fact.source,
        "source_fingerprint": fact.fingerprint,
        "target": fact.target,
        "reason": fact.reason,
        "incident": fact.incident,
        "requested_by": fact.requested_by,
        "requested_at": fact.requested_at,
        "start_by": fact.start_by,
        "finish_by": fact.finish_by,
        "audit_head": (fact.audit_head.seq, fact.audit_head.hash),
        "status": RequestStatus.REQUESTED,
        "approvals": (),
        "supersedes": fact.supersedes,
        "not_before": fact.not_before,
        "manual": left_to_people(text := fact.approval_text.encode()),
    }
    heard.requests[request] = Walk(**content) if fact.action.walks else Request(**content)
    heard.texts[request] = text


def _signed(heard: _Hearing, request: str | None, fact: SignatureAdded) -> None:
    stored = heard.known(request)
    _require(not stored.is_over, f"signs a request that is {stored.status}")
    _require(fact.officer not in stored.approvals, "is a second signature of one officer")
    added = Signature(fact.officer, bytes.fromhex(fact.signature), fact.signed_at)
    signatures = sorted((*heard.signatures.get(stored.id, ()), added), key=lambda each: (each.signed_at, each.officer))
    heard.signatures[stored.id] = tuple(signatures)
    heard.requests[stored.id] = replace(stored, approvals=tuple(each.officer for each in signatures))


def _moved(heard: _Hearing, request: str | None, fact: StatusChanged) -> None:
    stored = heard.known(request)
    _require(fact.before is stored.status, f"changes a request that is {stored.status}, not {fact.before}")
    _require(fact.after in MAY_FOLLOW[stored.status], f"makes a request that is {stored.status} {fact.after}")
    over = fact.after in {RequestStatus.CANCELLED, RequestStatus.FINISHED}
    started_at = stored.started_at or (fact.at if fact.after is RequestStatus.RUNNING else None)
    heard.requests[stored.id] = replace(
        stored, status=fact.after, started_at=started_at, finished_at=fact.at if over else None
    )


def _finished(heard: _Hearing, request: str | None, fact: StepFinished) -> None:
    walk = _walk(heard, request)
    _require(walk.done(fact.step, fact.table, fact.shard) is None, "finishes a step again")
    record = StepRecord(fact.step, fact.table, fact.shard, fact.finished_at, fact.facts)
    heard.requests[walk.id] = replace(walk, steps=tuple(sorted((*walk.steps, record), key=by_name)))


def _promoted(heard: _Hearing, request: str | None, fact: PromotionRecorded) -> None:
    walk = _walk(heard, request)
    _require(walk.promotion_xid is None, "records a promotion again")
    heard.requests[walk.id] = replace(walk, promotion_xid=fact.xid)


def _blocked(heard: _Hearing, request: str | None, fact: Blocked | Unblocked) -> None:
    stored = heard.known(request)
    heard.requests[stored.id] = replace(stored, blocked_by=fact.sentence if isinstance(fact, Blocked) else None)


def _registered(heard: _Hearing, _request: str | None, fact: KeyRegistered) -> None:
    _require(fact.version not in heard.keys, f"registers {fact.version} again")
    _require(fact.state not in _BY_SIGNATURES, f"registers {fact.version} as {fact.state}")
    heard.keys[fact.version] = KeyRecord(fact.version, fact.state, fact.fingerprint, fact.created_at)


def _state_changed(heard: _Hearing, request: str | None, fact: KeyStateChanged) -> None:
    record = heard.keys.get(fact.version)
    if record is None or (record.state, record.fingerprint) != (fact.before, fact.fingerprint):
        raise _ImpossibleError(f"changes {fact.version}, which is not registered so")
    _require(fact.after in ALLOWED_TRANSITIONS[record.state], f"makes {fact.version} {fact.after} from {record.state}")
    if fact.after is KeyState.DESTROYED:
        by = heard.require_signed(request, RequestAction.DESTROY)
        _require(by.source == fact.version, f"destroys {fact.version} by a request to destroy {by.source}")
    if fact.after is KeyState.COMPROMISED:
        heard.compromised_by[fact.version] = heard.require_held_compromised(request, fact.version).id
    heard.keys[fact.version] = replace(record, state=fact.after)


def _replaced(heard: _Hearing, request: str | None, fact: KeyReplaced) -> None:
    record = heard.keys.get(fact.version)
    if record is None or record.fingerprint != fact.before:
        raise _ImpossibleError(f"replaces {fact.version}, which is not registered so")
    by = heard.require_signed(request, RequestAction.REPLACE_KEY)
    signed = signed_fields(heard.texts[by.id])
    as_signed = (signed.get("From"), signed.get("To"))
    _require(
        as_signed == (f"{fact.version} {fact.before}", f"{fact.version} {fact.after}"),
        f"replaces {fact.version} by another key than its request names",
    )
    heard.keys[fact.version] = replace(record, fingerprint=fact.after)


def _audit_row_written(heard: _Hearing, request: str | None, fact: RotationAuditWritten) -> None:
    heard.audit_rows[request] = fact


def _reconciled(heard: _Hearing, request: str | None, _fact: DatabaseReconciled) -> None:
    heard.require_signed(request, RequestAction.RECONCILE)


def _walk(heard: _Hearing, request: str | None) -> Walk:
    stored = heard.known(request)
    if not isinstance(stored, Walk):
        raise _ImpossibleError(f"is a step of a request to {stored.action}, which has none")
    return stored


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001  reads as a sentence
    if not holds:
        raise _ImpossibleError(otherwise)


# What changes nothing that is believed (intents, notes) has no rule.
_RULES: dict[type[Fact | Note | None], Callable[[_Hearing, str | None, Any], None]] = {
    RosterPinned: _pinned,
    RequestOpened: _opened,
    SignatureAdded: _signed,
    StatusChanged: _moved,
    StepFinished: _finished,
    PromotionRecorded: _promoted,
    Blocked: _blocked,
    Unblocked: _blocked,
    KeyRegistered: _registered,
    KeyStateChanged: _state_changed,
    KeyReplaced: _replaced,
    RotationAuditWritten: _audit_row_written,
    DatabaseReconciled: _reconciled,
}
# The kinds of events that have one.
COUNTING = tuple(record.kind for record in _RULES if isinstance(record, type) and issubclass(record, Fact))
