"""A checkpoint of a full replay, stored in the home, so that the next process need not read every event.

It is verified, not trusted. Every event that changed something is read and applied again, and must have the same hash;
so must any other event that is read; and the chain must still contain the newest one. Only the reading of events that
changed nothing is saved. The database owner cannot write the home; and before anything irreversible the whole audit is
read (`afresh`).
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

from keyrotation_pipeline.model.audit import HASH_BYTES

# A shorter audit is always replayed completely.
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
        """The seq of its newest event."""
        return len(self.hashes) // HASH_BYTES

    def encode(self) -> bytes:
        """Encode as a line of JSON, then the hashes."""
        header = {"counted": self.counted, "latest": self.latest.isoformat()}
        return json.dumps(header).encode() + b"\n" + self.hashes

    @classmethod
    def decode(cls, content: bytes) -> Self | None:
        """Decode the output of `encode`; None for anything else."""
        header, _, hashes = content.partition(b"\n")
        try:
            told = json.loads(header)
            found = cls(hashes, tuple(told["counted"]), datetime.fromisoformat(told["latest"]))
        except (ValueError, KeyError, TypeError):
            return None
        is_whole = hashes and len(hashes) % HASH_BYTES == 0 and found.latest.tzinfo is not None
        return found if is_whole else None


class Checkpoints(Protocol):
    """Stores the checkpoint of an audit."""

    def load(self) -> Checkpoint | None:
        """Return the checkpoint if it was stored less than a day ago."""

    def keep(self, checkpoint: Checkpoint) -> None:
        """Replace the stored checkpoint."""
