"""The conductor: asks the same function as the command line what is due, and starts runs for it."""

from collections.abc import Iterator
from datetime import UTC, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition as AssetJob,
)  # type only

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.backups import completeness
from keyrotation_pipeline.backups.backup import BACKUP_LOCK
from keyrotation_pipeline.defs.awaited import show_what_is_awaited
from keyrotation_pipeline.defs.jobs import EVIDENCE, Jobs
from keyrotation_pipeline.defs.launches import (
    ATTEMPT_TAG,
    BACKUP,
    CONDUCTOR,
    PastRun,
    backup_request,
    evidence_request,
    launches,
    next_backup_attempt,
)
from keyrotation_pipeline.defs.names import ROTATION_TAG, Naming
from keyrotation_pipeline.defs.partitions import missing_partitions, partition_of
from keyrotation_pipeline.defs.performing import DAGSTER_RUN
from keyrotation_pipeline.defs.refusals import sentence_of
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.defs.silent_runs import end_silent
from keyrotation_pipeline.errors import AtWorkError, KeyStoreDamagedError, KeyStoreUnavailableError
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.keys import require_registered_keys

# The daemon looks every 5 seconds; with 5 here it would skip every other look.
SECONDS_BETWEEN_TICKS = 2
FIRST_ATTEMPT = "1"
# `keyrotation rotate` backs up as soon as its last step is done; until then its backup has no lock to be seen by.
LEFT_TO_THE_COMMAND = timedelta(seconds=30)


def conductor_sensor(naming: Naming, jobs: Jobs, backup: AssetJob, time_zone: str) -> dg.SensorDefinition:
    """The sensor `rotation_conductor`.

    Args:
        backup: the job that follows a finished rotation; `time_zone` is that of its days.
    """

    @dg.sensor(
        name=naming.name(CONDUCTOR),
        jobs=[*jobs.all(), backup],
        minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def rotation_conductor(
        context: dg.SensorEvaluationContext, keyrotation: PipelineParameter
    ) -> dg.SensorResult | dg.SkipReason:
        """Carries an approved rotation through its walk; one that was requested with `--manual` it leaves to people."""
        keyrotation.record_heartbeat(CONDUCTOR, context)
        try:
            with keyrotation.open("dagster rotation_conductor") as opened, opened.ledger.reading():
                result = tick(context.instance, naming, opened, time_zone)
                # The page of a sensor shows its cursor; nothing is decided by it.
                before = context.cursor or ""
                context.update_cursor(show_what_is_awaited(context.instance, naming, opened, result, before))
        except Exception as error:  # noqa: BLE001  a tick is stored: no text but our own sentences
            context.update_cursor(sentence := sentence_of(error))
            return dg.SkipReason(sentence)
        return result

    return rotation_conductor


def tick(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, time_zone: str
) -> dg.SensorResult | dg.SkipReason:
    """One look: what is due and not yet running is started; otherwise the sentence that says what is waited for."""
    rotation = takeover.current_or_next(pipeline)
    if rotation is None:
        return _after_the_last(instance, naming, pipeline, time_zone)
    decision = runner.next_decision(pipeline, rotation)
    people = runner.left_to_people(pipeline, rotation)
    if people or not decision.tasks:
        backup = _backup_after_the_last(instance, naming, pipeline, time_zone)
        waits = f"left to people: {people}" if people else f"waiting for {decision.waiting_for}"
        return backup if isinstance(backup, dg.SensorResult) else dg.SkipReason(waits)
    locks = [f"{rotation.id}/{task}" for task in decision.tasks]
    end_silent(instance, pipeline, locks, _conducted(instance, naming, rotation))
    past, now = (past for _, past in _conducted(instance, naming, rotation)), pipeline.clock.now()
    chosen = launches(naming, rotation, decision.tasks, past, now, pipeline.parallel_shards)
    if any(request.tags[ATTEMPT_TAG] != FIRST_ATTEMPT for request in chosen.requests):
        # After a failure: more runs cannot mend a damaged key store. One that only does not answer is tried again.
        try:
            require_registered_keys(pipeline)
        except KeyStoreDamagedError as error:
            return dg.SkipReason(f"stopped until the key store is mended: {error}")
        except KeyStoreUnavailableError:
            pass
    if chosen.requests:
        added = missing_partitions(instance, naming, [partition_of(rotation)])
        return dg.SensorResult(run_requests=chosen.requests, dynamic_partitions_requests=added)
    if chosen.in_progress:
        return dg.SkipReason(f"in progress: {', '.join(chosen.in_progress)}")
    return dg.SkipReason(
        f"next attempt at {chosen.next_try_at:%H:%M:%S} UTC; {rotation.blocked_by or 'the last one failed'}"
    )


def _after_the_last(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, time_zone: str
) -> dg.SensorResult | dg.SkipReason:
    """What follows the last finished rotation: a full backup, then every check, one of which looks at that backup."""
    if (backup := _backup_after_the_last(instance, naming, pipeline, time_zone)) is not None:
        return backup
    finished = completeness.last_finished(pipeline)
    if finished is None or any(past.subject == EVIDENCE for _, past in _conducted(instance, naming, finished[0])):
        return dg.SkipReason("no rotation is open; request one with `keyrotation request --reason TEXT`")
    return dg.SensorResult(run_requests=[evidence_request(naming, finished[0])])


def _backup_after_the_last(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, time_zone: str
) -> dg.SensorResult | dg.SkipReason | None:
    """The run that backs up after the last finished rotation, or why it is not started yet; None: it is done with."""
    finished, now = completeness.last_finished(pipeline), pipeline.clock.now()
    if finished is None or completeness.was_backed_up(pipeline, finished[1]):
        return None
    rotation, _ = finished
    tried = [each for each in _conducted(instance, naming, rotation) if each[1].subject == BACKUP]
    if under_way := [each for each in tried if each[1].ended_at is None]:
        end_silent(instance, pipeline, [BACKUP_LOCK], under_way)
        return dg.SkipReason(f"in progress: {BACKUP}")
    if (attempt := next_backup_attempt((past for _, past in tried), now)) is None:
        return None
    if (elsewhere := _backup_elsewhere(pipeline, rotation)) is not None:
        return dg.SkipReason(elsewhere)
    day = f"{now.astimezone(ZoneInfo(time_zone)):%Y-%m-%d}"
    return dg.SensorResult(run_requests=[backup_request(naming, rotation, attempt, day)])


def _backup_elsewhere(pipeline: Pipeline, rotation: Walk) -> str | None:
    """Why the backup is left to another process for now: it makes one, or it rotated and is about to."""
    try:
        with pipeline.ledger.lock(BACKUP_LOCK):
            pass
    except AtWorkError as error:
        return f"waiting for a backup: {error}"
    ended = list(entries(pipeline.ledger, EventKind.STATUS_CHANGED, request=rotation.id))[-1]
    if not ended.actor.startswith(DAGSTER_RUN) and pipeline.clock.now() - ended.at < LEFT_TO_THE_COMMAND:
        return f"{ended.actor} finished rotation {rotation.id}, and is about to back up"
    return None


def _conducted(instance: dg.DagsterInstance, naming: Naming, rotation: Walk) -> Iterator[tuple[dg.DagsterRun, PastRun]]:
    """Each run that the conductor started for a rotation, and what that tells."""
    for record in instance.get_run_records(dg.RunsFilter(tags={ROTATION_TAG: rotation.id})):
        run = record.dagster_run
        ended_at = record.update_timestamp.replace(tzinfo=UTC) if run.is_finished else None
        if (past := PastRun.believed(naming, run.job_name, run.tags, ended_at)) is not None:
            yield run, past
