"""The audit chain: gapless, append-only, each event hashed with the one before."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg

from keyrotation_pipeline.adapters.postgres.ledger.transactions import LedgerSession, lock_key
from keyrotation_pipeline.errors import AuditError, BlockedError
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead, body_of, hash_of
from keyrotation_pipeline.model.facts import json_safe

_LOCK = lock_key("audit")
_PAGE_EVENTS = 1000


class AuditChain(LedgerSession):
    """The audit's part of the ledger; the other parts append their events through it."""

    def head(self) -> AuditHead:
        """See `Ledger.head`."""
        rows = self.query("SELECT seq, hash FROM keyrotation.audit_head")
        if not rows:
            raise AuditError(
                "the audit's head was removed from keyrotation.audit_head; keep this database as it is, and compare it "
                "with a backup"
            )
        return AuditHead(rows[0]["seq"], rows[0]["hash"])

    def append(self, event: str, facts: Mapping[str, Any], request: str | None = None) -> AuditHead:
        """See `Ledger.append`."""
        with self.change():
            previous = self.head()
            seq = previous.seq + 1
            body = body_of(
                seq=seq,
                at=self.clock.now(),
                actor=self.actor,
                database=self.database,
                request=request,
                event=event,
                facts=json_safe(facts),
            )
            head = AuditHead(seq, hash_of(previous.hash, body))
            self._store(AuditEvent(seq, body, previous.hash, head.hash))
        return head

    def events(self) -> Iterator[AuditEvent]:
        """See `Ledger.events`; read a page at a time."""
        last = 0
        while rows := self.query(
            "SELECT seq, body, previous_hash, hash FROM keyrotation.audit_events WHERE seq > %s ORDER BY seq LIMIT %s",
            (last, _PAGE_EVENTS),
        ):
            for row in rows:
                yield AuditEvent(row["seq"], row["body"], row["previous_hash"], row["hash"])
            last = rows[-1]["seq"]

    @contextmanager
    def change(self) -> Iterator[None]:
        """A transaction that is alone in changing the ledger until it ends.

        Every change takes this lock before anything else, so that changes can neither deadlock nor miss each other.

        Raises:
            BlockedError: another process kept the lock for half a minute.
        """
        with self.transaction():
            self._take_lock()
            yield

    def _store(self, event: AuditEvent) -> None:
        try:
            self.query(
                "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash) VALUES (%s, %s, %s, %s)",
                (event.seq, event.body, event.previous, event.hash),
            )
        except psycopg.errors.UniqueViolation:
            raise AuditError(
                f"the audit has an event {event.seq} that its head does not know of, so somebody wrote to it from "
                "outside; run `keyrotation audit verify`"
            ) from None
        self.query("UPDATE keyrotation.audit_head SET seq = %s, hash = %s", (event.seq, event.hash))

    def _take_lock(self) -> None:
        before = self.one("SELECT current_setting('lock_timeout') AS wait")["wait"]
        try:
            with self.transaction():
                # Longer than the session's lock_timeout, which is made for tables that applications use.
                self.query("SET LOCAL lock_timeout = '30s'")
                self.query("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                self.query("SELECT set_config('lock_timeout', %s, true)", (before,))
        except psycopg.errors.LockNotAvailable:
            raise BlockedError(
                f"{self._holder(_LOCK)} has kept the audit to itself for half a minute; wait for it, or end it and "
                "run this again"
            ) from None
