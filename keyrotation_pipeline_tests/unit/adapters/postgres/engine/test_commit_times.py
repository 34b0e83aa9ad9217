"""When commits of the database count as slow, and how much longer the engine then rests."""

from time import monotonic

import pytest

from keyrotation_pipeline.adapters.postgres.engine.batch_size import BatchSize
from keyrotation_pipeline.adapters.postgres.engine.limits import LARGEST_SLOWDOWN, CommitTimes, Limits
from keyrotation_pipeline.model.progress import PaceSet


def after(*milliseconds: float) -> CommitTimes:
    times = CommitTimes(0.025)
    for each in milliseconds:
        times.learn(each / 1000)
    return times


@pytest.mark.parametrize(
    ("milliseconds", "slowdown"),
    [
        pytest.param((1, 1, 1, 1), 1, id="quick"),
        pytest.param((1, 1, 1, 500), 1, id="one slow commit is none"),
        pytest.param((1, 1, 1, 60, 60), 2, id="slow"),
        pytest.param((1, 1, 1, 60, 60, 60, 60), 8, id="slower and slower"),
        pytest.param((1, 1, 1, *[60] * 40), LARGEST_SLOWDOWN, id="it never stops"),
        pytest.param((1, 1, 1, 60, 60, 60, 1, 1, 1), 2, id="and comes back"),
        pytest.param((1, 1, 1, *[60] * 10, *[1] * 9), 1, id="to where it was"),
        pytest.param((1, 1, 1, 20, 20, 20), 1, id="slower, but not slow"),
        pytest.param((100, 100, 100, 150, 150, 150), 1, id="a far standby is slow by nature"),
        pytest.param((100, 100, 100, 450, 450, 450), 4, id="and may get slower too"),
    ],
)
def test_it_rests_longer_while_commits_are_slower_than_at_their_best(
    milliseconds: tuple[float, ...], slowdown: float
) -> None:
    times = after(*milliseconds)
    assert times.slowdown == slowdown
    assert bool(times.reason) == (slowdown > 1)


def test_a_slower_engine_rests_so_many_times_as_long() -> None:
    size = BatchSize(Limits(duty_cycle=1.0))
    assert size.seconds_to_wait(10) == 0
    size.slowdown = 4.0
    worked, began = 0.01, monotonic()
    while monotonic() < began + worked:
        pass
    assert size.seconds_to_wait(10) >= 3 * worked


def test_a_pace_takes_the_place_of_what_it_names_and_nothing_else() -> None:
    limits = Limits(max_rows_per_second=100, duty_cycle=0.35, sharing=2)
    paced = limits.at_pace(PaceSet(rows_per_second=1000))
    assert (paced.max_rows_per_second, paced.duty_cycle, paced.hours) == (500, 0.35, None), "a worker has its share"
    assert limits.at_pace(PaceSet(rows_per_second=0)).max_rows_per_second == 0
    night = limits.at_pace(PaceSet(hours="22:00-06:00", time_zone="UTC"))
    assert str(night.hours) == "22:00-06:00 UTC"
    assert night.at_pace(PaceSet(hours="always")).hours is None
    assert Limits(duty_cycle=1.0, rests=False).at_pace(PaceSet(duty_cycle=0.1)).duty_cycle == 1.0


def test_what_was_owed_under_a_cap_is_forgotten_with_it() -> None:
    size = BatchSize(Limits(max_rows_per_second=10, duty_cycle=1.0))
    assert size.seconds_to_wait(1000) > 90
    size.renew(Limits(max_rows_per_second=1000, duty_cycle=1.0))
    assert size.seconds_to_wait(100) < 1
