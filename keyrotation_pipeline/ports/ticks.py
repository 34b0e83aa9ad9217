"""Does Dagster still look after things here?"""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.model.ticks import Tick


class Ticks(Protocol):
    """The last look of every sensor, kept where no Dagster is needed to read it."""

    def record(self, sensor: str, at: datetime, stopped: Iterable[str]) -> None:
        """Keep a look; of what it found switched off, since when is kept from the look before."""

    def last(self) -> tuple[Tick, ...]:
        """The last look of every sensor, by name; none where Dagster never ran."""
