"""What each event of the audit changes, and which events cannot have happened: `AuditRules`.

Those of requests are in `request_rules`, of walks and keys in `walk_rules`, of incidents in `incidents`.
"""

from keyrotation_pipeline.audit.events import AuditEntry, Rules
from keyrotation_pipeline.audit.incidents import INCIDENT_RULES
from keyrotation_pipeline.audit.request_rules import REQUEST_RULES
from keyrotation_pipeline.audit.walk_rules import WALK_RULES
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import (
    signed_fields,
    signer_in,
)
from keyrotation_pipeline.model.audit import Fact, Note
from keyrotation_pipeline.model.audit_state import (
    AuditState,
    ImpossibleError,
    require,
)
from keyrotation_pipeline.model.backup_events import BackupKeyPinned, SigningBegun
from keyrotation_pipeline.model.backups import signer_fingerprint
from keyrotation_pipeline.model.request_events import (
    HomeNamed,
    RequestOpened,
    RotationAuditWritten,
    ServerSeen,
)
from keyrotation_pipeline.model.requests import (
    RequestAction,
)

UNSIGNED = "is not signed by the pipeline"


class AuditRules:
    """Judges the events of an audit in their order, and lets those that count change its state.

    The chain is the ledger: there is no other record of rosters, requests, keys, incidents and steps. Whoever owns the
    database can append events, so an event counts only if it could happen when it did. The rules are:

    1. The pipeline signed it, with the key of the home that officers named last; or it asks them to name another.
    2. Nothing comes back: what is there is not opened, signed, finished, promoted or registered again, and nothing
       leads from what is over.
    3. It says what the text says that officers sign, for this database, this audit and the officers of that moment.
    4. What no officer may do alone (begin or finish a request, pin another roster, change the state of a key, close an
       incident whose key is in use) has the signatures of enough of them, each verified here, over exactly that text.
    5. Steps are finished, and the promotion is recorded, while their request is under way, in the order of the walk.
    6. Only the walk's own versions change their state, each after the steps that it takes; one version is active.
    7. Keys are withdrawn after the proof, and a walk is finished after its last step.
    8. A key is registered as the target of a request, or after the intent to import exactly that one.
    9. What an event says of its own time is the time when it was recorded.

    Of these 1 and 5 to 9 hold from the event on with which the pipeline began to sign; what is older stays as it was
    judged when it was written. What only takes and shows (intents, notes, counts) has no rule but the first.

    Example of a rotation that two officers have signed and that has not begun; `step` says that its key was made:

    >>> rules = AuditRules(state)
    >>> rules.judge(step, step.fact(), signer=None)
    'is not signed by the pipeline'
    >>> rules.judge(step, step.fact(), signer=state.signer)
    'is of a request that has not begun'
    >>> rules.judge(begun, begun.fact(), signer=state.signer)
    >>> rules.judge(step, step.fact(), signer=state.signer)
    >>> state.requests[step.request].done(Step.KEY_VERSION).finished_at == step.at
    True
    >>> rules.judge(step, step.fact(), signer=state.signer)
    'finishes a step again'

    Args:
        state: where the events before led; each event that counts changes it.
    """

    def __init__(self, state: AuditState) -> None:
        self._state = state

    def judge(self, entry: AuditEntry, fact: Fact | Note | None, signer: str | None) -> str | None:
        """Lets an event change the state if it counts, and says why it does not, as the rest of a sentence.

        Args:
            fact: what it says; None: of a kind that this package does not know, or it cannot be read.
            signer: fingerprint of the key that signed it; None: nobody did.
        """
        if not self.is_vouched(entry, fact, signer):
            return UNSIGNED
        if (rule := RULES.get(type(fact))) is not None:
            try:
                rule(self._state, entry, fact)
            except ImpossibleError as error:
                return str(error)
        return None

    def is_vouched(self, entry: AuditEntry, fact: Fact | Note | None, signer: str | None) -> bool:
        """Whether the pipeline wrote an event, once it signs them.

        A home that officers have still to name, since the one before was lost, can ask them to by a request to
        reconcile whose text names its key.
        """
        state = self._state
        if state.signed_from is None or (signer is not None and signer == state.signer):
            return True
        if isinstance(fact, RequestOpened):
            is_to_reconcile, text = fact.action is RequestAction.RECONCILE, fact.approval_text.encode()
        else:
            asked = state.requests.get(entry.request or "")
            is_to_reconcile = asked is not None and asked.action is RequestAction.RECONCILE and not asked.is_over
            text = state.texts.get(entry.request or "", b"")
        return signer is not None and is_to_reconcile and _signer_named_in(text) == signer


def _signer_named_in(text: bytes) -> str | None:
    try:
        return next(iter(signer_in(signed_fields(text))), None)
    except ApprovalError:
        return None


def _backup_key_pinned(state: AuditState, _entry: AuditEntry, fact: BackupKeyPinned) -> None:
    """Only the first counts without a signed text: it is older than whatever could be appended later."""
    try:
        signer = signer_fingerprint(fact.public)
    except ValueError:
        raise ImpossibleError("pins no public key") from None
    state.signers = state.signers or {signer}


def _signing_begun(state: AuditState, entry: AuditEntry, fact: SigningBegun) -> None:
    """Only the first counts. Its key is the one that backups have been signed with."""
    try:
        signer = signer_fingerprint(fact.public)
    except ValueError:
        raise ImpossibleError("begins to sign with no public key") from None
    require(not state.signers or signer in state.signers, "begins to sign with a key that no officers have named")
    require(entry.seq == fact.before.seq + 1 and state.leads_through(fact.before), "begins to sign another audit")
    if state.signed_from is None:
        state.signers, state.signed_from, state.signer = state.signers or {signer}, entry.seq, signer


def _home_named(state: AuditState, _entry: AuditEntry, fact: HomeNamed) -> None:
    """Only the first counts: whatever could be appended later names no other home."""
    state.home = state.home or fact.home


def _server_seen(state: AuditState, _entry: AuditEntry, fact: ServerSeen) -> None:
    """In the middle of a walk only a signed reconciliation says that the database runs elsewhere."""
    if not state.has_walk:
        state.server, state.member_servers = fact.server, dict(fact.members)


def _audit_row_written(state: AuditState, entry: AuditEntry, fact: RotationAuditWritten) -> None:
    state.audit_rows[entry.request] = fact


# What changes nothing (intents, notes) has no rule.
RULES: Rules = {
    HomeNamed: _home_named,
    ServerSeen: _server_seen,
    BackupKeyPinned: _backup_key_pinned,
    SigningBegun: _signing_begun,
    RotationAuditWritten: _audit_row_written,
    **REQUEST_RULES,
    **WALK_RULES,
    **INCIDENT_RULES,
}
# The kinds of events that have one.
COUNTING = tuple(record.kind for record in RULES if isinstance(record, type) and issubclass(record, Fact))
