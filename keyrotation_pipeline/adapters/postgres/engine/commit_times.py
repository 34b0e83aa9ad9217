"""How long a small commit takes: what the application's commits and statements feel, so far as we can feel it too."""

from collections import deque
from statistics import median
from time import perf_counter

from keyrotation_pipeline.adapters.postgres.server.connection import Connection

# A lock of a row of our own is the smallest change whose commit waits for the disk and for synchronous standbys, as the
# application's do. Nobody else waits for it, and no logical replication carries it.
_BEGIN = "SET LOCAL synchronous_commit TO DEFAULT"
_CHANGE = "SELECT FROM keyrotation.rotations WHERE id = %s FOR KEY SHARE SKIP LOCKED"

# By so many looks it is judged: one slow commit is none.
LOOKS = 3
# So many times slower than at its best is slow; a disk or a far standby may be slow by nature.
TIMES_SLOWER = 4.0
LARGEST_SLOWDOWN = 16.0


class CommitTimes:
    """Looks at a commit now and then, and says how much longer to rest.

    Args:
        slow_seconds: quicker is never slow; 0: never look.

    Attributes:
        slowdown: 1 to 16; it doubles with each look that finds commits slow, and halves with each that does not.
        reason: one phrase while it is above 1; else empty.
    """

    def __init__(self, slow_seconds: float) -> None:
        self._slow_seconds = slow_seconds
        self._recent: deque[float] = deque(maxlen=LOOKS)
        self._best = float("inf")
        self.slowdown = 1.0
        self.reason = ""

    def look(self, connection: Connection, request: str) -> None:
        """Time one commit.

        Args:
            connection: in autocommit mode, without a transaction.
        """
        if self._slow_seconds <= 0:
            return
        begun = perf_counter()
        with connection.transaction():
            connection.execute(_BEGIN)
            connection.execute(_CHANGE, (request,))
        self.learn(perf_counter() - begun)

    def learn(self, seconds: float) -> None:
        """Take in how long one took."""
        self._recent.append(seconds)
        if len(self._recent) < LOOKS:
            return
        usual = median(self._recent)
        self._best = min(self._best, usual)
        slow = usual > max(self._slow_seconds, TIMES_SLOWER * self._best)
        self.slowdown = min(LARGEST_SLOWDOWN, self.slowdown * 2) if slow else max(1.0, self.slowdown / 2)
        self.reason = (
            f"a small commit takes {usual * 1000:,.0f} ms, at its best {self._best * 1000:,.0f} ms; "
            f"resting {self.slowdown:g} times as long"
            if self.slowdown > 1
            else ""
        )
