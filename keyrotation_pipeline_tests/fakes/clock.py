"""Time that a test moves, and the looks of sensors."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.model.ticks import Tick
from keyrotation_pipeline_tests.fakes.journal import START


@dataclass
class FakeClock:
    """`Clock` that stands still until it is told to move."""

    at: datetime = START

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class FakeTicks:
    """`Ticks` in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Tick] = {}

    def record(self, sensor: str, at: datetime, stopped: Iterable[str]) -> None:
        before = self.kept[sensor].stopped if sensor in self.kept else {}
        self.kept[sensor] = Tick(sensor, at, {name: before.get(name, at) for name in stopped})

    def last(self) -> tuple[Tick, ...]:
        return tuple(self.kept[sensor] for sensor in sorted(self.kept))
