"""The audit chain in memory, and transactions over everything that is recorded."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keyrotation_pipeline.audit.events import entry_of, require_in_order, require_indexed
from keyrotation_pipeline.audit.history import LedgerState as ReplayedState
from keyrotation_pipeline.audit.rules import RULES
from keyrotation_pipeline.errors import ApprovalError, AtWorkError, OutOfOrderError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Officer, Roster, Signature, VerifiedSignature
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, EventKind, Fact, Note, body_of, hash_of
from keyrotation_pipeline.model.audit_state import Verify
from keyrotation_pipeline.model.backup_events import SigningBegun
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.request_events import RotationAuditWritten
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.model.tables import TableCount
from keyrotation_pipeline_tests.fakes.clock import FakeClock
from keyrotation_pipeline_tests.fakes.event_key import PUBLIC, signed, verify_event
from keyrotation_pipeline_tests.fakes.journal import START, Journal


def good_at_start(text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime) -> VerifiedSignature:
    """Verify as `FakeSignatures` does."""
    for officer in officers:
        if signature == f"signed by {officer.fingerprint}: ".encode() + text:
            return VerifiedSignature(officer.fingerprint, START)
    raise ApprovalError("the signature is not over this text; sign what `keyrotation approve --text` prints")


@dataclass
class LedgerState:
    """What a transaction of the fake ledger rolls back."""

    events: list[AuditEvent] = field(default_factory=list)
    keys: dict[KeyVersion, KeyRecord] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, list[Signature]] = field(default_factory=dict)
    counts: dict[str, TableCount] = field(default_factory=dict)
    roster: Roster | None = None
    seed_rows: dict[str, tuple[int, datetime | None]] = field(default_factory=dict)
    audit_rows: dict[str | None, RotationAuditWritten] = field(default_factory=dict)


Advance = Callable[[AuditHead, Callable[[AuditHead], bool]], None]


@dataclass
class FakeChain:
    """What a ledger is built on: real transactions (a failure or a death inside undoes all) and a real hash chain.

    Args:
        refuses: an event that cannot have happened; False: it is appended, as by whoever owns the database.
        signs: each event from the first one on that is appended now.
    """

    clock: FakeClock = field(default_factory=FakeClock)
    journal: Journal = field(default_factory=Journal)
    state: LedgerState = field(default_factory=LedgerState)
    depth: int = 0
    locks: set[str] = field(default_factory=set)
    actor: str = "test"
    database: str = "clinic@localhost, system identifier 7"
    verify: Verify = good_at_start
    advance: Advance | None = None
    refuses: bool = True
    signs: bool = False
    _has_changed: bool = False
    _replay: ReplayedState | None = None

    def replayed(self) -> ReplayedState:
        replay = self._replay
        if replay is None or not self._has(replay.head):
            replay = ReplayedState(self.verify, verify_event=verify_event)
        replay.verify = self.verify
        self._replay = replay.apply(self.state.events[replay.head.seq :])
        return self._replay

    def _has(self, head: AuditHead) -> bool:
        events = self.state.events
        return head.seq <= len(events) and (not head.seq or events[head.seq - 1].hash == head.hash)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._at_once():
            yield
            if self.depth == 1:
                self.journal.note("commit")

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        assert not self.depth, "a snapshot cannot begin inside a transaction"  # but inside another snapshot
        yield

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        before, self.depth = copy.copy(self.state), self.depth + 1
        for name in ("events", "keys", "requests", "texts", "signatures", "counts", "seed_rows", "audit_rows"):
            setattr(before, name, copy.copy(getattr(self.state, name)))
        try:
            yield
        except BaseException:
            self.state, self._has_changed = before, self._has_changed and self.depth > 1
            raise
        finally:
            self.depth -= 1
        self._store_head()

    def _store_head(self) -> None:
        if not self.depth and self._has_changed:
            self._has_changed = False
            if self.advance is not None:
                self.advance(self.head(), self._replaces)

    def _replaces(self, anchor: AuditHead) -> bool:
        return self._has(anchor) or anchor in self.replayed().abandoned

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        if name in self.locks:
            raise AtWorkError(f"{name} is locked by another process; wait for it")
        self.locks.add(name)
        try:
            yield
        finally:
            self.locks.discard(name)

    def held_locks(self, prefix: str) -> tuple[str, ...]:
        return tuple(sorted(name for name in self.locks if name.startswith(prefix)))

    def head(self) -> AuditHead:
        return (
            AuditHead(self.state.events[-1].seq, self.state.events[-1].hash)
            if self.state.events
            else AuditHead(0, GENESIS)
        )

    def append(self, fact: Fact | Note, request: str | None = None) -> AuditHead:
        if self.signs and type(fact) is not SigningBegun and self.replayed().signed_from is None:
            self.append(SigningBegun(PUBLIC, self.head()))
        head, at = self.head(), self.clock.now()
        if self.state.events:
            require_in_order(entry_of(self.state.events[-1]).at, at)
        body = body_of(
            seq=head.seq + 1, at=at, actor=self.actor, database=self.database,
            request=request, event=fact.kind, facts=fact.as_json(),
        )  # fmt: skip
        event = AuditEvent(head.seq + 1, body, head.hash, hash_of(head.hash, body), fact.kind, request)
        if self.refuses and type(fact) in RULES:
            self._require_possible(signed(event) if self.signs else event)
        event = signed(event) if self.signs else event
        self.journal.note(f"event {fact.kind}")
        self._store(event)
        self._has_changed = True
        self._store_head()
        return self.head()

    def _store(self, event: AuditEvent) -> None:
        self.state.events.append(event)

    def _require_possible(self, event: AuditEvent) -> None:
        kind, fault = self.replayed().apply((event,)).refused.get(event.seq, (None, None))
        if fault is not None:
            raise OutOfOrderError(f"an event {kind} {fault}, so nothing was recorded; see `keyrotation status`")

    def events(self, *kinds: EventKind, request: str | None = None, after_seq: int = 0) -> Iterator[AuditEvent]:
        for event in list(self.state.events):
            if event.seq > after_seq and (not kinds or event.kind in kinds) and request in {None, event.request}:
                if kinds or request is not None:
                    require_indexed(event)
                yield event

    def newest(self, *kinds: EventKind) -> Iterator[AuditEvent]:
        for event in reversed(self.state.events):
            if event.kind in kinds:
                require_indexed(event)
                yield event

    def verify_event(self, public: str, message: bytes, signature: bytes) -> bool:
        return verify_event(public, message, signature)

    def event_names(self) -> list[str]:
        """For assertions: the names of the events, in order."""
        return [json.loads(event.body)["event"] for event in self.state.events]

    def facts_of(self, name: str) -> dict[str, Any]:
        """For assertions: the facts of the newest event of that name."""
        found = [json.loads(event.body) for event in self.state.events]
        return dict(next(each["facts"] for each in reversed(found) if each["event"] == name))
