"""Which pages are read on which day: none stays unread for longer than was set, whatever happens meanwhile."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyrotation_pipeline.model.page_reading import LEAST_BYTES_A_DAY, PageSpan, due, reach, to_search

START = datetime(2026, 1, 1, 6, tzinfo=UTC)
DAY = timedelta(days=1)
SPAN_BYTES = 16 * 2**20
Days = Callable[[int], bool]


def spans(number: int, at: datetime = START, first: int = 0) -> list[PageSpan]:
    """Spans of a table that were noted down and never read."""
    return [
        PageSpan("t", "t", 2048 * n, 2048 * (n + 1), 2048, SPAN_BYTES, at, read=False)
        for n in range(first, first + number)
    ]


def read(all_of_them: list[PageSpan], now: datetime, every: int) -> int:
    """Read what is due; returns how many spans that were."""
    wanted = set(due(all_of_them, now, every))
    all_of_them[:] = [replace(each, since=now, read=True) if each in wanted else each for each in all_of_them]
    return len(wanted)


@pytest.mark.parametrize(
    ("number", "every", "works", "most"),
    [
        pytest.param(4, 90, lambda _: True, 4, id="small: whole every day"),
        pytest.param(450, 90, lambda _: True, 6, id="the same share each day"),
        pytest.param(457, 90, lambda _: True, 6, id="what does not divide"),
        pytest.param(100, 1, lambda _: True, 100, id="everything daily"),
        pytest.param(450, 90, lambda day: day not in range(40, 47), 48, id="a week missed"),
        pytest.param(450, 90, lambda day: day >= 90, 450, id="never ran until it was late"),
    ],
)
def test_no_page_is_unread_for_longer_than_was_set(number: int, every: int, works: Days, most: int) -> None:
    table, largest = spans(number), 0
    for day in range(190):
        now = START + day * DAY
        if works(day):
            largest = max(largest, read(table, now, every))
            assert now - min(each.since for each in table) <= every * DAY
    assert reach(table, START + 189 * DAY, every).percent == 100.0
    assert largest <= most


def test_pages_that_came_later_are_read_in_time_too() -> None:
    table = spans(100)
    for day in range(150):
        now = START + day * DAY
        table += spans(2, now, len(table))
        read(table, now, 90)
        assert all(now - each.since <= 90 * DAY for each in table)


def test_asking_each_hour_reads_one_share_a_day() -> None:
    table = spans(900)
    assert [read(table, START + timedelta(hours=hour), 90) for hour in range(20)] == [11] + 17 * [0] + [11, 0]


def test_what_the_hours_cut_off_is_read_the_next_time() -> None:
    table = spans(900)
    (first, *_) = due(table, START, 90)
    table[table.index(first)] = replace(first, since=START, read=True)
    assert len(list(due(table, START + timedelta(hours=1), 90))) == 10


@pytest.mark.parametrize(
    ("done", "age", "percent", "complete", "late"),
    [
        pytest.param(0, 0, 0.0, False, (), id="nothing was read"),
        pytest.param(2, 0, 66.6, False, (), id="rounded down"),
        pytest.param(3, 90, 100.0, True, (), id="all, on the last day"),
        pytest.param(3, 91, 0.0, False, ("t",), id="all, too long ago"),
        pytest.param(2, 91, 0.0, False, ("t",), id="one never, others too long ago"),
    ],
)
def test_no_more_is_claimed_than_was_read(
    done: int, age: int, percent: float, complete: bool, late: tuple[str, ...]
) -> None:
    table = [replace(each, read=number < done) for number, each in enumerate(spans(3))]
    far = reach(table, START + age * DAY, 90)
    assert (far.percent, far.complete, far.late) == (percent, complete, late)


def test_an_empty_table_has_nothing_to_read() -> None:
    far = reach([], START, 90)
    assert (far.percent, far.complete, far.oldest) == (100.0, True, None)
    assert list(due([], START, 90)) == []
    assert LEAST_BYTES_A_DAY == 4 * SPAN_BYTES


def test_found_and_new_places_are_searched_before_what_is_due_and_nothing_twice() -> None:
    old = [replace(each, read=True) for each in spans(900)]
    old[700] = replace(old[700], found={"body": 1})
    new = [replace(each, relation="new", since=START + DAY) for each in spans(200)]
    grown = replace(spans(1)[0], relation="grown", since=START + DAY / 2, found={"body": 1})
    wanted = list(to_search([*old, *new, grown], START + DAY, 90))
    first = [("t", 700 * 2048), ("grown", 0), ("new", 0), ("t", 0)]
    assert [(each.relation, each.first_page) for each in wanted[:4]] == first
    assert len(wanted) == len(set(wanted)) == 3 + 13


def test_what_was_found_today_is_not_searched_again_today() -> None:
    table = [replace(each, read=True, found={"body": 1}) for each in spans(3)]
    assert list(to_search(table, START + timedelta(hours=1), 90)) == []
    assert len(list(to_search(table, START + DAY, 90))) == 3
