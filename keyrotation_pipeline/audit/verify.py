"""Verifies everything that the audit vouches for: its chain, anchors, tables and every signature."""

from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from keyrotation_pipeline.audit.chain import summary, verify_audit
from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.errors import AuditError, TimestampError
from keyrotation_pipeline.model.audit import EVENTS_DIFFER_BY, AuditHead
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.backup_events import AuditTimestamped
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.timestamps import TimestampAuthority


def abandoned_anchors(pipeline: Pipeline, anchors: Iterable[AuditHead]) -> tuple[AuditHead, ...]:
    """The anchors that no signed reconciliation abandoned."""
    abandoned = pipeline.ledger.replayed().abandoned
    return tuple(anchor for anchor in anchors if anchor not in abandoned)


def verify_everything(pipeline: Pipeline, *anchors: AuditHead) -> AuditHead:
    """Verify the chain against every external anchor, then everything it records, as of one moment.

    Args:
        anchors: further ones, that somebody gives.

    Raises:
        AuditError: a short phrase for each thing that differs.
    """
    # Read the anchors first: the chain may grow meanwhile, but never ends before them.
    kept = pipeline.anchors.heads()
    with pipeline.ledger.snapshot():
        newest = verify_audit(pipeline.ledger, *anchors, *_to_lead_through(pipeline, kept))
        replayed = _replayed(pipeline)
        faults = [
            *_in_the_future(replayed, pipeline.clock.now()),
            *_faults(pipeline, replayed),
            *_audit_rows(pipeline.ledger, replayed),
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
    pipeline: Pipeline, *, afresh: bool = False, but: Collection[AuditHead] = (), reconciling: bool = False
) -> None:
    """Verify the chain, its events and the anchors before whatever destroys or decides.

    Args:
        afresh: read every event again; else those that this process has verified before are not, which is the price
            of what is new.
        but: anchors that the audit need not lead through, since officers are to give them up.
        reconciling: whether a restored or renamed database is about to become that of the audit.

    Raises:
        AuditError: a short phrase for each thing that differs.
    """
    kept = pipeline.anchors.heads()
    with pipeline.ledger.snapshot():
        replayed = _replayed(pipeline) if afresh else pipeline.ledger.replayed()
        faults = [
            *_ends(pipeline, replayed, pipeline.ledger.head(), (head for head in kept if head not in but)),
            *_faults(pipeline, replayed, reconciling=reconciling),
            *_audit_rows(pipeline.ledger, replayed),
        ]
    if faults:
        raise AuditError(summary(faults))


def _replayed(pipeline: Pipeline) -> AuditState:
    return LedgerState(pipeline.signatures.verify_as_of).apply(pipeline.ledger.events())


def _faults(pipeline: Pipeline, replayed: AuditState, *, reconciling: bool = False) -> Iterator[str]:
    """What is wrong with the events, and what this process has read and is gone."""
    known = pipeline.anchors.roster()
    lost_officers = known.roster.officers if known else ()
    place = pipeline.surroundings.identity().place
    yield from replayed.faults_but(lost_officers, place if reconciling else None)
    if (head := pipeline.ledger.replayed().lost) is not None and not reconciling:
        yield f"event {head.seq} {head.hash[:16]}, which was read here before, is no longer in the audit"


def _ends(pipeline: Pipeline, replayed: AuditState, head: AuditHead, kept: Iterable[AuditHead]) -> Iterator[str]:
    """Report where the chain does not end at its own head, or does not contain an anchor."""
    if head != replayed.head:
        yield f"the audit ends at event {replayed.head.seq} and not at event {head.seq}, as its head says"
    for anchor in abandoned_anchors(pipeline, (each for each in kept if not replayed.leads_through(each))):
        yield f"event {anchor.seq} is not the one that an anchor names"


def _in_the_future(replayed: AuditState, now: datetime) -> Iterator[str]:
    if replayed.latest is not None and replayed.latest > now + EVENTS_DIFFER_BY:
        yield f"an event is dated {replayed.latest:%Y-%m-%d %H:%M:%S}, which is in the future"


def _audit_rows(ledger: Ledger, replayed: AuditState) -> Iterator[str]:
    rows = ledger.rotation_audit()
    for request, row in rows:
        if request not in replayed.audit_rows:
            yield f"the row {row.id} of key_rotation_audit was added from outside"
        elif row != replayed.audit_rows[request]:
            yield f"the row of request {request} in key_rotation_audit was changed"
    for request in replayed.audit_rows.keys() - {request for request, _ in rows}:
        yield f"the row of request {request} in key_rotation_audit was removed"


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
