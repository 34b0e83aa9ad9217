"""Walks: once over every page of a slice, and sweeps over a whole table for what was skipped."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from time import monotonic

from keyrotation_pipeline.adapters.postgres.engine.batch_size import Pace
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.lock_retry import Patience
from keyrotation_pipeline.adapters.postgres.engine.pages import PageRewrite, Stop
from keyrotation_pipeline.adapters.postgres.engine.progress import Slice, StoredWalks, Walk, WholeWalks
from keyrotation_pipeline.adapters.postgres.engine.refusals import without_content
from keyrotation_pipeline.adapters.postgres.engine.rows import rewrite_listed, rewrite_stragglers
from keyrotation_pipeline.adapters.postgres.engine.session import Session, open_connection
from keyrotation_pipeline.adapters.postgres.engine.statements import statements
from keyrotation_pipeline.adapters.postgres.engine.strides import STRIDES
from keyrotation_pipeline.adapters.postgres.engine.supervisor import Watch, limits_for
from keyrotation_pipeline.adapters.postgres.engine.vacuum import may_vacuum
from keyrotation_pipeline.adapters.postgres.inventory.quarantine import row_key
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heaps
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.batch import Rewriter
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.columns import EncryptedTable
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten


@without_content
def rewrite_slices(
    connect: Callable[[], Connection],
    request: str,
    slices: Sequence[Slice],
    ring: KeyRing,
    target: KeyVersion,
    report: Report,
    limits: Limits,
) -> Rewritten:
    """Walk slices of one shard in this process, each from where it was left.

    Args:
        connect: opens a connection; two are used, and one more for each vacuum.
        request: id of the rotation, under which progress is kept and whose pausing is obeyed.

    Returns:
        What this and earlier runs of the same walks did together.

    Raises:
        BlockedError: the rotation was paused or cancelled, or a table stays locked by others.
        PreflightError: a table refuses to be rewritten; names it.
        DatabaseUnavailableError: the connection was lost; progress is kept.
    """
    shard = slices[0].shard
    with ExitStack() as stack:
        connection = stack.enter_context(closing(open_connection(connect)))
        housekeeping = stack.enter_context(closing(open_connection(connect)))
        subject = f"{shard.table.name} shard {shard.key}"
        watch = Watch(housekeeping, connect, request, limits, Pace(limits), subject, report)
        walker = _Walker(connection, shard.table, Rewriter(ring, target), target, watch, wait=False)
        done = walker.run([StoredWalks(housekeeping, request, part) for part in slices])
        watch.close()
        return done


@without_content
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
    """Walk a whole table for what is not under `target`.

    Args:
        wait: take rows one a transaction and wait briefly for those that others hold.

    Returns:
        What this sweep did; no rows and none skipped: nothing but quarantined values is left.

    Raises:
        BlockedError, PreflightError, DatabaseUnavailableError: as `rewrite_slices`.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(closing(open_connection(connect)))
        housekeeping = stack.enter_context(closing(open_connection(connect)))
        limits = limits_for(housekeeping, request, limits)
        if wait:  # one row a transaction burdens nobody, and who rests is never the first
            limits = replace(limits, duty_cycle=1.0)
        watch = Watch(housekeeping, connect, request, limits, Pace(limits), f"{table.name} sweep", _nobody)
        walker = _Walker(connection, table, Rewriter(ring, target), target, watch, wait=wait)
        done = walker.run([WholeWalks(housekeeping)])
        watch.close()
        return done


@dataclass
class _Walker:
    connection: Connection
    table: EncryptedTable
    rewriter: Rewriter
    target: KeyVersion
    watch: Watch
    wait: bool

    def run(self, sources: Sequence[StoredWalks | WholeWalks]) -> Rewritten:
        patience = self._patience(str(self.table.name))
        opened = patience.attempt(
            lambda: [
                (relation, [(walks, walks.open(relation)) for walks in sources])
                for relation in heaps(self.connection, self.table)
            ]
        )
        self.watch.total_pages = sum(walk.end - walk.first for _, begun in opened for _, walk in begun)
        done = Rewritten()
        for relation, begun in opened:
            session = patience.attempt(lambda relation=relation: self._session(relation))  # type: ignore[misc]
            patience = self._patience(relation.label)
            for walks, walk in begun:
                done += _RelationWalk(session, self.watch, walks, walk, patience, wait=self.wait).run()
        return done

    def _session(self, relation: Relation) -> Session:
        strides = 1 if may_vacuum(self.connection, relation) else STRIDES
        sql = statements(self.connection, relation, row_key(self.connection, relation), self.target, strides)
        rows, housekeeping, limits = self.connection, self.watch.connection, self.watch.limits
        return Session(rows, housekeeping, self.table, relation, sql, self.rewriter, limits, strides)

    def _patience(self, table: str) -> Patience:
        return Patience(self.connection, table, self.watch.limits.lock_patience_seconds, self.watch.wait_a_second)


class _RelationWalk:
    """One relation's walk, through locks, oversized rows and a relation that is rewritten underneath."""

    def __init__(
        self,
        session: Session,
        watch: Watch,
        walks: StoredWalks | WholeWalks,
        walk: Walk,
        patience: Patience,
        *,
        wait: bool,
    ) -> None:
        self._session = session
        self._watch = watch
        self._walks = walks
        self._walk = walk
        self._patience = patience
        self._wait = wait

    def run(self) -> Rewritten:
        self._walk.started = monotonic()
        self._patience.attempt(lambda: self._watch.begin(self._session.relation, self._walk))
        finished = False
        while not finished:
            finished = self._patience.attempt(self._go_on)
        self._watch.finish(self._walk)
        return self._walk.so_far()

    def _go_on(self) -> bool:
        if self._walk.next >= self._walk.end:
            # Rewritten as a whole while the last pages were on their way, the relation is walked again.
            self._walk = self._walks.renewed(self._session.relation, self._walk)
            return self._walk.next >= self._walk.end
        if self._wait:
            self._carefully()
            return False
        match PageRewrite(self._session, self._walk, self._watch.pace, self._confirm).run():
            case Stop.MOVED:
                self._walk = self._walks.renewed(self._session.relation, self._walk)
            case Stop.TOO_LARGE:
                self._carefully()
            case Stop.DONE:
                pass
        return False

    def _carefully(self) -> None:
        first = self._walk.next
        end = min(first + self._watch.pace.pages, self._walk.end)
        method = rewrite_stragglers if self._wait else rewrite_listed
        self._confirm(end, method(self._session, first, end))

    def _confirm(self, end: int, done: Rewritten) -> None:
        self._patience.progress()
        self._walk.next = end
        self._walk.done += done
        self._watch.after_batch(self._session.relation, self._walk, done.rows, self._save)

    def _save(self) -> None:
        self._walks.save(self._session.relation, self._walk)


def _nobody(progress: Progress) -> None:
    """Nobody is told."""
