"""How many rows are written at once: as many as the time for a statement allows, whatever one statement met."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyrotation_pipeline.adapters.postgres.engine import batch_size
from keyrotation_pipeline.adapters.postgres.engine.batch_size import BatchSize
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits


def settled(size: BatchSize, seconds_per_row: float, overhead: float = 0.0, statements: int = 60) -> int:
    for _ in range(statements):
        size.wrote(size.rows, overhead + size.rows * seconds_per_row)
    return size.rows


@pytest.mark.parametrize("microseconds", [1, 10, 100])
def test_a_statement_comes_to_take_the_time_that_it_may(microseconds: int) -> None:
    limits = Limits(duty_cycle=1.0, statement_seconds=0.001)
    rows = settled(BatchSize(limits), microseconds / 1e6)
    assert rows * microseconds / 1e6 == pytest.approx(0.001, rel=0.1)


def test_an_emergency_knows_no_configured_cap() -> None:
    assert Limits(max_rows_per_second=5).in_an_emergency().max_rows_per_second == 0


@pytest.mark.parametrize("limits", [Limits(statement_seconds=0.001), Limits().in_an_emergency()])
def test_the_quickest_statements_decide_until_all_take_longer(limits: Limits) -> None:
    size = BatchSize(limits)
    rows = settled(size, 10e-6)
    for number in range(80):
        size.wrote(size.rows, size.rows * (10e-6 if number % 8 == 0 else 80e-6))
    assert size.rows == pytest.approx(rows, rel=0.1)
    assert settled(size, 80e-6) == pytest.approx(rows / 8, rel=0.2)


@settings(deadline=None)
@given(
    cap=st.sampled_from([0, 1, 50, 5000]),
    written=st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 100)), max_size=300),
    read=st.lists(st.integers(0, 100_000), max_size=50),
)
def test_there_is_always_a_row_to_write_and_a_page_to_read_and_never_more_than_the_limits(
    cap: int, written: list[tuple[int, float]], read: list[int]
) -> None:
    size = BatchSize(Limits(max_rows_per_second=cap, max_pages=16))
    for rows, seconds in written:
        size.wrote(rows, seconds)
        assert size.rows >= 1
        assert not cap or size.rows <= max(1, cap / 10)
    for rows in read:
        size.read(rows, size.pages)
        assert 1 <= size.pages <= 16


def test_a_capped_rewrite_waits_until_its_rows_are_due() -> None:
    capped = BatchSize(Limits(max_rows_per_second=100, duty_cycle=1.0))
    assert capped.seconds_to_wait(10) <= 0.1
    assert capped.seconds_to_wait(1000) > 9


def test_a_resting_rewrite_works_for_two_milliseconds_and_then_rests_for_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(batch_size, "monotonic", lambda: now)
    size = BatchSize(Limits(duty_cycle=0.25))
    rests = []
    for _ in range(6):
        now += 0.0008
        rests.append(size.seconds_to_wait(10))
        now += 5.0  # what the engine does in addition, and its rest, are no work
        size.resume()
    assert rests == pytest.approx([0, 0, 0.0072, 0, 0, 0.0072])

    now += 0.05  # one long statement
    assert size.seconds_to_wait(10) == pytest.approx(0.15)


def test_a_rewrite_that_was_suspended_rests_no_longer_than_after_a_tenth_of_a_second_of_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(batch_size, "monotonic", lambda: now)
    size = BatchSize(Limits(duty_cycle=0.25))
    now += 3600.0
    assert size.seconds_to_wait(10) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("limits", "writes"),
    [
        (Limits(), 1),
        (Limits(duty_cycle=1.0, max_rows_per_second=1e9), 1),
        (Limits(duty_cycle=1.0), 2),
        (Limits().in_an_emergency(), 2),
    ],
)
def test_only_what_need_not_rest_has_a_second_write_under_way(limits: Limits, writes: int) -> None:
    assert BatchSize(limits).writes_ahead == writes


def test_every_write_is_timed_until_the_size_is_found_and_then_one_in_eight() -> None:
    size = BatchSize(Limits())
    assert [size.should_time() for _ in range(32)] == [True] * 32
    assert [size.should_time() for _ in range(16)] == [*[False] * 7, True] * 2
