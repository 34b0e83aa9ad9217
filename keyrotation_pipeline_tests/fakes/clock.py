"""Time that a test moves, and the looks of sensors."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.model.status import Heartbeat
from keyrotation_pipeline_tests.fakes.journal import START


@dataclass
class FakeClock:
    """`Clock` that stands still until it is moved."""

    at: datetime = START

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class FakeHeartbeats:
    """`Ticks` in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Heartbeat] = {}

    def record(
        self,
        name: str,
        at: datetime,
        stopped: Iterable[str] = (),
        expected: Iterable[str] = (),
        gone: Iterable[str] = (),
    ) -> None:
        for each in gone:
            self.kept.pop(each, None)
        before = self.kept[name].stopped if name in self.kept else {}
        for each in expected:
            if each in before or each not in self.kept:
                self.kept[each] = Heartbeat(each, at, {})
        self.kept[name] = Heartbeat(name, at, {each: before.get(each, at) for each in stopped})

    def last(self) -> tuple[Heartbeat, ...]:
        return tuple(self.kept[name] for name in sorted(self.kept))
