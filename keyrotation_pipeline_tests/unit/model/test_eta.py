"""What is predicted of a rotation, as a table: by its own pace, by the last one, by hours and pauses."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.eta import Sofar, progress, seconds_left, weight
from keyrotation_pipeline.model.progress import IN_AN_EMERGENCY, AllowedHours, Pace, PaceSet, duration
from keyrotation_pipeline.model.requests import WALK, Step
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount, TableName

BEGAN = datetime(2026, 1, 5, 22, 0, tzinfo=UTC)
NIGHTS = AllowedHours(time(22), time(6), "UTC")
MILLIONS = 100
VALUES = MILLIONS * 1_000_000
HOUR = 3600.0
BEFORE_ROWS = frozenset({Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT})
AFTER = {Step.ZERO_OLD_ROWS_PROOF: 1000.0, Step.RETIRED_KEY: 500.0, Step.ARCHIVED_KEY: 0.0,
         Step.KEY_ROTATION_AUDIT: 0.0, Step.COMPLIANCE_REPORT: 0.0}  # fmt: skip


def in_the_rows(hours: float, share: float) -> Sofar:
    """A rotation like the last one but for its rows, so many hours after these began."""
    return Sofar(
        now=BEGAN + timedelta(hours=hours), emergency=False, values=VALUES, done=BEFORE_ROWS, share=share,
        rows_began_at=BEGAN, rows_ended_at=None, step_began_at=BEGAN, seconds_before=AFTER, values_before=VALUES,
    )  # fmt: skip


def hours_of_rows(far: Sofar) -> float:
    return round((seconds_left(far) - 1500) / HOUR, 2)


@pytest.mark.parametrize(
    ("far", "hours"),
    [
        pytest.param(in_the_rows(1, 0.1), 9.0, id="as fast as so far"),
        pytest.param(in_the_rows(9, 0.9), 1.0, id="near its end"),
        pytest.param(replace(in_the_rows(4, 0.5), usual=Pace(hours=NIGHTS)), 4.0, id="tonight is enough"),
        pytest.param(
            replace(in_the_rows(4, 0.25), usual=Pace(hours=NIGHTS)), 28.0, id="four hours tonight, eight tomorrow night"
        ),
        pytest.param(
            replace(in_the_rows(25, 0.45), usual=Pace(hours=NIGHTS)), 27.0, id="the day between did not count as work"
        ),
        pytest.param(
            replace(in_the_rows(4, 0.1), idle=((BEGAN + timedelta(hours=1), BEGAN + timedelta(hours=4)),)),
            9.0,
            id="a pause did not either",
        ),
        pytest.param(
            replace(in_the_rows(0, 0.0), seconds_before={**AFTER, Step.ROWS: 4 * HOUR}), 4.0, id="as the last one"
        ),
        pytest.param(
            replace(in_the_rows(1, 0.001), seconds_before={**AFTER, Step.ROWS: 4 * HOUR}),
            3.0,
            id="too early to go by itself",
        ),
        pytest.param(
            replace(in_the_rows(30, 0.001), seconds_before={**AFTER, Step.ROWS: 4 * HOUR}),
            30.0,
            id="much slower than the last one, though it has hardly begun",
        ),
    ],
)
def test_rows_go_at_the_pace_they_have_shown_of_allowed_hours_alone(far: Sofar, hours: float) -> None:
    assert hours_of_rows(far) == hours


ROWS = 360_000
TEN_A_SECOND, HALF = Pace(10.0), Pace(duty_cycle=2 * Pace().duty_cycle)


def paced(hours: float, share: float, *paces: tuple[float, Pace], **changes: Any) -> Sofar:  # noqa: ANN401
    """The same of 360 000 rows, after others have set a pace, each so many hours after the rows began."""
    set_then = tuple((BEGAN + timedelta(hours=at), pace) for at, pace in paces)
    return replace(in_the_rows(hours, share), rows=ROWS, paces=set_then, **changes)


@pytest.mark.parametrize(
    ("far", "hours"),
    [
        pytest.param(paced(1, 0.5, (1, TEN_A_SECOND)), 5.0, id="a cap is set: what is left at ten rows a second"),
        pytest.param(paced(1, 0.5, (1, TEN_A_SECOND), at_once=2), 2.5, id="in two shards at a time"),
        pytest.param(paced(2, 0.6, (1, TEN_A_SECOND)), 4.0, id="under way for an hour"),
        pytest.param(paced(2, 0.6, (1, TEN_A_SECOND), (2, Pace())), 0.8, id="lifted: as fast as before it"),
        pytest.param(
            paced(2, 0.2, (0, TEN_A_SECOND), seconds_before={**AFTER, Step.ROWS: HOUR}), 8.0, id="since the start"
        ),
        pytest.param(
            paced(2, 0.2, (0, TEN_A_SECOND), (2, Pace()), seconds_before={**AFTER, Step.ROWS: HOUR}),
            0.8,
            id="lifted, and never seen without: as the last one",
        ),
        pytest.param(paced(1, 0.5, (1, Pace(1000.0))), 1.0, id="a cap that holds nothing back"),
        pytest.param(paced(1, 0.001, (1, TEN_A_SECOND)), 9.99, id="too early, but for the cap"),
        pytest.param(paced(1, 0.5, (1, HALF)), 0.5, id="it rests half as much"),
        pytest.param(paced(2, 0.8, (1, HALF)), 0.5 * 2 * 1.5 / 0.8 * 0.2, id="it has rested less for an hour"),
        pytest.param(paced(4, 0.25, (0, Pace(hours=NIGHTS))), 28.0, id="nights alone"),
        pytest.param(paced(11, 0.5, at_work_seconds=HOUR), 1.0, id="its process died, and ten hours passed"),
        pytest.param(paced(1, 0.5, at_work_seconds=4 * HOUR), 1.0, id="four workers"),
    ],
)  # fmt: skip
def test_the_time_left_follows_the_pace_that_is_set(far: Sofar, hours: float) -> None:
    assert hours_of_rows(far) == pytest.approx(hours, abs=0.01)


def test_a_capped_rotation_says_nothing_about_the_speed_of_the_proof() -> None:
    first = replace(paced(10, 0.5, (0, Pace(5.0))), seconds_before={}, values_before=0)
    free = replace(paced(0.1, 0.5), seconds_before={}, values_before=0)
    assert seconds_left(replace(first, values=1000)) == pytest.approx(10 * HOUR, rel=0.01)
    assert seconds_left(replace(free, values=1000)) == pytest.approx((0.1 + 0.32 * 0.2 * 0.35) * HOUR, rel=0.01)


def test_what_an_operator_leaves_unset_is_as_usual() -> None:
    assert Pace(7, 0.5, NIGHTS).as_set(PaceSet(duty_cycle=0.2)) == Pace(7, 0.2, NIGHTS)
    assert Pace(7, 0.5, NIGHTS).as_set(PaceSet(rows_per_second=0, hours="always")) == Pace(0, 0.5, None)


def test_what_grows_with_the_values_takes_as_much_longer_than_in_the_last_rotation() -> None:
    far = replace(in_the_rows(1, 1.0), done=BEFORE_ROWS | {Step.ROWS})
    at_once = replace(far, step_began_at=far.now)
    assert seconds_left(at_once) == 1500
    assert seconds_left(replace(at_once, values=2 * VALUES)) == 3000


@pytest.mark.parametrize(
    ("elapsed", "left"),
    [(0, 1500), (600, 900), (1000, 700), (5000, 1500)],
    ids=["it begins", "under way", "due to end", "late: it is never about to end"],
)
def test_a_step_under_way_has_less_to_go(elapsed: int, left: int) -> None:
    far = replace(in_the_rows(1, 1.0), done=BEFORE_ROWS | {Step.ROWS})
    assert seconds_left(replace(far, step_began_at=far.now - timedelta(seconds=elapsed))) == left


def test_in_a_first_rotation_a_machine_that_is_slow_with_the_rows_is_slow_with_the_proof() -> None:
    first = replace(in_the_rows(100, 0.5), seconds_before={}, values_before=0)
    urgent = replace(first, emergency=True, usual=IN_AN_EMERGENCY)
    assert seconds_left(urgent) == pytest.approx((100 + 0.32 * 200) * HOUR, rel=0.01)
    assert seconds_left(first) == pytest.approx((100 + 0.112 * 200) * HOUR, rel=0.01)


def test_a_table_of_many_columns_takes_longer_than_one_of_as_many_rows() -> None:
    counts = []
    for columns in (("first", "last", "email", "phone", "history"), ("notes", "reason")):
        table = EncryptedTable(TableName("public", "t"), columns)
        counts.append(TableCount(table, 300, {KeyVersion(1): 300 * len(columns)}, 0, 0, 0, 0, (), BEGAN))
    wide, narrow = map(weight, counts)
    assert wide / narrow == pytest.approx(9.4 / 7.5, rel=0.05), "CPU-µs of a row, as measured"
    assert weight(replace(counts[0], rows=0, values_by_version={})) > 0


def test_progress_only_grows_and_always_moves() -> None:
    seen: list[float] = []
    far = replace(in_the_rows(0, 0.0), done=frozenset(), rows_began_at=None)
    for number, step in enumerate(WALK):
        done = frozenset(WALK[:number])
        shares: Sequence[float] = (0.0, 0.3, 0.6, 0.9) if step is Step.ROWS else (1.0,) * 4
        for minute, share in enumerate(shares):
            seen.append(
                progress(replace(far, done=done, share=share, now=far.step_began_at + timedelta(minutes=10 * minute)))
            )
    seen.append(progress(replace(far, done=frozenset(WALK))))
    assert seen == sorted(set(seen))
    assert (seen[0], seen[-1]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("first", "last", "seconds"),
    [
        pytest.param("2026-01-05T20:00", "2026-01-06T08:00", 8 * HOUR, id="a whole night"),
        pytest.param("2026-01-05T23:00", "2026-01-06T01:00", 2 * HOUR, id="within one"),
        pytest.param("2026-01-06T06:00", "2026-01-06T22:00", 0, id="a day"),
        pytest.param("2026-01-05T23:00", "2026-01-08T23:00", 24 * HOUR, id="three nights"),
    ],
)
def test_allowed_hours_are_added_up(first: str, last: str, seconds: float) -> None:
    began = datetime.fromisoformat(first).replace(tzinfo=UTC)
    ended = datetime.fromisoformat(last).replace(tzinfo=UTC)
    assert NIGHTS.within(began, ended) == seconds
    if seconds:
        after = NIGHTS.after(began, seconds)
        assert NIGHTS.within(began, after) == seconds
        assert after <= ended


def test_the_night_of_the_change_of_time_is_an_hour_longer() -> None:
    berlin = AllowedHours(time(22), time(6), "Europe/Berlin")
    began = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert berlin.within(began, began + timedelta(days=1)) == 9 * HOUR


@pytest.mark.parametrize(("seconds", "shown"), [
    (-3, "0 s"), (0.4, "0 s"), (59, "59 s"), (59.9, "1 min"), (61, "1 min"), (3590, "1 h 00 min"), (5400, "1 h 30 min"),
    (9000, "2 h 30 min"), (93_900, "26 h 05 min"), (129_600, "36 h 00 min"), (200_000, "2 d 07 h"),
])  # fmt: skip
def test_a_duration_is_exact_to_its_second_part(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
