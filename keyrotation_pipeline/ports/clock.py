"""What time is it?"""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The one source of time."""

    def now(self) -> datetime:
        """The current instant, aware, UTC; it jumps when somebody sets the clock."""

    def monotonic(self) -> float:
        """Seconds that only grow, from anywhere: for how long something takes or is waited for."""
