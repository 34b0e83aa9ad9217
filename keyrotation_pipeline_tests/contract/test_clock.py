"""Every clock keeps what `Clock` promises, and `attempts` waits by nothing else."""

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.ports.clock import Clock, attempts
from keyrotation_pipeline_tests.fakes import FakeClock

CLOCKS = pytest.mark.parametrize("clock", [FakeClock(), SystemClock()], ids=["fake", "system"])


@CLOCKS
def test_the_time_is_aware_and_in_utc(clock: Clock) -> None:
    offset = clock.now().utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0


@CLOCKS
def test_a_sleep_lasts_at_least_as_long_as_asked(clock: Clock) -> None:
    began = clock.monotonic()
    clock.sleep(0.02)
    assert clock.monotonic() - began >= 0.02 - 1e-9


@pytest.mark.parametrize(
    ("patience", "waited"),
    [
        pytest.param(0, [0], id="no patience still gives one attempt"),
        pytest.param(4, [0, 2, 4], id="the last attempt comes when the patience has passed"),
        pytest.param(5, [0, 2, 4, 6], id="a pause is never cut short"),
    ],
)
def test_attempts_come_at_once_and_after_each_pause(patience: float, waited: list[float]) -> None:
    assert list(attempts(FakeClock(), pause_seconds=2, patience_seconds=patience)) == waited


def test_no_pause_comes_after_the_attempt_that_succeeds() -> None:
    clock = FakeClock()
    for waited in attempts(clock, pause_seconds=2):
        if waited >= 4:
            break
    assert clock.monotonic() == 4
