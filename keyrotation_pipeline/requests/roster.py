"""The roster: who may approve, how many must, and who can read backups.

Whoever owns the database can write any roster there, and any audit event. So the first event that pinned a roster is
believed, and a later one only if officers of the roster before it signed for it. Their signatures are verified anew,
back to the roster that this home has seen before. The home keeps what it has seen outside the database; a backup and
the key store keep the digest.

The audit pins first, the key store follows. A process that dies between the two leaves an earlier roster of the same
audit there, from which the later ones were signed on; the next change completes it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise

from keyrotation_pipeline.audit.events import entries, recorded
from keyrotation_pipeline.errors import ApprovalError, AuditError, KeyStoreConflictError, KeyStoreError
from keyrotation_pipeline.model.approval import PinnedRoster, Roster, signed_fields
from keyrotation_pipeline.model.audit import GENESIS, EventKind, Note
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.request_events import RequestOpened, RosterPinned, SignatureAdded
from keyrotation_pipeline.model.requests import RequestAction
from keyrotation_pipeline.ports.pipeline import Pipeline

_LOOKS = 5


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
    # A roster may be pinned again by an event that nobody signed, after another one that nobody signed.
    if kept is None or not kept.is_same(newest):
        _require_signed_on(pipeline, pins, kept or _pin_in_store(pipeline, pins))
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


def require_known_to_store(pipeline: Pipeline, roster: Roster) -> None:
    """Refuse to begin a database with another roster than its keys were kept under.

    Raises:
        AuditError: says how to go on.
    """
    known = pipeline.keys.read().roster
    if known not in {None, roster.digest}:
        raise AuditError(
            f"the key store was last changed under another roster ({known[:16]}) than keyrotation.toml names "
            f"({roster.digest[:16]}); restore the database that it belongs to, or put officers, threshold and "
            "recipients of that roster back; if these keys are to begin anew under others, first remove what the key "
            "store keeps of it (file `roster`, tag `keyrotation-roster`, or annotation `keyrotation/roster`)"
        )


def pin_roster_in_store(pipeline: Pipeline, stored: StoredKeys) -> StoredKeys:
    """Let the key store name the pinned roster, where it names an earlier one, or, made before it did, none.

    Args:
        stored: as just read, and consistent with the audit.

    Raises:
        KeyStoreError: the key store does not take it.
        ApprovalError, AuditError: as `pinned_roster`.
    """
    for _ in range(_LOOKS):
        present = pipeline.ledger.pinned_roster()
        if present is not None and stored.roster == present.digest:
            return stored
        digest = pinned_roster(pipeline).digest
        intent = {"digest": digest, "before": stored.roster}
        pipeline.ledger.append(Note(EventKind.ROSTER_KEEPING_INTENDED, intent))
        try:
            return pipeline.keys.pin_roster(digest, stored.revision)
        except KeyStoreConflictError:
            stored = pipeline.keys.read()  # somebody else changed it, maybe to this
    return pipeline.keys.pin_roster(digest, stored.revision)


def authority_to_reconcile(pipeline: Pipeline) -> Roster:
    """The pinned roster; the one after it, where the database was restored to a time before that was pinned.

    Raises:
        ApprovalError, AuditError: as `require_roster`.
    """
    return require_roster(pipeline) if (lost := lost_roster(pipeline)) is None else _configured(pipeline, lost)


def lost_roster(pipeline: Pipeline) -> Roster | None:
    """The roster that the key store names, or that this home has seen pinned, if the audit has lost it.

    Raises:
        AuditError: it is the one that the key store names, and neither this home nor the configuration has it.
    """
    kept, told = pipeline.anchors.roster(), {pin.pinned.roster.digest for pin in _pins(pipeline)}
    digest = pipeline.keys.read().roster
    if digest is None or digest in told:
        return kept.roster if kept is not None and kept.roster.digest not in told else None
    for known in (*([kept.roster] if kept is not None else []), pipeline.signatures.roster()):
        if known.digest == digest:
            return known
    raise AuditError(
        f"the key store names a roster ({digest[:16]}) that neither the database, nor this home, nor keyrotation.toml "
        "has; put officers, threshold and recipients of the roster that was pinned last back into keyrotation.toml, "
        "then run `keyrotation reconcile`"
    )


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


def _pin_in_store(pipeline: Pipeline, pins: Sequence[_Pin]) -> PinnedRoster | None:
    """The first pin of the roster that the key store vouches for.

    None: it names none, or cannot be asked, which others say.
    """
    try:
        digest = pipeline.keys.read().roster
    except KeyStoreError:
        return None
    vouched = [pin.pinned for pin in pins if pin.pinned.roster.digest == digest]
    if digest is not None and not vouched:
        raise _another("the key store")
    return vouched[0] if vouched else None


def _require_signed_on(pipeline: Pipeline, pins: Sequence[_Pin], kept: PinnedRoster | None) -> None:
    """Require that each roster since the kept one, or since the first, was signed by officers of the one before."""
    for before, pin in pairwise(pins[_seen(pins, kept) :]):
        if not _is_signed(pipeline, before.pinned.roster, pin):
            raise AuditError(
                f"the roster that audit event {pin.pinned.seq} pinned was not signed by officers of the one before; "
                "keep this database as it is, and run `keyrotation audit verify`"
            )


def _seen(pins: Sequence[_Pin], kept: PinnedRoster | None) -> int:
    """Which pin is the kept one: by the same event, or by another where a database was restored since."""
    if kept is None:
        return 0
    same = [index for index, pin in enumerate(pins) if pin.pinned.is_same(kept)]
    alike = [index for index, pin in enumerate(pins) if pin.pinned.roster.digest == kept.roster.digest]
    if not same + alike:
        raise _another("this home")
    return (same + alike)[0]


def _is_signed(pipeline: Pipeline, before: Roster, pin: _Pin) -> bool:
    """Whether enough officers of the roster before have signed exactly this change, for this audit."""
    opened = next(recorded(pipeline.ledger, RequestOpened, pin.request), None) if pin.request else None
    if opened is None:
        return False
    text = opened.approval_text.encode()
    fields = signed_fields(text)
    told = [fields.get(name) for name in ("Request", "Action", "From", "To")]
    if told != [pin.request, RequestAction.POLICY, str(before), str(pin.pinned.roster)]:
        return False
    if fields.get("Audit head") not in _heads_before(pipeline, opened.audit_head.seq):
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
