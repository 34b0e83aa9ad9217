"""What a home keeps of a replay that began at the first event, so that the next process need not read all of them.

It is verified, and not trusted. Every event that counted is read and applied again, and must have the hash that it had;
so must any other that somebody asks for; and the chain must still lead through the newest one. What is saved is to read
those that changed nothing. Whoever owns the database cannot write the home; and before anything that cannot be undone,
everything is read (`afresh`).
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

HASH_BYTES = 32
# A shorter audit is replayed at once.
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
        """The newest event of it."""
        return len(self.hashes) // HASH_BYTES

    def encode(self) -> bytes:
        """A line of JSON, then the hashes."""
        header = {"counted": self.counted, "latest": self.latest.isoformat()}
        return json.dumps(header).encode() + b"\n" + self.hashes

    @classmethod
    def decode(cls, content: bytes) -> Self | None:
        """What `encode` made; None of anything else."""
        header, _, hashes = content.partition(b"\n")
        try:
            told = json.loads(header)
            found = cls(hashes, tuple(told["counted"]), datetime.fromisoformat(told["latest"]))
        except (ValueError, KeyError, TypeError):
            return None
        is_whole = hashes and len(hashes) % HASH_BYTES == 0 and found.latest.tzinfo is not None
        return found if is_whole else None


class Checkpoints(Protocol):
    """Where a home keeps the checkpoint of its audit."""

    def load(self) -> Checkpoint | None:
        """The one that was kept less than a day ago."""

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep one in place of it."""
