"""For how long an answer of gpg is believed, and of what."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from threading import Event
from weakref import ref

import pytest

from keyrotation_pipeline.adapters.openpgp.keyring import LONGEST, OutputCache
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline_tests.fakes import START, FakeClock

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("expiries", "passed", "answer"),
    [
        pytest.param([], timedelta(), 1, id="at once"),
        pytest.param([], LONGEST - SECOND, 1, id="within the minute"),
        pytest.param([], LONGEST, 2, id="after a minute"),
        pytest.param([START + 9 * SECOND], 8 * SECOND, 1, id="before it expires"),
        pytest.param([START + 9 * SECOND], 9 * SECOND, 2, id="when it expires"),
        pytest.param([START + 30 * SECOND, START + 9 * SECOND], 9 * SECOND, 2, id="the earlier of two dates"),
        pytest.param([START - SECOND], LONGEST - SECOND, 1, id="what expired before changes nothing any more"),
        pytest.param([START], timedelta(), 2, id="what expires in this second"),
        pytest.param([START + 2 * LONGEST], LONGEST, 2, id="a later date does not make it last longer"),
        pytest.param([], -SECOND, 2, id="the clock was set back"),
    ],
)
def test_an_answer_is_remembered_until_it_could_be_another(
    expiries: list[datetime], passed: timedelta, answer: int
) -> None:
    clock, answers = FakeClock(), iter([1, 2])
    memory: OutputCache[int] = OutputCache(clock)
    assert memory.answer(b"question", lambda: (next(answers), expiries)) == 1
    clock.at += passed
    assert memory.answer(b"question", lambda: (next(answers), expiries)) == answer


def test_an_answer_of_the_second_in_which_something_expires_is_not_kept() -> None:
    clock, answers = FakeClock(START + SECOND / 2), iter([1, 2])
    memory: OutputCache[int] = OutputCache(clock)
    assert [memory.answer(b"question", lambda: (next(answers), [START])) for _ in range(2)] == [1, 2]


def test_another_question_is_asked() -> None:
    clock, answers = FakeClock(), iter(range(9))
    memory: OutputCache[int] = OutputCache(clock)
    assert [memory.answer(each, lambda: (next(answers), ())) for each in (b"a", b"b", b"a")] == [0, 1, 0]


def test_an_answer_that_is_over_is_not_kept_in_memory() -> None:
    clock = FakeClock()
    memory: OutputCache[Event] = OutputCache(clock)
    kept = ref(memory.answer(b"a", lambda: (Event(), ())))
    assert kept() is not None
    clock.at += LONGEST
    memory.answer(b"b", lambda: (Event(), ()))
    assert kept() is None


def test_a_refusal_is_not_remembered() -> None:
    def ask() -> tuple[str, tuple[()]]:
        if (said := next(words)) == "no":
            raise ApprovalError(said)
        return said, ()

    words: Iterator[str] = iter(["no", "yes"])
    memory: OutputCache[str] = OutputCache(FakeClock())
    with pytest.raises(ApprovalError):
        memory.answer(b"question", ask)
    assert memory.answer(b"question", ask) == "yes"
