"""Everything that the audit can vouch for: its chain, its anchors outside, the tables, and every signature, anew."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

from keyrotation_pipeline.audit.chain import summary, verify_audit
from keyrotation_pipeline.audit.events import entries, recorded
from keyrotation_pipeline.audit.replay import Belief
from keyrotation_pipeline.errors import ApprovalError, AuditError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.request_events import (
    DatabaseReconciled,
    RequestOpened,
    RosterPinned,
    RotationAuditWritten,
    SignatureAdded,
)
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline

# Clocks of hosts differ by seconds, and one may be corrected; a larger difference is reported.
CLOCKS_DIFFER_BY = timedelta(hours=1)


def verify_everything(pipeline: Pipeline, *anchors: AuditHead) -> AuditHead:
    """Verify the chain against every anchor kept outside, then whatever it tells.

    Args:
        anchors: further ones, given by hand.

    Raises:
        AuditError: a short phrase for each thing that differs.
    """
    # Read first: the chain may grow meanwhile, but never ends before them.
    kept = pipeline.anchors.heads()
    accepted = {head for done in recorded(pipeline.ledger, DatabaseReconciled) for head in done.accepted}
    newest = verify_audit(pipeline.ledger, *anchors, *(head for head in kept if head.seq and head not in accepted))
    faults = [
        *_times(pipeline.ledger),
        *Belief().hear(pipeline.ledger.events()).faults,
        *_tables(pipeline.ledger),
        *_audit_rows(pipeline.ledger),
        *_signatures(pipeline),
    ]
    if faults:
        raise AuditError(summary(faults))
    return newest


def _times(ledger: Ledger) -> Iterator[str]:
    latest: datetime | None = None
    for entry in entries(ledger):
        if latest is not None and entry.at < latest - CLOCKS_DIFFER_BY:
            yield f"event {entry.seq} is dated {entry.at:%Y-%m-%d %H:%M}, before events that it follows"
        latest = entry.at if latest is None else max(latest, entry.at)


def _tables(ledger: Ledger) -> Iterator[str]:
    """Each reading of rows compares them with what the audit makes of them."""
    readings: list[Callable[[], object]] = [ledger.pinned_roster, ledger.keys, ledger.requests]
    told = {entry.request for entry in entries(ledger, RequestOpened.kind)}
    for request in sorted(each for each in told if each is not None):
        readings += [partial(ledger.approval_text, request), partial(ledger.signatures, request)]
    for reading in readings:
        try:
            reading()
        except AuditError as error:
            yield str(error).partition(",")[0].partition(";")[0]


def _audit_rows(ledger: Ledger) -> Iterator[str]:
    told: dict[str | None, RotationAuditWritten] = {}
    for entry in entries(ledger, RotationAuditWritten.kind):
        if isinstance(fact := entry.fact(), RotationAuditWritten):
            told[entry.request] = fact
    rows = ledger.rotation_audit()
    for request, row in rows:
        if request not in told:
            yield f"the row {row.id} of key_rotation_audit was added from outside"
        elif row != told[request]:
            yield f"the row of request {request} in key_rotation_audit was changed"
    for request in told.keys() - {request for request, _ in rows}:
        yield f"the row of request {request} in key_rotation_audit was removed"


def require_signatures(pipeline: Pipeline, request: str) -> None:
    """Verify the signatures on one request anew, whatever its state: the replay only counts them.

    Raises:
        AuditError: one is not by the officer that it is filed under, or not over this text.
    """
    if faults := [*_signatures(pipeline, request)]:
        raise AuditError(summary(faults))


def _signatures(pipeline: Pipeline, request: str | None = None) -> Iterator[str]:
    """Verify every signature (or those on `request`) by the roster that was pinned when it was added."""
    roster: Roster | None = None
    texts: dict[str | None, bytes] = {}
    for entry in entries(pipeline.ledger, RosterPinned.kind, RequestOpened.kind, SignatureAdded.kind):
        match entry.fact():
            case RosterPinned() as pinned:
                roster = pinned.roster
            case RequestOpened(approval_text=text):
                texts[entry.request] = text.encode()
            case SignatureAdded() as added if request in {None, entry.request}:
                who = f"the signature of {added.officer[-16:]} on request {entry.request} (event {entry.seq})"
                officers = roster.officers if roster else ()
                try:
                    signature = bytes.fromhex(added.signature)
                    found = pipeline.signatures.verify(texts.get(entry.request, b""), signature, officers, entry.at)
                except (ApprovalError, ValueError) as error:
                    yield f"{who} does not verify: {str(error).partition(';')[0]}"
                    continue
                if found.officer != added.officer:
                    yield f"{who} is by {found.officer[-16:]}"
