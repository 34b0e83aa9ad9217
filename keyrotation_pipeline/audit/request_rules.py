"""What the events of a request change: opened, signed, begun, a step finished, a rollout confirmed, over."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keyrotation_pipeline.audit.events import AuditEntry, Rules
from keyrotation_pipeline.model.approval import (
    COMPARED,
    Signature,
    hosts_in,
    left_to_people,
    signed_fields,
    signed_moment,
    signer_in,
)
from keyrotation_pipeline.model.audit_state import (
    AuditState,
    ImpossibleError,
    Unverified,
    is_its_time,
    names_database,
    require,
    require_lines,
)
from keyrotation_pipeline.model.request_events import (
    Blocked,
    PromotionRecorded,
    RequestOpened,
    RolloutConfirmed,
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


def _by_name(step: StepRecord) -> tuple[str, str, int]:
    """What finished steps are ordered by, to be compared."""
    return step.step, step.table or "", -1 if step.shard is None else step.shard


def _opened(state: AuditState, entry: AuditEntry, fact: RequestOpened) -> None:
    request = entry.request
    if request is None or request in state.requests:
        raise ImpossibleError("opens a request that is there already")
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
        "Not before": None if fact.not_before is None else signed_moment(fact.not_before),
        "Start by": signed_moment(fact.start_by),
        "Finish by": signed_moment(fact.finish_by),
        "Incident": fact.incident,
        COMPARED: None if fact.incident is None else state.incidents.compared(fact.incident, fact.audit_head.seq),
        "Requested by": fact.requested_by,
        "Reason": fact.reason if fact.incident is None else f"incident {fact.incident}: {fact.reason}",
    }


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
    walk = state.require_walk(entry.request)
    require(walk.done(fact.step, fact.table, fact.shard) is None, "finishes a step again")
    record = StepRecord(fact.step, fact.table, fact.shard, fact.finished_at, fact.facts)
    state.requests[walk.id] = replace(walk, steps=tuple(sorted((*walk.steps, record), key=_by_name)))


def _promoted(state: AuditState, entry: AuditEntry, fact: PromotionRecorded) -> None:
    walk = state.require_walk(entry.request)
    require(walk.promotion_xid is None, "records a promotion again")
    state.requests[walk.id] = replace(walk, promotion_xid=fact.xid)


def _blocked(state: AuditState, entry: AuditEntry, fact: Blocked | Unblocked) -> None:
    stored = state.known(entry.request)
    state.requests[stored.id] = replace(stored, blocked_by=fact.sentence if isinstance(fact, Blocked) else None)


def _confirmed(state: AuditState, entry: AuditEntry, fact: RolloutConfirmed) -> None:
    walk = state.require_walk(entry.request)
    text = fact.text.encode()
    require_lines(text, {"Request": walk.id, "Rollout": str(fact.rollout)}, CONFIRMATION_HEADER)
    state.verified(text, fact.signature, fact.officer, since=walk.requested_at, at=entry.at)


REQUEST_RULES: Rules = {
    RequestOpened: _opened,
    SignatureAdded: _signed,
    StatusChanged: _moved,
    StepFinished: _finished,
    PromotionRecorded: _promoted,
    Blocked: _blocked,
    Unblocked: _blocked,
    RolloutConfirmed: _confirmed,
}
