"""What this process has heard of each audit: a replay that goes on where it was, so that asking again is cheap."""

from collections.abc import Iterator
from typing import Protocol

from keyrotation_pipeline.audit.checkpoint import Checkpoint, Checkpoints
from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.audit.rules import COUNTING
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, EventKind, hash_of

_HEARD: dict[str, LedgerState] = {}


class _Events(Protocol):
    def __call__(self, *kinds: EventKind, after_seq: int = 0) -> Iterator[AuditEvent]: ...


def forget(database: str) -> None:
    """Let the next question be answered from the first event on: an old one may have been changed since."""
    _HEARD.pop(database, None)


def differs(database: str, event: AuditEvent) -> bool:
    """Whether an event is another one than the replay has heard under its seq."""
    heard = _HEARD.get(database)
    if heard is None or event.seq > heard.head.seq:
        return False
    is_in_chain = heard.leads_through(AuditHead(event.seq, event.hash))
    return not is_in_chain or hash_of(event.previous, event.body) != event.hash


def ledger_state(database: str, events: _Events, checkpoints: Checkpoints | None = None) -> LedgerState:
    """What an audit makes one believe now; events that this process has heard before are not read again.

    Args:
        database: its identity, by which the replay is kept, however often the ledger is opened.
        events: reads them in order, as `Ledger.events` does.
        checkpoints: what earlier processes have heard; None: nothing that counts.

    Raises:
        AuditError: they do not follow each other.
    """
    heard = _HEARD.get(database) or _resumed(checkpoints.load() if checkpoints else None, events)
    later = events(after_seq=max(heard.head.seq - 1, 0))
    if heard.head.seq:
        # Another database of the same name, or a transaction that was undone since: then from the beginning.
        last = next(later, None)
        if last is None or (last.seq, last.hash) != (heard.head.seq, heard.head.hash):
            heard, later = LedgerState(), events()
    belief = heard.apply(later)
    if checkpoints and not heard.head.seq and (made := belief.checkpoint()) is not None:
        checkpoints.keep(made)
    _HEARD[database] = belief
    return belief


def _resumed(checkpoint: Checkpoint | None, events: _Events) -> LedgerState:
    if checkpoint is None:
        return LedgerState()
    try:
        return LedgerState.resumed(checkpoint, events(*COUNTING))
    except AuditError:
        return LedgerState()  # whose events say what is wrong
