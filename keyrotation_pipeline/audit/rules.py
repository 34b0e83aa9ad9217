"""What each event of the audit changes, and which events cannot have happened.

The chain is the ledger: there is no other record of rosters, requests, keys and steps. Whoever owns the database can
append events. So an event counts only if it could happen when it did: nothing comes back that was over, and what no
officer may do alone (another roster, a compromised or destroyed key) is done by a request of that kind, which enough
officers have signed. Whether the signatures are good is checked where the certificates are: the rules see only events.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from keyrotation_pipeline.audit.events import AuditEntry
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster, Signature, left_to_people, signed_fields
from keyrotation_pipeline.model.audit import Fact, Note
from keyrotation_pipeline.model.breach import BreachAnswers, BreachAssessed
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


class ImpossibleError(Exception):
    """An event that cannot have happened. Its text is the rest of a sentence that begins with the event."""


@dataclass(slots=True)
class AuditState:
    """What holds after some events.

    Args:
        roster: the pinned one.
        requests: by id; a `Walk` with its steps in order of name.
        texts: the exact bytes to sign, by request.
        signatures: by request, in order of time.
        pinned_again: by reconciliation, the roster that the database had lost and that it pinned again.
        compromised_by: by version, the request that called it compromised.
        audit_rows: of `key_rotation_audit`, by request.
        answers: by incident, all answers about the breach so far, and the event that completed them.
    """

    roster: Roster | None = None
    keys: dict[KeyVersion, KeyRecord] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, tuple[Signature, ...]] = field(default_factory=dict)
    pinned_again: dict[str, Roster] = field(default_factory=dict)
    compromised_by: dict[KeyVersion, str] = field(default_factory=dict)
    audit_rows: dict[str | None, RotationAuditWritten] = field(default_factory=dict)
    answers: dict[str, tuple[BreachAnswers, int]] = field(default_factory=dict)

    def known(self, request: str | None) -> Request:
        """A request that was opened before."""
        if request is None or request not in self.requests:
            raise ImpossibleError("is of a request that was never opened")
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


def _pinned(state: AuditState, entry: AuditEntry, fact: RosterPinned) -> None:
    if state.roster is not None:
        # Who reconciles a restored database is an officer by the roster that it has lost, and that is pinned again.
        again = state.known(entry.request).action is RequestAction.RECONCILE
        by = state.require_signed(entry.request, *_PINNING, by=fact.roster if again else None)
        if again:
            state.pinned_again[by.id] = fact.roster
    state.roster = fact.roster


def _opened(state: AuditState, entry: AuditEntry, fact: RequestOpened) -> None:
    request = entry.request
    if request is None or request in state.requests:
        raise ImpossibleError("opens a request that is there already")
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
    state.requests[request] = Walk(**content) if fact.action.walks else Request(**content)
    state.texts[request] = text


def _signed(state: AuditState, entry: AuditEntry, fact: SignatureAdded) -> None:
    stored = state.known(entry.request)
    _require(not stored.is_over, f"signs a request that is {stored.status}")
    _require(fact.officer not in stored.approvals, "is a second signature of one officer")
    added = Signature(fact.officer, bytes.fromhex(fact.signature), fact.signed_at)
    # OpenPGP's times are of a second: of two signatures in one, the one recorded first comes first.
    signatures = sorted((*state.signatures.get(stored.id, ()), added), key=lambda each: each.signed_at)
    state.signatures[stored.id] = tuple(signatures)
    state.requests[stored.id] = replace(stored, approvals=tuple(each.officer for each in signatures))


def _moved(state: AuditState, entry: AuditEntry, fact: StatusChanged) -> None:
    stored = state.known(entry.request)
    _require(fact.before is stored.status, f"changes a request that is {stored.status}, not {fact.before}")
    _require(fact.after in MAY_FOLLOW[stored.status], f"makes a request that is {stored.status} {fact.after}")
    over = fact.after in {RequestStatus.CANCELLED, RequestStatus.FINISHED}
    started_at = stored.started_at or (fact.at if fact.after is RequestStatus.RUNNING else None)
    state.requests[stored.id] = replace(
        stored, status=fact.after, started_at=started_at, finished_at=fact.at if over else None
    )


def _finished(state: AuditState, entry: AuditEntry, fact: StepFinished) -> None:
    walk = _walk(state, entry.request)
    _require(walk.done(fact.step, fact.table, fact.shard) is None, "finishes a step again")
    record = StepRecord(fact.step, fact.table, fact.shard, fact.finished_at, fact.facts)
    state.requests[walk.id] = replace(walk, steps=tuple(sorted((*walk.steps, record), key=by_name)))


def _promoted(state: AuditState, entry: AuditEntry, fact: PromotionRecorded) -> None:
    walk = _walk(state, entry.request)
    _require(walk.promotion_xid is None, "records a promotion again")
    state.requests[walk.id] = replace(walk, promotion_xid=fact.xid)


def _blocked(state: AuditState, entry: AuditEntry, fact: Blocked | Unblocked) -> None:
    stored = state.known(entry.request)
    state.requests[stored.id] = replace(stored, blocked_by=fact.sentence if isinstance(fact, Blocked) else None)


def _registered(state: AuditState, _entry: AuditEntry, fact: KeyRegistered) -> None:
    _require(fact.version not in state.keys, f"registers {fact.version} again")
    _require(fact.state not in _BY_SIGNATURES, f"registers {fact.version} as {fact.state}")
    state.keys[fact.version] = KeyRecord(fact.version, fact.state, fact.fingerprint, fact.created_at)


def _state_changed(state: AuditState, entry: AuditEntry, fact: KeyStateChanged) -> None:
    record = state.keys.get(fact.version)
    if record is None or (record.state, record.fingerprint) != (fact.before, fact.fingerprint):
        raise ImpossibleError(f"changes {fact.version}, which is not registered so")
    _require(fact.after in ALLOWED_TRANSITIONS[record.state], f"makes {fact.version} {fact.after} from {record.state}")
    if fact.after is KeyState.DESTROYED:
        by = state.require_signed(entry.request, RequestAction.DESTROY)
        _require(by.source == fact.version, f"destroys {fact.version} by a request to destroy {by.source}")
    if fact.after is KeyState.COMPROMISED:
        state.compromised_by[fact.version] = state.require_held_compromised(entry.request, fact.version).id
    state.keys[fact.version] = replace(record, state=fact.after)


def _replaced(state: AuditState, entry: AuditEntry, fact: KeyReplaced) -> None:
    record = state.keys.get(fact.version)
    if record is None or record.fingerprint != fact.before:
        raise ImpossibleError(f"replaces {fact.version}, which is not registered so")
    by = state.require_signed(entry.request, RequestAction.REPLACE_KEY)
    try:
        signed = signed_fields(state.texts[by.id])
    except ApprovalError:
        raise ImpossibleError("is by a request whose text nobody can have signed") from None
    as_signed = (signed.get("From"), signed.get("To"))
    _require(
        as_signed == (f"{fact.version} {fact.before}", f"{fact.version} {fact.after}"),
        f"replaces {fact.version} by another key than its request names",
    )
    state.keys[fact.version] = replace(record, fingerprint=fact.after)


def _audit_row_written(state: AuditState, entry: AuditEntry, fact: RotationAuditWritten) -> None:
    state.audit_rows[entry.request] = fact


def _reconciled(state: AuditState, entry: AuditEntry, _fact: DatabaseReconciled) -> None:
    state.require_signed(entry.request, RequestAction.RECONCILE)


def _assessed(state: AuditState, entry: AuditEntry, fact: BreachAssessed) -> None:
    before, _ = state.answers.get(fact.incident, (BreachAnswers(), 0))
    state.answers[fact.incident] = before.then(fact.answers), entry.seq


def _walk(state: AuditState, request: str | None) -> Walk:
    stored = state.known(request)
    if not isinstance(stored, Walk):
        raise ImpossibleError(f"is a step of a request to {stored.action}, which has none")
    return stored


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001  reads as a sentence
    if not holds:
        raise ImpossibleError(otherwise)


# What changes nothing (intents, notes) has no rule.
RULES: dict[type[Fact | Note | None], Callable[[AuditState, AuditEntry, Any], None]] = {
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
    BreachAssessed: _assessed,
}
# The kinds of events that have one.
COUNTING = tuple(record.kind for record in RULES if isinstance(record, type) and issubclass(record, Fact))
