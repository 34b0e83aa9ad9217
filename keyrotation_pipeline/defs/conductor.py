"""The conductor: asks the same function as the command line what is due, and starts runs for it."""

from collections.abc import Iterator
from datetime import UTC

import dagster as dg

from keyrotation_pipeline.defs.awaited import show_what_is_awaited
from keyrotation_pipeline.defs.jobs import EVIDENCE, Jobs
from keyrotation_pipeline.defs.launches import (
    ATTEMPT_TAG,
    CONDUCTOR,
    PastRun,
    evidence_request,
    launches,
)
from keyrotation_pipeline.defs.names import ROTATION_TAG, Naming
from keyrotation_pipeline.defs.partitions import missing_partitions, partition_of
from keyrotation_pipeline.defs.refusals import sentence_of
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.defs.silent_runs import end_silent
from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreUnavailableError
from keyrotation_pipeline.model.request import RequestStatus, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import superseding
from keyrotation_pipeline.rotation import performing
from keyrotation_pipeline.rotation.keys import require_registered_keys

# The daemon looks every 5 seconds; with 5 here it would skip every other look.
SECONDS_BETWEEN_TICKS = 2
FIRST_ATTEMPT = "1"


def conductor_sensor(naming: Naming, jobs: Jobs) -> dg.SensorDefinition:
    """The sensor `rotation_conductor`."""

    @dg.sensor(
        name=naming.name(CONDUCTOR),
        jobs=jobs.all(),
        minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def rotation_conductor(
        context: dg.SensorEvaluationContext, keyrotation: PipelineParameter
    ) -> dg.SensorResult | dg.SkipReason:
        """Carries an approved rotation through its walk; one that was requested with `--manual` it leaves to people."""
        keyrotation.note_look(CONDUCTOR, context)
        try:
            with keyrotation.open("dagster rotation_conductor") as opened, opened.ledger.reading():
                result = tick(context.instance, naming, opened)
                # The page of a sensor shows its cursor; nothing is decided by it.
                before = context.cursor or ""
                context.update_cursor(show_what_is_awaited(context.instance, naming, opened, result, before))
        except Exception as error:  # noqa: BLE001  a tick is stored: no text but our own sentences
            context.update_cursor(sentence := sentence_of(error))
            return dg.SkipReason(sentence)
        return result

    return rotation_conductor


def tick(instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline) -> dg.SensorResult | dg.SkipReason:
    """One look: what is due and not yet running is started; otherwise the sentence that says what is waited for."""
    rotation = superseding.next_up(pipeline)
    if rotation is None:
        return _evidence_of_last(instance, naming, pipeline)
    decision = performing.next_decision(pipeline, rotation)
    people = performing.left_to_people(pipeline, rotation)
    if people or not decision.tasks:
        return dg.SkipReason(f"left to people: {people}" if people else f"waiting for {decision.waiting_for}")
    end_silent(instance, pipeline, rotation, decision.tasks, _conducted(instance, naming, rotation))
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


def _evidence_of_last(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline
) -> dg.SensorResult | dg.SkipReason:
    walked = (each for each in pipeline.ledger.requests() if isinstance(each, Walk))
    finished = next((each for each in walked if each.status is RequestStatus.FINISHED), None)
    if finished is None or any(past.subject == EVIDENCE for _, past in _conducted(instance, naming, finished)):
        return dg.SkipReason("no rotation is open; request one with `keyrotation request --reason TEXT`")
    return dg.SensorResult(run_requests=[evidence_request(naming, finished)])


def _conducted(instance: dg.DagsterInstance, naming: Naming, rotation: Walk) -> Iterator[tuple[dg.DagsterRun, PastRun]]:
    """Each run that the conductor started for a rotation, and what that tells."""
    for record in instance.get_run_records(dg.RunsFilter(tags={ROTATION_TAG: rotation.id})):
        run = record.dagster_run
        ended_at = record.update_timestamp.replace(tzinfo=UTC) if run.is_finished else None
        if (past := PastRun.believed(naming, run.job_name, run.tags, ended_at)) is not None:
            yield run, past
