"""Are Dagster's sensors and schedules still running?"""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.model.status import Heartbeat


class Heartbeats(Protocol):
    """Stores the last heartbeat of every sensor and schedule, where it can be read without Dagster."""

    def record(
        self,
        name: str,
        at: datetime,
        stopped: Iterable[str] = (),
        expected: Iterable[str] = (),
        gone: Iterable[str] = (),
    ) -> None:
        """Records a heartbeat.

        Args:
            name: of the sensor or schedule that runs.
            stopped: sensors and schedules that it found switched off; recorded since the first such heartbeat.
            expected: those that will run by themselves, each at its own time; counted from `at` if one never ran or was
                switched off until now.
            gone: those that the configuration no longer defines; their heartbeats are deleted.
        """

    def last(self) -> tuple[Heartbeat, ...]:
        """Returns the last heartbeat of each, by name; none where Dagster never ran."""
