"""The fast path: whole page ranges, reading ahead and writing behind while this process encrypts.

Pages are read some at a time, and their rows written in batches of a size of its own: reading many rows harms nobody,
writing many keeps others waiting. While the server writes batch k, batch k+1 is encrypted here. Each write goes out
together with its COMMIT, so no row stays locked while anything is computed or waited for; a frozen process holds
nothing.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, NewValues, rewrite
from keyrotation_pipeline.adapters.postgres.engine.batch_size import Pace
from keyrotation_pipeline.adapters.postgres.engine.exchange import Exchange, Parameter, Row
from keyrotation_pipeline.adapters.postgres.engine.progress import Walk
from keyrotation_pipeline.adapters.postgres.engine.session import Session
from keyrotation_pipeline.adapters.postgres.engine.statements import position
from keyrotation_pipeline.adapters.postgres.engine.strides import Course, Reading
from keyrotation_pipeline.model.progress import Rewritten

Confirm = Callable[[int, Rewritten], None]


class Stop(Enum):
    """Why the fast path ended."""

    DONE = "every page of the walk is done"
    TOO_LARGE = "the next pages hold more bytes than may be read at once"
    MOVED = "the relation was rewritten as a whole: pages no longer mean what they did"


@dataclass
class _Rows:
    """Some of the rows of a reading; once they are written, all is done before the page `done_before`."""

    rows: list[Row]
    done_before: int


@dataclass
class _Writing:
    new: NewValues
    quarantined: int
    done_before: int


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
        self._course = Course(walk.next, walk.end, session.strides)
        self._read: deque[_Rows] = deque()
        self._stop: Stop | None = None

    def run(self) -> Stop:
        """Rewrite until the walk is done or a batch cannot be done this way; then nothing is in flight.

        Raises:
            psycopg.Error: a statement failed; nothing of its batch was written.
        """
        read, write = self._session.statements.read_pages, self._session.statements.write
        with Exchange(self._session.connection, [read, write]) as exchange:
            reading: Reading | None = None
            encrypted: _Writing | None = None
            in_flight: _Writing | None = None
            while True:
                written = exchange.receive() if in_flight and in_flight.new.rows else []
                if reading:
                    self._take(reading, exchange.receive())
                if in_flight:
                    self._settle(in_flight, written)
                if encrypted and encrypted.new.rows:
                    exchange.send(write, encrypted.new.parameters)
                following = self._read.popleft() if self._read else None
                reading = None
                if not (self._read or self._course.over or self._stop):
                    reading = self._course.next(self._pace.pages)
                    exchange.send(read, self._span(reading))
                exchange.push()
                in_flight, encrypted = encrypted, self._encrypt(following) if following else None
                if not (in_flight or encrypted or reading):
                    return self._stop or Stop.DONE

    def _span(self, reading: Reading) -> dict[str, Parameter]:
        first, end = position(reading.first), position(reading.end)
        return {"first": first, "end": end, "stride": reading.stride, "limit": self._session.limits.batch_bytes}

    def _take(self, reading: Reading, rows: list[Row]) -> None:
        """Cut what was read into batches, unless it shows that this path ends."""
        head = Batch.of(rows[:1])
        if head.filenode != self._walk.filenode:
            self._stop = Stop.MOVED
        elif head.size_bytes > self._session.limits.batch_bytes:
            self._stop = Stop.TOO_LARGE
        if self._stop:
            return
        wanted = len(rows) if head.positions else 0
        self._pace.read(wanted)
        count = max(1, -(-wanted // self._pace.rows))
        cuts = [len(rows) * number // count for number in range(count + 1)]
        for start, following in pairwise(cuts):
            done_before = reading.then_done_before if following == len(rows) else reading.done_before
            self._read.append(_Rows(rows[start:following], done_before))

    def _encrypt(self, some: _Rows) -> _Writing:
        batch = Batch.of(some.rows)
        new = rewrite(batch, self._session.rewriter)
        quarantined = 0
        if new.failures:
            quarantined = self._session.quarantine(batch, new.failures, self._session.housekeeping)
        return _Writing(new, quarantined, some.done_before)

    def _settle(self, writing: _Writing, written: list[Row]) -> None:
        rows, values, seconds = written[0] if written else (0, 0, 0.0)
        self._pace.wrote(rows, seconds)
        self._confirm(writing.done_before, Rewritten(rows, values, writing.new.rows - rows, writing.quarantined))
