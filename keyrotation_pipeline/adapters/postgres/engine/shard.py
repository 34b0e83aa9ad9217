"""One shard: how hard it is worked on, and by whom."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import psycopg

from keyrotation_pipeline.adapters.postgres.engine.job import Job
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.progress import slices_of
from keyrotation_pipeline.adapters.postgres.engine.refusals import without_content
from keyrotation_pipeline.adapters.postgres.engine.supervisor import limits_for
from keyrotation_pipeline.adapters.postgres.engine.traversal import rewrite_slices
from keyrotation_pipeline.adapters.postgres.engine.worker_pool import Crew, Hiring
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.columns import Shard
from keyrotation_pipeline.model.progress import Report, Rewritten

# Several a worker, so that none has to wait long for the last one.
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
    hiring: Hiring | None = None,
) -> Rewritten:
    """Walk one shard from where it was left, and re-encrypt to `target` what is not.

    Args:
        connect: opens a connection; can be pickled where there are workers.
        request: id of the rotation, under which progress is kept, whose pausing is obeyed, and whose type decides
            between routine and emergency mode.
        hiring: how worker processes are started; without it this process does the work of all.

    Returns:
        What this and earlier runs of the same walks did together.

    Raises:
        BlockedError: the rotation was paused or cancelled, a table stays locked by others, or a worker has died.
        PreflightError: a table refuses to be rewritten; names it.
        KeyStoreError: a worker finds other keys than this process has.
        DatabaseUnavailableError: the connection was lost; progress is kept.
    """
    with closing(connect()) as connection:
        limits = limits_for(connection, request, limits)
        workers = 0 if hiring is None else _worth_having(connection, shard, limits)
        slices = slices_of(connection, request, shard, workers * _SLICES_PER_WORKER if workers > 1 else 1)
    workers = min(workers, len(slices))
    if hiring is None or workers == 0:
        return rewrite_slices(connect, request, slices, ring, target, report, limits)
    limits = replace(limits, workers=workers)
    job = Job.of(connect, hiring.keys, request, slices, ring, target, limits.of_one_worker())
    return Crew(job, hiring, connect, limits, report).work()


def _worth_having(connection: Connection, shard: Shard, limits: Limits) -> int:
    """How many workers pay for a shard: each takes as long to start as some hundred pages take.

    Where one does, it has the work, since it stands back for others on its machine, as this process cannot for long.
    """
    try:
        pages = sum(relation.pages for relation in heaps(connection, shard.table)) // shard.of
    except psycopg.errors.LockNotAvailable:
        return 0  # this process waits for longer
    return min(limits.workers, pages // limits.pages_per_worker)
