"""That a sensor or a schedule of Dagster looked, and what it saw switched off."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Tick:
    """The last look of one sensor or schedule.

    Args:
        name: of it.
        at: when it looked; where a schedule never did, since when it is expected to.
        stopped: sensors and schedules that it found switched off, with when it first did.
    """

    name: str
    at: datetime
    stopped: Mapping[str, datetime]
