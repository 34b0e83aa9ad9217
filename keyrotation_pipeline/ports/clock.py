"""What time is it, and how does a caller wait?"""

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The one source of time, and the one place that waits."""

    def now(self) -> datetime:
        """Returns the current time, aware, UTC; it jumps when somebody sets the clock."""

    def monotonic(self) -> float:
        """Returns seconds that never decrease, from an arbitrary start: for measuring durations and time-outs."""

    def sleep(self, seconds: float) -> None:
        """Sleeps."""


def attempts(clock: Clock, *, pause_seconds: float, patience_seconds: float = float("inf")) -> Iterator[float]:
    """Yields the seconds waited so far, at once and after each pause, until the patience is used up.

    The loop body tries once and leaves the loop when it succeeds; code after the loop handles the failure. The last
    attempt comes when the patience has passed, so a patience of zero still allows one.
    """
    began = clock.monotonic()
    while True:
        waited_seconds = clock.monotonic() - began
        yield waited_seconds
        if waited_seconds >= patience_seconds:
            return
        clock.sleep(pause_seconds)
