"""The history of an audit: each event with the roster and the signed text of its moment, and whether it counts.

The only fold over the events: what makes a request running or over, a key compromised, destroyed or replaced, a
roster pinned and an incident closed is decided by `rules`. A pack's `verify.py` holds this same code.

A checkpoint of a full replay is stored in the home, so that the next process need not read every event. It is
verified, not trusted. Every event that changed something is read and applied again, and must have the same hash; so
must any other event that is read; and the chain must still contain the newest one. Only the reading of events that
changed nothing is saved. The database owner cannot write the home; and before anything irreversible the whole audit
is read (`afresh`).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import chain, takewhile
from typing import Any, Protocol, Self

from keyrotation_pipeline.audit.event_signatures import VerifyEvent, nothing_verifies, with_signers
from keyrotation_pipeline.audit.events import AuditEntry, entry_of
from keyrotation_pipeline.audit.rules import RULES, UNSIGNED, AuditRules
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import HASH_BYTES, AuditEvent, AuditHead, EventKind, Fact, Note, hash_of
from keyrotation_pipeline.model.audit_state import AuditState, Incidents, Verify
from keyrotation_pipeline.ports.ledger import Ledger

# A shorter audit is always replayed completely.
FEWEST_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A replay without faults.

    Args:
        hashes: 32 bytes of each event, in order.
        counted: the seqs of the events that changed something.
        latest: the latest time of an event.
    """

    hashes: bytes
    counted: tuple[int, ...]
    latest: datetime

    @property
    def seq(self) -> int:
        """The seq of its newest event."""
        return len(self.hashes) // HASH_BYTES

    def encode(self) -> bytes:
        """Encode as a line of JSON, then the hashes."""
        header = {"counted": self.counted, "latest": self.latest.isoformat()}
        return json.dumps(header).encode() + b"\n" + self.hashes

    @classmethod
    def decode(cls, content: bytes) -> Self | None:
        """Decode the output of `encode`; None for anything else."""
        header, _, hashes = content.partition(b"\n")
        try:
            cached = json.loads(header)
            found = cls(hashes, tuple(cached["counted"]), datetime.fromisoformat(cached["latest"]))
        except (ValueError, KeyError, TypeError):
            return None
        is_whole = hashes and len(hashes) % HASH_BYTES == 0 and found.latest.tzinfo is not None
        return found if is_whole else None


class Checkpoints(Protocol):
    """Stores the checkpoint of an audit."""

    def load(self) -> Checkpoint | None:
        """Return the checkpoint if it was stored less than a day ago."""

    def keep(self, checkpoint: Checkpoint) -> None:
        """Replace the stored checkpoint."""


_WHERE = ", system identifier "


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event, and what held at its moment.

    Args:
        event: as it is stored.
        entry: its body.
        fact: what it says; None: of a kind that this package does not know, or it cannot be read.
        roster: the pinned one, whose officers sign then.
        text: the exact bytes to sign for its request.
        fault: why it cannot have happened and changed nothing, as the rest of a sentence that begins with the event.
    """

    event: AuditEvent
    entry: AuditEntry
    fact: Fact | Note | None
    roster: Roster | None
    text: bytes = b""
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
        counted: the seqs of the events that changed something.
        verify_event: verifies the pipeline's own signatures.
    """

    counted: list[int] = field(default_factory=list)
    verify_event: VerifyEvent = nothing_verifies

    def apply(self, events: Iterable[AuditEvent]) -> Self:
        """Return the state after these events, which follow those read before; this state stays unchanged.

        Raises:
            AuditError: one does not follow the one before, was changed, or cannot be read.
        """
        later = iter(events)
        if (first := next(later, None)) is None:
            return self
        after = type(self)(**{each.name: _copied(getattr(self, each.name)) for each in fields(self)})
        for _ in after.read(chain((first,), later)):
            pass
        return after

    def read(self, events: Iterable[AuditEvent]) -> Iterator[HistoryEntry]:
        """Apply the next events, one after another; raises as `apply`."""
        for event, signer in with_signers(events, self.verify_event):
            yield self._add(event, signer)

    def _add(self, event: AuditEvent, signer: str | None) -> HistoryEntry:
        entry = entry_of(event)
        self._require_next(event, entry)
        self.head = AuditHead(event.seq, event.hash)
        self.hashes += bytes.fromhex(event.hash)
        if (entry.kind, entry.request) != (event.kind, event.request):
            self.misplaced += (f"event {entry.seq} is filed under another kind or request than its own",)
        if self.latest is not None and entry.at < self.latest:
            self.misplaced += (
                f"event {entry.seq} is dated {entry.at:%Y-%m-%d %H:%M:%S}, before the event that it follows",
            )
        self.latest = max(self.latest or entry.at, entry.at)
        self._locate(entry)
        return self._judged(event, entry, signer)

    def _locate(self, entry: AuditEntry) -> None:
        """Note an event of another database: one that was restored or renamed, and not yet reconciled."""
        name, _, identifier = entry.database.partition(_WHERE)
        self.place = f"{name.rpartition('@')[0]}{_WHERE}{identifier}"
        self.database = self.database or self.place
        if self.place != self.database:
            self.foreign[entry.seq] = self.place

    def _judged(self, event: AuditEvent, entry: AuditEntry, signer: str | None) -> HistoryEntry:
        """Judge an event, which changes the state if the pipeline wrote it and it can have happened."""
        fact, fault = _read(entry)
        refusal = AuditRules(self).judge(entry, fact, signer)
        if refusal == UNSIGNED:
            self.unsigned[entry.seq] = entry.kind, signer
        elif refusal is not None:
            fault = refusal
        elif type(fact) in RULES:
            self.counted.append(entry.seq)
        if fault is not None:
            self.refused[entry.seq] = entry.kind, fault
        return _entry(self, event, entry, fact)

    def _require_next(self, event: AuditEvent, entry: AuditEntry) -> None:
        follows = event.seq == self.head.seq + 1 and event.previous == self.head.hash
        if not follows or entry.seq != event.seq or hash_of(event.previous, event.body) != event.hash:
            raise AuditError(
                f"audit event {event.seq} does not follow event {self.head.seq}, or one of them was changed; "
                "run `keyrotation audit verify`"
            )

    @classmethod
    def resumed(
        cls,
        checkpoint: Checkpoint,
        counted: Iterable[AuditEvent],
        verify: Verify,
        verify_event: VerifyEvent = nothing_verifies,
    ) -> Self:
        """Restore the state at a checkpoint.

        Args:
            counted: the events of `COUNTING` kinds, in order; those later than the checkpoint are ignored.

        Raises:
            AuditError: they are not those that the checkpoint was made of.
        """
        after = cls(verify, verify_event=verify_event)
        known = takewhile(lambda event: event.seq <= checkpoint.seq, counted)
        for event, signer in with_signers(known, verify_event):
            after._skip_to(event.seq - 1, checkpoint.hashes)
            after._add(event, signer)
        after._skip_to(checkpoint.seq, checkpoint.hashes)
        if after.faults or after.hashes != checkpoint.hashes or tuple(after.counted) != checkpoint.counted:
            raise AuditError("the audit is not the one of the checkpoint; run `keyrotation audit verify`")
        after.latest = checkpoint.latest
        return after

    def _skip_to(self, seq: int, hashes: bytes) -> None:
        """Skip the events up to this one, which changed nothing."""
        self.hashes += hashes[len(self.hashes) : seq * HASH_BYTES]
        self.head = AuditHead(seq, self.hash_at(seq))

    def checkpoint(self) -> Checkpoint | None:
        """Make a checkpoint of this replay; None: there were faults, or it is too short to be worth it."""
        # Which events nobody signed is not stored.
        if self.faults or self.unsigned or self.latest is None or self.head.seq < FEWEST_EVENTS:
            return None
        return Checkpoint(bytes(self.hashes), tuple(self.counted), self.latest)


def whole_history(
    events: Iterable[AuditEvent], verify: Verify, verify_event: VerifyEvent = nothing_verifies
) -> tuple[tuple[HistoryEntry, ...], LedgerState]:
    """Every event of an audit, and where they lead; raises as `LedgerState.apply`."""
    state = LedgerState(verify, verify_event=verify_event)
    return tuple(state.read(events)), state


def history(ledger: Ledger, *kinds: EventKind, after_seq: int = 0) -> tuple[HistoryEntry, ...]:
    """The events of these kinds after one, oldest first, each as the replay of the whole audit judged it."""
    events = tuple(ledger.events(*kinds, after_seq=after_seq))
    state = ledger.replayed()
    return tuple(_entry(state, event, entry := entry_of(event), _read(entry)[0]) for event in events)


def _read(entry: AuditEntry) -> tuple[Fact | Note | None, str | None]:
    """What an event says, or why it says nothing: such an event is a fault as any other, and hides nothing."""
    try:
        return entry.fact(), None
    except AuditError:
        return None, f"does not say what a {entry.kind} must"


def _entry(state: AuditState, event: AuditEvent, entry: AuditEntry, fact: Fact | Note | None) -> HistoryEntry:
    text = state.texts.get(entry.request or "", b"")
    _, fault = state.refused.get(entry.seq, (None, None))
    if entry.seq in state.ignored:
        fault = UNSIGNED
    return HistoryEntry(event, entry, fact, state.roster_at(entry.seq), text, fault)


def _copied(value: Any) -> Any:  # noqa: ANN401  of any field
    return value.copy() if isinstance(value, dict | list | set | bytearray | Incidents) else value
