"""Decides how many pages to read and rows to write at once, and how long to rest between writes."""

from collections import deque
from time import monotonic

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits

# Under a cap on rows, so many seconds' worth may be written without a pause.
_BURST_SECONDS = 0.1
# How long to work before a rest. After each sleep a core and its caches are cold: resting after each statement of
# 0.2 ms cost 1.6 times as much CPU per row. Others get the core between two statements all the same.
_WORK_SECONDS = 0.002
# How much of what came before a rest counts as work. What took longer waited for something else than a processor, or
# this process was suspended; slow commits have a slowdown of their own.
_MOST_WORK_SECONDS = 0.1
# Rows in the first batch, before any write has been timed.
_ROWS, _GENTLE_ROWS = 128, 16
# Pages to read at once. Few fit into the buffers of a socket, so that the server finishes and holds no snapshot while
# we compute, and no statement waits long for a core. Starting a read costs as much as reading four rows, so more are
# read when only speed counts.
READING_PAGES, GENTLE_READING_PAGES = 64, 16
# Batches per pass in HOT order. After a short pass the next one would begin while statements of others,
# older than it, still run, and nothing could be pruned: with four batches tables grew to 1.23 with two workers.
_BATCHES_PER_PASS = 16
# Timing costs a tenth of a small write: each of the first writes is timed, then one in so many.
_FIRST_TIMED, _WRITES_PER_TIMED = 32, 8
# The quickest of so many writes counts. On a busy machine most of the others have waited for a
# processor, and to write fewer rows for that costs more CPU and harms others no less.
_RECENT = 8
# Pages in the first stretch, before the number of rows per page is known.
_STRETCH_PAGES, _GENTLE_STRETCH_PAGES = 256, 16


class BatchSize:
    """Sizes batches by how long writing them takes, and computes rests and waits for the cap on rows.

    Args:
        limits: the bounds, which may be replaced at any time.

    Attributes:
        slowdown: the factor by which work and its rest take longer than by the duty cycle alone.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.slowdown = 1.0
        gently = _gently(limits)
        self.pages = 1 if gently else min(8, limits.max_pages)
        self._stretch_pages = min(_GENTLE_STRETCH_PAGES if gently else _STRETCH_PAGES, limits.max_pages)
        self._learned = False
        self._writes = 0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._fitting: float = _GENTLE_ROWS if gently else _ROWS
        self.rows = self._within_cap(round(self._fitting))
        self._due = self._resumed = monotonic()
        self._worked = 0.0

    @property
    def reading_pages(self) -> int:
        """How many pages to read at once."""
        return GENTLE_READING_PAGES if _gently(self.limits) else READING_PAGES

    @property
    def writes_ahead(self) -> int:
        """How many writes may be in flight at once; one if we rest between writes."""
        return 1 if _gently(self.limits) else 2

    def pages_for(self, passes: int) -> int:
        """Returns how many pages to read before their rows are written in so many passes."""
        if passes == 1:
            return min(self.pages, self.reading_pages)
        return self.pages if self._learned else max(self.pages, self._stretch_pages)

    def read(self, rows: int, pages: int, passes: int = 1) -> None:
        """Learns from pages that were read how many of them hold the rows of some batches.

        Args:
            rows: rows that were read and must be written.
        """
        if passes > 1 and not self._learned:
            self.pages, self._learned = self.pages_for(passes), True
        fitting = passes * _BATCHES_PER_PASS * self.rows * pages / rows if rows else self.limits.max_pages
        self.pages = max(1, min(self.limits.max_pages, int(fitting), 2 * self.pages))

    def should_time(self) -> bool:
        """Returns whether to time the next write."""
        self._writes += 1
        return self._writes <= _FIRST_TIMED or self._writes % _WRITES_PER_TIMED == 0

    def wrote(self, rows: int, seconds: float) -> None:
        """Learns from one write how many rows to write at once; ignores a write of no rows."""
        if rows:
            self._recent.append(max(seconds, 1e-6) / rows)
            fitting = self.limits.statement_seconds / min(self._recent)
            # Damped: one write delayed by others says little about the next.
            self._fitting = max(1.0, self._fitting * min(2.0, max(0.5, (fitting / self._fitting) ** 0.3)))
            self.rows = self._within_cap(round(self._fitting))

    def _within_cap(self, rows: int) -> int:
        cap = self.limits.max_rows_per_second
        return max(1, min(rows, int(cap * _BURST_SECONDS)) if cap else rows)

    def seconds_to_wait(self, rows: int) -> float:
        """Returns how long to pause after `rows` more rows: for the cap on rows, or to rest since the last rest."""
        now = monotonic()
        self._worked += now - self._resumed
        wait = 0.0
        if self._worked >= _WORK_SECONDS:
            wait = min(self._worked, _MOST_WORK_SECONDS) * (self.slowdown / self.limits.duty_cycle - 1)
            self._worked = 0.0
        if cap := self.limits.max_rows_per_second:
            self._due = max(self._due, now - _BURST_SECONDS) + rows / cap
            wait = max(wait, self._due - now)
        return max(0.0, wait)

    def renew(self, limits: Limits) -> None:
        """Continues within other limits; drops the debt under the former cap."""
        if limits != self.limits:
            self.limits, self._due = limits, monotonic()
            self.rows = self._within_cap(round(self._fitting))

    def resume(self) -> None:
        """Records that a pause is over."""
        self._resumed = monotonic()


def _gently(limits: Limits) -> bool:
    return bool(limits.max_rows_per_second) or limits.duty_cycle < 1
