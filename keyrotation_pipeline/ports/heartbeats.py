"""Does Dagster still look after things here?"""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.model.status import Heartbeat


class Heartbeats(Protocol):
    """The last look of every sensor and schedule, kept where no Dagster is needed to read it."""

    def record(
        self,
        name: str,
        at: datetime,
        stopped: Iterable[str] = (),
        expected: Iterable[str] = (),
        gone: Iterable[str] = (),
    ) -> None:
        """Keep a look.

        Args:
            name: of the sensor or schedule that looks.
            stopped: what it found switched off; so since the first of the looks that found it so.
            expected: what will look by itself, in its own time; counted from `at` where it never did, or was switched
                off until now.
            gone: what Dagster no longer has, because the configuration no longer asks for it; its look is forgotten.
        """

    def last(self) -> tuple[Heartbeat, ...]:
        """The last look of each, by name; none where Dagster never ran."""
