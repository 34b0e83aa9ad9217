"""One audit event: canonical bytes and the hash that chains them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

LABEL = b"keyrotation-audit-v1"
GENESIS = "0" * 64
# How far the clock of a host may be from the database server's. So an event may seem up to twice as old as the one
# before it, if two hosts wrote them.
CLOCKS_DIFFER_BY = timedelta(seconds=10)
EVENTS_DIFFER_BY = 2 * CLOCKS_DIFFER_BY


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest event: what approvals, manifests and reports anchor. seq 0 with the zero hash: no event yet."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One stored event: `body` is the canonical JSON exactly as stored, `hash` chains it to `previous`.

    Args:
        kind, request: as the index beside the body has them. The body is the truth; whoever filters compares.
    """

    seq: int
    body: str
    previous: str
    hash: str
    kind: str
    request: str | None


def body_of(
    *, seq: int, at: datetime, actor: str, database: str, request: str | None, event: str, facts: Mapping[str, Any]
) -> str:
    """Canonical JSON (sorted keys, no spaces, ASCII) of one event."""
    content = {
        "actor": actor,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "database": database,
        "event": event,
        "facts": facts,
        "request": request,
        "seq": seq,
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def stamped_bytes(previous: str, body: str) -> bytes:
    """What an event's hash, and a time stamp of it, is over: label, previous hash and body, all as ASCII bytes."""
    return LABEL + previous.encode() + body.encode()


def hash_of(previous: str, body: str) -> str:
    """``SHA-256("keyrotation-audit-v1" ‖ previous hash ‖ bytes)``, all as ASCII bytes, in hex."""
    return hashlib.sha256(stamped_bytes(previous, body)).hexdigest()
