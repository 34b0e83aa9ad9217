"""Decrypts every value of a table, or of some pages of it, and stores none."""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, Codec, TraversalContext, open_connection
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, opened_ledger
from keyrotation_pipeline.adapters.postgres.engine.rows import by_size, listed
from keyrotation_pipeline.adapters.postgres.engine.server_errors import AGAIN, without_content
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import TidArray
from keyrotation_pipeline.adapters.postgres.engine.statements import Statements, position, statements
from keyrotation_pipeline.adapters.postgres.engine.supervisor import CLOCK, TICK_SECONDS, limits_for, require_running
from keyrotation_pipeline.adapters.postgres.inventory import page_readings, quarantine, snapshots
from keyrotation_pipeline.adapters.postgres.inventory.page_readings import ALL_PAGES
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heaps, pages_of
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.audit.event_signatures import VouchedEvents
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.batch import Held
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.plaintext_columns import is_plaintext
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.proof import DecryptedCount, MissedValue
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import EncryptedTable

# 64 pages are half a megabyte of rows, so the cost of a statement does not matter. A thread takes so many at once that
# a large table does not become a million tasks, and a small one is still divided.
_PAGES = 64
_PAGES_PER_TASK = 1024
_NAMED_AT_MOST = 5

# All threads share one snapshot per relation, so that a row that moves meanwhile is neither missed nor seen twice. A
# thread that is done waits for the others, which may read large values.
_PATIENCE = "SET LOCAL idle_in_transaction_session_timeout = '15min'"
# With the pages of large values: a small heap may have many.
_LARGEST = """SELECT coalesce(max(pg_table_size(oid)), 0) / current_setting('block_size')::int
              FROM unnest(%s::oid[]) AS relation (oid)"""


@dataclass(slots=True)
class Found:
    """What some pages hold."""

    rows: int
    held: list[Held]
    failures: int
    plaintext: int = 0  # of columns that are yet to be encrypted, so that it is no failure
    unencrypted: Counter[int] = field(default_factory=Counter)  # by the column's place
    wrongly_indexed: Counter[int] = field(default_factory=Counter)  # likewise
    unindexed: Counter[int] = field(default_factory=Counter)  # likewise
    missed: list[MissedValue] = field(default_factory=list)  # a few of either

    @classmethod
    def nothing(cls, table: EncryptedTable) -> "Found":
        """Returns a table's result before anything was read."""
        return cls(0, [Counter() for _ in table.columns], 0)

    @property
    def values(self) -> int:
        """How many values are neither NULL nor ``''``, including those that did not decrypt."""
        return sum(sum(held.values()) for held in self.held) - self.empty + self.failures + self.plaintext

    @property
    def empty(self) -> int:
        """How many values are ``''``."""
        return sum(held[None] for held in self.held)

    def add(self, other: "Found") -> None:
        """Adds what other pages hold."""
        self.rows, self.failures = self.rows + other.rows, self.failures + other.failures
        self.plaintext += other.plaintext
        self.unencrypted.update(other.unencrypted)
        self.wrongly_indexed.update(other.wrongly_indexed)
        self.unindexed.update(other.unindexed)
        for each in other.missed:
            self.name(each)
        for mine, more in zip(self.held, other.held, strict=True):
            mine.update(more)

    def name(self, missed: MissedValue) -> None:
        """Adds a value that searches miss, unless there are enough of its kind."""
        if self.names_more(is_unindexed=missed.is_unindexed):
            self.missed.append(missed)

    def names_more(self, *, is_unindexed: bool) -> bool:
        """Returns whether further values of a kind are to be named."""
        return sum(each.is_unindexed == is_unindexed for each in self.missed) < _NAMED_AT_MOST


@without_content(AGAIN)
def decrypt_all(
    connect: Callable[[], Connection],
    table: EncryptedTable,
    ring: KeyRing,
    report: Report,
    limits: Limits,
    request: str = "",
) -> DecryptedCount:
    """Decrypts every value of a table, and stores none.

    Values that do not decrypt go to the quarantine. Earlier entries of the table that were not found again are removed.

    Args:
        limits: `workers` is the number of threads, if the table is large enough for them.
        request: id of the rotation whose proof this is: pausing it pauses this, and in an emergency all cores are used.

    Raises:
        PreflightError, BlockedError, DatabaseUnavailableError: the table cannot be read to its end.
    """
    with opened(connect, table, ring, report, limits, request) as decryption:
        housekeeping = decryption.housekeeping
        ((started, began_at),) = housekeeping.execute("SELECT t::text, t FROM clock_timestamp() AS t").fetchall()
        found = Found.nothing(table)
        for relation in decryption.every_relation():
            with page_readings.whole(housekeeping, str(table.name), relation):
                decryption.decrypt(relation, found)
        quarantine.forget(housekeeping, table, str(started))
    by_column = {
        column: {version: held[version] for version in sorted(each for each in held if each is not None)}
        for column, held in zip(table.columns, found.held, strict=True)
    }
    return DecryptedCount(
        table=str(table.name),
        rows=found.rows,
        values=found.values - found.plaintext,
        failures=found.failures,
        by_column=by_column,
        empty=found.empty,
        began_at=cast("datetime", began_at),
        unencrypted={table.columns[place]: number for place, number in found.unencrypted.items()},
        wrongly_indexed={table.columns[place]: number for place, number in found.wrongly_indexed.items()},
        unindexed={table.columns[place]: number for place, number in found.unindexed.items()},
        missed=tuple(found.missed),
        plaintext=found.plaintext,
    )


@contextmanager
def opened(
    connect: Callable[[], Connection],
    table: EncryptedTable,
    ring: KeyRing,
    report: Report,
    limits: Limits,
    request: str = "",
) -> Iterator["Decryption"]:
    """Yields a decryption over the relations of one table, with separate connections."""
    if ring.primary == PLAINTEXT:  # there may be a key of a first rotation that was cancelled
        versions = {version: ring.material(version) for version in ring.versions}
        ring = KeyRing.for_reading(versions | dict(ring.sources.values()))
    with ExitStack() as stack:
        housekeeping = stack.enter_context(closing(open_connection(connect)))
        ledger = housekeeping
        if request:
            ledger = stack.enter_context(opened_ledger(limits, housekeeping))
            limits = limits_for(ledger, request, limits)
        relations = heaps(housekeeping, table)
        # Connecting takes as long as reading some hundred pages.
        oids = [relation.oid for relation in relations]
        worth_it = int(str(housekeeping.execute(_LARGEST, (oids,)).fetchall()[0][0])) // limits.pages_per_worker
        readers = [
            _Reader(
                stack.enter_context(closing(open_connection(connect))),
                Codec(table, ring, ring.primary, native=limits.native_codec),
            )
            for _ in range(max(1, min(limits.workers * limits.threads_per_worker, worth_it)))
        ]
        yield Decryption(housekeeping, table, relations, readers, report, request, limits.vouched, ledger)


@dataclass(frozen=True, slots=True)
class _Reader:
    """The connection and codec of one thread; a codec is not thread-safe."""

    connection: Connection
    codec: Codec


class Decryption:
    """Decrypts one table, relation by relation.

    Args:
        housekeeping: connection for the quarantine.
        relations: the table's relations when it was opened.
        readers: one per thread.
        vouched: says which events count that pause the request.
        ledger: connection to where it is paused; None: `housekeeping` is.
    """

    def __init__(
        self,
        housekeeping: Connection,
        table: EncryptedTable,
        relations: Sequence[Relation],
        readers: Sequence[_Reader],
        report: Report,
        request: str,
        vouched: VouchedEvents | None = None,
        ledger: Connection | None = None,
    ) -> None:
        self.housekeeping = housekeeping
        self._ledger = ledger or housekeeping
        self.relations = relations
        self._table = table
        self._begun = frozenset(number for number, name in enumerate(table.columns) if name in table.begun)
        self._readers = readers
        self._report = report
        self._request = request
        self._vouched = vouched
        self._idle: queue.Queue[TraversalContext] = queue.Queue()
        self._quarantining = threading.Lock()
        self._obeyed = float("-inf")
        self._stopped = threading.Event()

    def every_relation(self) -> Iterator[Relation]:
        """Yields the relations of the table, and those that are attached to it while others are read."""
        done, left = set[int](), self.relations
        while left:
            yield from left
            done.update(each.oid for each in left)
            left = [each for each in heaps(self.housekeeping, self._table) if each.oid not in done]

    def decrypt(self, relation: Relation, found: Found, pages: tuple[int, int] = ALL_PAGES) -> None:
        """Adds to `found` what some pages of a relation hold; `pages`: the first, and the first one after them."""
        start, stop = pages[0], min(pages[1], self._begin(relation))
        total = max(0, stop - start)
        each = max(_PAGES, min(_PAGES_PER_TASK, -(-total // (4 * len(self._readers)))))
        tasks = [(first, min(first + each, stop)) for first in range(start, stop, each)]
        with ThreadPoolExecutor(len(self._readers), thread_name_prefix="decrypt") as threads:
            try:
                for (_, end), some in zip(tasks, threads.map(self._read, tasks), strict=True):
                    found.add(some)
                    self._report_progress(end - start, total)
            finally:
                self._stopped.set()
        while not self._idle.empty():
            self._idle.get().connection.execute("COMMIT")
        self._stopped.clear()

    def _begin(self, relation: Relation) -> int:
        """Gives every reader the same snapshot of the locked relation; returns the number of pages."""
        sql = statements(self.housekeeping, relation, row_key(self.housekeeping, relation), self._table.format, None)
        snapshots.begin([reader.connection for reader in self._readers], relation)
        for reader in self._readers:
            reader.connection.execute(_PATIENCE)
        pages = pages_of(self._readers[0].connection, relation.oid)
        for reader in self._readers:
            self._idle.put(self._context(reader, relation, sql))
        return pages

    def recheck(self, relation: Relation) -> None:
        """Removes quarantined values that decrypt now, if their rows have keys and are found by these."""
        key = row_key(self.housekeeping, relation)
        named = quarantine.keys_of(self.housekeeping, relation) if key.columns else ()
        if not named:
            return
        sql = statements(self.housekeeping, relation, key, self._table.format, None)
        context = self._context(self._readers[0], relation, sql)
        # A position is that of the same row in one snapshot alone, and while nothing rewrites the relation.
        snapshots.begin([context.connection], relation)
        for each in named:
            batch = context.batch(context.run(sql.read_rows, {"positions": TidArray(context.positions(key, each))}))
            if batch.rows:
                _, failed = context.codec.check(batch)
                bad = {context.named(failure) for failure in failed if not is_plaintext(failure, self._begun)}
                quarantine.keep_only(self.housekeeping, relation, each, bad)
        context.connection.execute("COMMIT")

    def _context(self, reader: _Reader, relation: Relation, sql: Statements) -> TraversalContext:
        return TraversalContext(
            reader.connection, self.housekeeping, self._table, relation, sql, reader.codec, Limits()
        )

    def _read(self, span: tuple[int, int]) -> Found:
        context = self._idle.get()
        found = Found.nothing(self._table)
        try:
            for first in range(span[0], span[1], _PAGES):
                if self._stopped.is_set():
                    return found
                for batch in _batches(context, first, min(first + _PAGES, span[1])):
                    self._check(context, batch, found)
            _require_every_value(context, span, found)
        finally:
            self._idle.put(context)
        return found

    def _check(self, context: TraversalContext, batch: Batch, found: Found) -> None:
        held, opened = context.codec.check(batch)
        failed = [each for each in opened if not is_plaintext(each, self._begun)]
        if failed:
            with self._quarantining:
                context.quarantine(batch, failed, context.connection)
        if held:
            unencrypted = Counter(failure.column for failure in opened if failure.defect == NOT_A_VALUE)
            found.add(Found(len(batch.rows), held, len(failed), len(opened) - len(failed), unencrypted))
        missed = context.codec.missed(batch)
        for kind, counted in ((True, found.unindexed), (False, found.wrongly_indexed)):
            places = [(row, column) for row, column, is_unindexed in missed if is_unindexed is kind]
            counted.update(column for _, column in places)
            if places and found.names_more(is_unindexed=kind):
                keys = context.keys_of(batch, {row for row, _ in places[:_NAMED_AT_MOST]}, context.connection)
                for row, column in places[:_NAMED_AT_MOST]:
                    if row in keys:  # else it has changed meanwhile
                        found.name(MissedValue(keys[row], self._table.columns[column], kind))

    def _report_progress(self, done: int, total: int) -> None:
        subject = f"{self._table.name} decrypted"
        step = Step.ZERO_OLD_ROWS_PROOF if self._request else None
        self._report(Progress(step, subject, done, total, "pages"))
        if self._request and CLOCK.monotonic() - self._obeyed >= TICK_SECONDS:
            require_running(self._ledger, self._request, self._vouched)
            self._obeyed = CLOCK.monotonic()


def _require_every_value(context: TraversalContext, span: tuple[int, int], found: Found) -> None:
    """Refuses fewer values than the server counts in the same pages and snapshot."""
    pages = {"first": position(span[0]), "end": position(span[1])}
    ((counted,),) = context.run(context.statements.count_values, pages)
    if (read := found.values + found.empty) < counted:
        raise BlockedError(
            f"{context.relation.label}: {read:,} of {counted:,} values on pages {span[0]:,} to "
            f"{span[1] - 1:,} were decrypted; {AGAIN}, and report it if it stays so"
        )


def _batches(context: TraversalContext, first: int, end: int) -> Iterator[Batch]:
    limit = context.limits.batch_bytes
    span = {"first": position(first), "end": position(end), "limit": limit}
    batch = context.batch(context.run(context.statements.read_pages, span))
    if batch.size_bytes <= limit:
        yield batch
        return
    for positions in by_size(listed(context, first, end), limit):
        yield context.batch(context.run(context.statements.read_rows, {"positions": TidArray(positions)}))


@without_content(AGAIN)
def decrypt_spans(
    connect: Callable[[], Connection],
    table: EncryptedTable,
    spans: Sequence[PageSpan],
    ring: KeyRing,
    report: Report,
    limits: Limits,
    should_continue: Callable[[], bool],
) -> int:
    """Decrypts the values in some spans of one table, and stores none; returns the number of values.

    Values that do not decrypt go to the quarantine. Earlier entries are removed when their row is seen to be fixed.

    Args:
        limits: duty cycle, and `workers` as the number of threads.
        should_continue: called before each span: whether it may still be read now.
    """
    found = Found.nothing(table)
    with opened(connect, table, ring, report, limits) as decryption:
        for relation in decryption.relations:
            decryption.recheck(relation)

        def decrypt(relation: Relation, pages: tuple[int, int]) -> Mapping[str, int]:
            decryption.decrypt(relation, found, pages)
            return {}

        page_readings.read_spans(
            decryption.housekeeping,
            str(table.name),
            decryption.relations,
            spans,
            decrypt,
            should_continue,
            limits.duty_cycle,
        )
    return found.values
