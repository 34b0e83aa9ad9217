"""The fast path: whole page ranges, reading ahead and writing behind while this process encrypts.

While the server writes batch k and reads batch k+2, batch k+1 is encrypted here. Each write goes out together with its
COMMIT, so no row stays locked while anything is computed or waited for; a frozen process holds nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from psycopg import Cursor

from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, NewValues, rewrite
from keyrotation_pipeline.adapters.postgres.engine.pace import Pace
from keyrotation_pipeline.adapters.postgres.engine.progress import Walk
from keyrotation_pipeline.adapters.postgres.engine.session import Session
from keyrotation_pipeline.adapters.postgres.engine.statements import position
from keyrotation_pipeline.ports import Rewritten

Confirm = Callable[[int, Rewritten], None]


class Stop(Enum):
    """Why the fast path ended."""

    DONE = "every page of the walk is done"
    TOO_LARGE = "the next pages hold more bytes than may be read at once"
    MOVED = "the relation was rewritten as a whole: pages no longer mean what they did"


@dataclass
class _Reading:
    end: int
    cursor: "Cursor[tuple[Any, ...]]"


@dataclass
class _Writing:
    end: int
    new: NewValues
    quarantined: int
    cursor: "Cursor[tuple[Any, ...]] | None" = None


class PageRewrite:
    """One run of the fast path over what is left of a walk.

    Args:
        confirm: told of each batch once it is committed: the page before which all is done, and what was done.
    """

    def __init__(self, session: Session, walk: Walk, pace: Pace, confirm: Confirm) -> None:
        self._session = session
        self._walk = walk
        self._pace = pace
        self._confirm = confirm
        self._stop: Stop | None = None

    def run(self) -> Stop:
        """Rewrite until the walk is done or a batch cannot be done this way; then nothing is in flight.

        Raises:
            psycopg.Error: a statement failed; nothing of its batch was written.
        """
        with self._session.connection.pipeline() as pipeline:
            reading = self._read_from(self._walk.next)
            encrypted: _Writing | None = None
            in_flight: _Writing | None = None
            while reading or encrypted or in_flight:
                pipeline.sync()
                if in_flight:
                    self._settle(in_flight)
                in_flight = self._write(encrypted) if encrypted else None
                following = self._read_from(reading.end) if reading else None
                self._session.push()
                encrypted = self._encrypt(reading) if reading else None
                reading = None if self._stop else following
        return self._stop or Stop.DONE

    def _read_from(self, first: int) -> _Reading | None:
        if first >= self._walk.end or self._stop:
            return None
        end = min(first + self._pace.pages, self._walk.end)
        span = {"first": position(first), "end": position(end), "limit": self._session.limits.batch_bytes}
        return _Reading(end, self._session.queue_transaction(self._session.statements.read_pages, span))

    def _encrypt(self, reading: _Reading) -> _Writing | None:
        batch = Batch.of(reading.cursor.fetchall())
        if batch.filenode != self._walk.filenode:
            self._stop = Stop.MOVED
        elif batch.size_bytes > self._session.limits.batch_bytes:
            self._stop = Stop.TOO_LARGE
        if self._stop:
            return None
        new = rewrite(batch, self._session.rewriter)
        quarantined = 0
        if new.failures:
            quarantined = self._session.quarantine(batch, new.failures, self._session.housekeeping)
        return _Writing(reading.end, new, quarantined)

    def _write(self, writing: _Writing) -> _Writing:
        if writing.new.rows:
            writing.cursor = self._session.queue_transaction(self._session.statements.write, writing.new.parameters)
        return writing

    def _settle(self, writing: _Writing) -> None:
        rows, values, seconds = writing.cursor.fetchall()[0] if writing.cursor else (0, 0, 0.0)
        self._pace.wrote(rows, seconds)
        self._confirm(writing.end, Rewritten(rows, values, writing.new.rows - rows, writing.quarantined))
