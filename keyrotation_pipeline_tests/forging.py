"""What the owner of a database can write into its audit: events whose hashes are right, past the program's checks."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psycopg

from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.audit import replay_cache
from keyrotation_pipeline.audit.event_signatures import EventSignature, message_of
from keyrotation_pipeline.audit.events import entry_of
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.model.approval import Signature
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, Fact, Note, body_of, canonical, hash_of
from keyrotation_pipeline.model.request_events import RequestOpened, SignatureAdded, StatusChanged
from keyrotation_pipeline.model.requests import Request, RequestStatus

_NEWEST = (
    "SELECT seq, body, previous_hash, hash, event, request FROM keyrotation.audit_events ORDER BY seq DESC LIMIT 1"
)


def signed(event: AuditEvent, key: SigningKey) -> AuditEvent:
    """An event with a signature by this key, which vouches for the whole audit."""
    signature = EventSignature(1, key.public, key.sign(message_of(1, event.hash)))
    return replace(event, signature=signature.encode())


@dataclass(frozen=True)
class Forger:
    """Writes into the audit by SQL alone.

    Args:
        connection: autocommit, of a role that owns the database; no trigger fires on it.
        key: of the pipeline, which whoever has taken the home signs with; None: nobody has, and nothing is signed.
    """

    connection: psycopg.Connection
    key: SigningKey | None = None

    def append(
        self,
        fact: Fact | Note,
        request: str | None = None,
        *,
        at: datetime | None = None,
        actor: str = "owner",
        database: str | None = None,
    ) -> AuditHead:
        """Add an event, now and of the newest event's database unless said otherwise; a `Note` takes any facts."""
        found = self.connection.execute(_NEWEST).fetchone()
        newest = AuditEvent(*found) if found else None
        before = AuditHead(newest.seq, newest.hash) if newest else AuditHead(0, GENESIS)
        at = at or max(datetime.now(UTC), *([entry_of(newest).at] if newest else []))
        body = body_of(
            seq=before.seq + 1,
            at=at,
            actor=actor,
            database=database or entry_of(newest).database if newest else str(database),
            request=request,
            event=fact.kind,
            facts=fact.as_json(),
        )
        head = AuditHead(before.seq + 1, hash_of(before.hash, body))
        event = self._signed(AuditEvent(head.seq, body, before.hash, head.hash, str(fact.kind), request))
        self.connection.execute(
            "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event, request, signature)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (event.seq, event.body, event.previous, event.hash, event.kind, event.request, event.signature),
        )
        self._correct_head(head)
        return head

    def move(self, request: str, before: RequestStatus, after: RequestStatus) -> None:
        """Change the status of a request."""
        self.append(StatusChanged(before, after, datetime.now(UTC)), request)

    def begin(self, request: Request, text: bytes, signatures: Sequence[Signature]) -> None:
        """Open a request with this text, file these signatures under it, and start it."""
        self.append(RequestOpened.of(request, text), request.id)
        for signature in signatures:
            self.append(SignatureAdded.of(signature), request.id)
        self.move(request.id, RequestStatus.REQUESTED, RequestStatus.RUNNING)

    def truncate(self, events: int) -> None:
        """Delete the newest events, and correct the head."""
        self.connection.execute(
            "DELETE FROM keyrotation.audit_events WHERE seq > (SELECT max(seq) FROM keyrotation.audit_events) - %s",
            (events,),
        )
        newest = AuditEvent(*self.connection.execute(_NEWEST).fetchone() or ())
        self._correct_head(AuditHead(newest.seq, newest.hash))

    def rewrite(self, changed: Callable[[str, int], str]) -> None:
        """Change bodies, and hash everything again.

        Args:
            changed: from a body and its seq to the body that takes its place.
        """
        bodies = self.connection.execute("SELECT seq, body FROM keyrotation.audit_events ORDER BY seq").fetchall()
        head = AuditHead(0, GENESIS)
        for seq, body in bodies:
            new = changed(body, seq)
            after = AuditHead(seq, hash_of(head.hash, new))
            event = self._signed(AuditEvent(seq, new, head.hash, after.hash, "", None))
            self.connection.execute(
                "UPDATE keyrotation.audit_events SET (body, previous_hash, hash, signature) = (%s, %s, %s, %s)"
                " WHERE seq = %s",
                (new, head.hash, after.hash, event.signature, seq),
            )
            head = after
        self._correct_head(head)

    def strip(self) -> None:
        """Delete each signature and the event that says since when there are any, and number and hash the rest anew."""
        kept = self.connection.execute(
            "SELECT seq, body FROM keyrotation.audit_events WHERE event <> 'audit_signing_begun' ORDER BY seq"
        ).fetchall()
        self.connection.execute("DELETE FROM keyrotation.audit_events")
        self._correct_head(AuditHead(0, GENESIS))
        head = AuditHead(0, GENESIS)
        for _, body in kept:
            said = json.loads(body) | {"seq": head.seq + 1}
            new = canonical(said)
            after = AuditHead(head.seq + 1, hash_of(head.hash, new))
            self.connection.execute(
                "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event, request)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                (after.seq, new, head.hash, after.hash, said["event"], said["request"]),
            )
            head = after
        self._correct_head(head)

    def _signed(self, event: AuditEvent) -> AuditEvent:
        return event if self.key is None else signed(event, self.key)

    def _correct_head(self, head: AuditHead) -> None:
        self.connection.execute("UPDATE keyrotation.audit_head SET seq = %s, hash = %s", (head.seq, head.hash))


@contextmanager
def owner_of(url: str) -> Iterator[psycopg.Connection]:
    """A connection of the database's owner, on which no trigger fires."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


def signature_of(officer: DemoOfficer, text: bytes, filed_under: str) -> Signature:
    """A real signature over a text, with the time that it says, and the fingerprint that it is said to be of."""
    made = officer.sign(text)
    [created] = re.findall(rb"created (\d+), md5len", officer.gpg("--list-packets", text=made))
    return Signature(filed_under, made, datetime.fromtimestamp(int(created), UTC))


def as_another_process() -> None:
    """Forget what this process has read of audits, as one that starts now does: nothing else ever forgets it."""
    replay_cache._STATES.clear()  # noqa: SLF001
    replay_cache._LOST.clear()  # noqa: SLF001
