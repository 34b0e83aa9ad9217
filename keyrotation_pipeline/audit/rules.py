"""What each event of the audit changes, and which events cannot have happened.

The chain is the ledger: there is no other record of rosters, requests, keys, incidents and steps. Whoever owns the
database can append events. So an event counts only if it could happen when it did: nothing comes back that was over;
facts are those of the text that officers signed, for this database; and what no officer may do alone (start a request,
pin another roster, change the state of a key, close an incident whose key is in use) has the signatures of enough
officers of the roster of that moment, each verified here, over exactly that text.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from keyrotation_pipeline.audit.events import AuditEntry, Rules
from keyrotation_pipeline.audit.incidents import INCIDENT_RULES
from keyrotation_pipeline.audit.key_rules import KEY_RULES
from keyrotation_pipeline.audit.request_rules import REQUEST_RULES
from keyrotation_pipeline.model.approval import Roster, RosterSignature, VerifiedSignature, signed_fields
from keyrotation_pipeline.model.audit import AuditHead, EventKind, Fact
from keyrotation_pipeline.model.audit_state import (
    AuditState,
    ImpossibleError,
    is_its_time,
    names_database,
    require,
    require_lines,
    verified_by,
)
from keyrotation_pipeline.model.backup_events import BackupKeyPinned
from keyrotation_pipeline.model.backups import signer_fingerprint
from keyrotation_pipeline.model.request_events import (
    DatabaseReconciled,
    HostsPinned,
    RosterPinned,
    RotationAuditWritten,
    SignatureAdded,
)
from keyrotation_pipeline.model.requests import Request, RequestAction


def abandoning(heads: Collection[AuditHead]) -> str:
    """The heads that officers sign as abandoned, in the line `Authorises`."""
    newest = max(heads, key=lambda head: head.seq)
    others = f" (nor {len(heads) - 1} older)" if len(heads) > 1 else ""
    return f"accept that event {newest.seq} {newest.hash}{others} is not in the audit"


def _pinned(state: AuditState, entry: AuditEntry, fact: RosterPinned) -> None:
    before, roster = state.roster, fact.roster
    if before is not None:
        if state.known(entry.request).action is RequestAction.RECONCILE:
            _pin_again(state, state.known(entry.request), before, fact)
        else:
            by = state.require_running(entry.request, RequestAction.POLICY)
            require_lines(state.texts[by.id], {"From": str(before), "To": str(roster)})
    state.roster = roster
    state.rosters.append((entry.seq, roster, entry.request))


def _hosts_pinned(state: AuditState, _entry: AuditEntry, fact: HostsPinned) -> None:
    require(state.hosts in {None, fact.hosts}, "pins hosts that nobody has signed")
    state.hosts = fact.hosts


def _pin_again(state: AuditState, request: Request, before: Roster, fact: RosterPinned) -> None:
    """Pin a roster that the database had lost: the changes that led to it were signed, and its officers sign now."""
    require(not request.is_over, f"is by a request that is {request.status}")
    require(names_database(state.texts[request.id], state.place), "is by a request for another database")
    for change in fact.changes:
        fields = require_lines(change.text.encode(), _policy(before, change.roster))
        require(fields.get("Request") not in state.requests, "pins a roster by a change that the audit has not lost")
        officers = {_verified(state, before, change.text.encode(), each, each.at).officer for each in change.signatures}
        require(len(officers) >= before.required, "pins a roster that too few officers of the one before have signed")
        before = change.roster
    require(str(before) == str(fact.roster), "pins a roster that nobody is known to have signed")
    waiting = [each for each in state.unverified if each.request == request.id]
    for each in waiting:
        good = _verified(state, fact.roster, state.texts[request.id], each.fact, each.at)
        when = is_its_time(good, each.fact.signed_at, request.requested_at, each.at)
        require(when, f"is by a request whose signature {each.seq} says another time")
    officers = {officer.fingerprint for officer in fact.roster.officers}.intersection(request.approvals)
    require(len(officers) >= fact.roster.required, "is by a request that too few have signed")
    state.unverified = [each for each in state.unverified if each not in waiting]


def _policy(before: Roster, after: Roster) -> Mapping[str, str]:
    return {"Action": RequestAction.POLICY, "From": str(before), "To": str(after)}


def _verified(
    state: AuditState, roster: Roster, text: bytes, signed: SignatureAdded | RosterSignature, at: datetime
) -> VerifiedSignature:
    return verified_by(state.verify, roster.officers, text, signed.signature, signed.officer, since=None, at=at)


def _backup_key_pinned(state: AuditState, _entry: AuditEntry, fact: BackupKeyPinned) -> None:
    """Only the first counts without a signed text: it is older than whatever could be appended later."""
    try:
        signer = signer_fingerprint(fact.public)
    except ValueError:
        raise ImpossibleError("pins no public key") from None
    state.signers = state.signers or {signer}


def _audit_row_written(state: AuditState, entry: AuditEntry, fact: RotationAuditWritten) -> None:
    state.audit_rows[entry.request] = fact


def _reconciled(state: AuditState, entry: AuditEntry, fact: DatabaseReconciled) -> None:
    by = state.require_running(entry.request, RequestAction.RECONCILE)
    if fact.accepted:
        said = signed_fields(state.texts[by.id]).get("Authorises", "").split("; ")
        require(abandoning(fact.accepted) in said, "gives up other anchors than officers signed")
    state.reconciled_at = entry.at
    state.abandoned.update(fact.accepted)
    for version in (fact.primary, *fact.in_rows):
        state.retired.discard(version)


# What changes nothing (intents, notes) has no rule.
RULES: Rules = {
    RosterPinned: _pinned,
    HostsPinned: _hosts_pinned,
    BackupKeyPinned: _backup_key_pinned,
    RotationAuditWritten: _audit_row_written,
    DatabaseReconciled: _reconciled,
    **REQUEST_RULES,
    **KEY_RULES,
    **INCIDENT_RULES,
}
# The kinds of events that have one.
COUNTING = tuple(record.kind for record in RULES if isinstance(record, type) and issubclass(record, Fact))
# After these the home stores the head. What changes nothing is there too if it happens once and nothing repeats it.
ANCHORED = frozenset({*COUNTING, EventKind.AUDIT_TIMESTAMPED, EventKind.BACKUP_REKEYED})
