"""The history of an audit: each event with the roster and the signed text of its moment, and whether it counts.

The only fold over the events that rosters, requests, keys and answers are made of: what makes a request running or
over, a key compromised, destroyed or replaced, and a roster pinned is decided by `rules`. A pack's `verify.py` repeats
the rules for machines without this package; a test compares the two over the same chains.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from itertools import chain, takewhile
from typing import Any, Self

from keyrotation_pipeline.audit.checkpoint import FEWEST_EVENTS, HASH_BYTES, Checkpoint
from keyrotation_pipeline.audit.events import AuditEntry, entry_of
from keyrotation_pipeline.audit.rules import RULES, AuditState, ImpossibleError
from keyrotation_pipeline.errors import ApprovalError, AuditError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import (
    EVENTS_DIFFER_BY,
    GENESIS,
    AuditEvent,
    AuditHead,
    EventKind,
    Fact,
    Note,
    hash_of,
)
from keyrotation_pipeline.model.breach import AssessmentSigned, BreachAnswers
from keyrotation_pipeline.model.request_events import RequestOpened, SignatureAdded
from keyrotation_pipeline.model.requests import RequestAction
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.ledger import Ledger

ASSESSMENT_HEADER = "keyrotation-assessment-v1"
# Whether an event counts, and who signs then, depends on the earlier ones of these kinds.
_ALWAYS = frozenset(
    {EventKind.ROSTER_PINNED, EventKind.REQUEST_OPENED, EventKind.SIGNATURE_ADDED, EventKind.STATUS_CHANGED}
)
_OF_KEYS = frozenset({EventKind.KEY_REGISTERED, EventKind.KEY_STATE_CHANGED, EventKind.KEY_REPLACED})
_OF_ASSESSMENTS = frozenset({EventKind.BREACH_ASSESSED, EventKind.ASSESSMENT_SIGNED})


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event, and what held at its moment.

    Args:
        event: as it is stored.
        entry: its body.
        fact: what it says; None: of a kind that this package does not know.
        roster: whose officers sign then: the pinned roster; for a reconciliation, the one that it pins again.
        text: the exact bytes to sign for its request.
        answers: of the signature on an assessment: the answers so far, and the event that completed them.
        fault: why it cannot have happened and changed nothing, as the rest of a sentence that begins with the event.
    """

    event: AuditEvent
    entry: AuditEntry
    fact: Fact | Note | None
    roster: Roster | None
    text: bytes = b""
    answers: tuple[BreachAnswers, int] | None = None
    fault: str | None = None

    @property
    def seq(self) -> int:
        """Its number."""
        return self.entry.seq

    @property
    def at(self) -> datetime:
        """When it was recorded."""
        return self.entry.at

    @property
    def kind(self) -> str:
        """An `EventKind`, or the name of one that this package does not know."""
        return self.entry.kind

    @property
    def request(self) -> str | None:
        """Id of the request that it is of."""
        return self.entry.request


@dataclass(slots=True)
class LedgerState(AuditState):
    """Where the events of an audit lead, from the first to the last one read.

    Args:
        head: the last of them.
        hashes: 32 bytes of each event, in order.
        counted: the seqs of the events that changed something.
        latest: the latest time of an event.
        faults: a phrase for each event that cannot have happened, and changed nothing, or that is out of order.
    """

    head: AuditHead = field(default_factory=lambda: AuditHead(0, GENESIS))
    hashes: bytearray = field(default_factory=bytearray)
    counted: list[int] = field(default_factory=list)
    latest: datetime | None = None
    faults: tuple[str, ...] = ()

    def live(self) -> frozenset[str]:
        """Requests that are not over."""
        return frozenset(request.id for request in self.requests.values() if not request.is_over)

    def leads_through(self, anchor: AuditHead) -> bool:
        """Whether a recorded head is in this audit."""
        return anchor.seq == 0 or self._has(anchor)

    def apply(self, events: Iterable[AuditEvent]) -> Self:
        """Return the state after these events, which follow those read before; this state stays unchanged.

        Raises:
            AuditError: one does not follow the one before, was changed, or cannot be read.
        """
        later = iter(events)
        if (first := next(later, None)) is None:
            return self
        after = type(self)(**{each.name: _copied(getattr(self, each.name)) for each in fields(self)})
        for event in chain((first,), later):
            after.add(event)
        return after

    def add(self, event: AuditEvent) -> HistoryEntry:
        """Apply the next event; raises as `apply`."""
        entry = entry_of(event)
        self._require_next(event, entry)
        self.head = AuditHead(event.seq, event.hash)
        self.hashes += bytes.fromhex(event.hash)
        if (entry.kind, entry.request) != (event.kind, event.request):
            self.faults += (f"event {entry.seq} is filed under another kind or request than its own",)
        if self.latest is not None and entry.at < self.latest - EVENTS_DIFFER_BY:
            self.faults += (f"event {entry.seq} is dated {entry.at:%Y-%m-%d %H:%M:%S}, before events that it follows",)
        self.latest = max(self.latest or entry.at, entry.at)
        judged = _judged(self, event, entry)
        if isinstance(opened := judged.fact, RequestOpened) and not self._has(opened.audit_head):
            self.faults += (f"event {entry.seq} opens a request that is to be signed for another audit",)
        if judged.fault is not None:
            self.faults += (f"event {entry.seq} ({entry.kind}) {judged.fault}",)
        elif type(judged.fact) in RULES:
            self.counted.append(entry.seq)
        return judged

    def _require_next(self, event: AuditEvent, entry: AuditEntry) -> None:
        follows = event.seq == self.head.seq + 1 and event.previous == self.head.hash
        if not follows or entry.seq != event.seq or hash_of(event.previous, event.body) != event.hash:
            raise AuditError(
                f"audit event {event.seq} does not follow event {self.head.seq}, or one of them was changed; "
                "run `keyrotation audit verify`"
            )

    def _has(self, head: AuditHead) -> bool:
        return head.hash == self._hash_at(head.seq)

    def _hash_at(self, seq: int) -> str:
        """The hash of an event in hex; empty, if there are not so many."""
        return self.hashes[(seq - 1) * HASH_BYTES : seq * HASH_BYTES].hex() if seq else GENESIS

    @classmethod
    def resumed(cls, checkpoint: Checkpoint, counted: Iterable[AuditEvent]) -> Self:
        """Restore the state at a checkpoint.

        Args:
            counted: the events of `COUNTING` kinds, in order; those later than the checkpoint are ignored.

        Raises:
            AuditError: they are not those that the checkpoint was made of.
        """
        after = cls()
        for event in takewhile(lambda event: event.seq <= checkpoint.seq, counted):
            after._skip_to(event.seq - 1, checkpoint.hashes)
            after.add(event)
        after._skip_to(checkpoint.seq, checkpoint.hashes)
        if after.faults or after.hashes != checkpoint.hashes or tuple(after.counted) != checkpoint.counted:
            raise AuditError("the audit is not the one of the checkpoint; run `keyrotation audit verify`")
        after.latest = checkpoint.latest
        return after

    def _skip_to(self, seq: int, hashes: bytes) -> None:
        """Skip the events up to this one, which changed nothing."""
        self.hashes += hashes[len(self.hashes) : seq * HASH_BYTES]
        self.head = AuditHead(seq, self._hash_at(seq))

    def checkpoint(self) -> Checkpoint | None:
        """Make a checkpoint of this replay; None: there were faults, or it is too short to be worth it."""
        if self.faults or self.latest is None or self.head.seq < FEWEST_EVENTS:
            return None
        return Checkpoint(bytes(self.hashes), tuple(self.counted), self.latest)


def whole_history(events: Iterable[AuditEvent]) -> tuple[tuple[HistoryEntry, ...], LedgerState]:
    """Every event of an audit, and where they lead; raises as `LedgerState.apply`."""
    state = LedgerState()
    told = tuple(map(state.add, events))
    return tuple(_by_lost_rosters(told, state)), state


def history(ledger: Ledger, *kinds: EventKind, reconciled_by: Roster | None = None) -> tuple[HistoryEntry, ...]:
    """The events of these kinds, oldest first, each judged by the earlier ones that it depends on.

    Args:
        reconciled_by: whose officers sign reconciliations that have pinned no roster; None: those of the pinned one.
    """
    groups = (_ALWAYS, *(group for group in (_OF_KEYS, _OF_ASSESSMENTS) if group.intersection(kinds)))
    state = AuditState()
    told = [_judged(state, event, entry_of(event)) for event in ledger.events(*frozenset(kinds).union(*groups))]
    return tuple(each for each in _by_lost_rosters(told, state, reconciled_by) if each.kind in kinds)


def signer_of(signed: HistoryEntry, verifier: SignatureVerifier) -> str:
    """Verify a signature on a request or an assessment over the text of its moment; returns whose it is.

    Raises:
        ApprovalError: it does not verify.
    """
    match signed.fact:
        case SignatureAdded(signature=signature):
            text = signed.text
        case AssessmentSigned(signature=signature, text=said):
            text = said.encode()
        case _:
            raise ApprovalError(f"event {signed.seq} has no signature")
    officers = signed.roster.officers if signed.roster else ()
    try:
        return verifier.verify_as_of(text, bytes.fromhex(signature), officers, signed.at).officer
    except ValueError as error:
        raise ApprovalError(str(error)) from None


def signature_fault(signed: HistoryEntry, verifier: SignatureVerifier) -> str | None:
    """Why a signature is not what it is filed as; None: it is."""
    fact = signed.fact
    if isinstance(fact, AssessmentSigned) and (signed.answers is None or not _is_over(fact, *signed.answers)):
        return "is over other answers"
    try:
        officer = signer_of(signed, verifier)
    except ApprovalError as error:
        return f"does not verify: {str(error).partition(';')[0]}"
    filed_under = fact.officer if isinstance(fact, SignatureAdded | AssessmentSigned) else None
    return None if officer == filed_under else f"is by {officer[-16:]}"


def _is_over(fact: AssessmentSigned, answers: BreachAnswers, seq: int) -> bool:
    """Whether a signed text names its incident, these answers and the event that completed them."""
    header, *lines = fact.text.split("\n")
    named = {f"Incident: {fact.incident}", f"Answers: {answers.digest()}", f"Audit event: {seq}"}
    return header == ASSESSMENT_HEADER and named <= set(lines)


def _judged(state: AuditState, event: AuditEvent, entry: AuditEntry) -> HistoryEntry:
    """Judge an event, which changes the state if it can have happened."""
    fact, fault = entry.fact(), None
    if (rule := RULES.get(type(fact))) is not None:
        try:
            rule(state, entry, fact)
        except ImpossibleError as error:
            fault = str(error)
    text = state.texts.get(entry.request or "", b"")
    answers = state.answers.get(fact.incident) if isinstance(fact, AssessmentSigned) else None
    return HistoryEntry(event, entry, fact, state.roster, text, answers, fault)


def _by_lost_rosters(
    told: Sequence[HistoryEntry], state: AuditState, reconciled_by: Roster | None = None
) -> Iterator[HistoryEntry]:
    """The same, with the roster that a reconciliation pins again as that of its signatures, which come before it."""
    for each in told:
        request = state.requests.get(each.request or "")
        if request is None or request.action is not RequestAction.RECONCILE:
            yield each
        else:
            yield replace(each, roster=state.pinned_again.get(request.id, reconciled_by) or each.roster)


def _copied(value: Any) -> Any:  # noqa: ANN401  of any field
    return value.copy() if isinstance(value, dict | list | bytearray) else value
