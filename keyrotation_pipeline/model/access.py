"""Who read the key, and who read records, in a span of time."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class KeyRead:
    """One read of the key's secret, as CloudTrail tells it; never the key.

    Args:
        event_id: by which CloudTrail names it, also where it delivers it twice.
        refused: the error by which it was refused; None: it was given.
    """

    event_id: str
    at: datetime
    who: str
    address: str
    event: str
    secret: str
    agent: str
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class RecordReads:
    """How often somebody read records of one kind from one address, as the application's own audit tells it."""

    resource_type: str
    event_type: str
    who: str
    address: str
    reads: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class KeyReadsBy:
    """How often somebody asked for the key's secret from one address, by CloudTrail."""

    who: str
    address: str
    reads: int
    refused: int
    first_at: datetime
    last_at: datetime
