"""Walks the pages: once over every page of a slice, and in sweeps over those that hold what was skipped."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from threading import Event
from time import monotonic

import psycopg

from keyrotation_pipeline.adapters.postgres.engine.batch import Codec, TraversalContext, open_connection
from keyrotation_pipeline.adapters.postgres.engine.batch_size import BatchSize
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, opened_ledger
from keyrotation_pipeline.adapters.postgres.engine.pages import PageTraversal, Stop
from keyrotation_pipeline.adapters.postgres.engine.processor_waits import ProcessorWaits
from keyrotation_pipeline.adapters.postgres.engine.ranges import PageRange, Slice, StoredPageRanges, SweptPageRanges
from keyrotation_pipeline.adapters.postgres.engine.rows import write_contended_rows, write_listed_rows
from keyrotation_pipeline.adapters.postgres.engine.server_errors import ROTATE_AGAIN, without_content
from keyrotation_pipeline.adapters.postgres.engine.statements import may_wait, statements
from keyrotation_pipeline.adapters.postgres.engine.supervisor import LockRetry, Supervisor, limits_for
from keyrotation_pipeline.adapters.postgres.engine.vacuum import in_hot_order
from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heaps
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.tables import EncryptedTable, Shard

_Source = StoredPageRanges | SweptPageRanges


@without_content(ROTATE_AGAIN)
def traverse(
    connect: Callable[[], Connection],
    request: str,
    slices: Sequence[Slice],
    ring: KeyRing,
    target: KeyVersion,
    report: Report,
    limits: Limits,
    stop_requested: Event,
) -> Rewritten:
    """Re-encrypts slices of one shard in this process, each from where it stopped.

    Args:
        connect: opens a connection. Two are used, and one more for each vacuum.
        request: id of the rotation. Progress is stored under it, and pausing it pauses this.
        stop_requested: once it is set, this finishes what is in flight and stores the progress, soon.

    Returns:
        What this and earlier runs over the same slices did together.

    Raises:
        BlockedError: the rotation was paused or cancelled, a table stays locked by others, or it was asked to stop.
        PreflightError: a table cannot be rewritten; names it.
        DatabaseUnavailableError: the connection was lost; progress is stored.
    """
    shard = slices[0].shard
    with traversing(connect, request, shard, ring, target, report, limits, stop_requested) as walk:
        return walk(slices)


@contextmanager
def traversing(
    connect: Callable[[], Connection],
    request: str,
    shard: Shard,
    ring: KeyRing,
    target: KeyVersion,
    report: Report,
    limits: Limits,
    stop_requested: Event,
    in_hot_order: frozenset[int] | None = None,
) -> Iterator[Callable[[Sequence[Slice]], Rewritten]]:
    """Yields what re-encrypts slices of one shard; connections and learnt batch sizes and commit times span them.

    Args:
        in_hot_order: the relations to rewrite in HOT order; None: determined here.

    Raises:
        psycopg.Error, KeyRotationError: as `traverse`.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(closing(open_connection(connect)))
        housekeeping = stack.enter_context(closing(open_connection(connect)))
        evidence_of(housekeeping, shard.table).publish(ring, target)
        subject = f"{shard.table.name} shard {shard.key}"
        batch_size = BatchSize(limits)
        ledger = stack.enter_context(opened_ledger(limits, housekeeping))
        waits = ProcessorWaits(connection.info.backend_pid)
        supervisor = Supervisor(
            housekeeping, ledger, connect, request, limits, batch_size, subject, report, stop_requested, waits
        )
        codec = Codec(shard.table, ring, target, native=limits.native_codec)
        traversal = _Traversal(connection, shard.table, codec, target, supervisor, in_hot_order, wait=False)
        yield lambda slices: traversal.run([StoredPageRanges(housekeeping, request, part) for part in slices])
        supervisor.close()


@without_content(ROTATE_AGAIN)
def sweep(
    connect: Callable[[], Connection],
    request: str,
    table: EncryptedTable,
    ring: KeyRing,
    target: KeyVersion,
    limits: Limits,
    *,
    wait: bool,
) -> Rewritten:
    """Re-encrypts what is not under `target`, wherever it is in a table.

    Args:
        wait: rewrite each row in its own transaction, and wait briefly for rows locked by others.

    Returns:
        What this sweep did. If it rewrote and skipped no rows, only quarantined values are left.

    Raises:
        BlockedError, PreflightError, DatabaseUnavailableError: as `traverse`.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(closing(open_connection(connect)))
        housekeeping = stack.enter_context(closing(open_connection(connect)))
        evidence_of(housekeeping, table).publish(ring, target)
        ledger = stack.enter_context(opened_ledger(limits, housekeeping))
        limits = limits_for(ledger, request, limits)
        if wait:  # single rows burden nobody, and after a rest others would get ahead again
            limits = replace(limits, duty_cycle=1.0, rests=False)
        supervisor = Supervisor(
            housekeeping, ledger, connect, request, limits, BatchSize(limits), f"{table.name} sweep", lambda _: None
        )
        codec = Codec(table, ring, target, native=limits.native_codec)
        traversal = _Traversal(connection, table, codec, target, supervisor, wait=wait)
        # One row at a time is written by statements that judge it in SQL again.
        done = traversal.run([SweptPageRanges(housekeeping, table.format, target, by_opening=not wait)])
        supervisor.close()
        return done


@dataclass
class _Traversal:
    connection: Connection
    table: EncryptedTable
    codec: Codec
    target: KeyVersion
    supervisor: Supervisor
    in_hot_order: frozenset[int] | None = None
    wait: bool = field(kw_only=True)
    _contexts: dict[Relation, TraversalContext] = field(default_factory=dict)

    def run(self, sources: Sequence[_Source]) -> Rewritten:
        retry = self._retry(str(self.table.name))
        opened = retry.attempt(lambda: self._opened(sources))
        self.supervisor.total_pages += sum(pages.end - pages.first for _, begun in opened for _, pages in begun)
        done = Rewritten()
        for relation, begun in opened:
            if not begun:
                continue
            context = retry.attempt(lambda relation=relation: self._context(relation))  # type: ignore[misc]
            retry = self._retry(relation.label)
            for stored, pages in begun:
                done += _RelationTraversal(context, self.supervisor, stored, pages, retry, wait=self.wait).run()
        return done

    def _opened(self, sources: Sequence[_Source]) -> list[tuple[Relation, list[tuple[_Source, PageRange]]]]:
        relations = heaps(self.connection, self.table)
        if self.in_hot_order is None:
            self.in_hot_order = in_hot_order(self.connection, relations)
        return [
            (relation, [(stored, pages) for stored in sources for pages in stored.ranges(relation)])
            for relation in relations
        ]

    def _context(self, relation: Relation) -> TraversalContext:
        # It may have grown since the previous slice, but it is the same relation.
        same = replace(relation, pages=0)
        if same not in self._contexts:
            hot = relation.oid in (self.in_hot_order or ())
            key = row_key(self.connection, relation)
            sql = statements(self.connection, relation, key, self.table.format, self.target, hot_order=hot)
            rows, housekeeping, limits = self.connection, self.supervisor.connection, self.supervisor.limits
            context = TraversalContext(rows, housekeeping, self.table, relation, sql, self.codec, limits, hot)
            self._contexts[same] = context
        return self._contexts[same]

    def _retry(self, table: str) -> LockRetry:
        return LockRetry(self.connection, table, self.supervisor)


class _RelationTraversal:
    """Walks the pages of one relation, despite locks, oversized rows or a VACUUM FULL."""

    def __init__(
        self,
        context: TraversalContext,
        supervisor: Supervisor,
        stored: _Source,
        pages: PageRange,
        retry: LockRetry,
        *,
        wait: bool,
    ) -> None:
        self._context = context
        self._supervisor = supervisor
        self._stored = stored
        self._pages = pages
        self._retry = retry
        self._wait = wait
        self._at_once = context.limits.writes_at_once and may_wait(context.housekeeping)

    def run(self) -> Rewritten:
        self._pages.started = monotonic()
        self._retry.attempt(
            lambda: self._supervisor.begin(self._context.relation, self._pages, hot_order=self._context.hot_order)
        )
        finished = False
        try:
            while not finished:
                finished = self._retry.attempt(self._continue)
        except (KeyRotationError, psycopg.Error):
            with suppress(psycopg.Error):  # what was still in flight is done, too
                self._save()
            raise
        self._supervisor.finish(self._pages)
        return self._pages.so_far()

    def _continue(self) -> bool:
        if self._pages.next >= self._pages.end:
            # If the relation was rewritten as a whole while its last pages were written, it starts again.
            self._pages = self._stored.renewed(self._context.relation, self._pages)
            return self._pages.next >= self._pages.end
        if self._wait:
            self._row_by_row()
            return False
        size = self._supervisor.batch_size
        match PageTraversal(self._context, self._pages, size, self._confirm, at_once=self._at_once).run():
            case Stop.CONTENDED:
                self._at_once = False
            case Stop.MOVED:
                self._pages = self._stored.renewed(self._context.relation, self._pages)
            case Stop.TOO_LARGE:
                self._row_by_row()
            case Stop.DONE:
                pass
        return False

    def _row_by_row(self) -> None:
        first = self._pages.next
        size = self._supervisor.batch_size
        end = min(first + min(size.pages, size.reading_pages), self._pages.end)
        method = write_contended_rows if self._wait else write_listed_rows
        rows = 0
        for done in method(self._context, first, end):
            self._pages.done += done  # at once, since the next batch may fail
            rows += done.rows
        self._advance(end, rows)

    def _confirm(self, end: int, done: Rewritten) -> None:
        self._pages.done += done
        self._advance(end, done.rows)

    def _advance(self, end: int, rows: int) -> None:
        self._retry.succeeded()
        self._pages.next = end
        self._supervisor.after_batch(self._context.relation, self._pages, rows, self._save)

    def _save(self) -> None:
        self._stored.save(self._context.relation, self._pages)
