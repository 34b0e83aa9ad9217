"""Per-process cache of the replayed audit. Each call applies only the events appended since the last one."""

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.audit.event_signatures import VerifyEvent, nothing_verifies
from keyrotation_pipeline.audit.history import Checkpoint, Checkpoints, LedgerState
from keyrotation_pipeline.audit.rules import COUNTING
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, EventKind, hash_of
from keyrotation_pipeline.model.audit_state import Verify

_STATES: dict[str, LedgerState] = {}
# The furthest event that this process has read of an audit that no longer has it, and the time of that event.
_LOST: dict[str, tuple[AuditHead, datetime | None]] = {}


class _Events(Protocol):
    def __call__(self, *kinds: EventKind, after_seq: int = 0) -> Iterator[AuditEvent]: ...


def forget(database: str) -> None:
    """Drop the cached replay, so that the next call starts at the first event: an old one may have been changed.

    What this process has read before must still be there.
    """
    if (state := _STATES.pop(database, None)) is not None and state.head.seq:
        _remember(database, state)


def differs(database: str, event: AuditEvent) -> bool:
    """Whether an event differs from the one that the replay read under its seq."""
    state = _STATES.get(database)
    if state is None or event.seq > state.head.seq:
        return False
    is_in_chain = state.leads_through(AuditHead(event.seq, event.hash))
    return not is_in_chain or hash_of(event.previous, event.body) != event.hash


def _lost(database: str, state: LedgerState) -> AuditHead | None:
    """The furthest event that this process has read and the audit no longer has; no reconciliation gave it up."""
    head, at = _LOST.get(database, (None, None))
    if head is None:
        return None
    reconciled = state.reconciled_at is not None and (at is None or state.reconciled_at >= at)
    if reconciled or state.leads_through(head):
        del _LOST[database]
        return None
    return head


def ledger_state(
    database: str,
    events: _Events,
    verify: Verify,
    verify_event: VerifyEvent = nothing_verifies,
    checkpoints: Checkpoints | None = None,
    *,
    committed: bool = True,
) -> LedgerState:
    """Return the state of an audit; events that this process has read before are not read again.

    Args:
        database: its identity, the key of the cache, however often the ledger is opened.
        events: reads them in order, as `Ledger.events` does.
        verify_event: verifies the pipeline's own signatures.
        checkpoints: where an earlier process stored its replay; None: nowhere.
        committed: whether all of them are; what a transaction has appended may be rolled back, and is not kept.

    Raises:
        AuditError: they do not follow each other.
    """
    verifiers = verify, verify_event
    state = _STATES.get(database) or _resumed(checkpoints.load() if checkpoints else None, events, *verifiers)
    state.verify, state.verify_event = verifiers  # of this process's present home
    later = events(after_seq=max(state.head.seq - 1, 0))
    if state.head.seq:
        last = next(later, None)
        if last is None or (last.seq, last.hash) != (state.head.seq, state.head.hash):
            # Events that were there are not there any more, or a snapshot is older than they are: start from the
            # beginning.
            if committed and database in _STATES:
                _remember(database, state)
            state, later = LedgerState(verify, verify_event=verify_event), events()
    replayed = state.apply(later)
    replayed.lost = _lost(database, replayed)
    if committed:
        if checkpoints and not state.head.seq and (made := replayed.checkpoint()) is not None:
            checkpoints.keep(made)
        _STATES[database] = replayed
    return replayed


def _remember(database: str, state: LedgerState) -> None:
    known, _ = _LOST.get(database, (None, None))
    if known is None or known.seq < state.head.seq:
        _LOST[database] = (state.head, state.latest)


def _resumed(checkpoint: Checkpoint | None, events: _Events, verify: Verify, verify_event: VerifyEvent) -> LedgerState:
    if checkpoint is None:
        return LedgerState(verify, verify_event=verify_event)
    try:
        return LedgerState.resumed(checkpoint, events(*COUNTING), verify, verify_event)
    except AuditError:
        return LedgerState(verify, verify_event=verify_event)  # the full replay reports what is wrong
