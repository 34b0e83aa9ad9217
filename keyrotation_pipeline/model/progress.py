"""Progress of a long step, the allowed hours, and the pace."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import ClassVar, Self
from zoneinfo import ZoneInfo

from keyrotation_pipeline.errors import ConfigurationError, RequestError
from keyrotation_pipeline.model.audit import EventKind, Fact
from keyrotation_pipeline.model.requests import Step


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a long step. `step` None: a command's own work. `total` 0: not known yet."""

    step: Step | None
    subject: str
    done: int
    total: int
    unit: str = "rows"
    note: str = ""


Report = Callable[[Progress], None]


def duration(seconds: float) -> str:
    """``27 s``, ``12 min``, ``3 h 05 min``, ``5 d 03 h``."""
    whole = max(round(seconds), 0)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    hours, minutes = divmod((whole + 30) // 60, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"  # noqa: PLR2004


def about_left(seconds: float | None) -> str:
    """``, about 12 min left``; empty: that is not known."""
    return "" if seconds is None else f", about {duration(seconds)} left"


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What one walk or sweep did. `skipped` rows were moved or locked by others and are left to the next sweep."""

    rows: int = 0
    values: int = 0
    skipped: int = 0
    quarantined: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Rewritten") -> "Rewritten":
        return Rewritten(
            self.rows + other.rows,
            self.values + other.values,
            self.skipped + other.skipped,
            self.quarantined + other.quarantined,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a step is waiting.

    Args:
        place: what waits, as progress names it.
        since: aware.
    """

    place: str
    waiting_for: str
    since: datetime


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """The progress of one shard: pages of its relations, and rows rewritten.

    Args:
        seconds: for which its workers have worked at it, added up.
        workers: how many have pages left, and share the work.
    """

    table: str
    shard: int
    done_pages: int
    total_pages: int
    rows: int
    seconds: float
    workers: int = 1

    @property
    def rows_per_second(self) -> float:
        """Of its workers together."""
        return self.workers * self.rows / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class TableProgress:
    """One table in a walk.

    Args:
        share: of its pages, 0 to 1.
        rows: rewritten so far; fewer than in the table where the application wrote the new version itself.
        rows_per_second: of the running shards together; of all so far where none runs; None: not known.
        running: whether any runs.
    """

    table: str
    shards_done: int
    shards: int
    share: float
    rows: int
    rows_per_second: float | None
    running: bool = True

    def __str__(self) -> str:
        return f"{self.shards_done} of {self.shards} shards, {self.share:.0%}"


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
        """When this many allowed seconds have passed since an aware instant."""
        while True:
            change = self._next_change(instant)
            if self.include(instant):
                left = (change - instant).total_seconds()
                if seconds <= left:
                    return instant + timedelta(seconds=seconds)
                seconds -= left
            instant = change

    def _next_change(self, instant: datetime) -> datetime:
        """The next start or end of these hours, by local time."""
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


ALWAYS = "always"
# Default of a routine rotation.
DEFAULT_DUTY_CYCLE = 0.35
LEAST_DUTY_CYCLE = 0.01


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast rows may be rewritten.

    Args:
        rows_per_second: of one shard; 0: no cap.
        duty_cycle: share of the time in which a worker keeps the database busy.
        hours: None: always.
    """

    rows_per_second: float = 0
    duty_cycle: float = DEFAULT_DUTY_CYCLE
    hours: AllowedHours | None = None

    def as_set(self, to: "PaceSet") -> "Pace":
        """This pace with what an operator has set."""
        rows, duty = to.rows_per_second, to.duty_cycle
        return Pace(
            self.rows_per_second if rows is None else rows,
            self.duty_cycle if duty is None else duty,
            self.hours if to.hours is None else to.allowed_hours(),
        )


# Without caps and rests, at any hour.
IN_AN_EMERGENCY = Pace(duty_cycle=1.0)


@dataclass(frozen=True, slots=True)
class PaceSet(Fact):
    """The complete pace from now on. Each None is as configured, or the emergency's default.

    Args:
        rows_per_second: rows that one shard may rewrite in a second; 0: no cap.
        duty_cycle: share of the time in which a worker keeps the database busy, 0.01 to 1.
        hours: ``22:00-06:00`` in `time_zone`, or ``always``.
        reason: why, in one plain line; None: not given.
    """

    kind: ClassVar = EventKind.PACE_SET
    rows_per_second: int | None = None
    duty_cycle: float | None = None
    hours: str | None = None
    time_zone: str = "UTC"
    reason: str | None = None

    def checked(self) -> "PaceSet":
        """Check every part of this pace.

        Raises:
            RequestError: names the part, and its allowed values.
            ConfigurationError: the hours are invalid.
        """
        if self.rows_per_second is not None and self.rows_per_second < 0:
            raise RequestError("--rows-per-second is below 0; give rows in a second, or 0 for no cap")
        if self.duty_cycle is not None and not LEAST_DUTY_CYCLE <= self.duty_cycle <= 1:
            raise RequestError("--duty-cycle is a share of the time; give 0.01 to 1")
        self.allowed_hours()
        return self

    def allowed_hours(self) -> AllowedHours | None:
        """When rows may be rewritten, where `hours` is set; None: always."""
        return None if self.hours in {None, ALWAYS} else AllowedHours.parse(str(self.hours), self.time_zone)

    def __str__(self) -> str:
        parts = []
        if self.rows_per_second is not None:
            parts.append(f"{self.rows_per_second:,} rows/s a shard" if self.rows_per_second else "no cap on rows/s")
        if self.duty_cycle is not None:
            parts.append(f"duty cycle {self.duty_cycle:g}")
        if self.hours is not None:
            parts.append("at any hour" if self.hours == ALWAYS else f"hours {self.hours} {self.time_zone}")
        return ", ".join(parts) or "as configured"
