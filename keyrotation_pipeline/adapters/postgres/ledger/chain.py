"""The audit chain: gapless, append-only, each event hashed with the previous one."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import LiteralString

import psycopg

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.ledger import transactions
from keyrotation_pipeline.adapters.postgres.ledger.transactions import LedgerSession, LoadedKey, Row
from keyrotation_pipeline.audit.event_signatures import EventSignature, message_of
from keyrotation_pipeline.audit.events import entry_of, require_in_order, require_indexed
from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.audit.replay_cache import differs, forget, ledger_state
from keyrotation_pipeline.audit.rules import RULES
from keyrotation_pipeline.errors import AuditError, BackupError, BlockedError, OutOfOrderError
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, EventKind, Fact, Note, body_of, hash_of
from keyrotation_pipeline.model.backup_events import BackupKeyPinned, SigningBegun
from keyrotation_pipeline.model.backups import signer_fingerprint

# It may wait longer than the session's lock_timeout, which is meant for tables that applications use. It keeps out
# autovacuum too, which gives way to it. All in one message to the server.
LOCK: LiteralString = """
SELECT set_config('keyrotation.lock_timeout', current_setting('lock_timeout'), true);
SET LOCAL lock_timeout = '30s';
LOCK TABLE keyrotation.audit_head IN EXCLUSIVE MODE;
SELECT set_config('lock_timeout', current_setting('keyrotation.lock_timeout'), true)
"""
_HEAD = "keyrotation.audit_head"
_PAGE_EVENTS = 1000

# All columns: a schema that is still to be migrated has no signatures.
_EVENTS: LiteralString = "SELECT * FROM keyrotation.audit_events WHERE seq > %(after)s"
_OF_KINDS: LiteralString = " AND event = ANY (%(kinds)s)"
_OF_REQUEST: LiteralString = " AND request = %(request)s"
_IN_ORDER: LiteralString = " ORDER BY seq LIMIT %(page)s"
# A page of those that are wanted most is short: the newest one alone is often enough.
_NEWEST: LiteralString = (
    "SELECT * FROM keyrotation.audit_events WHERE (%(before)s::bigint IS NULL OR seq < %(before)s)"
    " AND event = ANY (%(kinds)s) ORDER BY seq DESC LIMIT %(page)s"
)
_NEWEST_PAGE_EVENTS = 50


@dataclass(frozen=True, slots=True)
class _Signing:
    """The key that signs the next event, and since which one it vouches for every one; None: from the next one on."""

    key: LoadedKey
    since: int | None

    def signature(self, seq: int, digest: str) -> str:
        since = self.since or seq
        return EventSignature(since, self.key.public, self.key.sign(message_of(since, digest))).encode()


class AuditChain(LedgerSession):
    """The audit part of the ledger; the other parts append their events through it, and read its replay."""

    _depth = 0
    _has_changed = False
    _loaded: LoadedKey | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Ledger.transaction`; after the commit of an event, the home stores the newest head."""
        self._depth += 1
        try:
            with super().transaction():
                yield
        except BaseException:
            if self._depth == 1:
                self._has_changed, self._loaded = False, None
            raise
        finally:
            self._depth -= 1
        if not self._depth:
            try:
                self._advance()
            finally:
                self._loaded = None

    def _advance(self) -> None:
        has_changed, self._has_changed = self._has_changed, False
        if has_changed and self.advance is not None:
            # What was committed: an inner transaction may have been rolled back.
            state = self.replayed()
            self.advance(state.head, state.replaces)

    def head(self) -> AuditHead:
        """See `Ledger.head`."""
        rows = self.query("SELECT seq, hash FROM keyrotation.audit_head")
        if not rows:
            raise AuditError(
                f"the audit's head was removed from {self._schema}.audit_head; leave this database as it is, and "
                "compare it with a backup"
            )
        return AuditHead(rows[0]["seq"], rows[0]["hash"])

    def append(self, fact: Fact | Note, request: str | None = None) -> AuditHead:
        """See `Ledger.append`."""
        with self.change():
            head = self.head()
            newest = self._newest(head)
            if newest is not None:
                head = AuditHead(newest.seq, newest.hash)
            signing = self._signing(newest)
            if signing is not None and signing.since is None and self.replayed().signed_from is None:
                if not self._begins_to_sign():
                    signing = None
                else:
                    begun = SigningBegun(signing.key.public, head)
                    newest = self._append(begun, None, head, newest, signing)
                    head, signing = AuditHead(newest.seq, newest.hash), replace(signing, since=newest.seq)
            event = self._append(fact, request, head, newest, signing)
        return AuditHead(event.seq, event.hash)

    def _append(
        self,
        fact: Fact | Note,
        request: str | None,
        previous: AuditHead,
        newest: AuditEvent | None,
        signing: _Signing | None,
    ) -> AuditEvent:
        seq = previous.seq + 1
        body = body_of(
            seq=seq,
            at=self._time(newest),
            actor=self.actor,
            database=self.database,
            request=request,
            event=fact.kind,
            facts=fact.as_json(),
        )
        digest = hash_of(previous.hash, body)
        signature = None if signing is None else signing.signature(seq, digest)
        event = AuditEvent(seq, body, previous.hash, digest, fact.kind, request, signature)
        if type(fact) in RULES:
            self._require_possible(event)
        self._has_changed = True
        self._store(event)
        return event

    def _newest(self, head: AuditHead) -> AuditEvent | None:
        """Returns the event to append to: that of the head, or one that somebody put after it and nobody signed.

        None: there is none, or those up to the head were cut off, which the gap shows from then on.
        """
        newest = None
        for event in self.events(after_seq=max(head.seq - 1, 0)):
            follows = event.previous == (head.hash if newest is None else newest.hash)
            is_head = (event.seq, event.hash) == (head.seq, head.hash)
            if not is_head and not (follows and self._is_of_nobody(event)):
                raise AuditError(
                    f"the audit has an event {event.seq} after its head, so somebody wrote to it from "
                    "outside; run `keyrotation audit verify`"
                )
            if event.seq > head.seq:
                self._move_head(event)
            newest = event
        return newest

    def _is_of_nobody(self, event: AuditEvent) -> bool:
        return hash_of(event.previous, event.body) == event.hash and event.seq in self.replayed().unsigned

    def _own_key(self) -> LoadedKey | None:
        """Returns the key that signs, which a transaction reads once."""
        if self.signer is None or self._loaded is not None:
            return self._loaded
        key = self.signer.loaded()
        self._loaded = key if self._depth else None
        return key

    def _signing(self, newest: AuditEvent | None) -> _Signing | None:
        """Returns how the next event is signed; None: nobody does."""
        if (key := self._own_key()) is None or self.signer is None:
            return None
        signature = None if newest is None else EventSignature.parse(newest.signature)
        if newest is None or signature is None or signature.public != key.public:
            return _Signing(key, None)
        return _Signing(key, signature.since if signature.verifies(newest, self.signer.verifies) else None)

    def _begins_to_sign(self) -> bool:
        """Returns whether this home has the key that the audit names, if any, and the audit what home and backups name.

        One that lacks that may have been signed before, by events that somebody has deleted.
        """
        state = self.replayed()
        return (not state.signers or state.own_signer in state.signers) and not state.missing(self.kept())

    def _require_possible(self, event: AuditEvent) -> None:
        """Refuses an event that the audit would never verify with, such as one that another process came before."""
        state = self.replayed().apply((event,))
        kind, fault = state.refused.get(event.seq, (None, None))
        if fault is not None:
            raise OutOfOrderError(f"an event {kind} {fault}, so nothing was recorded; see `keyrotation status`")
        # The key of a new home is what officers are then asked to name.
        if event.seq in state.unsigned and event.kind != BackupKeyPinned.kind:
            raise OutOfOrderError(
                f"officers have not named the key of this home yet, so {event.kind} was not recorded; run `keyrotation "
                "reconcile`"
            )

    def events(self, *kinds: EventKind, request: str | None = None, after_seq: int = 0) -> Iterator[AuditEvent]:
        """See `Ledger.events`; reads a page at a time."""
        statement = _EVENTS + (_OF_KINDS if kinds else "") + ("" if request is None else _OF_REQUEST) + _IN_ORDER
        asked = {"kinds": [str(kind) for kind in kinds], "request": request, "page": _PAGE_EVENTS}
        is_last = False
        while not is_last:
            rows = self.query(statement, {**asked, "after": after_seq})
            is_last = len(rows) < _PAGE_EVENTS
            for row in rows:
                event = _event_of(row)
                if kinds or request is not None:
                    self._require_as_replayed(event)
                yield event
                after_seq = event.seq

    def newest(self, *kinds: EventKind) -> Iterator[AuditEvent]:
        """See `Ledger.newest`; reads a page at a time."""
        before: int | None = None
        is_last = False
        while not is_last:
            asked = {"kinds": [str(kind) for kind in kinds], "before": before, "page": _NEWEST_PAGE_EVENTS}
            rows = self.query(_NEWEST, asked)
            is_last = len(rows) < _NEWEST_PAGE_EVENTS
            for row in rows:
                event = _event_of(row)
                self._require_as_replayed(event)
                yield event
                before = event.seq

    def replayed(self) -> LedgerState:
        """Returns the ledger's state: the audit, replayed.

        Raises:
            AuditError: its events do not form a chain.
        """
        committed, verifiers = not self._depth, (self.verify, self.verify_event)
        state = ledger_state(self.database, self.events, *verifiers, self.checkpoints, committed=committed)
        state.own_signer = self._own_signer()
        return state

    def verify_event(self, public: str, message: bytes, signature: bytes) -> bool:
        """See `Ledger.verify_event`."""
        return self.signer is not None and self.signer.verifies(public, message, signature)

    def _own_signer(self) -> str | None:
        with suppress(BackupError):
            key = self._own_key()
            return None if key is None else signer_fingerprint(key.public)
        return None

    def _require_as_replayed(self, event: AuditEvent) -> None:
        """Replays the whole audit if an event differs from the replayed one, to find out what was changed."""
        require_indexed(event)
        if differs(self.database, event):
            forget(self.database)
            # Not from a checkpoint, by which the events that changed nothing are not read.
            ledger_state(self.database, self.events, self.verify, self.verify_event, committed=not self._depth)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Opens a transaction that is alone in changing the ledger until it ends.

        Every change takes this lock before anything else, so that changes can neither deadlock nor miss each other.

        Raises:
            BlockedError: another process held the lock for half a minute.
        """
        is_alone = False
        try:
            with self.transaction():
                self.query(LOCK, None)
                is_alone = True
                yield
        except psycopg.errors.LockNotAvailable:
            if is_alone:
                raise
            who = transactions.described(
                self.query(transactions.TABLE_HOLDER, {"table": own(_HEAD).as_string(self.connection)})
            )
            raise BlockedError(
                f"{who} has locked the audit for half a minute; wait for it, or end it and run this again"
            ) from None

    def _time(self, newest: AuditEvent | None) -> datetime:
        """Returns the present moment, or that of the event before if our clock is a little behind."""
        at = self.clock.now()
        if newest is None:
            return at
        before = entry_of(newest).at
        require_in_order(before, at)
        return max(before, at)

    def _store(self, event: AuditEvent) -> None:
        try:
            self.query(
                "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event, request, signature)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (event.seq, event.body, event.previous, event.hash, event.kind, event.request, event.signature),
            )
        except psycopg.errors.UniqueViolation:
            raise AuditError(
                f"the audit has an event {event.seq} after its head, so somebody wrote to it from "
                "outside; run `keyrotation audit verify`"
            ) from None
        self._move_head(event)

    def _move_head(self, event: AuditEvent) -> None:
        self.query("UPDATE keyrotation.audit_head SET seq = %s, hash = %s", (event.seq, event.hash))


def _event_of(row: Row) -> AuditEvent:
    return AuditEvent(
        row["seq"],
        row["body"],
        row["previous_hash"],
        row["hash"],
        row["event"],
        row["request"],
        row.get("signature"),
    )
