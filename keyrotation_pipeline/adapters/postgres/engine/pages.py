"""The fast path over whole page ranges: while we encrypt, the server reads the next rows and writes the last ones.

The rows of a stretch of pages are written in batches. While the server writes batch k, batch k+1 is encrypted here and,
unless we rest, sent, so that the server continues at once. Each write is sent together with its COMMIT, so no row stays
locked while we compute or wait, nor if this process is frozen. A few pages of the next stretch are read before each of
the last batches: one long read would keep others from a core, and the server from pruning what another worker has
replaced meanwhile. No read is open while we pause: it would hold its snapshot and its lock on the table all the while.
If we are frozen during a read, the server ends the session after half a minute, but only over TCP. If we are frozen
while sending a write, we may hold a lock on the table, but neither a row lock nor a snapshot: changes of the table's
definition wait for it, but no reader or writer does.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

import psycopg

from keyrotation_pipeline.adapters.postgres.engine.batch import (
    PASSES,
    Batch,
    NewValues,
    TraversalContext,
    page_of,
    passes,
)
from keyrotation_pipeline.adapters.postgres.engine.batch_size import BatchSize
from keyrotation_pipeline.adapters.postgres.engine.ranges import PageRange
from keyrotation_pipeline.adapters.postgres.engine.server_errors import WORTH_ANOTHER_TRY
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import Parameter, Row, StatementPipeline
from keyrotation_pipeline.adapters.postgres.engine.statements import PLANNED_AS_USUAL, PLANNED_AT_ONCE, position
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.progress import Rewritten

Confirm = Callable[[int, Rewritten], None]


class Stop(Enum):
    """Why the fast path ended."""

    DONE = "every page of the range is done"
    TOO_LARGE = "the next pages hold more bytes than may be read at once"
    CONTENDED = "too many rows are locked by others to be written without locking them first"
    MOVED = "the relation was rewritten as a whole: its pages hold other rows now"


@dataclass(frozen=True, slots=True)
class _Reading:
    """The pages from `first` to before `end`, whose rows are being read."""

    first: int
    end: int


@dataclass(slots=True)
class _Stretch:
    """The pages from `first` to before `end`, whose rows are divided into batches together."""

    first: int
    end: int
    rows: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class _Rows:
    """Some rows of a stretch. After they are written, every page before `done_before` is done.

    Args:
        pruned: the pages to prune first; 0 to before 0: none.
    """

    rows: list[Row]
    done_before: int
    pruned: _Reading


@dataclass(slots=True)
class _Writing:
    new: NewValues
    quarantined: int
    done_before: int
    timed: bool


_NO_PAGES = _Reading(0, 0)

# Each cost a moment's wait, during which the rows of its batch were locked.
_MOST_REPEATED = 10


class PageTraversal:
    """One run of the fast path over the rest of a page range.

    Args:
        confirm: called for each committed batch with the page before which all is done, and what was done.
        at_once: write rows without locking them first. A batch with a row that stays locked is repeated by the
            statement that skips such rows.
    """

    def __init__(
        self, context: TraversalContext, pages: PageRange, size: BatchSize, confirm: Confirm, *, at_once: bool
    ) -> None:
        self._context = context
        self._pages = pages
        self._size = size
        self._confirm = confirm
        self._passes = PASSES if context.hot_order else 1
        self._next = pages.next
        self._stretch: _Stretch | None = None
        self._read: deque[_Rows] = deque()
        self._sent: deque[_Reading | _Writing] = deque()
        self._written: deque[tuple[_Writing, list[Row]]] = deque()
        self._stop: Stop | None = None
        self._at_once = at_once
        self._repeated = 0

    def run(self) -> Stop:
        """Rewrites until the range is done or a batch cannot be rewritten this way; then no answer is pending any more.

        Raises:
            psycopg.Error: a statement failed, and nothing of its batch was written.
        """
        sql, connection = self._context.statements, self._context.connection
        if self._at_once:
            connection.execute(PLANNED_AT_ONCE)
        try:
            with StatementPipeline(connection, [sql.read_pages, *self._writes.values()]) as exchange:
                try:
                    return self._run(exchange)
                except (psycopg.Error, KeyRotationError):
                    self._count_the_rest(exchange)
                    raise
        finally:
            if self._at_once:
                with suppress(psycopg.Error):  # the connection may be lost
                    connection.execute(PLANNED_AS_USUAL)

    @property
    def _writes(self) -> dict[bool, bytes]:
        """The statement that is timed, and the other one."""
        sql = self._context.statements
        if self._at_once:
            return {True: sql.write_at_once, False: sql.write_whole_at_once}
        return {True: sql.write, False: sql.write_whole}

    def _run(self, exchange: StatementPipeline) -> Stop:
        encrypted: _Writing | None = None
        while True:
            self._send(exchange, encrypted)
            if self._size.writes_ahead > 1:  # the rows of a read do not fit into the buffers of a socket
                self._receive(exchange, writes=self._size.writes_ahead)
            following = self._read.popleft() if self._read else None
            if not (self._sent or following or self._should_read()):
                return self._stop or (Stop.DONE if self._next >= self._pages.end else Stop.CONTENDED)
            encrypted = self._encrypt(following) if following else None
            self._receive(exchange, writes=self._size.writes_ahead - 1 if encrypted else 0)

    def _send(self, exchange: StatementPipeline, encrypted: _Writing | None) -> None:
        sql = self._context.statements
        if self._should_read():
            reading = self._reading()
            exchange.send(sql.read_pages, self._span(reading))
            self._sent.append(reading)
        if encrypted:
            if encrypted.new.rows:
                exchange.send(self._writes[encrypted.timed], encrypted.new.parameters)
            self._sent.append(encrypted)
        exchange.push()

    def _receive(self, exchange: StatementPipeline, writes: int) -> None:
        """Receives answers until no read and at most so many writes are in flight; settles those that ended."""
        while len(self._sent) > writes or any(isinstance(each, _Reading) for each in self._sent):
            self._receive_one(exchange)
        while self._written:
            self._settle(*self._written.popleft())

    def _receive_one(self, exchange: StatementPipeline) -> None:
        match self._sent.popleft():
            case _Reading() as reading:
                self._take(reading, exchange.receive())
            case writing:
                self._written.append((writing, self._answer(exchange, writing) if writing.new.rows else []))

    def _answer(self, exchange: StatementPipeline, writing: _Writing) -> list[Row]:
        """Returns the answer to a write; repeats one that has written nothing since a row of it stayed locked."""
        try:
            return exchange.receive()
        except WORTH_ANOTHER_TRY:
            if not self._at_once:
                raise
        self._repeated += 1
        sql, housekeeping = self._context.statements, self._context.housekeeping
        cursor = housekeeping.cursor(binary=True)
        cursor.execute(sql.write if writing.timed else sql.write_whole, writing.new.parameters, prepare=True)
        return cursor.fetchall() if writing.timed else [(cursor.rowcount,)]

    def _count_the_rest(self, exchange: StatementPipeline) -> None:
        """Counts the rows of batches that were committed, although this path ends before it has settled them.

        Their pages are not done: the remaining rows in them are read again.
        """
        while self._sent:
            with suppress(psycopg.Error):
                self._receive_one(exchange)
        for writing, written in self._written:
            rows, values, _ = self._outcome(writing, written)
            self._pages.done += Rewritten(rows, values)

    def _should_read(self) -> bool:
        """Returns whether to read ahead during the next batch, so that the next stretch is ready in time."""
        if not self._stretch and self._repeated > _MOST_REPEATED:
            return False
        left = self._stretch.end - self._next if self._stretch else self._size.pages_for(self._passes)
        return self._next < self._pages.end and not self._stop and len(self._read) * self._size.reading_pages < left

    def _reading(self) -> _Reading:
        first = self._next
        if self._stretch is None:
            self._stretch = _Stretch(first, min(first + self._size.pages_for(self._passes), self._pages.end))
        self._next = min(first + self._size.reading_pages, self._stretch.end)
        return _Reading(first, self._next)

    def _span(self, reading: _Reading) -> dict[str, Parameter]:
        first, end = position(reading.first), position(reading.end)
        return {"first": first, "end": end, "limit": self._context.limits.batch_bytes}

    def _take(self, reading: _Reading, rows: list[Row]) -> None:
        """Takes a finished read, unless it shows that this path must end, and cuts each complete stretch."""
        head, stretch = Batch.of(rows[:1]), self._stretch
        assert stretch is not None  # noqa: S101  every reading is of one
        if head.filenode != self._pages.filenode:
            self._stop, self._stretch = Stop.MOVED, None
            return
        if head.size_bytes > self._context.limits.batch_bytes:
            self._stop, stretch.end = Stop.TOO_LARGE, reading.first
        elif head.rows:
            stretch.rows += rows
        if self._stop or reading.end == stretch.end:
            self._cut(stretch)
            self._stretch = None

    def _cut(self, stretch: _Stretch) -> None:
        rows = stretch.rows
        if not self._stop:
            self._size.read(len(rows), stretch.end - stretch.first, self._passes)
        for number, part in enumerate(passes(rows) if rows and self._context.hot_order else [rows]):
            count = max(1, -(-len(part) // self._size.rows))
            for start, following in pairwise([len(part) * cut // count for cut in range(count + 1)]):
                some = part[start:following]
                pruned = _Reading(page_of(some[0]), page_of(some[-1]) + 1) if number else _NO_PAGES
                self._read.append(_Rows(some, stretch.first, pruned))
        self._read[-1].done_before = stretch.end

    def _encrypt(self, some: _Rows) -> _Writing:
        batch = self._context.batch(some.rows)
        new = self._context.codec.encrypt(batch)
        new.parameters.update(prune_first=position(some.pruned.first), prune_end=position(some.pruned.end))
        quarantined = 0
        if new.failures:
            quarantined = self._context.quarantine(batch, new.failures, self._context.housekeeping)
        return _Writing(new, quarantined, some.done_before, not new.whole or self._size.should_time())

    def _outcome(self, writing: _Writing, written: list[Row]) -> tuple[int, int, float | None]:
        """Returns how many rows and values were written and, if it was timed, in how many seconds."""
        if not written:
            return 0, 0, None
        if writing.timed:
            rows, values, seconds = written[0]
            return rows, values, seconds
        (rows,) = written[0]
        return rows, rows * len(self._context.relation.columns), None

    def _settle(self, writing: _Writing, written: list[Row]) -> None:
        rows, values, seconds = self._outcome(writing, written)
        if seconds is not None:
            self._size.wrote(rows, seconds)
        self._confirm(writing.done_before, Rewritten(rows, values, writing.new.rows - rows, writing.quarantined))
