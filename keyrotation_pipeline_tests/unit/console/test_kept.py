"""Pages are made at most so often."""

import threading
from dataclasses import dataclass, field

from keyrotation_pipeline.console.kept import FRESH_SECONDS, SHOWN_SECONDS, Kept
from keyrotation_pipeline_tests.waiting import eventually


@dataclass
class Made:
    """Counts what it makes, each in so many seconds of a clock of its own."""

    took: float = 0.0
    at: float = 1000.0
    times: int = 0
    going_on: threading.Event = field(default_factory=threading.Event)

    def make(self) -> int:
        self.times += 1
        self.at += self.took
        return self.times


def test_a_page_is_made_once_in_a_while_whoever_asks_how_often() -> None:
    made = Made()
    kept = Kept(made.make, lambda: made.at)
    assert [kept.get() for _ in range(1000)] == [1] * 1000
    made.at += FRESH_SECONDS + 0.1
    assert kept.get() == 1  # shown at once, while it is made anew
    assert eventually(lambda: kept.get() == 2)
    made.at += SHOWN_SECONDS + 0.1
    assert kept.get() == 3  # too old to be shown


def test_what_takes_long_is_made_less_often() -> None:
    made = Made(took=4.0)
    kept = Kept(made.make, lambda: made.at)
    kept.get()
    made.at += 11.9
    assert kept.get() == 1
    assert made.times == 1


def test_one_thread_makes_it_at_a_time() -> None:
    began, may_end, running, most = threading.Event(), threading.Event(), [0], [0]

    def make() -> str:
        running[0] += 1
        most[0] = max(most[0], running[0])
        began.set()
        may_end.wait(30)
        running[0] -= 1
        return "a page"

    kept = Kept(make)
    asking = [threading.Thread(target=kept.get) for _ in range(20)]
    for each in asking:
        each.start()
    assert began.wait(30)
    may_end.set()
    for each in asking:
        each.join()
    assert most == [1]
