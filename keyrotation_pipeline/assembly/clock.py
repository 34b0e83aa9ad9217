"""The clock, where no pipeline is open."""

from datetime import datetime

from keyrotation_pipeline.adapters.clock import SystemClock


def system_time() -> datetime:
    """Returns the current time, for display only."""
    return SystemClock().now()


def wait(seconds: float) -> None:
    """Sleeps where no pipeline is open."""
    SystemClock().sleep(seconds)
