"""Hours of the day in which rows may be rewritten."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
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

    def within(self, first: datetime, last: datetime) -> float:
        """Allowed seconds from one aware instant to a later one."""
        allowed = 0.0
        while first < last:
            change = min(self._next_change(first), last)
            allowed += (change - first).total_seconds() if self.include(first) else 0.0
            first = change
        return allowed

    def after(self, instant: datetime, seconds: float) -> datetime:
        """When so many allowed seconds have passed since an aware instant."""
        while True:
            change = self._next_change(instant)
            if self.include(instant):
                left = (change - instant).total_seconds()
                if seconds <= left:
                    return instant + timedelta(seconds=seconds)
                seconds -= left
            instant = change

    def _next_change(self, instant: datetime) -> datetime:
        """The next begin or end of these hours, by the wall clock there."""
        zone = ZoneInfo(self.time_zone)
        today = instant.astimezone(zone).date()
        changes = (
            datetime.combine(today + timedelta(days=day), at, tzinfo=zone).astimezone(UTC)
            for day in range(3)
            for at in (self.start, self.end)
        )
        return min(change for change in changes if change > instant)

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M} {self.time_zone}"
