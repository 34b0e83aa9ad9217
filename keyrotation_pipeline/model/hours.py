"""Hours of the day in which rows may be rewritten."""

from dataclasses import dataclass
from datetime import datetime, time
from typing import Self
from zoneinfo import ZoneInfo

from keyrotation_pipeline.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class AllowedHours:
    """From `start` until just before `end`, each day; past midnight if `end` is earlier. Equal ones: the whole day."""

    start: time
    end: time
    time_zone: str

    @classmethod
    def parse(cls, text: str, time_zone: str) -> Self:
        """Read ``22:00-06:00``.

        Raises:
            ConfigurationError: anything else.
        """
        try:
            start, end = (time.fromisoformat(part.strip()) for part in text.split("-"))
        except ValueError:
            raise ConfigurationError(f'hours = "{text}" is not a span of hours; write "22:00-06:00"') from None
        return cls(start, end, time_zone)

    def include(self, instant: datetime) -> bool:
        """Whether an aware instant lies in these hours."""
        now = instant.astimezone(ZoneInfo(self.time_zone)).time()
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M} {self.time_zone}"
