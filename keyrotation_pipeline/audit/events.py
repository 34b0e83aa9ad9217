"""Events as they are read back: parsed, and typed by their kind."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from keyrotation_pipeline.errors import AuditError, BlockedError
from keyrotation_pipeline.model import (
    backup_events,
    breach,
    comparison,
    data_events,
    incident_events,
    key_events,
    plaintext_outside_rows,
    progress,
    request_events,
)
from keyrotation_pipeline.model.audit import EVENTS_DIFFER_BY, AuditEvent, EventKind, Fact, Note
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.ports.ledger import Ledger

Record = TypeVar("Record", bound=Fact)
RECORDS: Mapping[str, type[Fact]] = {
    str(record.kind): record
    for module in (
        breach,
        comparison,
        backup_events,
        incident_events,
        key_events,
        progress,
        request_events,
        data_events,
        plaintext_outside_rows,
    )
    for record in vars(module).values()
    if isinstance(record, type) and issubclass(record, Fact) and record is not Fact
}

_KINDS: frozenset[str] = frozenset(EventKind)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One event, parsed.

    Args:
        kind: an `EventKind`, or the name of one that this package does not know.
        facts: as they are stored; `fact()` has them typed.
    """

    seq: int
    at: datetime
    actor: str
    database: str
    request: str | None
    kind: str
    facts: Mapping[str, Any]

    @property
    def about(self) -> str:
        """What it is about, in a word or two: the step, the version, the state that follows."""
        named = (self.facts.get(name) for name in ("step", "table", "version", "after", "to", "incident"))
        return " ".join(each for each in named if isinstance(each, str))

    def fact(self) -> Fact | Note | None:
        """What the event says; None for a kind that this package does not know.

        Raises:
            AuditError: it does not say what an event of its kind must.
        """
        if (record := RECORDS.get(self.kind)) is not None:
            return _read(record, self)
        return Note(EventKind(self.kind), self.facts) if self.kind in _KINDS else None


# By the type of their facts, what events change; each raises ImpossibleError for one that cannot have happened.
Rules = Mapping[type[Fact | Note | None], Callable[[AuditState, AuditEntry, Any], None]]


def entry_of(event: AuditEvent) -> AuditEntry:
    """Parse one stored event.

    Raises:
        AuditError: its body is not what `body_of` makes.
    """
    try:
        body = event.content
        return AuditEntry(
            seq=body["seq"],
            at=datetime.fromisoformat(body["at"]),
            actor=body["actor"],
            database=body["database"],
            request=body["request"],
            kind=body["event"],
            facts=body["facts"],
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AuditError(f"audit event {event.seq} cannot be read; run `keyrotation audit verify`") from None


def require_in_order(before: datetime, at: datetime) -> None:
    """Refuse an event that would be dated before the newest one, but for what clocks may differ.

    Raises:
        BlockedError: says by how much this host's clock is behind.
    """
    if at < before - EVENTS_DIFFER_BY:
        raise BlockedError(
            f"the clock of this host is {(before - at).total_seconds():,.0f} seconds behind the audit's newest "
            f"event ({before:%Y-%m-%d %H:%M:%S} UTC); set it, or run `keyrotation restore-database` if nobody "
            "made that event"
        )


def is_indexed(event: AuditEvent) -> bool:
    """Whether an event is filed under the kind and the request that its body has; raises as `entry_of`."""
    entry = entry_of(event)
    return (entry.kind, entry.request) == (event.kind, event.request)


def require_indexed(event: AuditEvent) -> None:
    """Refuse an event that is filed under another kind or request than its own.

    Raises:
        AuditError: names its seq.
    """
    if not is_indexed(event):
        raise AuditError(
            f"audit event {event.seq} is filed under another kind or request than its own; run "
            "`keyrotation audit verify`"
        )


def entries(ledger: Ledger, *kinds: EventKind, request: str | None = None, after_seq: int = 0) -> Iterator[AuditEntry]:
    """Events of these kinds (or all), oldest first; with `request`, of that request only.

    Without those that the pipeline did not sign: `history` has them, each with its fault.
    """
    found = tuple(ledger.events(*kinds, request=request, after_seq=after_seq))
    # Afterwards, so that nothing that was found has not been judged.
    ignored = ledger.replayed().ignored if found else frozenset()
    return (entry_of(event) for event in found if event.seq not in ignored)


def newest_first(ledger: Ledger, *kinds: EventKind) -> Iterator[AuditEntry]:
    """Events of these kinds, newest first, read only as far as they are taken; of `entries`, those in reverse."""
    state: AuditState | None = None
    for event in ledger.newest(*kinds):
        if state is None:
            state = ledger.replayed()  # afterwards, as in `entries`
        if event.seq not in state.ignored:
            yield entry_of(event)


def recorded(ledger: Ledger, record: type[Record], request: str | None = None) -> Iterator[Record]:
    """What every event of one kind says, oldest first; with `request`, of that request only.

    By such intents a step that was killed knows its own traces again.
    """
    for entry in entries(ledger, record.kind, request=request):
        yield _read(record, entry)


def _read(record: type[Record], entry: AuditEntry) -> Record:
    try:
        return read(record, entry.facts)
    except AuditError:
        raise AuditError(
            f"audit event {entry.seq} does not say what a {entry.kind} must; run `keyrotation audit verify`"
        ) from None
