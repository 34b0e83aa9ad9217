"""What time is it, and how does anybody wait?"""

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The one source of time, and the one place that waits."""

    def now(self) -> datetime:
        """The current instant, aware, UTC; it jumps when somebody sets the clock."""

    def monotonic(self) -> float:
        """Seconds that only grow, from anywhere: for how long something takes or is waited for."""

    def sleep(self, seconds: float) -> None:
        """Do nothing for a while."""


def attempts(clock: Clock, *, pause_seconds: float, patience_seconds: float = float("inf")) -> Iterator[float]:
    """Yield the seconds waited so far, at once and after each pause, until the patience is used up.

    The loop over it tries once each time and leaves when it succeeds; what stands after the loop is the failure. The
    last attempt comes when the patience has passed, so that no time at all still gives one.
    """
    began = clock.monotonic()
    while True:
        waited_seconds = clock.monotonic() - began
        yield waited_seconds
        if waited_seconds >= patience_seconds:
            return
        clock.sleep(pause_seconds)
