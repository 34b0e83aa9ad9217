"""Re-encrypts one shard: decides how many processes and which limits it gets."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import psycopg

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, WorkerSettings
from keyrotation_pipeline.adapters.postgres.engine.ranges import last_shard, slices_of
from keyrotation_pipeline.adapters.postgres.engine.server_errors import without_content
from keyrotation_pipeline.adapters.postgres.engine.supervisor import limits_for
from keyrotation_pipeline.adapters.postgres.engine.traversal import rewrite_slices
from keyrotation_pipeline.adapters.postgres.engine.worker import Job, at_low_priority
from keyrotation_pipeline.adapters.postgres.engine.worker_pool import WorkerPool
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.tables import EncryptedTable, Shard

# Several slices per worker, so that none waits long for the last one.
_SLICES_PER_WORKER = 4


@without_content
def rewrite_shard(
    connect: Callable[[], Connection],
    request: str,
    shard: Shard,
    ring: KeyRing,
    target: KeyVersion,
    report: Report,
    limits: Limits,
    settings: WorkerSettings | None = None,
) -> Rewritten:
    """Re-encrypts one shard to `target`, from where it stopped.

    Args:
        connect: opens a connection; picklable if there are workers.
        request: id of the rotation. Progress is stored under it, pausing it pauses this, and its type decides between
            routine and emergency mode.
        settings: how to start worker processes. Without it, or if one worker is enough, this process does all the work.

    Returns:
        What this and earlier runs over the same shard did together.

    Raises:
        BlockedError: the rotation was paused or cancelled, a table stays locked by others, or a worker has died.
        PreflightError: a table cannot be rewritten; names it.
        KeyStoreError: a worker finds keys other than this process has.
        DatabaseUnavailableError: the connection was lost; progress is stored.
    """
    with closing(connect()) as connection:
        limits = limits_for(connection, request, limits)
        workers = 0 if settings is None else _worth_having(connection, shard, limits)
        slices = slices_of(connection, request, shard, workers * _SLICES_PER_WORKER if workers > 1 else 1)
    workers = min(workers, len(slices))
    if settings is None or workers <= 1:
        return at_low_priority(
            lambda send, stop: rewrite_slices(connect, request, slices, ring, target, send, limits, stop),
            report,
        )
    limits = replace(limits, workers=workers)
    job = Job.of(connect, settings.keys, request, slices, ring, target, limits.of_one_worker())
    return WorkerPool(job, settings, connect, limits, report).work()


def _worth_having(connection: Connection, shard: Shard, limits: Limits) -> int:
    """Returns how many workers a shard is worth; starting a process takes as long as some hundred pages."""
    try:
        pages = _pages(connection, shard.table) // shard.of
    except psycopg.errors.LockNotAvailable:
        return 0  # this process then waits for the lock
    return min(limits.workers, pages // limits.pages_per_worker)


@without_content
def is_one_shard(connection: Connection, request: str, table: EncryptedTable, limits: Limits) -> bool:
    """Returns whether the first shard of a table is all of it.

    Stored progress decides; before that, the size: for a small table, finding where a second shard starts would take
    longer than its rows.
    """
    if (last := last_shard(connection, request, table)) is not None:
        return last == 0
    try:
        return _pages(connection, table) < limits.pages_per_worker
    except psycopg.errors.LockNotAvailable:
        return False


def _pages(connection: Connection, table: EncryptedTable) -> int:
    return sum(relation.pages for relation in heaps(connection, table))
