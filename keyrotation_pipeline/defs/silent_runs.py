"""Runs that went with their machine, or with the whole of Dagster at once.

Dagster's own launcher never notices them: they would count as running, and be waited for, for ever.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import dagster as dg

from keyrotation_pipeline.defs.launches import PastRun
from keyrotation_pipeline.errors import AtWorkError
from keyrotation_pipeline.ports.pipeline import Pipeline

# A step logs every few seconds, holds its lock from its beginning to its end, and its run does little besides.
SILENCE = timedelta(minutes=5)


def end_silent(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    locks: Iterable[str],
    conducted: Iterable[tuple[dg.DagsterRun, PastRun]],
) -> None:
    """Mark as failed what neither logs nor works at what is due, so that it is tried again.

    Args:
        locks: what is due; a process that works at it, on whichever machine, holds its lock.
    """
    now = pipeline.clock.now()
    started = [run for run, _ in conducted if run.status is dg.DagsterRunStatus.STARTED]
    silent = [run for run in started if _is_silent(instance, run, now)]
    if silent and not _somebody_holds(pipeline, locks):
        for run in silent:
            instance.report_run_failed(run, "its process is gone without a word; the conductor tries again")


def _is_silent(instance: dg.DagsterInstance, run: dg.DagsterRun, now: datetime) -> bool:
    newest = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    return all(now.timestamp() - record.timestamp > SILENCE.total_seconds() for record in newest)


def _somebody_holds(pipeline: Pipeline, locks: Iterable[str]) -> bool:
    """Whether a process on any machine has one of these locks; such a lock ends with its process."""
    for name in locks:
        try:
            with pipeline.ledger.lock(name):
                pass
        except AtWorkError:
            return True
    return False
