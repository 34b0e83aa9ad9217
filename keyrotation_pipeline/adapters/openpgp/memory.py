"""What gpg has answered in this process, so that it need not work out the same again for every task.

An answer is found again only by everything that gpg was given for it, byte for byte: never by a path, a name or a
fingerprint. So a certificate file that was changed, or a text that was changed after it was signed, is a new question.
Refusals are not remembered, and nothing is written to a disk.

Only time can make an answer wrong. It is asked for again after the first date on which something in it expires, in any
case after a minute, and when the clock was set back.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from keyrotation_pipeline.ports.clock import Clock

# The dates are what gpg lists. Should it judge by one that it does not list, the answer is wrong for so long at most.
LONGEST = timedelta(minutes=1)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Answer]):
    answer: Answer
    since: datetime
    until: datetime

    def holds(self, now: datetime) -> bool:
        return self.since <= now < self.until


class Memory(Generic[Answer]):
    """Answers of gpg, each for as long as it cannot have changed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[Hashable, _Kept[Answer]] = {}

    def answer(self, question: Hashable, ask: Callable[[], tuple[Answer, Iterable[datetime]]]) -> Answer:
        """The answer to a question: a remembered one, or a new one.

        Args:
            question: everything that the answer follows from, the time aside.
            ask: gives the answer and the dates on which something in it expires; what it raises is passed on.
        """
        now = self._clock.now()
        self._kept = {each: kept for each, kept in self._kept.items() if kept.holds(now)}
        if question in self._kept:
            return self._kept[question].answer
        answer, dates = ask()
        # gpg counts whole seconds, and what expires in this one is still valid: such an answer is not kept.
        this_second = now.replace(microsecond=0)
        until = min((date for date in dates if date >= this_second), default=now + LONGEST)
        self._kept[question] = _Kept(answer, now, min(until, now + LONGEST))
        return answer
