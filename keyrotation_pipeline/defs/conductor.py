"""The conductor: decides as the command line does which tasks are due, and launches runs for them."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.backups import completeness
from keyrotation_pipeline.backups.backup import BACKUP_LOCK
from keyrotation_pipeline.defs.ledger_sync import report_wait_status
from keyrotation_pipeline.defs.outside_reports import Seal
from keyrotation_pipeline.defs.partitions import Naming, missing_partitions, partition_of
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.defs.run_requests import (
    ATTEMPT_TAG,
    ConductorRun,
    backup_request,
    conducted_runs,
    evidence_request,
    next_backup_attempt,
    plan_runs,
    sealed,
)
from keyrotation_pipeline.defs.schedules import BACKUP, EVIDENCE
from keyrotation_pipeline.defs.step_runner import DAGSTER_RUN, message_of
from keyrotation_pipeline.errors import AtWorkError, KeyStoreDamagedError, KeyStoreUnavailableError
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.keys import require_registered_keys

FIRST_ATTEMPT = "1"
# `keyrotation rotate` makes a backup right after its last step; until then it holds no lock by which we could see that.
LEFT_TO_THE_COMMAND = timedelta(seconds=30)
# A step logs every few seconds and holds its lock from beginning to end, and its run does little else.
STALE_AFTER = timedelta(minutes=5)
# A daemon makes a worker within seconds, or reports that it cannot. How long the worker may take to begin, for which a
# cluster may have to add a machine, is for Dagster's `start_timeout_seconds`.
LAUNCHED_WITHIN = timedelta(seconds=90)
# What dagster-k8s logs before it asks for a Job; it logs another event when it has one.
CREATING_A_JOB = "Creating Kubernetes run worker job"


def evaluate(
    context: dg.SensorEvaluationContext, keyrotation: PipelineResource, time_zone: str
) -> dg.SensorResult | dg.SkipReason:
    """One tick of the sensor `rotation_conductor`; its page shows the cursor, which only says what it waits for.

    Args:
        time_zone: that of the days of backups.
    """
    try:
        with keyrotation.open("dagster rotation_conductor") as opened, opened.ledger.reading():
            seal = Seal(keyrotation.signer())
            result = tick(context.instance, keyrotation.naming, opened, seal, time_zone)
            if isinstance(result, dg.SensorResult):
                requests = [sealed(each, seal) for each in result.run_requests or ()]
                added = result.dynamic_partitions_requests
                result = dg.SensorResult(run_requests=requests, dynamic_partitions_requests=added)
            before = context.cursor or ""
            context.update_cursor(report_wait_status(context.instance, keyrotation.naming, opened, result, before))
    except Exception as error:
        context.update_cursor(message_of(error))
        raise
    return result


def tick(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, seal: Seal, time_zone: str
) -> dg.SensorResult | dg.SkipReason:
    """Launches what is due and not yet running; otherwise says why nothing is launched."""
    rotation = takeover.current_or_next(pipeline)
    if rotation is None:
        return _follow_up(instance, naming, pipeline, seal, time_zone)
    decision = runner.next_decision(Situation(pipeline), rotation)
    people = runner.pending_people(rotation, decision)
    if people or not decision.tasks:
        backup = _backup_follow_up(instance, naming, pipeline, seal, time_zone)
        reason = f"left to people: {people}" if people else f"waiting for {decision.pending}"
        return backup if isinstance(backup, dg.SensorResult) else dg.SkipReason(reason)
    fail_stale_runs(instance, pipeline, f"{rotation.id}/", conducted_runs(instance, naming, seal, rotation.id))
    past, now = (past for _, past in conducted_runs(instance, naming, seal, rotation.id)), pipeline.clock.now()
    servers = pipeline.servers() if pipeline.members else None
    plan = plan_runs(naming, rotation, decision.tasks, past, now, pipeline.parallel_shards, servers)
    failed = plan.next_try_at is not None or any(each.tags[ATTEMPT_TAG] != FIRST_ATTEMPT for each in plan.requests)
    if plan.requests and failed:
        # After a failure: more runs cannot repair a damaged key store. One that only does not answer is retried.
        try:
            require_registered_keys(pipeline)
        except KeyStoreDamagedError as error:
            return dg.SkipReason(f"stopped until the key store is repaired: {error}")
        except KeyStoreUnavailableError:
            pass
    if plan.requests:
        added = missing_partitions(instance, naming, [partition_of(rotation)])
        return dg.SensorResult(run_requests=plan.requests, dynamic_partitions_requests=added)
    if plan.in_progress:
        return dg.SkipReason(f"in progress: {', '.join(plan.in_progress)}")
    return dg.SkipReason(
        f"next attempt at {plan.next_try_at:%H:%M:%S} UTC; {rotation.blocked_by or 'the last one failed'}"
    )


def _follow_up(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, seal: Seal, time_zone: str
) -> dg.SensorResult | dg.SkipReason:
    """What follows the last finished rotation: a full backup, then every check, one of which reads that backup."""
    if (backup := _backup_follow_up(instance, naming, pipeline, seal, time_zone)) is not None:
        return backup
    finished = completeness.last_finished(pipeline.ledger)
    past = () if finished is None else conducted_runs(instance, naming, seal, finished[0].id)
    if finished is None or any(each.subject == EVIDENCE for _, each in past):
        return dg.SkipReason("no rotation is open; request one with `keyrotation request --reason TEXT`")
    return dg.SensorResult(run_requests=[evidence_request(naming, finished[0])])


def _backup_follow_up(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, seal: Seal, time_zone: str
) -> dg.SensorResult | dg.SkipReason | None:
    """The backup after the last finished rotation, or why it is not launched yet; None: nothing is left to launch."""
    finished, now = completeness.last_finished(pipeline.ledger), pipeline.clock.now()
    if finished is None or completeness.was_backed_up(pipeline.ledger, finished[1]):
        return None
    rotation, _ = finished
    tried = [each for each in conducted_runs(instance, naming, seal, rotation.id) if each[1].subject == BACKUP]
    if unfinished := [each for each in tried if each[1].ended_at is None]:
        fail_stale_runs(instance, pipeline, BACKUP_LOCK, unfinished)
        return dg.SkipReason(f"in progress: {BACKUP}")
    if (attempt := next_backup_attempt((past for _, past in tried), now)) is None:
        return None
    if (reason := _other_process_backs_up(pipeline, rotation)) is not None:
        return dg.SkipReason(reason)
    day = f"{now.astimezone(ZoneInfo(time_zone)):%Y-%m-%d}"
    return dg.SensorResult(run_requests=[backup_request(naming, rotation, attempt, day)])


def _other_process_backs_up(pipeline: Pipeline, rotation: Walk) -> str | None:
    """Why the backup is left to another process for now: it is making one, or has just finished the rotation."""
    try:
        with pipeline.ledger.lock(BACKUP_LOCK):
            pass
    except AtWorkError as error:
        return f"waiting for a backup: {error}"
    ended = list(entries(pipeline.ledger, EventKind.STATUS_CHANGED, request=rotation.id))[-1]
    if not ended.actor.startswith(DAGSTER_RUN) and pipeline.clock.now() - ended.at < LEFT_TO_THE_COMMAND:
        return f"{ended.actor} finished rotation {rotation.id} and is about to back up"
    return None


def fail_stale_runs(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    locks: str,
    conducted: Iterable[tuple[dg.DagsterRun, ConductorRun]],
) -> None:
    """Marks runs as failed that nobody works at any more, so that the conductor retries them.

    These are runs whose machine, or the whole of Dagster, was killed: Dagster's own launcher never notices, and they
    would count as running for ever. And runs whose daemon was killed before it made a worker, which Dagster ends only
    after the time that it allows a worker to start. A worker that comes after all finds its run finished, and ends.

    Args:
        locks: how the locks of the tasks begin; a process that works at one, on any machine, holds its lock.
    """
    now = pipeline.clock.now()
    runs = [run for run, _ in conducted]
    for run in runs:
        if run.status is dg.DagsterRunStatus.STARTING and has_no_worker(instance, run, now):
            instance.report_run_failed(run, "nothing was started for it, its daemon is gone; the conductor retries it")
    started = [run for run in runs if run.status is dg.DagsterRunStatus.STARTED]
    stale = [run for run in started if _is_silent(instance, run, now)]
    if stale and not pipeline.ledger.held_locks(locks):
        for run in stale:
            instance.report_run_failed(run, "its process is gone and left no message; the conductor retries it")


def _is_silent(instance: dg.DagsterInstance, run: dg.DagsterRun, now: datetime) -> bool:
    newest = _newest_event(instance, run)
    return newest is None or now.timestamp() - newest.timestamp > STALE_AFTER.total_seconds()


def has_no_worker(instance: dg.DagsterInstance, run: dg.DagsterRun, now: datetime) -> bool:
    """Whether the last that happened to a run, a while ago, is that somebody set out to start its worker."""
    newest = _newest_event(instance, run)
    if newest is None or now.timestamp() - newest.timestamp <= LAUNCHED_WITHIN.total_seconds():
        return False
    kind = newest.dagster_event.event_type if newest.dagster_event is not None else None
    return kind is dg.DagsterEventType.RUN_STARTING or newest.message.endswith(CREATING_A_JOB)


def _newest_event(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.EventLogEntry | None:
    records = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    return records[0].event_log_entry if records else None
