"""The pace that an operator sets for a running rotation; what is not set is as configured."""

from dataclasses import dataclass
from typing import ClassVar

from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.model.events import EventKind, Fact
from keyrotation_pipeline.model.hours import AllowedHours

ALWAYS = "always"
# Of a routine rotation, where nothing else is configured.
DEFAULT_DUTY_CYCLE = 0.35
LEAST_DUTY_CYCLE = 0.01


@dataclass(frozen=True, slots=True)
class PaceSet(Fact):
    """The whole pace from here on; each None is as configured, or in an emergency as emergencies have it.

    Args:
        rows_per_second: rows that one shard may rewrite in a second; 0: no cap.
        duty_cycle: share of the time in which a worker keeps the database busy, 0.01 to 1.
        hours: ``22:00-06:00`` in `time_zone`, or ``always``.
        reason: why, in one plain line; None: nobody said.
    """

    kind: ClassVar = EventKind.PACE_SET
    rows_per_second: int | None = None
    duty_cycle: float | None = None
    hours: str | None = None
    time_zone: str = "UTC"
    reason: str | None = None

    def checked(self) -> "PaceSet":
        """This pace, if each part of it can be.

        Raises:
            RequestError: names the part, and what it may be.
            ConfigurationError: the hours are none.
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
