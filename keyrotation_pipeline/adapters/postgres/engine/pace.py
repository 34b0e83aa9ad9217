"""How much at once, and how fast."""

from time import monotonic

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits

# A burst of a capped walk, in seconds of its rate.
_BURST_SECONDS = 0.1


class Pace:
    """Sizes batches by the time that writing them takes, rests between them, and holds a walk to its rows a second.

    Args:
        limits: the bounds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.pages = 1 if limits.max_rows_per_second or limits.duty_cycle < 1 else min(8, limits.max_pages)
        self._due = self._resumed = monotonic()

    def wrote(self, rows: int, seconds: float) -> None:
        """Learn from one write statement (0 rows: the pages held nothing to do)."""
        factor = 2.0 if rows == 0 else min(2.0, self._limits.statement_seconds / max(seconds, 1e-6))
        if rows and (cap := self._limits.max_rows_per_second):
            factor = min(factor, cap * _BURST_SECONDS / rows)
        self.pages = max(1, min(self._limits.max_pages, int(self.pages * max(factor, 0.25)) or 1))

    def seconds_to_wait(self, rows: int) -> float:
        """How long to pause after `rows` more rows: for the cap, or to rest from what was done since the last pause."""
        now = monotonic()
        wait = (now - self._resumed) * (1 / self._limits.duty_cycle - 1)
        if cap := self._limits.max_rows_per_second:
            self._due = max(self._due, now - _BURST_SECONDS) + rows / cap
            wait = max(wait, self._due - now)
        return max(0.0, wait)

    def resume(self) -> None:
        """A pause is over."""
        self._resumed = monotonic()
