"""The roster: who may approve, how many must, and who can read backups.

Whoever owns the database can write any roster there, and any audit event. So the first event that pinned a roster is
believed, and a later one only if officers of the roster before it signed for it. Their signatures are verified anew,
back to the roster that this home has seen before. The home keeps what it has seen outside the database; a backup keeps
the digest.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise

from keyrotation_pipeline.audit.events import entries, recorded
from keyrotation_pipeline.errors import ApprovalError, AuditError
from keyrotation_pipeline.model.approval import PinnedRoster, Roster, signed_fields
from keyrotation_pipeline.model.audit import GENESIS
from keyrotation_pipeline.model.events import EventKind
from keyrotation_pipeline.model.request import RequestAction
from keyrotation_pipeline.model.request_events import RequestOpened, RosterPinned, SignatureAdded
from keyrotation_pipeline.ports.pipeline import Pipeline


def pinned_roster(pipeline: Pipeline) -> Roster:
    """The roster that `init` or a later `policy` pinned.

    Raises:
        ApprovalError: there is none.
        AuditError: it is not the one that this home or a backup has seen, nor signed by the officers of that one.
    """
    if pipeline.ledger.pinned_roster() is None:
        raise ApprovalError("no roster of officers is pinned yet; run `keyrotation init`")
    pins, kept = _pins(pipeline), pipeline.anchors.roster()
    newest = pins[-1].pinned
    if not pipeline.anchors.roster_digests() <= {pin.pinned.roster.digest for pin in pins}:
        raise _another("a backup's manifest")
    if kept is None or kept.roster.digest != newest.roster.digest:
        _require_signed_on(pipeline, pins, kept)
    if kept is None or kept.seq != newest.seq:
        pipeline.anchors.keep_roster(newest)
    return newest.roster


def require_roster(pipeline: Pipeline) -> Roster:
    """The pinned roster, if the configuration still says the same, in whatever order.

    Raises:
        ApprovalError: it differs; names what.
        AuditError: as `pinned_roster`.
    """
    return _configured(pipeline, pinned_roster(pipeline))


def authority_to_reconcile(pipeline: Pipeline) -> Roster:
    """The pinned roster; that of this home, where the database was restored to a time before that was pinned.

    Raises:
        ApprovalError, AuditError: as `require_roster`.
    """
    return require_roster(pipeline) if (lost := lost_roster(pipeline)) is None else _configured(pipeline, lost)


def lost_roster(pipeline: Pipeline) -> Roster | None:
    """The roster that this home has seen pinned, if the audit has lost it."""
    kept = pipeline.anchors.roster()
    if kept is None or kept.roster.digest in {pin.pinned.roster.digest for pin in _pins(pipeline)}:
        return None
    return kept.roster


@dataclass(frozen=True, slots=True)
class _Pin:
    """One event that pinned a roster; `request`: by which it was signed, None for the first."""

    pinned: PinnedRoster
    request: str | None
    at: datetime


def _pins(pipeline: Pipeline) -> tuple[_Pin, ...]:
    found = entries(pipeline.ledger, EventKind.ROSTER_PINNED)
    return tuple(
        _Pin(PinnedRoster(entry.seq, fact.roster), entry.request, entry.at)
        for entry in found
        if isinstance(fact := entry.fact(), RosterPinned)
    )


def _configured(pipeline: Pipeline, roster: Roster) -> Roster:
    if differs := roster.differences(pipeline.signatures.roster()):
        raise ApprovalError(
            f"{' and '.join(differs)} in keyrotation.toml differ from what is pinned; restore them there, or have the "
            "change signed with `keyrotation policy --reason TEXT`"
        )
    return roster


def _require_signed_on(pipeline: Pipeline, pins: Sequence[_Pin], kept: PinnedRoster | None) -> None:
    """Require that each roster since the kept one, or since the first, was signed by officers of the one before."""
    seen = [kept is None or pin.pinned.is_same(kept) for pin in pins]
    if True not in seen:
        raise _another("this home")
    for before, pin in pairwise(pins[seen.index(True) :]):
        if not _is_signed(pipeline, before.pinned.roster, pin):
            raise AuditError(
                f"the roster that audit event {pin.pinned.seq} pinned was not signed by officers of the one before; "
                "keep this database as it is, and run `keyrotation audit verify`"
            )


def _is_signed(pipeline: Pipeline, before: Roster, pin: _Pin) -> bool:
    """Whether enough officers of the roster before have signed exactly this change, for this audit."""
    opened = next(recorded(pipeline.ledger, RequestOpened, pin.request), None) if pin.request else None
    if opened is None:
        return False
    text = opened.approval_text.encode()
    fields = signed_fields(text)
    told = [fields[name] for name in ("Request", "Action", "From", "To")]
    if told != [pin.request, RequestAction.POLICY, str(before), str(pin.pinned.roster)]:
        return False
    if fields["Audit head"] not in _heads_before(pipeline, opened.audit_head.seq):
        return False
    officers = set()
    for signature in recorded(pipeline.ledger, SignatureAdded, pin.request):
        with suppress(ApprovalError):  # it does not count
            signed = pipeline.signatures.verify(text, bytes.fromhex(signature.signature), before.officers, pin.at)
            officers.add(signed.officer)
    return len(officers) >= before.required


def _heads_before(pipeline: Pipeline, seq: int) -> set[str]:
    """How a text that was signed for this audit, and for no other, names the event of that number."""
    if seq == 0:
        return {f"0 {GENESIS}"}
    return {f"{event.seq} {event.hash}" for event in islice(pipeline.ledger.events(after_seq=seq - 1), 1)}


def _another(where: str) -> AuditError:
    return AuditError(
        f"the roster that is pinned in this database is not the one that {where} has seen; if the database was "
        "restored to an earlier time, run `keyrotation reconcile`, otherwise keep it as it is and run "
        "`keyrotation audit verify`"
    )
