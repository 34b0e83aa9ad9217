"""How hard the engine may work."""

import os
from dataclasses import dataclass, replace

from keyrotation_pipeline.model.hours import AllowedHours

_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the engine's speed, memory and patience; as they are, those of routine mode.

    Args:
        workers: processes that share a shard.
        max_rows_per_second: rows that one shard may rewrite in a second; 0 is no cap.
        max_replica_lag_seconds: pause while a standby replays later than this; 0 does not look.
        hours: when rows may be rewritten; None: always.
        duty_cycle: share of the time in which one worker keeps the database busy; it rests in between.
        statement_seconds: what one write statement should take; rows a batch follow from it. On its rows others wait
            no longer than this.
        max_pages: pages read at once, however few of their rows are written at once.
        batch_bytes: stored bytes read at once; a single larger row is still read, alone.
        lock_patience_seconds: how long a table locked by others (`VACUUM FULL`, `ALTER TABLE`) is tried again.
        straggler_attempts: how often one page range is tried again for rows that others keep writing.
        vacuum_pages: relations (or slices between two vacuums) smaller than this are not vacuumed.
        vacuum_delay_ms: `vacuum_cost_delay` of our own vacuums.
        growth: pause while an old snapshot keeps replaced rows in a table that has grown to so many times its size;
            0 does not look.
        pages_per_worker: a shard of fewer pages is not worth another process.
    """

    workers: int = 1
    max_rows_per_second: float = 0
    max_replica_lag_seconds: float = 5.0
    hours: AllowedHours | None = None
    duty_cycle: float = 0.35
    statement_seconds: float = 0.0002
    max_pages: int = 128
    batch_bytes: int = 4 * 1024 * 1024
    lock_patience_seconds: float = 60.0
    straggler_attempts: int = 20
    vacuum_pages: int = 256
    vacuum_delay_ms: float = 2.0
    growth: float = 1.15
    pages_per_worker: int = 500

    def in_an_emergency(self) -> "Limits":
        """Every core, without rests or hours; caps that were set by name stay.

        A worker keeps about as much of another core busy in the server: more workers than half the cores only wait.
        """
        return replace(
            self,
            workers=max(self.workers, (os.cpu_count() or 2) // 2),
            hours=None,
            duty_cycle=1.0,
            statement_seconds=max(self.statement_seconds, 0.001),
            vacuum_delay_ms=0.0,
            growth=0.0,
        )

    def of_one_worker(self) -> "Limits":
        """The share of one of the workers; vacuums are their parent's."""
        return replace(
            self, workers=1, max_rows_per_second=self.max_rows_per_second / self.workers, vacuum_pages=_NEVER
        )
