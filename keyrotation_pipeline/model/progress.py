"""Progress of a long step, the estimated time to completion, the allowed hours, and the pace."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import ClassVar, Self
from zoneinfo import ZoneInfo

from keyrotation_pipeline.errors import ConfigurationError, RequestError
from keyrotation_pipeline.model.audit import EventKind, Fact
from keyrotation_pipeline.model.requests import WALK, Step
from keyrotation_pipeline.model.tables import TableCount


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
    """The progress of one shard: pages of its relations, rows rewritten."""

    table: str
    shard: int
    done_pages: int
    total_pages: int
    rows: int
    rows_per_second: float


@dataclass(frozen=True, slots=True)
class TableProgress:
    """One table in a walk.

    Args:
        share: of its pages, 0 to 1.
        rows: rewritten so far; fewer than in the table where the application wrote the new version itself.
        rows_per_second: of the running shards together; of all so far where none runs; None: not known.
        eta_seconds: None where that is not known, and at the end.
    """

    table: str
    shards_done: int
    shards: int
    share: float
    rows: int
    rows_per_second: float | None
    eta_seconds: int | None

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


# Seconds a step takes whatever the rows; a rollout is as quick as the applications' reports. Like what follows, from a
# quiet machine (`benchmarks.eta`, 2 million values): a slower one shows by its rows that it is.
_FIXED = {
    Step.KEY_VERSION: 0.3,
    Step.DUAL_KEY_ROLLOUT: 0.4,
    Step.PRIMARY_KEY_ROLLOUT: 0.4,
    Step.ROWS: 0.4,
    Step.ZERO_OLD_ROWS_PROOF: 0.3,
    Step.RETIRED_KEY: 0.5,
    Step.ARCHIVED_KEY: 0.2,
    Step.KEY_ROTATION_AUDIT: 0.1,
    Step.COMPLIANCE_REPORT: 0.1,
}
# Microseconds per value.
_PER_VALUE = {Step.ZERO_OLD_ROWS_PROOF: 0.85, Step.RETIRED_KEY: 0.45}
_ROWS_ROUTINE, _ROWS_EMERGENCY = 20.0, 4.0
# In a first rotation: what of the time of the rows they take at least, by an emergency, which does not rest. A slow
# machine is slow with both, and the mistake stays a small part of the whole.
_OF_ROWS = {Step.ZERO_OLD_ROWS_PROOF: 0.2, Step.RETIRED_KEY: 0.12}
# From here on the pace of the rows is taken for theirs.
_LEAST_SHARE = 0.02
# The cost of a row in values: reading and writing it, in addition to encrypting them (benchmarks/README.md).
_VALUES_PER_ROW = 10
# A step that takes longer than expected is never shown as almost done.
_LEAST_LEFT = 0.2


@dataclass(frozen=True, slots=True)
class Sofar:
    """The state of a running walk.

    Args:
        values: in all declared columns.
        done: finished steps.
        share: the share of rows processed, 0 to 1.
        rows_began_at, rows_ended_at: None: not yet.
        step_began_at: when the present step could begin.
        idle: pauses.
        hours: those in which rows are rewritten; None: always.
        seconds_before: what steps took with `values_before` values, in the last rotation.
    """

    now: datetime
    emergency: bool
    values: int
    done: frozenset[Step]
    share: float
    rows_began_at: datetime | None
    rows_ended_at: datetime | None
    step_began_at: datetime
    idle: Sequence[tuple[datetime, datetime]] = ()
    hours: AllowedHours | None = None
    seconds_before: Mapping[Step, float] = field(default_factory=dict)
    values_before: int = 0


def weight(count: TableCount) -> int:
    """The relative cost of a table's rows."""
    return max(1, _VALUES_PER_ROW * count.rows + sum(count.values_by_version.values()))


def seconds_left(far: Sofar) -> float:
    """Seconds until the walk ends, without waits for people."""
    left = [step for step in WALK if step not in far.done]
    rows = _rows_left(far) if Step.ROWS in left else 0.0
    others = sum(_left_of(far, step, first=step is left[0]) for step in left if step is not Step.ROWS)
    return rows + others


def progress(far: Sofar) -> float:
    """Progress from 0 to 1, by the expected duration of steps; it only grows, and never stops."""
    weights = {step: _nominal(far, step) for step in WALK}
    # In this order, so that all of them sum up to exactly 1.
    passed = sum(weights[step] for step in WALK if step in far.done)
    present = next((step for step in WALK if step not in far.done), None)
    if present is Step.ROWS:
        passed += weights[present] * far.share
    elif present is not None:
        elapsed = _working(far, far.step_began_at, far.now, None)
        passed += weights[present] * elapsed / (elapsed + weights[present])
    return passed / sum(weights.values())


def _rows_left(far: Sofar) -> float:
    """Elapsed seconds for the remaining rows, including hours in which rows may not be rewritten."""
    began = far.rows_began_at
    worked = _working(far, began, far.now, far.hours) if began is not None else 0.0
    if far.share >= _LEAST_SHARE:
        needed = worked * (1 - far.share) / far.share
    else:
        expected = _expected(far, Step.ROWS)
        needed = max(expected - worked, worked, _LEAST_LEFT * expected)
    return needed if far.hours is None else (far.hours.after(far.now, needed) - far.now).total_seconds()


def _left_of(far: Sofar, step: Step, *, first: bool) -> float:
    expected = _expected(far, step)
    elapsed = _working(far, far.step_began_at, far.now, None) if first else 0.0
    return max(expected - elapsed, _LEAST_LEFT * max(expected, elapsed))


def _expected(far: Sofar, step: Step) -> float:
    """Expected seconds, by the last rotation of this database, else by benchmarks."""
    before = far.seconds_before.get(step)
    if before is not None and far.values_before:
        return before * (far.values / far.values_before if step in {*_PER_VALUE, Step.ROWS} else 1.0)
    works = 1.0 if far.emergency else DEFAULT_DUTY_CYCLE
    return max(_nominal(far, step), _OF_ROWS.get(step, 0.0) * _rows_in_all(far) * works)


def _rows_in_all(far: Sofar) -> float:
    """Working seconds for all rows at the measured pace; 0 before there is one."""
    if far.rows_began_at is None or far.share < _LEAST_SHARE:
        return 0.0
    return _working(far, far.rows_began_at, far.rows_ended_at or far.now, far.hours) / far.share


def _nominal(far: Sofar, step: Step) -> float:
    if step is Step.ROWS:
        per_value = _ROWS_EMERGENCY if far.emergency else _ROWS_ROUTINE
        return _FIXED[step] + per_value * far.values / 1e6
    return _FIXED[step] + _PER_VALUE.get(step, 0.0) * far.values / 1e6


def _working(far: Sofar, began: datetime, ended: datetime, hours: AllowedHours | None) -> float:
    """Seconds from one instant to another without pauses, and of those only the allowed ones."""
    spans = [(began, ended)]
    for idle_from, idle_to in far.idle:
        spans = [
            span
            for first, last in spans
            for span in ((first, min(last, idle_from)), (max(first, idle_to), last))
            if span[0] < span[1]
        ]
    each = (((last - first).total_seconds() if hours is None else hours.within(first, last)) for first, last in spans)
    return sum(each)
