"""All rows of a walk as one number, above the shards': how much of them, how fast, and how long still."""

import time
from collections.abc import Callable, Collection, Mapping

from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline.model.requests import Step

MINUTE_SECONDS, HOUR_SECONDS = 60, 3600
SHORTEST_SECONDS = 1.0  # a rate of less work says nothing of what is left


class Overall:
    """Adds up what the shards report; a table weighs by its rows as they were last counted.

    Args:
        rows: by table.
        shards: of each table.
        done: subjects that are finished already, as ``clients shard 00``.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        shards: int,
        done: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._weights = {
            f"{table} shard {index:02d}": number / shards for table, number in rows.items() for index in range(shards)
        }
        self._shares = {subject: float(subject in done) for subject in self._weights}
        self._clock = clock
        self._began: tuple[float, float] | None = None

    def see(self, progress: Progress) -> None:
        """Take one report; what is no shard of the rows is passed over."""
        if progress.step is Step.ROWS and progress.subject in self._shares and progress.total:
            if self._began is None:
                self._began = (self._clock(), self.rows)
            self._shares[progress.subject] = min(progress.done / progress.total, 1.0)

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return round(sum(self._weights.values()))

    @property
    def rows(self) -> float:
        """Those that the walk has passed."""
        return sum(self._weights[subject] * share for subject, share in self._shares.items())

    @property
    def rows_per_second(self) -> float | None:
        """Since the first report; None before a second of work was seen."""
        if self._began is None:
            return None
        at, rows = self._began
        seconds, passed = self._clock() - at, self.rows - rows
        return passed / seconds if seconds >= SHORTEST_SECONDS and passed > 0 else None

    @property
    def eta_seconds(self) -> float | None:
        """At that pace."""
        pace = self.rows_per_second
        return None if pace is None else max(self.total - self.rows, 0.0) / pace

    def __str__(self) -> str:
        """``27,120 of 60,000 rows (45 %), 1,203 a second, ETA 27 s``."""
        percent = f" ({100 * self.rows / self.total:.0f} %)" if self.total else ""
        pace, eta = self.rows_per_second, self.eta_seconds
        rest = "" if pace is None or eta is None else f", {pace:,.0f} a second, ETA {duration(eta)}"
        return f"{self.rows:,.0f} of {self.total:,} rows{percent}{rest}"


def duration(seconds: float) -> str:
    """``27 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < MINUTE_SECONDS:
        return f"{seconds:.0f} s"
    if seconds < HOUR_SECONDS:
        return f"{seconds / MINUTE_SECONDS:.0f} min"
    return f"{int(seconds) // HOUR_SECONDS} h {int(seconds) % HOUR_SECONDS // MINUTE_SECONDS:02d} min"
