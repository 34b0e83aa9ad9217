"""Defines the limits of the engine: duty cycle, workers, and the pace set by an operator."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import LONGEST_JUDGED_BYTES
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.audit import read
from keyrotation_pipeline.model.progress import DEFAULT_DUTY_CYCLE, AllowedHours, PaceSet
from keyrotation_pipeline.ports.keys import KeyStore

_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the engine's speed, memory and waits. The defaults are those of routine mode.

    Args:
        workers: processes that share a shard.
        threads_per_worker: threads of a full decrypt per worker.
        max_rows_per_second: rows per second for one shard; 0: no cap.
        max_replica_lag_seconds: pause while a standby lags more than this; 0: standbys are not checked.
        delayed_standbys: names of standbys that may lag.
        hours: when rows may be rewritten; None: always.
        duty_cycle: share of the time in which one worker keeps the database busy; it rests for the remainder.
        statement_seconds: how long one write should take, which determines the rows per batch. Nobody waits longer than
            this for the rows of a batch.
        max_pages: how many pages' rows are in memory at once.
        batch_bytes: stored bytes to read at once; a larger row is read alone.
        largest_row_bytes: a row with more in its encrypted columns stops the rotation.
        lock_retry_seconds: how long to retry a table that others have locked (`VACUUM FULL`, `ALTER TABLE`).
        straggler_attempts: how often to retry a page range because of rows that others keep writing.
        vacuum_pages: smaller relations are not vacuumed; also the least number of pages between two vacuums.
        vacuum_delay_ms: `vacuum_cost_delay` of our own vacuums.
        growth: pause while an old snapshot prevents VACUUM from removing rows and the table has grown by this factor;
            0: growth is not checked.
        pages_per_worker: least pages for each worker process, and for each thread of a full decrypt.
        sharing: how many processes share the cap on rows.
        slow_commit_seconds: rest longer while a small commit takes more than this, and much longer than it took before;
            0: commits are not checked.
        rests: whether the duty cycle applies.
        native_codec: whether to use it, where it was built.
    """

    workers: int = 1
    threads_per_worker: int = 1
    max_rows_per_second: float = 0
    max_replica_lag_seconds: float = 5.0
    delayed_standbys: tuple[str, ...] = ()
    hours: AllowedHours | None = None
    duty_cycle: float = DEFAULT_DUTY_CYCLE
    statement_seconds: float = 0.0002
    max_pages: int = 512
    batch_bytes: int = 4 * 1024 * 1024
    largest_row_bytes: int = LONGEST_JUDGED_BYTES
    lock_retry_seconds: float = 60.0
    straggler_attempts: int = 20
    vacuum_pages: int = 256
    vacuum_delay_ms: float = 2.0
    growth: float = 1.25
    pages_per_worker: int = 500
    sharing: int = 1
    slow_commit_seconds: float = 0.025
    rests: bool = True
    native_codec: bool = True

    def in_an_emergency(self) -> "Limits":
        """Returns these limits with all cores, no rests and no allowed hours. Configured caps still apply.

        Each worker also keeps about one core of the server busy, so more workers than half the cores would only wait. A
        thread that decrypts waits for the server instead, so it keeps only one core busy.
        """
        return replace(
            self,
            workers=max(self.workers, (os.cpu_count() or 2) // 2),
            threads_per_worker=2,
            hours=None,
            duty_cycle=1.0,
            statement_seconds=max(self.statement_seconds, 0.001),
            vacuum_delay_ms=0.0,
            growth=0.0,
            slow_commit_seconds=0.0,
        )

    def of_one_worker(self) -> "Limits":
        """Returns the limits of one worker. The parent process vacuums for all."""
        return replace(
            self,
            workers=1,
            max_rows_per_second=self.max_rows_per_second / self.workers,
            vacuum_pages=_NEVER,
            sharing=self.workers,
        )

    def at_pace(self, pace: PaceSet) -> "Limits":
        """Returns these limits with the values that an operator has set."""
        rows, duty = pace.rows_per_second, pace.duty_cycle
        return replace(
            self,
            max_rows_per_second=self.max_rows_per_second if rows is None else rows / self.sharing,
            duty_cycle=duty if duty is not None and self.rests else self.duty_cycle,
            hours=self.hours if pace.hours is None else pace.allowed_hours(),
        )


_NEWEST = """
SELECT body FROM keyrotation.audit_events WHERE event = %s AND request = %s ORDER BY seq DESC LIMIT 1
"""


def pace_override(connection: Connection, request: str, limits: Limits) -> Limits:
    """Returns the limits at the pace set last; unchanged if none was set or the event is malformed.

    It only affects speed, so the event is used without verifying the chain; `audit verify` does that.
    """
    row = connection.execute(_NEWEST, (str(PaceSet.kind), request)).fetchone()
    if row is None:
        return limits
    try:
        pace = read(PaceSet, json.loads(str(row[0]))["facts"]).checked()
    except (KeyRotationError, ValueError, KeyError, TypeError):
        return limits
    return limits.at_pace(pace)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How to start worker processes.

    Args:
        keys: the key store, from which each worker reads the key ring itself.
        environment: environment of the workers, without keys. None: ours.
    """

    keys: KeyStore
    environment: Mapping[str, str] | None = field(default=None, repr=False)
