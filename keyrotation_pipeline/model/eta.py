"""How far a walk is, and when it ends: the one estimate that every command and page shows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf

from keyrotation_pipeline.model.progress import DEFAULT_DUTY_CYCLE, AllowedHours, Pace
from keyrotation_pipeline.model.requests import WALK, Step
from keyrotation_pipeline.model.tables import TableCount

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
# In a first rotation: what of the time of the rows, without rests or caps, they take at least. A slow machine is slow
# with both, and the mistake stays a small part of the whole.
_OF_ROWS = {Step.ZERO_OLD_ROWS_PROOF: 0.2, Step.RETIRED_KEY: 0.12}
# From here on the speed of the rows is taken for theirs.
_LEAST_SHARE = 0.02
# The cost of a row in values: reading and writing it, in addition to encrypting them (benchmarks/README.md).
_VALUES_PER_ROW = 10
# Of its cap, what rows must have reached to have been held back by it.
_HELD_BACK = 0.9
# A step that takes longer than expected is never shown as almost done.
_LEAST_LEFT = 0.2
_ROUTINE = Pace(0, DEFAULT_DUTY_CYCLE, None)


@dataclass(frozen=True, slots=True)
class Sofar:
    """The state of a running walk.

    Args:
        values: in all declared columns.
        rows: in all tables.
        done: finished steps.
        share: the share of rows processed, 0 to 1.
        rows_began_at, rows_ended_at: None: not yet.
        step_began_at: when the present step could begin.
        usual: the pace where nobody sets another.
        paces: those that an operator has set, each with when, oldest first.
        at_once: how many shards are rewritten at a time, each under the cap.
        at_work_seconds: how long processes have worked at the rows, added up; None: not known. No more than that counts
            as time worked, so that the hours after a process died do not.
        idle: pauses.
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
    rows: int = 0
    usual: Pace = _ROUTINE
    paces: Sequence[tuple[datetime, Pace]] = ()
    at_once: int = 1
    at_work_seconds: float | None = None
    idle: Sequence[tuple[datetime, datetime]] = ()
    seconds_before: Mapping[Step, float] = field(default_factory=dict)
    values_before: int = 0

    @property
    def pace(self) -> Pace:
        """The present pace."""
        return self.paces[-1][1] if self.paces else self.usual

    def most(self, pace: Pace) -> float:
        """The share of all rows that may be rewritten in a second at a pace; infinite: no cap."""
        return pace.rows_per_second * self.at_once / self.rows if pace.rows_per_second and self.rows else inf


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
    left, pace = 1 - far.share, far.pace
    speed = _full_speed(far)
    if speed is not None:
        needed = left / (speed * pace.duty_cycle)
    else:
        free = sum(seconds for seconds, each in _spans(far) if far.most(each) == inf)
        expected = _expected(far, Step.ROWS)
        needed = max(expected * left - free, free, _LEAST_LEFT * expected)
    needed = max(needed, left / far.most(pace))
    return needed if pace.hours is None else (pace.hours.after(far.now, needed) - far.now).total_seconds()


def _left_of(far: Sofar, step: Step, *, first: bool) -> float:
    expected = _expected(far, step)
    elapsed = _working(far, far.step_began_at, far.now, None) if first else 0.0
    return max(expected - elapsed, _LEAST_LEFT * max(expected, elapsed))


def _expected(far: Sofar, step: Step) -> float:
    """Expected seconds, by the last rotation of this database, else by benchmarks; of the rows without a cap."""
    before = far.seconds_before.get(step)
    if before is not None and far.values_before:
        usual = far.usual.duty_cycle / far.pace.duty_cycle if step is Step.ROWS else 1.0
        return before * usual * (far.values / far.values_before if step in {*_PER_VALUE, Step.ROWS} else 1.0)
    if step is Step.ROWS:
        return _nominal(far, step) * (1.0 if far.emergency else DEFAULT_DUTY_CYCLE) / far.pace.duty_cycle
    speed = _full_speed(far) if step in _OF_ROWS else None
    return max(_nominal(far, step), 0.0 if speed is None else _OF_ROWS[step] / speed)


def _full_speed(far: Sofar) -> float | None:
    """The share of all rows in a second of work, without rests or caps, as measured.

    Returns:
        None: it is not known yet, or not at all, since a cap has held the rows back all the time.
    """
    if far.share < _LEAST_SHARE:
        return None
    # Under a cap as much was done as that allows; the others say how fast it goes. The strictest cap comes first.
    spans = sorted(
        ((seconds, each.duty_cycle, far.most(each)) for seconds, each in _spans(far)),
        key=lambda span: span[2] / span[1],
    )
    done, worked = far.share, sum(seconds * duty for seconds, duty, _ in spans)
    for seconds, duty, most in spans:
        if done <= 0 or worked <= 0:
            break
        if done / worked * duty < _HELD_BACK * most:
            return done / worked
        done, worked = done - seconds * most, worked - seconds * duty
    return None


def _spans(far: Sofar) -> Iterator[tuple[float, Pace]]:
    """The seconds in which rows were rewritten at each pace."""
    if far.rows_began_at is None:
        return
    ended = far.rows_ended_at or far.now
    begun = [(far.rows_began_at, far.usual), *far.paces]
    ends = [at for at, _ in begun[1:]] + [ended]
    spans = [
        (_working(far, max(at, far.rows_began_at), min(end, ended), pace.hours), pace)
        for (at, pace), end in zip(begun, ends, strict=True)
    ]
    worked = sum(seconds for seconds, _ in spans)
    known = 1.0 if far.at_work_seconds is None or not worked else min(1.0, far.at_work_seconds / worked)
    yield from ((seconds * known, pace) for seconds, pace in spans)


def _nominal(far: Sofar, step: Step) -> float:
    if step is Step.ROWS:
        per_value = _ROWS_EMERGENCY if far.emergency else _ROWS_ROUTINE
        return _FIXED[step] + per_value * far.values / 1e6
    return _FIXED[step] + _PER_VALUE.get(step, 0.0) * far.values / 1e6


def _working(far: Sofar, began: datetime, ended: datetime, hours: AllowedHours | None) -> float:
    """Seconds from one instant to another without pauses, and of those only the allowed ones; 0: it ends before."""
    spans = [(began, ended)] if began < ended else []
    for idle_from, idle_to in far.idle:
        spans = [
            span
            for first, last in spans
            for span in ((first, min(last, idle_from)), (max(first, idle_to), last))
            if span[0] < span[1]
        ]
    each = (((last - first).total_seconds() if hours is None else hours.within(first, last)) for first, last in spans)
    return sum(each)
