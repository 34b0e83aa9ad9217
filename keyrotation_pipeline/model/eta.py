"""How far a rotation is, and how long it still takes: pure, from what was measured so far and what steps cost.

Rows go at the pace that they have shown, of which only the allowed hours count. What comes after them is read once or
twice by the server and by us: it takes as long as it did in the last rotation, else what was measured elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from keyrotation_pipeline.model.columns import TableCount
from keyrotation_pipeline.model.hours import AllowedHours
from keyrotation_pipeline.model.pace import DEFAULT_DUTY_CYCLE
from keyrotation_pipeline.model.request import WALK, Step

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
# A row costs as much as so many values: reading and writing it, beside encrypting them (benchmarks/README.md).
_VALUES_PER_ROW = 10
# A step that takes longer than expected is never said to be about to end.
_LEAST_LEFT = 0.2


@dataclass(frozen=True, slots=True)
class Sofar:
    """Where a running walk is.

    Args:
        values: in all declared columns.
        done: steps that are.
        share: which part of the rows was passed, 0 to 1.
        rows_began_at, rows_ended_at: None: not yet.
        step_began_at: when the present step could begin.
        idle: spans in which nobody was to work: pauses.
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
    """What a table's rows cost beside those of other tables, in no unit."""
    return max(1, _VALUES_PER_ROW * count.rows + sum(count.values_by_version.values()))


def seconds_left(far: Sofar) -> float:
    """Until the walk has ended, as far as nobody is waited for."""
    left = [step for step in WALK if step not in far.done]
    rows = _rows_left(far) if Step.ROWS in left else 0.0
    others = sum(_left_of(far, step, first=step is left[0]) for step in left if step is not Step.ROWS)
    return rows + others


def progress(far: Sofar) -> float:
    """0 to 1, by what steps are expected to take; it only grows, and never stands still."""
    weights = {step: _nominal(far, step) for step in WALK}
    # In this order, so that all of them are 1 to the last digit.
    passed = sum(weights[step] for step in WALK if step in far.done)
    present = next((step for step in WALK if step not in far.done), None)
    if present is Step.ROWS:
        passed += weights[present] * far.share
    elif present is not None:
        elapsed = _working(far, far.step_began_at, far.now, None)
        passed += weights[present] * elapsed / (elapsed + weights[present])
    return passed / sum(weights.values())


def _rows_left(far: Sofar) -> float:
    """Seconds of the clock, with those in between in which rows may not be rewritten."""
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
    """By the last rotation of this database, else by what was measured elsewhere."""
    before = far.seconds_before.get(step)
    if before is not None and far.values_before:
        return before * (far.values / far.values_before if step in {*_PER_VALUE, Step.ROWS} else 1.0)
    works = 1.0 if far.emergency else DEFAULT_DUTY_CYCLE
    return max(_nominal(far, step), _OF_ROWS.get(step, 0.0) * _rows_in_all(far) * works)


def _rows_in_all(far: Sofar) -> float:
    """Working seconds of all rows at the pace that they have shown; 0 before they have."""
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
