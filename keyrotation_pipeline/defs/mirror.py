"""What the ledger has and Dagster has not: steps that ran elsewhere, on the command line say, and partitions."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import dagster as dg

from keyrotation_pipeline.defs.evidence import CommonFacts, asset_of, materialization
from keyrotation_pipeline.defs.interim import interim_evaluations
from keyrotation_pipeline.defs.launches import PastRun
from keyrotation_pipeline.defs.names import ROTATION_TAG, Naming
from keyrotation_pipeline.defs.partitions import (
    UNFINISHED,
    partition_of,
    partitions_in_use,
    partitions_to_sync,
    wanted_partitions,
)
from keyrotation_pipeline.defs.refusals import sentence_of
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.requests import StepRecord, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover

# At every other look of the daemon: what it shows was done elsewhere, and nothing waits for it.
SECONDS_BETWEEN_TICKS = 8
A_MOMENT = timedelta(minutes=1)


def ledger_mirror_sensor(naming: Naming) -> dg.SensorDefinition:
    """The sensor `ledger_mirror`."""

    @dg.sensor(
        name=naming.name("ledger_mirror"),
        minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def ledger_mirror(
        context: dg.SensorEvaluationContext, keyrotation: PipelineParameter
    ) -> dg.SensorResult | dg.SkipReason:
        """Shows steps that ran outside Dagster, and keeps one partition for each rotation that the ledger has."""
        keyrotation.record_heartbeat("ledger_mirror", context)
        try:
            with keyrotation.open("dagster ledger_mirror") as opened, opened.ledger.reading():
                result, shown = reflect(context.instance, naming, opened, _seq_in(context.cursor))
                context.update_cursor(str(shown))
                return result
        except Exception as error:  # noqa: BLE001  a tick is stored: no text but our own sentences
            return dg.SkipReason(sentence_of(error))

    return ledger_mirror


def reflect(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, shown: int = 0
) -> tuple[dg.SensorResult | dg.SkipReason, int]:
    """Events, without a run, for each recorded step and check that Dagster lacks, and the partitions that it wants.

    Args:
        shown: the audit's seq up to which every step is in Dagster; given back as it is afterwards.
    """
    head, waits = pipeline.ledger.head(), False
    events: list[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation] = []
    for rotation in _walked_since(pipeline.ledger, shown if shown <= head.seq else 0):
        if _runs_here(instance, naming, rotation, pipeline.clock.now()):
            waits = True  # its assets say so themselves, in a moment
            continue
        events += _missing(instance, naming, pipeline, rotation)
    after = shown if waits else head.seq
    if (current := takeover.current_or_next(pipeline)) is not None:
        events += interim_evaluations(instance, naming, pipeline, current)
    partitions = partitions_to_sync(instance, naming, wanted_partitions(pipeline))
    if not events and not partitions:
        return dg.SkipReason("Dagster shows every step that the ledger has"), after
    return dg.SensorResult(asset_events=events, dynamic_partitions_requests=partitions), after


def _seq_in(cursor: str | None) -> int:
    """Whoever reaches the UI can write anything there."""
    return int(cursor) if cursor and cursor.isascii() and cursor.isdecimal() and len(cursor) < 19 else 0  # noqa: PLR2004


def _walked_since(ledger: Ledger, seq: int) -> Iterator[Walk]:
    """Every rotation and rollback that finished a step after `seq`, oldest first."""
    moved = {event.request for event in ledger.events(EventKind.STEP_FINISHED, after_seq=seq)}
    if moved:
        yield from (each for each in reversed(ledger.requests()) if isinstance(each, Walk) and each.id in moved)


def _runs_here(instance: dg.DagsterInstance, naming: Naming, rotation: Walk, now: datetime) -> bool:
    """Whether a run is at it that materializes the finished steps itself."""
    latest = max((each.finished_at for each in rotation.steps), default=now)
    # A run of somebody in the UI does too, but whoever reaches the port can start any: one is waited for but a minute.
    if now - latest < A_MOMENT and partition_of(rotation) in partitions_in_use(instance):
        return True
    unfinished = dg.RunsFilter(tags={ROTATION_TAG: rotation.id}, statuses=UNFINISHED)
    runs = (record.dagster_run for record in instance.get_run_records(unfinished))
    return any(PastRun.believed(naming, run.job_name, run.tags, None) is not None for run in runs)


def _missing(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, rotation: Walk
) -> Iterator[dg.AssetMaterialization]:
    shown: dict[dg.AssetKey, set[str]] = {}
    missing: list[StepRecord] = []
    for record in rotation.steps:
        key, partition = asset_of(naming, rotation, record)
        if key is None:
            continue
        if key not in shown:
            shown[key] = set(instance.get_materialized_partitions(key))
        if partition not in shown[key]:
            missing.append(record)
    if missing:
        common = CommonFacts.of(pipeline, rotation, *missing)
        yield from (materialization(naming, common, each, note="run outside Dagster") for each in missing)
