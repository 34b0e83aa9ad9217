"""What requests, signatures and rosters change, by the text that officers sign."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from keyrotation_pipeline.audit.events import AuditEntry, Rules
from keyrotation_pipeline.audit.walk_rules import require_after, require_its_time
from keyrotation_pipeline.model.approval import (
    COMPARED,
    Roster,
    RosterSignature,
    Signature,
    VerifiedSignature,
    header_of,
    hosts_in,
    left_to_people,
    signed_fields,
    signed_time,
    signer_in,
)
from keyrotation_pipeline.model.audit import AuditHead, FormerEvents
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
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.members import member_line, members_among, place_by_rule, rules_among
from keyrotation_pipeline.model.request_events import (
    Blocked,
    DatabaseReconciled,
    HostsPinned,
    MemberJoined,
    MemberReconciled,
    RequestOpened,
    RolloutConfirmed,
    RosterPinned,
    SignatureAdded,
    StatusChanged,
    TreeLeft,
    Unblocked,
)
from keyrotation_pipeline.model.requests import (
    CONFIRMATION_HEADERS,
    MAY_FOLLOW,
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    Walk,
)
from keyrotation_pipeline.model.signed_lines import DECRYPTS
from keyrotation_pipeline.model.tables import MEMBER_NAME


def _opened(state: AuditState, entry: AuditEntry, fact: RequestOpened) -> None:
    request = entry.request
    if request is None or request in state.requests:
        raise ImpossibleError("opens a request that is there already")
    require_its_time(state, entry, fact.requested_at)
    text = fact.approval_text.encode()
    require(state.leads_through(fact.audit_head), "opens a request that is to be signed for another audit")
    fields = require_lines(text, _signed_facts(state, request, fact))
    require(names_database(text, state.place), "is to be signed for another database")
    if fact.action is not RequestAction.RECONCILE and state.roster is not None:
        require(fields.get("Officers") == state.roster.signed_officers, "is to be signed by other officers")
    decrypts, says = fact.action is RequestAction.DECRYPT, bool(fields.get(DECRYPTS))
    require(says or not decrypts, "is to be signed without what it decrypts")
    require(decrypts or not says, "is to be signed for what it decrypts, which it does not")
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
    source, known = f"{fact.source} {fact.fingerprint}".rstrip(), fact.action is not RequestAction.POLICY
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
    require_its_time(state, entry, fact.at)
    if fact.after in {RequestStatus.RUNNING, RequestStatus.FINISHED}:
        state.require_signed(stored.id)
    if fact.after is RequestStatus.FINISHED and isinstance(stored, Walk):
        require_after(state, stored, None)
    if fact.after is RequestStatus.RUNNING and stored.started_at is None:
        require(entry.at <= stored.start_by, "starts a request after its last date")
        fields = signed_fields(state.texts[stored.id])
        # Their officers have not seen who joined since, and so have not signed them away.
        late = state.joined_after(stored.audit_head[0])
        signed = hosts_in(fields)
        state.hosts = (*signed, *(member_line(*each) for each in late.items() if each[0] not in members_among(signed)))
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


def _sign_from_now(state: AuditState, signer: str | None = None) -> None:
    """Officers have named this home's key: what it wrote before, and did not count, is not held against it."""
    if signer is not None:
        state.signer = signer
        state.voided |= {seq for seq, (_, by) in state.unsigned.items() if by == signer}


def _blocked(state: AuditState, entry: AuditEntry, fact: Blocked | Unblocked) -> None:
    stored = state.known(entry.request)
    sentence, pending = (fact.sentence, fact.rollout_pending) if isinstance(fact, Blocked) else (None, False)
    state.requests[stored.id] = replace(stored, blocked_by=sentence, rollout_pending=pending)


def _confirmed(state: AuditState, entry: AuditEntry, fact: RolloutConfirmed) -> None:
    walk = state.require_walk(entry.request)
    text = fact.text.encode()
    require_lines(text, {"Request": walk.id, "Rollout": str(fact.rollout)}, header_of(text, CONFIRMATION_HEADERS))
    state.verified(text, fact.signature, fact.officer, since=walk.requested_at, at=entry.at)


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


def _hosts_pinned(state: AuditState, _entry: AuditEntry, fact: HostsPinned) -> None:
    require(state.hosts in {None, fact.hosts}, "pins hosts that nobody has signed")
    state.hosts = fact.hosts


def _joined(state: AuditState, entry: AuditEntry, fact: MemberJoined) -> None:
    hosts = state.hosts or ()
    rules = rules_among(hosts).values()
    covered = any(place_by_rule(fact.member, each) == fact.place for each in rules)
    require(covered, f"has {fact.member} join, which no rule covers that officers signed")
    require(fact.member not in members_among(hosts), f"has {fact.member} join again")
    state.hosts = (*hosts, member_line(fact.member, fact.place))
    state.joined[fact.member] = entry.seq


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
    if (left := fact.left_tree) is not None:
        require(leaving(left) in said and left.origin == state.origin, "leaves a tree that officers have not signed")
        state.trees[left.origin], state.tree = left.signed, by.id
    for name, each in fact.members.items():
        require(set(reconciled_in(name, each)) <= set(said), f"goes on in {name} otherwise than officers signed")
        if each.server is not None:
            state.member_servers[name] = each.server
        if each.set_aside is not None:
            state.set_aside[name] = (*state.set_aside.get(name, ()), each.set_aside.last)
    state.reconciled_at = entry.at
    state.abandoned.update(fact.accepted)
    for version in (fact.primary, *fact.in_rows):
        state.retired.discard(version)


def abandoning(heads: Collection[AuditHead]) -> str:
    """The heads that officers sign as abandoned, in the line `Authorises`."""
    newest = max(heads, key=lambda head: head.seq)
    others = f" (nor {len(heads) - 1} older)" if len(heads) > 1 else ""
    return f"accept that event {newest.seq} {newest.hash}{others} is not in the audit"


def leaving(tree: TreeLeft) -> str:
    """The tree at witnesses that officers sign as left, in the line `Authorises`."""
    return (
        f"begin another tree at witnesses, since {tree.witness} has signed {tree.signed} events of {tree.origin} "
        "that are not those of this audit"
    )


_LEFT = re.compile(
    r"begin another tree at witnesses, since (\S+) has signed (\d{1,18}) events of (\S+) "
    r"that are not those of this audit"
)


def left_in(text: bytes) -> TreeLeft | None:
    """The tree that a text for signing says is left; None: it says of none."""
    said = signed_fields(text).get("Authorises", "").split("; ")
    found = next((match for each in said if (match := _LEFT.fullmatch(each)) is not None), None)
    return None if found is None else TreeLeft(found[3], found[1], int(found[2]))


def voiding(heads: Collection[AuditHead]) -> str:
    """The events that officers sign to be nobody's, in the line `Authorises`."""
    newest = max(heads, key=lambda head: head.seq)
    others = f" and {len(heads) - 1} before it" if len(heads) > 1 else ""
    return f"hold event {newest.seq} {newest.hash}{others} for nothing, since the pipeline did not sign that"


def continuing(server: DatabaseServer) -> str:
    """The server that officers sign as that of a walk, in the line `Authorises`."""
    return f"continue on {server.as_signed.host}, timeline {server.timeline}"


def reconciled_in(member: str, how: MemberReconciled) -> Iterator[str]:
    """What officers sign of a member of a fleet, in the line `Authorises`."""
    if (server := how.server) is not None:
        yield f"continue in {member} on {server.host}, timeline {server.timeline}"
    if (events := how.set_aside) is not None:
        last = events.last
        yield f"set aside events {events.first} to {last.seq} {last.hash} of the copy of the audit in {member}"


_CONTINUED = re.compile(rf"continue in ({MEMBER_NAME}) on (.+), timeline (\d{{1,9}})", re.ASCII)
_SET_ASIDE = re.compile(
    rf"set aside events (\d{{1,18}}) to (\d{{1,18}}) ([0-9a-f]{{64}}) of the copy of the audit in ({MEMBER_NAME})",
    re.ASCII,
)


def members_reconciled_in(text: bytes) -> Mapping[str, MemberReconciled]:
    """What a text for signing says of members of a fleet, by name."""
    found = dict[str, MemberReconciled]()
    for part in signed_fields(text).get("Authorises", "").split("; "):
        if (match := _CONTINUED.fullmatch(part)) is not None:
            name, host, timeline = match.groups()
            found[name] = replace(found.get(name, MemberReconciled()), server=DatabaseServer(host, int(timeline)))
        if (match := _SET_ASIDE.fullmatch(part)) is not None:
            first, last, digest, name = match.groups()
            events = FormerEvents(int(first), AuditHead(int(last), digest))
            found[name] = replace(found.get(name, MemberReconciled()), set_aside=events)
    return found


REQUEST_RULES: Rules = {
    RequestOpened: _opened,
    SignatureAdded: _signed,
    StatusChanged: _moved,
    Blocked: _blocked,
    Unblocked: _blocked,
    RolloutConfirmed: _confirmed,
    RosterPinned: _pinned,
    HostsPinned: _hosts_pinned,
    MemberJoined: _joined,
    DatabaseReconciled: _reconciled,
}
