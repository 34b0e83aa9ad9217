"""Time stamps of the audit's head, by an authority outside, as RFC 3161 has them."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from keyrotation_pipeline.model.events import EventKind, Fact


@dataclass(frozen=True, slots=True)
class AuditTimestamped(Fact):
    """An authority has signed that it saw a head of this audit, and when.

    Args:
        seq, hash: the head. The hash itself is what the token is over, so that `openssl ts` needs nothing else.
        stamped_at: by the authority's clock.
        response: the authority's TimeStampResp, DER in base64.
        trusted: the certificates that it was verified with, DER in base64 each, as the configuration named them then.
    """

    kind: ClassVar = EventKind.AUDIT_TIMESTAMPED
    seq: int
    hash: str
    stamped_at: datetime
    authority: str
    response: str
    trusted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TimestampFailed(Fact):
    """The authority gives no time stamps since now."""

    kind: ClassVar = EventKind.TIMESTAMP_FAILED
    authority: str
    reason: str
