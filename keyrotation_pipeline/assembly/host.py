"""What of this machine is needed where no pipeline is open: its clock, and how its processes guard keys."""

from datetime import datetime

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.process import harden_process
from keyrotation_pipeline.adapters.secret_directories import wipe_abandoned_keys

__all__ = ["harden_process", "system_time", "wait", "wipe_abandoned_keys"]


def system_time() -> datetime:
    """Returns the current time, for display only."""
    return SystemClock().now()


def wait(seconds: float) -> None:
    """Sleeps where no pipeline is open."""
    SystemClock().sleep(seconds)
