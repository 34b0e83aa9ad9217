"""An authority that can be down."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from keyrotation_pipeline.errors import TimestampError
from keyrotation_pipeline.ports.timestamps import TimeStamp
from keyrotation_pipeline_tests.fakes.clock import FakeClock


@dataclass
class FakeTimestampAuthority:
    """`TimestampAuthority` whose answer is ``<digest> at <time>``.

    Args:
        down: it does not answer.
        distrusted: nothing vouches for it any more.
        asked: how often it was asked.
    """

    clock: FakeClock
    down: bool = False
    distrusted: bool = False
    asked: int = 0
    name: str | None = field(default="stamps.example.org")

    def stamp(self, message: bytes) -> TimeStamp:
        self.asked += 1
        if self.down:
            raise TimestampError("stamps.example.org does not answer; check [audit] timestamp_url")
        digest, at = hashlib.sha256(message).hexdigest(), self.clock.now()
        return TimeStamp(f"{digest} at {at.isoformat()}".encode(), at, (b"root",))

    def stamped_at(self, digest: bytes, response: bytes) -> datetime:
        over, _, at = response.decode().partition(" at ")
        if self.distrusted or over != digest.hex():
            raise TimestampError("the time stamp is over something else")
        return datetime.fromisoformat(at)
