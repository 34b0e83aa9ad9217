"""Per-process cache of the replayed audit. Each call applies only the events appended since the last one."""

from collections.abc import Iterator
from typing import Protocol

from keyrotation_pipeline.audit.checkpoint import Checkpoint, Checkpoints
from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.audit.rules import COUNTING
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, EventKind, hash_of

_STATES: dict[str, LedgerState] = {}


class _Events(Protocol):
    def __call__(self, *kinds: EventKind, after_seq: int = 0) -> Iterator[AuditEvent]: ...


def forget(database: str) -> None:
    """Drop the cached replay, so that the next call starts at the first event: an old one may have been changed."""
    _STATES.pop(database, None)


def differs(database: str, event: AuditEvent) -> bool:
    """Whether an event differs from the one that the replay read under its seq."""
    state = _STATES.get(database)
    if state is None or event.seq > state.head.seq:
        return False
    is_in_chain = state.leads_through(AuditHead(event.seq, event.hash))
    return not is_in_chain or hash_of(event.previous, event.body) != event.hash


def ledger_state(database: str, events: _Events, checkpoints: Checkpoints | None = None) -> LedgerState:
    """Return the state of an audit; events that this process has read before are not read again.

    Args:
        database: its identity, the key of the cache, however often the ledger is opened.
        events: reads them in order, as `Ledger.events` does.
        checkpoints: where an earlier process stored its replay; None: nowhere.

    Raises:
        AuditError: they do not follow each other.
    """
    state = _STATES.get(database) or _resumed(checkpoints.load() if checkpoints else None, events)
    later = events(after_seq=max(state.head.seq - 1, 0))
    if state.head.seq:
        # Another database of the same name, or a transaction that was rolled back: start from the beginning.
        last = next(later, None)
        if last is None or (last.seq, last.hash) != (state.head.seq, state.head.hash):
            state, later = LedgerState(), events()
    replayed = state.apply(later)
    if checkpoints and not state.head.seq and (made := replayed.checkpoint()) is not None:
        checkpoints.keep(made)
    _STATES[database] = replayed
    return replayed


def _resumed(checkpoint: Checkpoint | None, events: _Events) -> LedgerState:
    if checkpoint is None:
        return LedgerState()
    try:
        return LedgerState.resumed(checkpoint, events(*COUNTING))
    except AuditError:
        return LedgerState()  # the full replay reports what is wrong
