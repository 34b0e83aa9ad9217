"""Does Dagster still look after things here?"""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.model.ticks import Tick


class Ticks(Protocol):
    """The last look of every sensor, kept where no Dagster is needed to read it."""

    def record(self, sensor: str, at: datetime, stopped: Iterable[str]) -> None:
        """Keep a look. What it found switched off has been so since the first of the looks that found it so."""

    def last(self) -> tuple[Tick, ...]:
        """The last look of every sensor, by name; none where Dagster never ran."""
