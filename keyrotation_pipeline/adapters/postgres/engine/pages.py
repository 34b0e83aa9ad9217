"""The fast path: whole page ranges, reading ahead and writing behind while this process encrypts.

While the server writes batch k and reads batch k+2, batch k+1 is encrypted here. Each write goes out together with its
COMMIT, so no row stays locked while anything is computed or waited for; a frozen process holds nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, NewValues, rewrite
from keyrotation_pipeline.adapters.postgres.engine.exchange import Exchange, Parameter, Row
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
class _Writing:
    end: int
    new: NewValues
    quarantined: int


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
        read, write = self._session.statements.read_pages, self._session.statements.write
        with Exchange(self._session.connection, [read, write]) as self._exchange:
            reading = self._read_from(self._walk.next)
            encrypted: _Writing | None = None
            in_flight: _Writing | None = None
            while reading or encrypted or in_flight:
                written = self._exchange.receive() if in_flight and in_flight.new.rows else []
                rows = self._exchange.receive() if reading else []
                if in_flight:
                    self._settle(in_flight, written)
                if encrypted and encrypted.new.rows:
                    self._exchange.send(write, encrypted.new.parameters)
                following = self._read_from(reading) if reading else None
                self._exchange.push()
                in_flight = encrypted
                encrypted = self._encrypt(reading, rows) if reading and not self._stop else None
                reading = following
        return self._stop or Stop.DONE

    def _read_from(self, first: int) -> int | None:
        """Send for the next pages; the page before which they end, or None at the end of the walk."""
        if first >= self._walk.end or self._stop:
            return None
        end = min(first + self._pace.pages, self._walk.end)
        span: dict[str, Parameter] = {
            "first": position(first),
            "end": position(end),
            "limit": self._session.limits.batch_bytes,
        }
        self._exchange.send(self._session.statements.read_pages, span)
        return end

    def _encrypt(self, end: int, rows: list[Row]) -> _Writing | None:
        batch = Batch.of(rows)
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
        return _Writing(end, new, quarantined)

    def _settle(self, writing: _Writing, written: list[Row]) -> None:
        rows, values, seconds = written[0] if written else (0, 0, 0.0)
        self._pace.wrote(rows, seconds)
        self._confirm(writing.end, Rewritten(rows, values, writing.new.rows - rows, writing.quarantined))
