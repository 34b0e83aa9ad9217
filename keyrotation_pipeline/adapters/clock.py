"""The system clock, the one place that asks for the time."""

from datetime import UTC, datetime


class SystemClock:
    """`Clock` over the operating system."""

    def now(self) -> datetime:
        """The current instant, aware, UTC."""
        return datetime.now(UTC)
