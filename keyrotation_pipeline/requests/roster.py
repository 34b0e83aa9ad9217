"""Determines the pinned roster: who may approve, how many must, and who can read backups.

The first event that pinned a roster is trusted, a later one only if enough officers of the roster before signed for it
(`audit/rules`). What the database's owner could still do is to write another audit from its first event on: so the home
stores the roster that it has seen, a backup and the key store hold its digest, and the audit must have it.

The audit is written first, then the key store. A process that dies between the two leaves an earlier roster of the same
audit there, from which the later ones were signed; the next change completes it.
"""

import json
import secrets
from collections.abc import Collection
from contextlib import suppress

from keyrotation_pipeline.audit.history import history
from keyrotation_pipeline.audit.store_owner import require_ours
from keyrotation_pipeline.errors import ApprovalError, AuditError, KeyStoreConflictError, KeyStoreError
from keyrotation_pipeline.model.approval import PinnedRoster, Roster, RosterChange, RosterSignature, signed_fields
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.keys import StoredKeys, StoreOwner
from keyrotation_pipeline.model.request_events import HomeNamed, RosterPinned, SignatureAdded
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.model.visible_text import is_of_one_script
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.keys import OwnedKeys
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.key_list import note_if_changed

_LOOKS = 5
_HOME_BYTES = 16


def pinned_roster(pipeline: Pipeline) -> Roster:
    """The roster that `init` or a later `policy` pinned.

    Raises:
        ApprovalError: there is none.
        AuditError: it is neither the one that this home or a backup has seen, nor did that one's officers sign for it.
    """
    # What other places have seen is read first: it never runs ahead of an audit that is read afterwards.
    seen, known = pipeline.anchors.roster_digests(), pipeline.anchors.roster()
    state = pipeline.ledger.replayed()
    if state.roster is None:
        raise ApprovalError("no roster of officers is pinned yet; run `keyrotation init`")
    digests = {roster.digest for _, roster, _ in state.rosters}
    if not seen <= digests:
        raise _another("a backup's manifest")
    if known is None:
        _require_in_store(pipeline.keys, digests)
    elif known.roster.digest not in digests:
        raise _another("this home")
    seq, roster, _ = state.rosters[-1]
    if known is None or not known.is_same(PinnedRoster(seq, roster)):
        pipeline.anchors.keep_roster(PinnedRoster(seq, roster, _changes(pipeline.ledger)))
    return roster


def require_roster(pipeline: Pipeline) -> Roster:
    """The pinned roster, if the configuration says the same, in any order.

    Raises:
        ApprovalError: it differs; names what.
        AuditError: as `pinned_roster`.
    """
    return _configured(pipeline.signatures, pinned_roster(pipeline))


def roster_of(pipeline: Pipeline, request: Request) -> Roster:
    """The roster under which a request counts: the pinned one; of one that has begun, the one pinned then.

    Raises:
        ApprovalError, AuditError: as `pinned_roster`.
    """
    pinned = pinned_roster(pipeline)
    return pipeline.ledger.replayed().began_under.get(request.id, pinned)


def require_usable(signatures: SignatureVerifier, roster: Roster, before: Roster | None = None) -> None:
    """Refuses to pin a roster of which too few can sign, or with somebody new who cannot sign or be encrypted to.

    So is a new name with letters of several scripts: it may look like that of somebody else.

    Args:
        roster: as the configuration names it.
        before: the pinned one; None: none is. A certificate of it that has ended hinders no change.

    Raises:
        ApprovalError: names the certificate, and what to do.
    """
    names = {each.name for each in before.officers} if before else set()
    for officer in roster.officers:
        if officer.name not in names and not is_of_one_script(officer.name):
            raise ApprovalError(
                f"the name of officer {json.dumps(officer.name)} has letters of several scripts, some of which look "
                "alike; write it in one"
            )
    known = {(False, each.fingerprint) for each in before.officers} if before else set()
    known |= {(True, each) for each in before.recipients} if before else set()
    ended = [each for each in signatures.certificates() if each.unusable is not None]
    for each in ended:
        if (each.encrypts, each.fingerprint) not in known:
            raise ApprovalError(str(each.unusable))
    unable = {each.fingerprint for each in ended if not each.encrypts}
    able = [each for each in roster.officers if each.ssh_key or each.fingerprint not in unable]
    if len(able) < roster.required:
        raise ApprovalError(
            f"only {len(able)} of the officers in [approvals] can sign, and {roster.required} must; have one extend "
            "the certificate and export it again, or name another officer"
        )
    if not set(roster.recipients) - {each.fingerprint for each in ended if each.encrypts}:
        raise ApprovalError("no certificate in [backup] recipients can be encrypted to; name one that can")


def require_known_to_store(keys: OwnedKeys, roster: Roster) -> None:
    """Refuses to set up a database with a different roster from the one in the key store.

    Raises:
        AuditError: says how to continue.
    """
    known = keys.read().roster
    if known not in {None, roster.digest}:
        raise AuditError(
            f"the key store names another roster ({known[:16]}) than keyrotation.toml ({roster.digest[:16]}); restore "
            "its database, or put that roster back (others: `keyrotation docs officers`)"
        )


def name_home(pipeline: Pipeline) -> None:
    """Gives the home its random id, once: a new machine, signer or key store makes no other home.

    A database that was restored to a time before it had one gets the id that the key store has for that database.
    """
    if pipeline.ledger.replayed().home is not None:
        return
    owner = pipeline.keys.read().owner
    known = owner is not None and pipeline.environment.identity().place in owner.places
    pipeline.ledger.append(HomeNamed(owner.home if owner and known else secrets.token_hex(_HOME_BYTES)))


def claim_store(pipeline: Pipeline, stored: StoredKeys, *, tried: bool = False) -> StoredKeys:
    """Makes the key store name this home, its database and the pinned roster, where it names earlier ones or nothing.

    Args:
        stored: as just read, and consistent with the audit.
        tried: its keys are known to be those of the values here, so that it may be claimed where it names nobody.

    Raises:
        NotOurKeyStoreError: the key store is another home's, or names nobody.
        KeyStoreError: it rejects the change.
        ApprovalError, AuditError: as `pinned_roster`.
    """
    for _ in range(_LOOKS):
        state, place = pipeline.ledger.replayed(), pipeline.environment.identity().place
        if state.home is None:
            return stored  # of an earlier version, until `init`
        owner = stored.owner
        digest = None if state.roster is None else state.roster.digest
        named = None if owner is None else (owner.home, owner.places, owner.roster)
        if owner is not None and named == (state.home, (place,), digest) and state.leads_through(owner.head):
            return stored
        if owner is not None or not tried:
            require_ours(stored, state)
        digest = pinned_roster(pipeline).digest
        intent = {"home": state.home, "places": [place], "digest": digest, "before": stored.roster}
        pipeline.ledger.append(Note(EventKind.ROSTER_KEEPING_INTENDED, intent))
        note_if_changed(pipeline.ledger, stored)
        ours = StoreOwner(state.home, (place,), digest, pipeline.ledger.head())
        try:
            return pipeline.keys.name_owner(ours, stored.revision)
        except KeyStoreConflictError:
            stored = pipeline.keys.read()  # changed by another process, perhaps to the same
    raise KeyStoreConflictError("the key store is being changed by others all the time; run the same again")


def authority_to_reconcile(pipeline: Pipeline) -> Roster:
    """The pinned roster; or the later one, where the database was restored to a time before that was pinned.

    Raises:
        ApprovalError, AuditError: as `require_roster`.
    """
    return (
        require_roster(pipeline) if (lost := lost_roster(pipeline)) is None else _configured(pipeline.signatures, lost)
    )


def lost_roster(pipeline: Pipeline) -> Roster | None:
    """The roster that the key store names, or that this home has seen pinned, if the audit no longer has it.

    Raises:
        AuditError: it is the one that the key store names, and neither this home nor the configuration has it.
    """
    known = pipeline.anchors.roster()
    pinned = {roster.digest for _, roster, _ in pipeline.ledger.replayed().rosters}
    digest = pipeline.keys.read().roster
    if digest is None or digest in pinned:
        return known.roster if known is not None and known.roster.digest not in pinned else None
    for each in (*([known.roster] if known is not None else []), pipeline.signatures.roster()):
        if each.digest == digest:
            return each
    raise AuditError(
        f"the key store names a roster ({digest[:16]}) that neither the database, nor this home, nor keyrotation.toml "
        "has; put it back there, then run `keyrotation reconcile`"
    )


def changes_lost(pipeline: Pipeline) -> tuple[RosterChange, ...]:
    """The signed changes from the pinned roster to the one that this home has seen, which the audit has lost.

    Raises:
        AuditError: this home does not have them.
    """
    known, pinned = pipeline.anchors.roster(), str(pipeline.ledger.replayed().roster)
    changes = known.changes if known is not None else ()
    for index in reversed(range(len(changes))):
        if signed_fields(changes[index].text.encode()).get("From") == pinned:
            return changes[index:]
    raise AuditError(
        "the audit has lost the last change to the roster, which officers signed; restore a database backup made "
        "after it"
    )


def _changes(ledger: Ledger) -> tuple[RosterChange, ...]:
    """Every signed change of the roster, as the audit has it."""
    events = history(ledger, EventKind.ROSTER_PINNED, EventKind.SIGNATURE_ADDED)
    changes: list[RosterChange] = []
    for pin in events:
        if not isinstance(pin.fact, RosterPinned) or pin.fault is not None or pin.request is None:
            continue
        if pin.fact.changes:
            changes += pin.fact.changes
            continue
        signatures = tuple(
            RosterSignature(each.fact.officer, each.fact.signature, each.at)
            for each in events
            if isinstance(each.fact, SignatureAdded) and each.request == pin.request and each.fault is None
        )
        changes.append(RosterChange(pin.fact.roster, pin.text.decode(), signatures))
    return tuple(changes)


def _configured(signatures: SignatureVerifier, roster: Roster) -> Roster:
    if differs := roster.differences(signatures.roster()):
        raise ApprovalError(
            f"{' and '.join(differs)} in keyrotation.toml differ from what is pinned; restore them there, or have the "
            "change signed with `keyrotation policy --reason TEXT`"
        )
    return roster


def _require_in_store(keys: OwnedKeys, digests: Collection[str]) -> None:
    """Refuses an audit that never pinned the roster that the key store names, if it can be read."""
    with suppress(KeyStoreError):
        digest = keys.read().roster
        if digest is not None and digest not in digests:
            raise _another("the key store")


def _another(where: str) -> AuditError:
    return AuditError(
        f"the roster in this database is not the one that {where} has seen; run `keyrotation reconcile` if it was "
        "restored, else `keyrotation audit verify`"
    )
