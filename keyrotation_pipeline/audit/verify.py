"""Verifies everything that the audit vouches for: its chain, anchors, tables and every signature."""

from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from keyrotation_pipeline.audit.chain import summary, verify_audit
from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.audit.history import LedgerState, history, signature_fault
from keyrotation_pipeline.audit.replay_cache import forget, ledger_state
from keyrotation_pipeline.errors import ApprovalError, AuditError, TimestampError
from keyrotation_pipeline.model.approval import Roster, signed_fields
from keyrotation_pipeline.model.audit import EVENTS_DIFFER_BY, AuditHead
from keyrotation_pipeline.model.backup_events import AuditTimestamped
from keyrotation_pipeline.model.breach import AssessmentSigned
from keyrotation_pipeline.model.request_events import DatabaseReconciled, SignatureAdded
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.timestamps import TimestampAuthority


def sentence(heads: Collection[AuditHead]) -> str:
    """The heads that officers sign as abandoned."""
    newest = max(heads, key=lambda head: head.seq)
    others = f" (nor {len(heads) - 1} older)" if len(heads) > 1 else ""
    return f"accept that event {newest.seq} {newest.hash}{others} is not in the audit"


def abandoned_anchors(pipeline: Pipeline, anchors: Iterable[AuditHead]) -> tuple[AuditHead, ...]:
    """The anchors that no signed reconciliation abandoned; signatures are verified only if there are any."""
    missing = tuple(anchors)
    if not missing:
        return ()
    given_up = set(_abandoned(pipeline))
    return tuple(anchor for anchor in missing if anchor not in given_up)


def _abandoned(pipeline: Pipeline) -> Iterator[AuditHead]:
    """The anchors abandoned by reconciliations that enough officers of their roster, or of the pinned one, signed."""
    told = history(pipeline.ledger, SignatureAdded.kind, DatabaseReconciled.kind)
    for done in told:
        fact = done.fact
        if not isinstance(fact, DatabaseReconciled) or not fact.accepted or done.fault or done.roster is None:
            continue
        signed = (each for each in told if each.request == done.request and each.seq < done.seq)
        officers = {
            each.fact.officer
            for each in signed
            if isinstance(each.fact, SignatureAdded) and signature_fault(each, pipeline.signatures) is None
        }
        if _says(done.text, done.request, fact.accepted) and len(officers) >= done.roster.required:
            yield from fact.accepted


def _says(text: bytes, request: str | None, accepted: Collection[AuditHead]) -> bool:
    try:
        fields = signed_fields(text)
    except ApprovalError:
        return False
    named = (fields.get("Request"), fields.get("Action")) == (request, "reconcile")
    return named and sentence(accepted) in fields.get("Authorises", "").split("; ")


def verify_everything(pipeline: Pipeline, *anchors: AuditHead) -> AuditHead:
    """Verify the chain against every external anchor, then everything it records, as of one moment.

    Args:
        anchors: further ones, given by hand.

    Raises:
        AuditError: a short phrase for each thing that differs.
    """
    # Read the anchors first: the chain may grow meanwhile, but never ends before them.
    kept = pipeline.anchors.heads()
    with pipeline.ledger.snapshot():
        newest = verify_audit(pipeline.ledger, *anchors, *_to_lead_through(pipeline, kept))
        replayed = LedgerState().apply(pipeline.ledger.events())
        faults = [
            *_in_the_future(replayed, pipeline.clock.now()),
            *replayed.faults,
            *_audit_rows(pipeline.ledger, replayed),
            *_signatures(pipeline, replayed.requests),
            *_assessments(pipeline),
            *_time_stamps(pipeline),
        ]
    if faults:
        raise AuditError(summary(faults))
    return newest


def _to_lead_through(pipeline: Pipeline, kept: Sequence[AuditHead]) -> Iterator[AuditHead]:
    """The anchors that the chain must contain: all but those that a signed reconciliation abandoned."""
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
        replayed = ledger_state(str(pipeline.surroundings.identity()), pipeline.ledger.events)
        faults = [
            *_ends(pipeline, replayed, pipeline.ledger.head(), (head for head in kept if head not in but)),
            *replayed.faults,
            *_audit_rows(pipeline.ledger, replayed),
            *_signatures(pipeline, replayed.live().union(replayed.compromised_by.values()), reconciled_by),
        ]
    if faults:
        raise AuditError(summary(faults))


def _ends(pipeline: Pipeline, replayed: LedgerState, head: AuditHead, kept: Iterable[AuditHead]) -> Iterator[str]:
    """Report where the chain does not end at its own head, or does not contain an anchor."""
    if head != replayed.head:
        yield f"the audit ends at event {replayed.head.seq} and not at event {head.seq}, as its head says"
    for anchor in abandoned_anchors(pipeline, (each for each in kept if not replayed.leads_through(each))):
        yield f"event {anchor.seq} is not the one that an anchor names"


def _in_the_future(replayed: LedgerState, now: datetime) -> Iterator[str]:
    if replayed.latest is not None and replayed.latest > now + EVENTS_DIFFER_BY:
        yield f"an event is dated {replayed.latest:%Y-%m-%d %H:%M:%S}, which is in the future"


def _audit_rows(ledger: Ledger, replayed: LedgerState) -> Iterator[str]:
    rows = ledger.rotation_audit()
    for request, row in rows:
        if request not in replayed.audit_rows:
            yield f"the row {row.id} of key_rotation_audit was added from outside"
        elif row != replayed.audit_rows[request]:
            yield f"the row of request {request} in key_rotation_audit was changed"
    for request in replayed.audit_rows.keys() - {request for request, _ in rows}:
        yield f"the row of request {request} in key_rotation_audit was removed"


def require_signatures(pipeline: Pipeline, request: str) -> None:
    """Verify the signatures on one request again, whatever its state: the replay only counts them.

    Raises:
        AuditError: one is not by the officer that it is filed under, or not over this text.
    """
    if faults := [*_signatures(pipeline, {request})]:
        raise AuditError(summary(faults))


def _signatures(pipeline: Pipeline, requests: Collection[str], reconciled_by: Roster | None = None) -> Iterator[str]:
    """Verify the signatures on these requests, each by the roster of its moment (see `HistoryEntry`)."""
    if not requests:
        return
    for entry in history(pipeline.ledger, SignatureAdded.kind, reconciled_by=reconciled_by):
        if not isinstance(entry.fact, SignatureAdded) or entry.request not in requests:
            continue
        if fault := signature_fault(entry, pipeline.signatures):
            who = entry.fact.officer[-16:]
            yield f"the signature of {who} on request {entry.request} (event {entry.seq}) {fault}"


def _assessments(pipeline: Pipeline) -> Iterator[str]:
    """Verify the signatures on every assessment: each is over the answers as they were then."""
    for entry in history(pipeline.ledger, AssessmentSigned.kind):
        if isinstance(entry.fact, AssessmentSigned) and (fault := signature_fault(entry, pipeline.signatures)):
            who = entry.fact.officer[-16:]
            yield f"the signature of {who} on the assessment of {entry.fact.incident} (event {entry.seq}) {fault}"


def _time_stamps(pipeline: Pipeline) -> Iterator[str]:
    """Verify every time stamp again, as far as certificates are configured."""
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
