"""The order in which pages are read: each once a stride, and never called done before it is."""

from hypothesis import given, settings
from hypothesis import strategies as st

from keyrotation_pipeline.adapters.postgres.engine.strides import Strides


@settings(deadline=None)
@given(
    first=st.integers(0, 2000),
    length=st.integers(0, 1500),
    strides=st.sampled_from([1, 6]),
    sizes=st.lists(st.integers(1, 300), min_size=1),
)
def test_every_page_is_passed_once_a_stride_and_done_only_after_the_last(
    first: int, length: int, strides: int, sizes: list[int]
) -> None:
    order, passed, done = Strides(first, first + length, strides), dict[int, list[int]](), first
    for number in range(10 * (length + 1) * strides):
        if order.over:
            break
        reading = order.next(sizes[number % len(sizes)])
        assert done == reading.done_before <= reading.then_done_before
        for page in range(reading.first, reading.end):
            passed.setdefault(page, []).append(reading.stride)
        newly = range(done, reading.then_done_before)
        assert all(passed[page] == list(range(strides)) for page in newly)
        done = reading.then_done_before
    assert order.over
    assert done == first + length
    assert passed == {page: list(range(strides)) for page in range(first, first + length)}
