"""Who outside of this system has witnessed the audit, and when?"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TimeStamp:
    """An authority's answer.

    Args:
        response: TimeStampResp of RFC 3161, DER.
        at: the authority's time, aware.
        trusted: DER of each certificate that it was verified with.
    """

    response: bytes
    at: datetime
    trusted: tuple[bytes, ...]


class TimestampAuthority(Protocol):
    """One authority, and the certificates that verify its time stamps."""

    @property
    def name(self) -> str | None:
        """Its host; None: none is configured, and time stamps are only verified."""

    def stamp(self, message: bytes) -> TimeStamp:
        """Requests and verifies a time stamp over the SHA-256 of a message.

        Raises:
            TimestampError: it does not answer, refuses, or its answer does not verify.
        """

    def stamped_at(self, digest: bytes, response: bytes) -> datetime:
        """Returns when a digest was stamped, by an answer that verifies offline; certificates may have expired since.

        Raises:
            TimestampError: it is over something else, or no certificate of the configuration vouches for it.
        """
