"""Verifies everything that the audit vouches for: its chain, anchors, tables and every signature."""

from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from keyrotation_pipeline.audit.chain import summary, verify_audit
from keyrotation_pipeline.audit.events import AuditEntry, entries
from keyrotation_pipeline.audit.replay import LedgerState
from keyrotation_pipeline.audit.replay_cache import forget, ledger_state
from keyrotation_pipeline.errors import ApprovalError, AuditError, TimestampError
from keyrotation_pipeline.model.approval import Roster, signed_fields
from keyrotation_pipeline.model.audit import EVENTS_DIFFER_BY, AuditHead
from keyrotation_pipeline.model.backup_events import AuditTimestamped
from keyrotation_pipeline.model.breach import AssessmentSigned, BreachAnswers, BreachAssessed
from keyrotation_pipeline.model.request_events import DatabaseReconciled, RequestOpened, RosterPinned, SignatureAdded
from keyrotation_pipeline.model.requests import RequestAction
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.timestamps import TimestampAuthority


def sentence(heads: Collection[AuditHead]) -> str:
    """What officers sign of the heads that they give up."""
    newest = max(heads, key=lambda head: head.seq)
    others = f" (nor {len(heads) - 1} older)" if len(heads) > 1 else ""
    return f"accept that event {newest.seq} {newest.hash}{others} is not in the audit"


def abandoned_anchors(pipeline: Pipeline, anchors: Iterable[AuditHead]) -> tuple[AuditHead, ...]:
    """Those of these anchors that no signed reconciliation gave up; signatures are looked at only if there are any."""
    missing = tuple(anchors)
    if not missing:
        return ()
    given_up = {head for each in _signed(pipeline) for head in each.accepted}
    return tuple(anchor for anchor in missing if anchor not in given_up)


def _signed(pipeline: Pipeline) -> Iterator[DatabaseReconciled]:
    """Every reconciliation that enough officers signed: of the roster that it pinned again, else of the pinned one."""
    roster: Roster | None = None
    texts: dict[str | None, bytes] = {}
    signed: dict[str | None, list[tuple[bytes, datetime]]] = {}
    kinds = (RosterPinned.kind, RequestOpened.kind, SignatureAdded.kind, DatabaseReconciled.kind)
    for entry in entries(pipeline.ledger, *kinds):
        match entry.fact():
            case RosterPinned() as pinned:
                roster = pinned.roster
            case RequestOpened(approval_text=text):
                texts[entry.request] = text.encode()
            case SignatureAdded(signature=signature):
                signed.setdefault(entry.request, []).append((bytes.fromhex(signature), entry.at))
            case DatabaseReconciled(accepted=accepted) as done if accepted and roster is not None:
                written, signatures = texts.get(entry.request, b""), signed.get(entry.request, ())
                says = _says(written, entry.request, accepted)
                if says and _is_agreed(pipeline, roster, written, signatures):
                    yield done


def _says(text: bytes, request: str | None, accepted: Collection[AuditHead]) -> bool:
    try:
        fields = signed_fields(text)
    except ApprovalError:
        return False
    named = (fields.get("Request"), fields.get("Action")) == (request, "reconcile")
    return named and sentence(accepted) in fields.get("Authorises", "").split("; ")


def _is_agreed(pipeline: Pipeline, roster: Roster, text: bytes, signed: Iterable[tuple[bytes, datetime]]) -> bool:
    officers = set()
    for signature, at in signed:
        try:
            officers.add(pipeline.signatures.verify_as_of(text, signature, roster.officers, at).officer)
        except ApprovalError:
            continue
    return len(officers) >= roster.required


HEADER = "keyrotation-assessment-v1"
KINDS = (RosterPinned.kind, BreachAssessed.kind, AssessmentSigned.kind)


def is_of_answers(text: str, incident: str, answers: BreachAnswers, seq: int) -> bool:
    """Whether a text names this incident, these answers and the event that completed them."""
    header, *lines = text.split("\n")
    named = {f"Incident: {incident}", f"Answers: {answers.digest()}", f"Audit event: {seq}"}
    return header == HEADER and named <= set(lines)


@dataclass(slots=True)
class _Heard:
    """The answers of each incident, with the event that completed them, and the roster of the moment."""

    roster: Roster | None = None
    answers: dict[str, tuple[BreachAnswers, int]] = field(default_factory=dict)

    def fault(self, entry: AuditEntry, signed: AssessmentSigned, verifier: SignatureVerifier) -> str | None:
        """Why a signature is not what it is filed as; None: it is."""
        answers, seq = self.answers.get(signed.incident, (BreachAnswers(), 0))
        if not is_of_answers(signed.text, signed.incident, answers, seq):
            return "is over other answers"
        try:
            signature = bytes.fromhex(signed.signature)
            officers = self.roster.officers if self.roster else ()
            found = verifier.verify_as_of(signed.text.encode(), signature, officers, entry.at)
        except (ApprovalError, ValueError) as error:
            return f"does not verify: {str(error).partition(';')[0]}"
        return None if found.officer == signed.officer else f"is by {found.officer[-16:]}"


def assessment_faults(told: Iterable[AuditEntry], verifier: SignatureVerifier) -> Iterator[str]:
    """A phrase for each signature on an assessment that is not what it is filed as.

    Args:
        told: events of `KINDS`, in order.
    """
    heard = _Heard()
    for entry in told:
        match entry.fact():
            case RosterPinned() as pinned:
                heard.roster = pinned.roster
            case BreachAssessed(incident=incident, answers=later):
                before, _ = heard.answers.get(incident, (BreachAnswers(), 0))
                heard.answers[incident] = (before.then(later), entry.seq)
            case AssessmentSigned() as signed if (why := heard.fault(entry, signed, verifier)) is not None:
                who = f"the signature of {signed.officer[-16:]} on the assessment of {signed.incident}"
                yield f"{who} (event {entry.seq}) {why}"


def verify_everything(pipeline: Pipeline, *anchors: AuditHead) -> AuditHead:
    """Verify the chain against every anchor kept outside, then whatever it tells, all of one moment.

    Args:
        anchors: further ones, given by hand.

    Raises:
        AuditError: a short phrase for each thing that differs.
    """
    # Read first: the chain may grow meanwhile, but never ends before them.
    kept = pipeline.anchors.heads()
    with pipeline.ledger.snapshot():
        newest = verify_audit(pipeline.ledger, *anchors, *_to_lead_through(pipeline, kept))
        belief = LedgerState().apply(pipeline.ledger.events())
        faults = [
            *_in_the_future(belief, pipeline.clock.now()),
            *belief.faults,
            *_audit_rows(pipeline.ledger, belief),
            *_signatures(pipeline, belief.requests),
            *assessment_faults(entries(pipeline.ledger, *KINDS), pipeline.signatures),
            *_time_stamps(pipeline),
        ]
    if faults:
        raise AuditError(summary(faults))
    return newest


def _to_lead_through(pipeline: Pipeline, kept: Sequence[AuditHead]) -> Iterator[AuditHead]:
    """The anchors that the chain must lead through: all but those that a signed reconciliation gave up."""
    hashes = {event.seq: event.hash for event in pipeline.ledger.events()}
    missing = [anchor for anchor in kept if anchor.seq and hashes.get(anchor.seq) != anchor.hash]
    lost = abandoned_anchors(pipeline, missing)
    yield from (anchor for anchor in kept if anchor.seq and (anchor in lost or anchor not in missing))


def require_verified(
    pipeline: Pipeline, *, afresh: bool = False, but: Collection[AuditHead] = (), reconciled_by: Roster | None = None
) -> None:
    """The same before whatever destroys or decides; of signatures only those on requests that are not over.

    And those on what called a version compromised: that has no end.

    Args:
        afresh: read every event again; else those that this process has verified before are not, which is the price
            of what is new.
        but: anchors that the audit need not lead through, since officers are to give them up.
        reconciled_by: whose officers sign reconciliations that are not over; None: those of the pinned roster.

    Raises:
        AuditError: a short phrase for each thing that differs.
    """
    kept = pipeline.anchors.heads()
    if afresh:
        forget(str(pipeline.surroundings.identity()))
    with pipeline.ledger.snapshot():
        belief = ledger_state(str(pipeline.surroundings.identity()), pipeline.ledger.events)
        faults = [
            *_ends(pipeline, belief, pipeline.ledger.head(), (head for head in kept if head not in but)),
            *belief.faults,
            *_audit_rows(pipeline.ledger, belief),
            *_signatures(pipeline, belief.live().union(belief.compromised_by.values()), reconciled_by),
        ]
    if faults:
        raise AuditError(summary(faults))


def _ends(pipeline: Pipeline, belief: LedgerState, head: AuditHead, kept: Iterable[AuditHead]) -> Iterator[str]:
    """Where the chain does not end at its own head, or does not lead through an anchor."""
    if head != belief.head:
        yield f"the audit ends at event {belief.head.seq} and not at event {head.seq}, as its head says"
    for anchor in abandoned_anchors(pipeline, (each for each in kept if not belief.leads_through(each))):
        yield f"event {anchor.seq} is not the one that an anchor names"


def _in_the_future(belief: LedgerState, now: datetime) -> Iterator[str]:
    if belief.latest is not None and belief.latest > now + EVENTS_DIFFER_BY:
        yield f"an event is dated {belief.latest:%Y-%m-%d %H:%M:%S}, which is in the future"


def _audit_rows(ledger: Ledger, belief: LedgerState) -> Iterator[str]:
    rows = ledger.rotation_audit()
    for request, row in rows:
        if request not in belief.audit_rows:
            yield f"the row {row.id} of key_rotation_audit was added from outside"
        elif row != belief.audit_rows[request]:
            yield f"the row of request {request} in key_rotation_audit was changed"
    for request in belief.audit_rows.keys() - {request for request, _ in rows}:
        yield f"the row of request {request} in key_rotation_audit was removed"


def require_signatures(pipeline: Pipeline, request: str) -> None:
    """Verify the signatures on one request anew, whatever its state: the replay only counts them.

    Raises:
        AuditError: one is not by the officer that it is filed under, or not over this text.
    """
    if faults := [*_signatures(pipeline, {request})]:
        raise AuditError(summary(faults))


def _signatures(pipeline: Pipeline, requests: Collection[str], reconciled_by: Roster | None = None) -> Iterator[str]:
    """Verify the signatures on these requests, each by the roster that was pinned when it was added.

    Those on a reconciliation that pins a lost roster again are by the officers of that one.
    """
    if not requests:
        return
    roster: Roster | None = None
    texts: dict[str | None, bytes] = {}
    told = list(entries(pipeline.ledger, RosterPinned.kind, RequestOpened.kind, SignatureAdded.kind))
    pins = {entry.request: fact.roster for entry in told if isinstance(fact := entry.fact(), RosterPinned)}
    again: dict[str | None, Roster] = {}
    for entry in told:
        match entry.fact():
            case RosterPinned() as pinned:
                roster = pinned.roster
            case RequestOpened(action=action, approval_text=text):
                texts[entry.request] = text.encode()
                by = pins.get(entry.request, reconciled_by) if action is RequestAction.RECONCILE else None
                if by is not None:
                    again[entry.request] = by
            case SignatureAdded() as added if entry.request in requests:
                who = f"the signature of {added.officer[-16:]} on request {entry.request} (event {entry.seq})"
                signers = again.get(entry.request, roster)
                officers = signers.officers if signers else ()
                try:
                    signature = bytes.fromhex(added.signature)
                    found = pipeline.signatures.verify_as_of(
                        texts.get(entry.request, b""), signature, officers, entry.at
                    )
                except (ApprovalError, ValueError) as error:
                    yield f"{who} does not verify: {str(error).partition(';')[0]}"
                    continue
                if found.officer != added.officer:
                    yield f"{who} is by {found.officer[-16:]}"


def _time_stamps(pipeline: Pipeline) -> Iterator[str]:
    """Verify every time stamp anew, as far as certificates are configured."""
    for entry in entries(pipeline.ledger, AuditTimestamped.kind):
        stamped = entry.fact()
        if not isinstance(stamped, AuditTimestamped):
            continue
        which = f"the time stamp of event {stamped.seq} (event {entry.seq})"
        event = next(pipeline.ledger.events(after_seq=stamped.seq - 1), None)
        if event is None or (event.seq, event.hash) != (stamped.seq, stamped.hash):
            yield f"{which} is of another audit"
        elif pipeline.timestamps is not None and (sentence := refusal_of(pipeline.timestamps, stamped)):
            yield f"{which} does not hold: {sentence.replace(';', ',')}"


def refusal_of(authority: TimestampAuthority, stamped: AuditTimestamped) -> str | None:
    """Why a recorded time stamp does not verify; None: it does, and says the recorded time."""
    try:
        at = authority.stamped_at(bytes.fromhex(stamped.hash), b64decode(stamped.response, validate=True))
    except (TimestampError, ValueError) as error:
        return str(error)
    return None if at == stamped.stamped_at else f"it is of {at:%Y-%m-%d %H:%M:%S} UTC"
