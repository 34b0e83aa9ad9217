"""What each event of the audit changes, and which events cannot have happened.

The chain is the ledger: there is no other record of rosters, requests, keys, incidents and steps. Whoever owns the
database can append events. So an event counts only if it could happen when it did: nothing comes back that was over;
facts are those of the text that officers signed, for this database; and what no officer may do alone (start a
request, pin another roster, change the state of a key, close an incident whose key is in use) has the signatures of
enough officers of the roster of that moment, each verified here, over exactly that text. Those of incidents are in
`incidents`.

From the event on with which the pipeline began to sign what it appends, further rules hold. Older ones are kept as they
were written. In this order an event is judged:

1. The pipeline signed it, with the key of the home that officers named last; or it asks officers to name another.
2. Steps are finished, and the promotion is recorded, while their request is under way, in the order of the walk.
3. Only the walk's own versions change their state, each after the steps that it takes; no key is withdrawn before.
4. Keys are withdrawn after the proof, and a walk is finished after its last step.
5. A key is registered as the target of a request, or after the intent to import exactly that one.
6. What an event says of its own time is the time when it was recorded.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from keyrotation_pipeline.audit.events import AuditEntry, Rules
from keyrotation_pipeline.audit.incidents import INCIDENT_RULES
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import (
    COMPARED,
    Roster,
    RosterSignature,
    Signature,
    VerifiedSignature,
    hosts_in,
    left_to_people,
    signed_fields,
    signed_time,
    signer_in,
)
from keyrotation_pipeline.model.audit import AuditHead, Fact, Note
from keyrotation_pipeline.model.audit_state import (
    AuditState,
    ImpossibleError,
    Unverified,
    is_its_time,
    names_database,
    require,
    require_lines,
    verified_by,
)
from keyrotation_pipeline.model.backup_events import BackupKeyPinned, SigningBegun
from keyrotation_pipeline.model.backups import signer_fingerprint
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.key_events import (
    KeyDestroyed,
    KeyImportIntended,
    KeyRegistered,
    KeyReplaced,
    KeyRetired,
    KeyStateChanged,
)
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, IN_USE, LOST, KeyRecord, KeyState, other_generation
from keyrotation_pipeline.model.request_events import (
    Blocked,
    DatabaseReconciled,
    HomeNamed,
    HostsPinned,
    PromotionRecorded,
    RequestOpened,
    RolloutConfirmed,
    RosterPinned,
    RotationAuditWritten,
    ServerSeen,
    SignatureAdded,
    StatusChanged,
    StepFinished,
    Unblocked,
)
from keyrotation_pipeline.model.requests import (
    CONFIRMATION_HEADER,
    MAY_FOLLOW,
    WALK,
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    Step,
    StepRecord,
    Walk,
    held_in,
)
from keyrotation_pipeline.model.visible_text import visible


def is_vouched(state: AuditState, entry: AuditEntry, fact: Fact | Note | None, signer: str | None) -> bool:
    """Whether the pipeline wrote an event, once it signs them.

    A home that officers have still to name, since the one before was lost, can ask them to by a request to reconcile
    whose text names its key.
    """
    if state.signed_from is None or (signer is not None and signer == state.signer):
        return True
    if isinstance(fact, RequestOpened):
        is_to_reconcile, text = fact.action is RequestAction.RECONCILE, fact.approval_text.encode()
    else:
        asked = state.requests.get(entry.request or "")
        is_to_reconcile = asked is not None and asked.action is RequestAction.RECONCILE and not asked.is_over
        text = state.texts.get(entry.request or "", b"")
    return signer is not None and is_to_reconcile and _signer_named_in(text) == signer


def _signer_named_in(text: bytes) -> str | None:
    try:
        return next(iter(signer_in(signed_fields(text))), None)
    except ApprovalError:
        return None


def _by_name(step: StepRecord) -> tuple[str, str, int]:
    """What finished steps are ordered by, to be compared."""
    return step.step, step.table or "", -1 if step.shard is None else step.shard


def _opened(state: AuditState, entry: AuditEntry, fact: RequestOpened) -> None:
    request = entry.request
    if request is None or request in state.requests:
        raise ImpossibleError("opens a request that is there already")
    _require_its_time(state, entry, fact.requested_at)
    text = fact.approval_text.encode()
    require(state.leads_through(fact.audit_head), "opens a request that is to be signed for another audit")
    fields = require_lines(text, _signed_facts(state, request, fact))
    require(names_database(text, state.place), "is to be signed for another database")
    if fact.action is not RequestAction.RECONCILE and state.roster is not None:
        require(fields.get("Officers") == state.roster.signed_officers, "is to be signed by other officers")
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


def _signed_facts(state: AuditState, request: str, fact: RequestOpened) -> Mapping[str, str | None]:
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
        "Not before": None if fact.not_before is None else signed_time(fact.not_before),
        "Start by": signed_time(fact.start_by),
        "Finish by": signed_time(fact.finish_by),
        "Incident": fact.incident,
        COMPARED: None if fact.incident is None else state.incidents.compared(fact.incident, fact.audit_head.seq),
        "Requested by": fact.requested_by,
        "Reason": fact.reason if fact.incident is None else f"incident {fact.incident}: {fact.reason}",
    }


def _signed(state: AuditState, entry: AuditEntry, fact: SignatureAdded) -> None:
    stored = state.known(entry.request)
    require(not stored.is_over, f"signs a request that is {stored.status}")
    require(fact.officer not in stored.approvals, "is a second signature of one officer")
    text, officers = state.texts[stored.id], state.signers_of(stored.id)
    try:
        good = state.verified(
            text, fact.signature, fact.officer, since=stored.requested_at, at=entry.at, officers=officers
        )
    except ImpossibleError:
        is_officer = state.roster is not None and state.roster.name_of(fact.officer) is not None
        if stored.action is not RequestAction.RECONCILE or is_officer:
            raise
        state.unverified.append(Unverified(entry.seq, entry.at, stored.id, fact))
    else:
        when = is_its_time(good, fact.signed_at, stored.requested_at, entry.at)
        require(when, "says another time than the signature")
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
    _require_its_time(state, entry, fact.at)
    if fact.after in {RequestStatus.RUNNING, RequestStatus.FINISHED}:
        state.require_signed(stored.id)
    if fact.after is RequestStatus.FINISHED and isinstance(stored, Walk):
        _require_after(state, stored, None)
    if fact.after is RequestStatus.RUNNING and stored.started_at is None:
        require(entry.at <= stored.start_by, "starts a request after its last date")
        fields = signed_fields(state.texts[stored.id])
        state.hosts = hosts_in(fields)
        if state.roster is not None:
            state.began_under[stored.id] = state.roster
        state.signers.update(signer_in(fields))
        if state.signed_from is not None:
            _sign_from_now(state, *signer_in(fields))
    if fact.after is RequestStatus.RUNNING and stored.action is RequestAction.RECONCILE and state.place is not None:
        state.database = state.place
        state.foreign = {seq: place for seq, place in state.foreign.items() if place != state.place}
    over = fact.after in {RequestStatus.CANCELLED, RequestStatus.FINISHED}
    started_at = stored.started_at or (fact.at if fact.after is RequestStatus.RUNNING else None)
    state.requests[stored.id] = replace(
        stored, status=fact.after, started_at=started_at, finished_at=fact.at if over else None
    )


def _finished(state: AuditState, entry: AuditEntry, fact: StepFinished) -> None:
    walk = state.require_walk(entry.request)
    require(walk.done(fact.step, fact.table, fact.shard) is None, "finishes a step again")
    record = StepRecord(fact.step, fact.table, fact.shard, fact.finished_at, fact.facts)
    _require_after(state, walk, fact.step)
    if not _is_taken_over(state, record):
        _require_its_time(state, entry, fact.finished_at)
    state.requests[walk.id] = replace(walk, steps=tuple(sorted((*walk.steps, record), key=_by_name)))
    if fact.step is Step.ARCHIVED_KEY:
        state.unseen = {version: request for version, request in state.unseen.items() if request != walk.id}


# A time is taken just before its event is recorded, which may wait for a lock.
_RECORDED_WITHIN = timedelta(minutes=10)


def _require_its_time(state: AuditState, entry: AuditEntry, said: datetime) -> None:
    in_time = abs(entry.at - said) <= _RECORDED_WITHIN
    require(state.signed_from is None or in_time, "says another time than that of its record")


def _require_after(state: AuditState, walk: Walk, step: Step | None) -> None:
    """The walk is under way, and every step before this one is finished; None: every one is."""
    if state.signed_from is None:
        return
    require(walk.started_at is not None, "is of a request that has not begun")
    before = WALK if step is None else WALK[: WALK.index(step)]
    missing = next((each for each in before if walk.done(each) is None), None)
    require(missing is None, f"comes before the step {missing}")


def _is_taken_over(state: AuditState, record: StepRecord) -> bool:
    """Whether it was finished by another walk, which this one continues."""
    return any(record in each.steps for each in state.requests.values() if isinstance(each, Walk))


def _promoted(state: AuditState, entry: AuditEntry, fact: PromotionRecorded) -> None:
    walk = state.require_walk(entry.request)
    require(walk.promotion_xid is None, "records a promotion again")
    _require_after(state, walk, Step.PRIMARY_KEY_ROLLOUT)
    state.requests[walk.id] = replace(walk, promotion_xid=fact.xid)


def _blocked(state: AuditState, entry: AuditEntry, fact: Blocked | Unblocked) -> None:
    stored = state.known(entry.request)
    state.requests[stored.id] = replace(stored, blocked_by=fact.sentence if isinstance(fact, Blocked) else None)


def _confirmed(state: AuditState, entry: AuditEntry, fact: RolloutConfirmed) -> None:
    walk = state.require_walk(entry.request)
    text = fact.text.encode()
    require_lines(text, {"Request": walk.id, "Rollout": str(fact.rollout)}, CONFIRMATION_HEADER)
    state.verified(text, fact.signature, fact.officer, since=walk.requested_at, at=entry.at)


_CHANGING_STATES = (RequestAction.ROTATE, RequestAction.ROLLBACK, RequestAction.RECONCILE)


def _registered(state: AuditState, entry: AuditEntry, fact: KeyRegistered) -> None:
    if entry.request is not None:
        state.require_running(entry.request)
    require(fact.version not in state.keys, f"registers {fact.version} again")
    other = other_generation(fact.version, fact.fingerprint, state.keys.values())
    require(other is None, f"registers {fact.version} next to {other}, for both generations of the format")
    require(fact.state not in LOST, f"registers {fact.version} as {fact.state}")
    _require_its_time(state, entry, fact.created_at)
    if state.signed_from is not None:
        require(_is_asked_for(state, entry.request, fact), f"registers {fact.version}, which nobody asked for")
    _require_only_active(state, fact.version, fact.state)
    state.keys[fact.version] = KeyRecord(fact.version, fact.state, fact.fingerprint, fact.created_at)


def _is_asked_for(state: AuditState, request: str | None, fact: KeyRegistered) -> bool:
    if request is None:
        return (fact.version, fact.fingerprint) in state.imports
    by = state.known(request)
    return by.action is RequestAction.RECONCILE or (isinstance(by, Walk) and by.target == fact.version)


def _import_intended(state: AuditState, _entry: AuditEntry, fact: KeyImportIntended) -> None:
    state.imports.add((fact.version, fact.fingerprint))


def _state_changed(state: AuditState, entry: AuditEntry, fact: KeyStateChanged) -> None:
    record = state.keys.get(fact.version)
    if record is None or (record.state, record.fingerprint) != (fact.before, fact.fingerprint):
        raise ImpossibleError(f"changes {fact.version}, which is not registered so")
    require(fact.after in ALLOWED_TRANSITIONS[record.state], f"makes {fact.version} {fact.after} from {record.state}")
    _require_only_active(state, fact.version, fact.after)
    if fact.after is KeyState.COMPROMISED:
        # The last signature calls a version compromised, before the request begins.
        by = state.require_signed(entry.request)
        held = fact.version in held_in(state.texts[by.id])
        require(held, f"is by a request that does not hold {fact.version} compromised")
        state.compromised_by[fact.version] = by.id
    elif fact.after is KeyState.DESTROYED:
        _require_to_destroy(state, entry, fact)
    elif (fact.before, fact.after) == (KeyState.PRE_ACTIVATION, KeyState.ARCHIVED):
        # A rotation that is cancelled withdraws its key, also if its signers are not on the roster any more.
        require(not state.known(entry.request).is_over, "is by a request that is over")
    else:
        by = state.require_signed(entry.request, *_CHANGING_STATES)
        if isinstance(by, Walk) and state.signed_from is not None:
            _require_its_change(state, by, fact)
    if fact.after in IN_USE:
        state.retired.discard(fact.version)
    state.keys[fact.version] = replace(record, state=fact.after)


def _require_its_change(state: AuditState, walk: Walk, fact: KeyStateChanged) -> None:
    """The target becomes the primary, the source makes way for it, and what is withdrawn was retired before."""
    if fact.after is KeyState.ARCHIVED:
        is_its_own, before = fact.version != walk.target, Step.ARCHIVED_KEY
    elif fact.after is KeyState.ACTIVE:
        is_its_own, before = fact.version == walk.target, Step.PRIMARY_KEY_ROLLOUT
    else:
        is_its_own, before = fact.version == walk.source, Step.PRIMARY_KEY_ROLLOUT
    require(is_its_own, f"makes {fact.version} {fact.after}, which its request does not")
    _require_after(state, walk, before)


def _require_only_active(state: AuditState, version: KeyVersion, after: KeyState) -> None:
    active = [each.version for each in state.keys.values() if each.state is KeyState.ACTIVE]
    require(after is not KeyState.ACTIVE or not active, f"makes {version} active next to {', '.join(map(str, active))}")


def _replaced(state: AuditState, entry: AuditEntry, fact: KeyReplaced) -> None:
    record = state.keys.get(fact.version)
    if record is None or record.fingerprint != fact.before:
        raise ImpossibleError(f"replaces {fact.version}, which is not registered so")
    require(record.state is not KeyState.DESTROYED, f"replaces {fact.version}, which is destroyed")
    other = other_generation(fact.version, fact.after, state.keys.values())
    require(other is None, f"gives {fact.version} the key of {other}, for both generations of the format")
    by = state.require_running(entry.request, RequestAction.REPLACE_KEY)
    require_lines(state.texts[by.id], {"From": f"{fact.version} {fact.before}", "To": f"{fact.version} {fact.after}"})
    state.keys[fact.version] = replace(record, fingerprint=fact.after)


def _retired(state: AuditState, entry: AuditEntry, fact: KeyRetired) -> None:
    walk = state.require_walk(entry.request)
    require(fact.target == walk.target, f"retires keys for {fact.target}, which its request is not about")
    _require_after(state, walk, Step.RETIRED_KEY)
    if state.signed_from is not None:
        require(fact.target not in fact.taken_from_applications, f"takes {fact.target} away, which it keeps")
    state.retired.update(fact.taken_from_applications)
    state.unseen.update(dict.fromkeys(fact.taken_from_applications, walk.id))


def _require_to_destroy(state: AuditState, entry: AuditEntry, fact: KeyStateChanged | KeyDestroyed) -> None:
    by = state.require_running(entry.request, RequestAction.DESTROY)
    is_same = (by.source, by.source_fingerprint) == (fact.version, fact.fingerprint)
    require(is_same, f"destroys {fact.version} by a request to destroy {by.source} {by.source_fingerprint[:16]}")


def abandoning(heads: Collection[AuditHead]) -> str:
    """The heads that officers sign as abandoned, in the line `Authorises`."""
    newest = max(heads, key=lambda head: head.seq)
    others = f" (nor {len(heads) - 1} older)" if len(heads) > 1 else ""
    return f"accept that event {newest.seq} {newest.hash}{others} is not in the audit"


def voiding(heads: Collection[AuditHead]) -> str:
    """The events that officers sign to be nobody's, in the line `Authorises`."""
    newest = max(heads, key=lambda head: head.seq)
    others = f" and {len(heads) - 1} before it" if len(heads) > 1 else ""
    return f"hold event {newest.seq} {newest.hash}{others} for nothing, since the pipeline did not sign that"


def continuing(server: DatabaseServer) -> str:
    """The server that officers sign as that of a walk, in the line `Authorises`."""
    return f"continue on {visible(server.host).replace(';', ',')}, timeline {server.timeline}"


def _pinned(state: AuditState, entry: AuditEntry, fact: RosterPinned) -> None:
    before, roster = state.roster, fact.roster
    if before is not None:
        if state.known(entry.request).action is RequestAction.RECONCILE:
            _pin_again(state, state.known(entry.request), before, fact)
        else:
            by = state.require_running(entry.request, RequestAction.POLICY)
            require_lines(state.texts[by.id], {"From": str(before), "To": str(roster)})
    state.roster = roster
    state.rosters.append((entry.seq, roster, entry.request))


def _hosts_pinned(state: AuditState, _entry: AuditEntry, fact: HostsPinned) -> None:
    require(state.hosts in {None, fact.hosts}, "pins hosts that nobody has signed")
    state.hosts = fact.hosts


def _home_named(state: AuditState, _entry: AuditEntry, fact: HomeNamed) -> None:
    """Only the first counts: whatever could be appended later names no other home."""
    state.home = state.home or fact.home


def _server_seen(state: AuditState, _entry: AuditEntry, fact: ServerSeen) -> None:
    """In the middle of a walk only a signed reconciliation says that the database runs elsewhere."""
    if all(each.is_over for each in state.requests.values() if isinstance(each, Walk)):
        state.server = fact.server


def _pin_again(state: AuditState, request: Request, before: Roster, fact: RosterPinned) -> None:
    """Pin a roster that the database had lost: the changes that led to it were signed, and its officers sign now."""
    require(not request.is_over, f"is by a request that is {request.status}")
    require(names_database(state.texts[request.id], state.place), "is by a request for another database")
    for change in fact.changes:
        fields = require_lines(change.text.encode(), _policy(before, change.roster))
        require(fields.get("Request") not in state.requests, "pins a roster by a change that the audit has not lost")
        officers = {_verified(state, before, change.text.encode(), each, each.at).officer for each in change.signatures}
        require(len(officers) >= before.required, "pins a roster that too few officers of the one before have signed")
        before = change.roster
    require(str(before) == str(fact.roster), "pins a roster that nobody is known to have signed")
    waiting = [each for each in state.unverified if each.request == request.id]
    for each in waiting:
        good = _verified(state, fact.roster, state.texts[request.id], each.fact, each.at)
        when = is_its_time(good, each.fact.signed_at, request.requested_at, each.at)
        require(when, f"is by a request whose signature {each.seq} says another time")
    officers = {officer.fingerprint for officer in fact.roster.officers}.intersection(request.approvals)
    require(len(officers) >= fact.roster.required, "is by a request that too few have signed")
    state.unverified = [each for each in state.unverified if each not in waiting]


def _policy(before: Roster, after: Roster) -> Mapping[str, str]:
    return {"Action": RequestAction.POLICY, "From": str(before), "To": str(after)}


def _verified(
    state: AuditState, roster: Roster, text: bytes, signed: SignatureAdded | RosterSignature, at: datetime
) -> VerifiedSignature:
    return verified_by(state.verify, roster.officers, text, signed.signature, signed.officer, since=None, at=at)


def _backup_key_pinned(state: AuditState, _entry: AuditEntry, fact: BackupKeyPinned) -> None:
    """Only the first counts without a signed text: it is older than whatever could be appended later."""
    try:
        signer = signer_fingerprint(fact.public)
    except ValueError:
        raise ImpossibleError("pins no public key") from None
    state.signers = state.signers or {signer}


def _signing_begun(state: AuditState, entry: AuditEntry, fact: SigningBegun) -> None:
    """Only the first counts. Its key is the one that backups have been signed with."""
    try:
        signer = signer_fingerprint(fact.public)
    except ValueError:
        raise ImpossibleError("begins to sign with no public key") from None
    require(not state.signers or signer in state.signers, "begins to sign with a key that no officers have named")
    require(entry.seq == fact.before.seq + 1 and state.leads_through(fact.before), "begins to sign another audit")
    if state.signed_from is None:
        state.signers, state.signed_from, state.signer = state.signers or {signer}, entry.seq, signer


def _sign_from_now(state: AuditState, signer: str | None = None) -> None:
    """Officers have named this home's key: what it wrote before, and did not count, is not held against it."""
    if signer is not None:
        state.signer = signer
        state.voided |= {seq for seq, (_, by) in state.unsigned.items() if by == signer}


def _audit_row_written(state: AuditState, entry: AuditEntry, fact: RotationAuditWritten) -> None:
    state.audit_rows[entry.request] = fact


def _reconciled(state: AuditState, entry: AuditEntry, fact: DatabaseReconciled) -> None:
    by = state.require_running(entry.request, RequestAction.RECONCILE)
    said = signed_fields(state.texts[by.id]).get("Authorises", "").split("; ")
    if fact.server is not None and continuing(fact.server) in said:
        state.server = fact.server
    if fact.accepted:
        require(abandoning(fact.accepted) in said, "gives up other anchors than officers signed")
    unvouched = state.unvouched_until(by.audit_head[0])
    if unvouched and voiding(unvouched) in said:
        state.voided.update(head.seq for head in unvouched)
    state.reconciled_at = entry.at
    state.abandoned.update(fact.accepted)
    for version in (fact.primary, *fact.in_rows):
        state.retired.discard(version)


# What changes nothing (intents, notes) has no rule.
RULES: Rules = {
    RosterPinned: _pinned,
    HostsPinned: _hosts_pinned,
    HomeNamed: _home_named,
    ServerSeen: _server_seen,
    BackupKeyPinned: _backup_key_pinned,
    SigningBegun: _signing_begun,
    RotationAuditWritten: _audit_row_written,
    DatabaseReconciled: _reconciled,
    RequestOpened: _opened,
    SignatureAdded: _signed,
    StatusChanged: _moved,
    StepFinished: _finished,
    PromotionRecorded: _promoted,
    Blocked: _blocked,
    Unblocked: _blocked,
    RolloutConfirmed: _confirmed,
    KeyImportIntended: _import_intended,
    KeyRegistered: _registered,
    KeyStateChanged: _state_changed,
    KeyReplaced: _replaced,
    KeyRetired: _retired,
    KeyDestroyed: _require_to_destroy,
    **INCIDENT_RULES,
}
# The kinds of events that have one.
COUNTING = tuple(record.kind for record in RULES if isinstance(record, type) and issubclass(record, Fact))
