"""What each event of the audit changes, and which events cannot have happened.

The chain is the ledger: there is no other record of rosters, requests, keys, incidents and steps. Whoever owns the
database can append events. So an event counts only if it could happen when it did: nothing comes back that was over;
facts are those of the text that officers signed, for this database; and what no officer may do alone (start a request,
pin another roster, change the state of a key, close an incident whose key is in use) has the signatures of enough
officers of the roster of that moment, each verified here, over exactly that text.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from keyrotation_pipeline.audit.events import AuditEntry
from keyrotation_pipeline.audit.incidents import INCIDENT_RULES
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import (
    Roster,
    RosterSignature,
    Signature,
    hosts_in,
    left_to_people,
    signed_fields,
    signed_moment,
    signer_in,
)
from keyrotation_pipeline.model.audit import AuditHead, EventKind, Fact, Note
from keyrotation_pipeline.model.audit_state import (
    AuditState,
    ImpossibleError,
    Unverified,
    names_database,
    require,
    verified_by,
)
from keyrotation_pipeline.model.backup_events import BackupKeyPinned
from keyrotation_pipeline.model.backups import signer_fingerprint
from keyrotation_pipeline.model.breach import ASSESSMENT_HEADER, AssessmentSigned, BreachAnswers, BreachAssessed
from keyrotation_pipeline.model.key_events import KeyDestroyed, KeyRegistered, KeyReplaced, KeyRetired, KeyStateChanged
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, KeyRecord, KeyState
from keyrotation_pipeline.model.request_events import (
    Blocked,
    DatabaseReconciled,
    HostsPinned,
    PromotionRecorded,
    RequestOpened,
    RolloutConfirmed,
    RosterPinned,
    RotationAuditWritten,
    SignatureAdded,
    StatusChanged,
    StepFinished,
    Unblocked,
)
from keyrotation_pipeline.model.requests import (
    CONFIRMATION_HEADER,
    MAY_FOLLOW,
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    StepRecord,
    Walk,
)

_BY_SIGNATURES = frozenset({KeyState.COMPROMISED, KeyState.DESTROYED})
_CHANGING_STATES = (RequestAction.ROTATE, RequestAction.ROLLBACK, RequestAction.RECONCILE)
_BACK = frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED})


def abandoning(heads: Collection[AuditHead]) -> str:
    """The heads that officers sign as abandoned, in the line `Authorises`."""
    newest = max(heads, key=lambda head: head.seq)
    others = f" (nor {len(heads) - 1} older)" if len(heads) > 1 else ""
    return f"accept that event {newest.seq} {newest.hash}{others} is not in the audit"


def by_name(step: StepRecord) -> tuple[str, str, int]:
    """What finished steps are ordered by, to be compared."""
    return step.step, step.table or "", -1 if step.shard is None else step.shard


def _pinned(state: AuditState, entry: AuditEntry, fact: RosterPinned) -> None:
    before, roster = state.roster, fact.roster
    if before is not None:
        if state.known(entry.request).action is RequestAction.RECONCILE:
            _pin_again(state, state.known(entry.request), before, fact)
        else:
            by = state.require_running(entry.request, RequestAction.POLICY)
            _require_named(state.texts[by.id], {"From": str(before), "To": str(roster)})
    state.roster = roster
    state.rosters.append((entry.seq, roster, entry.request))


def _hosts_pinned(state: AuditState, _entry: AuditEntry, fact: HostsPinned) -> None:
    require(state.hosts in {None, fact.hosts}, "pins hosts that nobody has signed")
    state.hosts = fact.hosts


def _pin_again(state: AuditState, request: Request, before: Roster, fact: RosterPinned) -> None:
    """Pin a roster that the database had lost: the changes that led to it were signed, and its officers sign now."""
    require(not request.is_over, f"is by a request that is {request.status}")
    for change in fact.changes:
        fields = _require_named(change.text.encode(), _policy(before, change.roster))
        require(fields.get("Request") not in state.requests, "pins a roster by a change that the audit has not lost")
        officers = {_signer(state, before, change.text.encode(), each, each.at) for each in change.signatures}
        require(len(officers) >= before.required, "pins a roster that too few officers of the one before have signed")
        before = change.roster
    require(str(before) == str(fact.roster), "pins a roster that nobody is known to have signed")
    waiting = [each for each in state.unverified if each.request == request.id]
    for each in waiting:
        _signer(state, fact.roster, state.texts[request.id], each.fact, each.at)
    officers = {officer.fingerprint for officer in fact.roster.officers}.intersection(request.approvals)
    require(len(officers) >= fact.roster.required, "is by a request that too few have signed")
    state.unverified = [each for each in state.unverified if each not in waiting]


def _policy(before: Roster, after: Roster) -> Mapping[str, str]:
    return {"Action": RequestAction.POLICY, "From": str(before), "To": str(after)}


def _signer(
    state: AuditState, roster: Roster, text: bytes, signed: SignatureAdded | RosterSignature, at: datetime
) -> str:
    good = verified_by(state.verify, roster.officers, text, signed.signature, signed.officer, since=None, at=at)
    return good.officer


def _backup_key_pinned(state: AuditState, _entry: AuditEntry, fact: BackupKeyPinned) -> None:
    """Only the first counts without a signed text: it is older than whatever could be appended later."""
    try:
        signer = signer_fingerprint(fact.public)
    except ValueError:
        raise ImpossibleError("pins no public key") from None
    state.signers = state.signers or {signer}


def _opened(state: AuditState, entry: AuditEntry, fact: RequestOpened) -> None:
    request = entry.request
    if request is None or request in state.requests:
        raise ImpossibleError("opens a request that is there already")
    text = fact.approval_text.encode()
    fields = _require_named(text, _signed_facts(request, fact))
    require(names_database(text, state.place), "is to be signed for another database")
    if fact.action is not RequestAction.RECONCILE and state.roster is not None:
        officers = ", ".join(officer.fingerprint for officer in state.roster.officers)
        require(fields.get("Officers") == f"{state.roster.required} of {officers}", "is to be signed by other officers")
    require((fact.type is RotationType.EMERGENCY) == (fact.incident is not None), f"is a {fact.type} request")
    require(fact.supersedes is None or fact.supersedes in state.requests, "supersedes a request that is not there")
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
        "manual": left_to_people(text),
    }
    state.requests[request] = Walk(**content) if fact.action.walks else Request(**content)
    state.texts[request] = text


def _signed_facts(request: str, fact: RequestOpened) -> Mapping[str, str | None]:
    """What the text to sign must say, for the facts of a request."""
    source, known = f"{fact.source} {fact.fingerprint}", fact.action is not RequestAction.POLICY
    target = {
        RequestAction.ROTATE: str(fact.target),
        RequestAction.RECONCILE: str(fact.target),
        RequestAction.DESTROY: "destroyed",
    }.get(fact.action)
    return {
        "Request": request,
        "Action": fact.action,
        **({"From": source} if known else {}),
        **({} if target is None else {"To": target}),
        "Audit head": f"{fact.audit_head.seq} {fact.audit_head.hash}",
        "Not before": None if fact.not_before is None else signed_moment(fact.not_before),
        "Start by": signed_moment(fact.start_by),
        "Finish by": signed_moment(fact.finish_by),
        "Incident": fact.incident,
        "Reason": fact.reason if fact.incident is None else f"incident {fact.incident}: {fact.reason}",
    }


def _require_named(text: bytes, expected: Mapping[str, str | None]) -> Mapping[str, str]:
    """The fields of a text for approval, which must have these values, or lack those that are None."""
    try:
        fields = signed_fields(text)
    except ApprovalError:
        raise ImpossibleError("has a text that nobody can have signed") from None
    for name, value in expected.items():
        require(fields.get(name) == value, f"has a text with another line {name} than its facts")
    return fields


def _signed(state: AuditState, entry: AuditEntry, fact: SignatureAdded) -> None:
    stored = state.known(entry.request)
    require(not stored.is_over, f"signs a request that is {stored.status}")
    require(fact.officer not in stored.approvals, "is a second signature of one officer")
    try:
        good = state.verified(
            state.texts[stored.id], fact.signature, fact.officer, since=stored.requested_at, at=entry.at
        )
    except ImpossibleError:
        is_officer = state.roster is not None and state.roster.name_of(fact.officer) is not None
        if stored.action is not RequestAction.RECONCILE or is_officer:
            raise
        state.unverified.append(Unverified(entry.seq, entry.at, stored.id, fact))
    else:
        require(good.signed_at == fact.signed_at, "says another time than the signature")
    _file(state, stored.id, fact)


def _file(state: AuditState, request: str, fact: SignatureAdded) -> None:
    added = Signature(fact.officer, bytes.fromhex(fact.signature), fact.signed_at)
    # OpenPGP's times are of a second: of two signatures in one, the one recorded first comes first.
    signatures = sorted((*state.signatures.get(request, ()), added), key=lambda each: each.signed_at)
    state.signatures[request] = tuple(signatures)
    approvals = tuple(each.officer for each in signatures)
    state.requests[request] = replace(state.requests[request], approvals=approvals)


def _moved(state: AuditState, entry: AuditEntry, fact: StatusChanged) -> None:
    stored = state.known(entry.request)
    require(fact.before is stored.status, f"changes a request that is {stored.status}, not {fact.before}")
    require(fact.after in MAY_FOLLOW[stored.status], f"makes a request that is {stored.status} {fact.after}")
    # A change of the roster ends when the next one's officers are those who sign.
    if fact.after is RequestStatus.RUNNING or (
        fact.after is RequestStatus.FINISHED and stored.action is not RequestAction.POLICY
    ):
        state.require_signed(stored.id)
    if fact.after is RequestStatus.RUNNING and stored.started_at is None:
        require(entry.at <= stored.start_by, "starts a request after its last date")
        fields = signed_fields(state.texts[stored.id])
        state.hosts = hosts_in(fields)
        state.signers.update(signer_in(fields))
    if fact.after is RequestStatus.RUNNING and stored.action is RequestAction.RECONCILE and state.place is not None:
        state.database = state.place
        state.foreign = {seq: place for seq, place in state.foreign.items() if place != state.place}
    over = fact.after in {RequestStatus.CANCELLED, RequestStatus.FINISHED}
    started_at = stored.started_at or (fact.at if fact.after is RequestStatus.RUNNING else None)
    state.requests[stored.id] = replace(
        stored, status=fact.after, started_at=started_at, finished_at=fact.at if over else None
    )


def _finished(state: AuditState, entry: AuditEntry, fact: StepFinished) -> None:
    walk = _walk(state, entry.request)
    require(walk.done(fact.step, fact.table, fact.shard) is None, "finishes a step again")
    record = StepRecord(fact.step, fact.table, fact.shard, fact.finished_at, fact.facts)
    state.requests[walk.id] = replace(walk, steps=tuple(sorted((*walk.steps, record), key=by_name)))


def _promoted(state: AuditState, entry: AuditEntry, fact: PromotionRecorded) -> None:
    walk = _walk(state, entry.request)
    require(walk.promotion_xid is None, "records a promotion again")
    state.requests[walk.id] = replace(walk, promotion_xid=fact.xid)


def _blocked(state: AuditState, entry: AuditEntry, fact: Blocked | Unblocked) -> None:
    stored = state.known(entry.request)
    state.requests[stored.id] = replace(stored, blocked_by=fact.sentence if isinstance(fact, Blocked) else None)


def _confirmed(state: AuditState, entry: AuditEntry, fact: RolloutConfirmed) -> None:
    walk = _walk(state, entry.request)
    text = fact.text.encode()
    header, *lines = fact.text.split("\n")
    named = {f"Request: {walk.id}", f"Rollout: {fact.rollout}"}
    require(header == CONFIRMATION_HEADER and named <= set(lines), "confirms another rollout than its text")
    state.verified(text, fact.signature, fact.officer, since=walk.requested_at, at=entry.at)


def _registered(state: AuditState, entry: AuditEntry, fact: KeyRegistered) -> None:
    if entry.request is not None:
        state.require_running(entry.request)
    require(fact.version not in state.keys, f"registers {fact.version} again")
    require(fact.state not in _BY_SIGNATURES, f"registers {fact.version} as {fact.state}")
    _require_only_active(state, fact.version, fact.state)
    state.keys[fact.version] = KeyRecord(fact.version, fact.state, fact.fingerprint, fact.created_at)


def _state_changed(state: AuditState, entry: AuditEntry, fact: KeyStateChanged) -> None:
    record = state.keys.get(fact.version)
    if record is None or (record.state, record.fingerprint) != (fact.before, fact.fingerprint):
        raise ImpossibleError(f"changes {fact.version}, which is not registered so")
    require(fact.after in ALLOWED_TRANSITIONS[record.state], f"makes {fact.version} {fact.after} from {record.state}")
    _require_only_active(state, fact.version, fact.after)
    if fact.after is KeyState.COMPROMISED:
        state.compromised_by[fact.version] = state.require_held_compromised(entry.request, fact.version).id
    elif fact.after is KeyState.DESTROYED:
        by = state.require_running(entry.request, RequestAction.DESTROY)
        require(by.source == fact.version, f"destroys {fact.version} by a request to destroy {by.source}")
        require(by.source_fingerprint == fact.fingerprint, f"destroys another key {fact.version} than was signed")
    elif (fact.before, fact.after) == (KeyState.PRE_ACTIVATION, KeyState.ARCHIVED):
        # A rotation that is cancelled withdraws its key, also if its signers are not on the roster any more.
        require(not state.known(entry.request).is_over, "is by a request that is over")
    else:
        state.require_signed(entry.request, *_CHANGING_STATES)
    if fact.after in _BACK:
        state.retired.discard(fact.version)
    state.keys[fact.version] = replace(record, state=fact.after)


def _require_only_active(state: AuditState, version: KeyVersion, after: KeyState) -> None:
    active = [each.version for each in state.keys.values() if each.state is KeyState.ACTIVE]
    require(after is not KeyState.ACTIVE or not active, f"makes {version} active next to {', '.join(map(str, active))}")


def _replaced(state: AuditState, entry: AuditEntry, fact: KeyReplaced) -> None:
    record = state.keys.get(fact.version)
    if record is None or record.fingerprint != fact.before:
        raise ImpossibleError(f"replaces {fact.version}, which is not registered so")
    by = state.require_running(entry.request, RequestAction.REPLACE_KEY)
    _require_named(state.texts[by.id], {"From": f"{fact.version} {fact.before}", "To": f"{fact.version} {fact.after}"})
    state.keys[fact.version] = replace(record, fingerprint=fact.after)


def _retired(state: AuditState, entry: AuditEntry, fact: KeyRetired) -> None:
    walk = _walk(state, entry.request)
    require(fact.target == walk.target, f"retires keys for {fact.target}, which its request is not about")
    state.retired.update(fact.taken_from_applications)


def _destroyed(state: AuditState, entry: AuditEntry, fact: KeyDestroyed) -> None:
    by = state.require_running(entry.request, RequestAction.DESTROY)
    require(by.source == fact.version, f"destroys {fact.version} by a request to destroy {by.source}")


def _audit_row_written(state: AuditState, entry: AuditEntry, fact: RotationAuditWritten) -> None:
    state.audit_rows[entry.request] = fact


def _reconciled(state: AuditState, entry: AuditEntry, fact: DatabaseReconciled) -> None:
    by = state.require_running(entry.request, RequestAction.RECONCILE)
    if fact.accepted:
        said = signed_fields(state.texts[by.id]).get("Authorises", "").split("; ")
        require(abandoning(fact.accepted) in said, "gives up other anchors than officers signed")
    state.reconciled_at = entry.at
    state.abandoned.update(fact.accepted)
    for version in (fact.primary, *fact.in_rows):
        state.retired.discard(version)


def _assessed(state: AuditState, entry: AuditEntry, fact: BreachAssessed) -> None:
    before, _ = state.answers.get(fact.incident, (BreachAnswers(), 0))
    state.answers[fact.incident] = before.then(fact.answers), entry.seq
    state.agreed.pop(fact.incident, None)


def _assessment_signed(state: AuditState, entry: AuditEntry, fact: AssessmentSigned) -> None:
    answers, seq = state.answers.get(fact.incident, (BreachAnswers(), 0))
    header, *lines = fact.text.split("\n")
    named = {f"Incident: {fact.incident}", f"Answers: {answers.digest()}", f"Audit event: {seq}"}
    require(header == ASSESSMENT_HEADER and named <= set(lines), "is over other answers")
    state.verified(fact.text.encode(), fact.signature, fact.officer, since=None, at=entry.at)
    decision = next((line.removeprefix("Decision: ") for line in lines if line.startswith("Decision: ")), "")
    officers, before = state.agreed.get(fact.incident, (frozenset[str](), decision))
    require(before == decision, "is over another decision than the signatures before")
    state.agreed[fact.incident] = officers | {fact.officer}, decision


def _walk(state: AuditState, request: str | None) -> Walk:
    stored = state.require_signed(request)
    if not isinstance(stored, Walk):
        raise ImpossibleError(f"is a step of a request to {stored.action}, which has none")
    return stored


# What changes nothing (intents, notes) has no rule.
RULES: dict[type[Fact | Note | None], Callable[[AuditState, AuditEntry, Any], None]] = {
    RosterPinned: _pinned,
    HostsPinned: _hosts_pinned,
    BackupKeyPinned: _backup_key_pinned,
    RequestOpened: _opened,
    SignatureAdded: _signed,
    StatusChanged: _moved,
    StepFinished: _finished,
    PromotionRecorded: _promoted,
    Blocked: _blocked,
    Unblocked: _blocked,
    RolloutConfirmed: _confirmed,
    KeyRegistered: _registered,
    KeyStateChanged: _state_changed,
    KeyReplaced: _replaced,
    KeyRetired: _retired,
    KeyDestroyed: _destroyed,
    RotationAuditWritten: _audit_row_written,
    DatabaseReconciled: _reconciled,
    BreachAssessed: _assessed,
    AssessmentSigned: _assessment_signed,
    **INCIDENT_RULES,
}
# The kinds of events that have one.
COUNTING = tuple(record.kind for record in RULES if isinstance(record, type) and issubclass(record, Fact))
# After these the home stores the head. What changes nothing is there too if it happens once and nothing repeats it.
ANCHORED = frozenset({*COUNTING, EventKind.AUDIT_TIMESTAMPED, EventKind.BACKUP_REKEYED})
