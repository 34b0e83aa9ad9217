"""Anchors outside that lead nowhere, and need not any more: a reconciliation gave them up, and officers signed that.

Whoever owns the database can cut its audit and write an event that gives up whatever was cut. So the event counts only
as far as officers signed exactly these heads, and their signatures are verified anew.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import Roster, signed_fields
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.request_events import DatabaseReconciled, RequestOpened, RosterPinned, SignatureAdded
from keyrotation_pipeline.ports.pipeline import Pipeline


def sentence(heads: Collection[AuditHead]) -> str:
    """What officers sign of the heads that they give up."""
    newest = max(heads, key=lambda head: head.seq)
    others = f" (nor {len(heads) - 1} older)" if len(heads) > 1 else ""
    return f"accept that event {newest.seq} {newest.hash}{others} is not in the audit"


def lost(pipeline: Pipeline, anchors: Iterable[AuditHead]) -> tuple[AuditHead, ...]:
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
            officers.add(pipeline.signatures.was_good(text, signature, roster.officers, at).officer)
        except ApprovalError:
            continue
    return len(officers) >= roster.required
