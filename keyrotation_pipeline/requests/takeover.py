"""Starts requests, marks keys as compromised, and takes over other requests, which end in the same commit.

A rollback supersedes the rotation that it undoes. A continuation asks for the same as the request that it supersedes,
and continues from its state: because its signatures expired after its key became the primary, or because an incident
makes it an emergency. An emergency has precedence from its last signature on: whatever else is signed does not
continue, and ends when the emergency starts, which takes over what asks for the same. If that has ended meanwhile, the
emergency does what is left: everything after the rows again.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.errors import AtWorkError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.keys import LOST, KeyState
from keyrotation_pipeline.model.pending import PendingCode, PendingReason
from keyrotation_pipeline.model.requests import WALK, Request, RequestStatus, Step, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import authorised_by, require_authorised
from keyrotation_pipeline.requests.control import hold_all_steps
from keyrotation_pipeline.requests.key_list import note_if_changed
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.requests.situation import Situation

# Evidence is never taken over: the proof, and everything after it, is done again.
TAKEN_OVER = frozenset(WALK[: WALK.index(Step.ROWS) + 1])
# Held from the last look at a version until it is recorded as the primary, and while versions are marked as
# compromised: who dies between marking and publishing leaves the key store as it was, and its revision shows nothing.
PRIMARY_LOCK = "a change of the primary"


def begin(pipeline: Pipeline, rotation: Walk) -> Walk:
    """Starts an authorised request; returns it in its new state.

    Raises:
        RequestError: what it was to supersede was cancelled, or no longer needs a continuation.
        BlockedError: a step of that is still running.
    """
    # In case the process that added the last signature died before this.
    pipeline.actions[rotation.action].approved(pipeline, rotation)
    initiated_by = authorised_by(pipeline, rotation)
    with ExitStack() as held:
        former = _stopped(pipeline, rotation, held)
        with pipeline.ledger.transaction():
            if former is not None and not former.is_over:
                pipeline.ledger.set_status(former.id, RequestStatus.CANCELLED, by=rotation.id)
            for other in waiting(pipeline.ledger):
                if other.id != rotation.id and rotation.is_emergency:
                    pipeline.ledger.set_status(other.id, RequestStatus.CANCELLED, by=rotation.id)
            pipeline.ledger.set_status(rotation.id, RequestStatus.RUNNING)
            if (continued := _continued(pipeline.ledger, former, rotation)) is not None:
                _take_over(pipeline.ledger, continued, rotation)
            pipeline.ledger.write_rotation_audit(pipeline.ledger.walk(rotation.id), initiated_by, 0, None)
    return pipeline.ledger.walk(rotation.id)


def continues(former: Request, request: Request) -> bool:
    """Whether both ask for the same, so that the one can continue from the other's state."""
    return (former.action, former.source, former.target) == (request.action, request.source, request.target)


def cannot_start(situation: Situation, request: Request) -> PendingReason | None:
    """Why a request waits for a start that can no longer happen; None: it can, or it has started."""
    cause = _cause(situation, request) if request.started_at is None and not request.is_over else None
    if cause is None:
        return None
    return PendingReason(
        PendingCode.CANNOT_START,
        "an operator",
        f"{request.action} {request.id} from {request.source} to {request.target} cannot proceed: {cause}",
        f"run `keyrotation cancel {request.id}`, and request it again",
    )


def _cause(situation: Situation, request: Request) -> str | None:
    ledger = situation.pipeline.ledger
    named = ledger.replayed().suspected.get(request.target)
    if request.is_emergency and named is not None:
        return f"{request.target} is named by {named.id}"
    if not request.waits_to_supersede:
        return None
    officers = "other officers are pinned now" if _has_other_officers(ledger, request) else None
    if (cause := officers or dead_end(situation, request)) is not None:
        return cause
    former = None if request.supersedes is None else ledger.request(request.supersedes)
    if former is not None and continues(former, request):
        if former.status is RequestStatus.CANCELLED:
            return f"{former.id}, which it was to take over, was cancelled"
        is_undone = former.status is RequestStatus.FINISHED and (primary := situation.stored.primary) != former.target
        return f"{primary} is the primary now" if is_undone else None
    return _cause_in_keys(situation, request) if request.is_emergency else None


def dead_end(situation: Situation, walk: Request) -> str | None:
    """Why a rollback can no longer lead to its target: a phrase; None: it can, or it is none."""
    if not walk.action.goes_back:
        return None
    states = {record.version: record.state for record in situation.registered}
    if (state := states.get(walk.target)) in LOST:
        return f"{walk.target} is {state}"
    primary = situation.stored.primary  # None: the key store was lost, and is to be restored first
    return None if primary in {None, walk.source, walk.target} else f"{primary} is the primary now"


def _cause_in_keys(situation: Situation, emergency: Request) -> str | None:
    if (primary := situation.stored.primary) != emergency.source:
        return f"{primary} is the primary now"
    used = {each.version for each in situation.registered if each.state is not KeyState.PRE_ACTIVATION}
    return f"{emergency.target} is in use already" if emergency.target in used else None


def newer_version(situation: Situation, walk: Walk) -> PendingReason | None:
    """The version of a server that holds the keys, by which a walk can no longer lead to its target; None: it can.

    Such a server encrypts with its newest version, which a fence of this walk would refuse.
    """
    if not situation.pipeline.tables[0].format.is_held_by_server or walk.done(Step.RETIRED_KEY) is not None:
        return None
    newest = max((record.version for record in situation.registered), default=walk.target)
    if newest <= walk.target:
        return None
    return PendingReason(
        PendingCode.NEWER_VERSION,
        "an operator",
        f"the server encrypts with {newest} already, so {walk.action} {walk.id} to {walk.target} cannot be finished",
        f"request the next one with `keyrotation request`, after `keyrotation cancel {walk.id}` if this has made none",
        details=f"somebody else had the server make {newest}",
    )


def _has_other_officers(ledger: Ledger, request: Request) -> bool:
    """Whether another roster was pinned since a request was opened, so that it cannot be signed any more."""
    state = ledger.replayed()
    then = state.roster_at(request.audit_head[0])
    return then is not None and str(then) != str(state.roster)


def lineage(pipeline: Pipeline, rotation: Walk) -> Iterator[Walk]:
    """A request and those that it took over, newest first: all ask for the same."""
    yield rotation
    if rotation.supersedes is not None:
        former = pipeline.ledger.walk(rotation.supersedes)
        if continues(former, rotation):
            yield from lineage(pipeline, former)


def taking_over(ledger: Ledger, request: Request) -> str:
    """The beginning of the signed sentence of a request that takes over or ends another; else empty.

    An emergency names none: what runs when it starts may be another than when it was requested.
    """
    if request.is_emergency:
        return (
            f"end whatever else runs or is signed, or take it over where it stands if it is to {request.action} "
            f"{request.source} to {request.target}: "
        )
    former = None if request.supersedes is None else ledger.request(request.supersedes)
    takes_over = former is not None and continues(former, request)
    return f"take over {former.action} {former.id} where it stands: " if former is not None and takes_over else ""


def emergency_first(pipeline: Pipeline, request: Request) -> PendingReason | None:
    """The signed emergency that goes before a request; None: no other does."""
    for each in waiting(pipeline.ledger):
        if not each.is_emergency or each.id == request.id:
            continue
        if _is_ready(each, pinned_roster(pipeline).required, pipeline.clock.now()):
            return PendingReason(
                PendingCode.EMERGENCY,
                f"emergency {each.id}",
                f"the emergency {each.id} is signed and goes before {request.action} {request.id}",
                f"run `keyrotation rotate {each.id}`, or withdraw it with `keyrotation cancel {each.id}`",
            )
    return None


def _is_ready(request: Request, required: int, now: datetime) -> bool:
    return len(request.approvals) >= required and now <= request.start_by


def current_or_next(pipeline: Pipeline) -> Walk | None:
    """The request to work on: one that waits to supersede another as soon as it is signed, else the unfinished one.

    If two are signed, the emergency.
    """
    pending, current = waiting(pipeline.ledger), pipeline.ledger.current()
    if not pending:
        return current
    required, now = pinned_roster(pipeline).required, pipeline.clock.now()
    ready = [each for each in pending if _is_ready(each, required, now)]
    return next(iter(ready), current) or pending[0]


def waiting(ledger: Ledger) -> list[Walk]:
    """Every walk that waits to supersede another, the emergency first."""
    walks = [each for each in ledger.requests() if isinstance(each, Walk) and each.waits_to_supersede]
    return sorted(walks, key=lambda each: not each.is_emergency)


def _stopped(pipeline: Pipeline, rotation: Walk, held: ExitStack) -> Walk | None:
    """The superseded request, with its steps locked until `held` is closed; None if there is none."""
    former = _former(pipeline.ledger, rotation)
    _require_not_stranded(pipeline, former, rotation)
    if former is None:
        return None
    if former.status is RequestStatus.RUNNING:
        pipeline.ledger.set_status(former.id, RequestStatus.PAUSED, by=rotation.id)
    if not former.is_over:
        held.enter_context(hold_all_steps(pipeline, former))
        # It may have ended, or promoted its key, while we waited for its lock.
        former = pipeline.ledger.walk(former.id)
        _require_not_stranded(pipeline, former, rotation)
    if former.status is RequestStatus.CANCELLED and not _is_fresh(former, rotation):
        raise RequestError(f"rotation {former.id} was cancelled; run `keyrotation cancel {rotation.id}` too")
    if former.status is RequestStatus.FINISHED and continues(former, rotation) and not rotation.is_emergency:
        raise RequestError(f"rotation {former.id} is finished; run `keyrotation cancel {rotation.id}`")
    return former


def _require_not_stranded(pipeline: Pipeline, former: Walk | None, rotation: Walk) -> None:
    is_own = former is None or _is_fresh(former, rotation)
    if is_own and (pending := cannot_start(Situation(pipeline), rotation)) is not None:
        raise RequestError(str(pending))


def _former(ledger: Ledger, rotation: Walk) -> Walk | None:
    """What a request supersedes now; for an emergency whatever runs, else what it was opened for."""
    if rotation.is_emergency and (current := ledger.current()) is not None:
        return current
    return None if rotation.supersedes is None else ledger.walk(rotation.supersedes)


def _is_fresh(former: Walk, rotation: Walk) -> bool:
    """Whether an emergency uses a key of its own, whatever happened to the former request."""
    return rotation.is_emergency and not continues(former, rotation)


def _continued(ledger: Ledger, former: Walk | None, rotation: Walk) -> Walk | None:
    """What a request continues: the one that it ends, or the one that it was opened for, if that is finished."""
    opened_for = None if rotation.supersedes is None else ledger.walk(rotation.supersedes)
    is_finished = opened_for is not None and opened_for.status is RequestStatus.FINISHED
    candidates = (former, opened_for if is_finished else None)
    return next((each for each in candidates if each is not None and continues(each, rotation)), None)


def _take_over(ledger: Ledger, former: Walk, rotation: Walk) -> None:
    # In the order of the walk, a step after its shards.
    for record in sorted(former.steps, key=lambda each: (WALK.index(each.step), each.table is None)):
        if record.step in TAKEN_OVER:
            ledger.finish_step(rotation.id, record)
    if former.promotion_xid is not None:
        ledger.set_promotion(rotation.id, former.promotion_xid)


def used_versions(pipeline: Pipeline) -> frozenset[KeyVersion]:
    """The versions that applications read, and those of the present walk."""
    walk = pipeline.ledger.current()
    return frozenset({*pipeline.keys.read().live, *({walk.source, walk.target} if walk is not None else ())})


def out_of_use(pipeline: Pipeline, incident: Incident) -> str | None:
    """What to do about an incident whose versions applications do not have any more; None: they have one."""
    if not used_versions(pipeline).isdisjoint(incident.versions):
        return None
    named = ", ".join(map(str, incident.versions))
    state = pipeline.ledger.replayed()
    held = {record.version for record in pipeline.ledger.keys() if state.may_be_held(record)}
    if unseen := [each for each in incident.versions if each in held]:
        return (  # as a reconciliation leaves it
            f"applications do not get {', '.join(map(str, unseen))} any more, but nobody saw every instance "
            "without it: run `keyrotation request --reason TEXT`, whose rotation waits for that; then "
            "`keyrotation backup --rekey` and `keyrotation destroy` end it"
        )
    return (
        f"applications do not have {named} any more, so no rotation replaces it; it still opens old backups: "
        f"`keyrotation incident report {incident.id}` names them, `keyrotation backup --rekey` makes them again under "
        "the present key, and `keyrotation destroy` ends it"
    )


def held_compromised(ledger: Ledger, request: Request) -> tuple[KeyVersion, ...]:
    """The versions that a request calls compromised: those of its incident, else its source; none if routine."""
    if not request.is_emergency:
        return ()
    known = incidents(ledger).by_id.get(request.incident or "")
    return (request.source,) if known is None else known.versions


def mark_compromised(pipeline: Pipeline, request: Request) -> None:
    """Marks the versions as compromised that enough officers have signed for; repeating changes nothing.

    A walk that makes one of them the primary, or encrypts under it, is paused in the same commit.

    Raises:
        ApprovalError, RequestError: the signatures do not count.
        AtWorkError: the primary is being changed at this moment.
    """
    versions = held_compromised(pipeline.ledger, request)
    if not versions:
        return
    require_authorised(pipeline, request, pipeline.keys.read())
    try:
        with pipeline.ledger.lock(PRIMARY_LOCK), pipeline.ledger.transaction():
            for record in pipeline.ledger.keys():
                if record.version in versions and record.state not in LOST:
                    pipeline.ledger.set_key_state(record.version, KeyState.COMPROMISED, request.id)
            walk = pipeline.ledger.current()
            concerned = walk is not None and walk.id != request.id and walk.target in versions
            if walk is not None and concerned and walk.status is RequestStatus.RUNNING:
                pipeline.ledger.set_status(walk.id, RequestStatus.PAUSED, by=request.id)
    except AtWorkError:
        raise AtWorkError(
            "the primary is being changed at this moment, and nothing is marked as compromised before that ends; the "
            f"signatures are stored: run `keyrotation rotate {request.id}`"
        ) from None
    publish_compromised(pipeline, request.id)


def publish_compromised(pipeline: Pipeline, request: str | None) -> None:
    """Publishes the compromised versions in the key store, so that applications never encrypt under them. Repeatable.

    Except the primary: applications write under it until another is promoted; then it is published, too.

    Raises:
        KeyStoreError: the key store rejects the change.
    """
    compromised = {each.version for each in pipeline.ledger.keys() if each.state is KeyState.COMPROMISED}
    if not compromised:
        return
    stored = pipeline.keys.read()
    lost = frozenset(compromised - {stored.primary})
    if not lost <= stored.compromised:
        intent = {"versions": sorted(map(str, lost))}
        pipeline.ledger.append(Note(EventKind.COMPROMISE_TELLING_INTENDED, intent), request)
        note_if_changed(pipeline.ledger, stored)
        pipeline.keys.publish_compromised(lost, stored.revision)
