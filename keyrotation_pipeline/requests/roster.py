"""Determines the pinned roster: who may approve, how many must, and who can read backups.

The database's owner can write any roster there, and any audit event. So the first event that pinned a roster is
trusted, and a later one only if officers of the previous roster signed for it. Their signatures are verified again,
back to the roster that this home has seen before. The home stores what it has seen outside the database; a backup and
the key store hold the digest.

The audit is written first, then the key store. A process that dies between the two leaves an earlier roster of the same
audit there, from which the later ones were signed; the next change completes it.
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
        AuditError: it is neither the one that this home or a backup has seen, nor signed by that one's officers.
    """
    if pipeline.ledger.pinned_roster() is None:
        raise ApprovalError("no roster of officers is pinned yet; run `keyrotation init`")
    pins, known = _pins(pipeline), pipeline.anchors.roster()
    newest = pins[-1].pinned
    if not pipeline.anchors.roster_digests() <= {pin.pinned.roster.digest for pin in pins}:
        raise _another("a backup's manifest")
    # An unsigned event may pin a roster again, after another unsigned one.
    if known is None or not known.is_same(newest):
        _require_signed_on(pipeline, pins, known or _pin_in_store(pipeline, pins))
    if known is None or known.seq != newest.seq:
        pipeline.anchors.keep_roster(newest)
    return newest.roster


def require_roster(pipeline: Pipeline) -> Roster:
    """The pinned roster, if the configuration says the same, in any order.

    Raises:
        ApprovalError: it differs; names what.
        AuditError: as `pinned_roster`.
    """
    return _configured(pipeline, pinned_roster(pipeline))


def require_known_to_store(pipeline: Pipeline, roster: Roster) -> None:
    """Refuse to set up a database with a different roster from the one in the key store.

    Raises:
        AuditError: says how to continue.
    """
    known = pipeline.keys.read().roster
    if known not in {None, roster.digest}:
        raise AuditError(
            f"the key store was last changed under another roster ({known[:16]}) than keyrotation.toml names "
            f"({roster.digest[:16]}); restore the database that it belongs to, or put officers, threshold and "
            "recipients of that roster back; if these keys are to start again under others, first remove what the key "
            "store holds of it (file `roster`, tag `keyrotation-roster`, or annotation `keyrotation/roster`)"
        )


def pin_roster_in_store(pipeline: Pipeline, stored: StoredKeys) -> StoredKeys:
    """Make the key store name the pinned roster, where it names an earlier one or none.

    Args:
        stored: as just read, and consistent with the audit.

    Raises:
        KeyStoreError: the key store rejects the change.
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
            stored = pipeline.keys.read()  # changed by another process, perhaps to the same
    return pipeline.keys.pin_roster(digest, stored.revision)


def authority_to_reconcile(pipeline: Pipeline) -> Roster:
    """The pinned roster; or the later one, where the database was restored to a time before that was pinned.

    Raises:
        ApprovalError, AuditError: as `require_roster`.
    """
    return require_roster(pipeline) if (lost := lost_roster(pipeline)) is None else _configured(pipeline, lost)


def lost_roster(pipeline: Pipeline) -> Roster | None:
    """The roster that the key store names, or that this home has seen pinned, if the audit no longer has it.

    Raises:
        AuditError: it is the one that the key store names, and neither this home nor the configuration has it.
    """
    known, pinned = pipeline.anchors.roster(), {pin.pinned.roster.digest for pin in _pins(pipeline)}
    digest = pipeline.keys.read().roster
    if digest is None or digest in pinned:
        return known.roster if known is not None and known.roster.digest not in pinned else None
    for each in (*([known.roster] if known is not None else []), pipeline.signatures.roster()):
        if each.digest == digest:
            return each
    raise AuditError(
        f"the key store names a roster ({digest[:16]}) that neither the database, nor this home, nor keyrotation.toml "
        "has; put officers, threshold and recipients of the roster that was pinned last back into keyrotation.toml, "
        "then run `keyrotation reconcile`"
    )


@dataclass(frozen=True, slots=True)
class _Pin:
    """One event that pinned a roster; `request`: the one that was signed for it, None for the first."""

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
    """The first pin of the roster that the key store names.

    None: it names none, or cannot be read, which is reported elsewhere.
    """
    try:
        digest = pipeline.keys.read().roster
    except KeyStoreError:
        return None
    vouched = [pin.pinned for pin in pins if pin.pinned.roster.digest == digest]
    if digest is not None and not vouched:
        raise _another("the key store")
    return vouched[0] if vouched else None


def _require_signed_on(pipeline: Pipeline, pins: Sequence[_Pin], known: PinnedRoster | None) -> None:
    """Require that each roster since the known one, or since the first, was signed by officers of the one before."""
    for before, pin in pairwise(pins[_seen(pins, known) :]):
        if not _is_signed(pipeline, before.pinned.roster, pin):
            raise AuditError(
                f"the roster that audit event {pin.pinned.seq} pinned was not signed by officers of the one before; "
                "keep this database as it is, and run `keyrotation audit verify`"
            )


def _seen(pins: Sequence[_Pin], known: PinnedRoster | None) -> int:
    """The index of the known pin: the same event, or another one where the database was restored since."""
    if known is None:
        return 0
    same = [index for index, pin in enumerate(pins) if pin.pinned.is_same(known)]
    alike = [index for index, pin in enumerate(pins) if pin.pinned.roster.digest == known.roster.digest]
    if not same + alike:
        raise _another("this home")
    return (same + alike)[0]


def _is_signed(pipeline: Pipeline, before: Roster, pin: _Pin) -> bool:
    """Whether enough officers of the previous roster have signed exactly this change, for this audit."""
    opened = next(recorded(pipeline.ledger, RequestOpened, pin.request), None) if pin.request else None
    if opened is None:
        return False
    text = opened.approval_text.encode()
    fields = signed_fields(text)
    named = [fields.get(name) for name in ("Request", "Action", "From", "To")]
    if named != [pin.request, RequestAction.POLICY, str(before), str(pin.pinned.roster)]:
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
    """The audit heads that a text signed for this audit can name for the event of that number."""
    if seq == 0:
        return {f"0 {GENESIS}"}
    return {f"{event.seq} {event.hash}" for event in islice(pipeline.ledger.events(after_seq=seq - 1), 1)}


def _another(where: str) -> AuditError:
    return AuditError(
        f"the roster that is pinned in this database is not the one that {where} has seen; if the database was "
        "restored to an earlier time, run `keyrotation reconcile`, otherwise keep it as it is and run "
        "`keyrotation audit verify`"
    )
