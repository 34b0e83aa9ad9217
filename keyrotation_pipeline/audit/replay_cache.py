"""What this process has heard of each audit: a replay that goes on where it was, so that asking again is cheap."""

from collections.abc import Callable, Iterator

from keyrotation_pipeline.audit.replay import LedgerState
from keyrotation_pipeline.model.audit import AuditEvent

_HEARD: dict[str, LedgerState] = {}


def forget(database: str) -> None:
    """Let the next question be answered from the first event on: an old one may have been changed since."""
    _HEARD.pop(database, None)


def ledger_state(database: str, events_after: Callable[[int], Iterator[AuditEvent]]) -> LedgerState:
    """What an audit makes one believe now; events that this process has heard before are not read again.

    Args:
        database: its identity, by which the replay is kept, however often the ledger is opened.
        events_after: reads the events later than a seq, in order.

    Raises:
        AuditError: they do not follow each other.
    """
    heard = _HEARD.get(database, LedgerState())
    events = events_after(max(heard.head.seq - 1, 0))
    if heard.head.seq:
        # Another database of the same name, or a transaction that was undone since: then from the beginning.
        last = next(events, None)
        if last is None or (last.seq, last.hash) != (heard.head.seq, heard.head.hash):
            heard, events = LedgerState(), events_after(0)
    belief = heard.apply(events)
    _HEARD[database] = belief
    return belief
