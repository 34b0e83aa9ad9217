"""That a sensor of Dagster looked, and what it saw switched off."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Tick:
    """The last look of one sensor.

    Args:
        sensor: its name.
        at: when it looked.
        stopped: sensors and schedules that it found switched off, with when it first did.
    """

    sensor: str
    at: datetime
    stopped: Mapping[str, datetime]
