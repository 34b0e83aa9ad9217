"""Steps that ran elsewhere, on the command line say, shown in Dagster too."""

from collections.abc import Iterator

import dagster as dg

from keyrotation_pipeline.defs.conductor import RUNS_LOOKED_AT, SECONDS_BETWEEN_TICKS
from keyrotation_pipeline.defs.evidence import metadata_of
from keyrotation_pipeline.defs.interim import interim_evaluations
from keyrotation_pipeline.defs.launches import PastRun
from keyrotation_pipeline.defs.names import ROTATION_TAG, rows_key, step_key
from keyrotation_pipeline.defs.partitions import KEY_VERSION, KEY_VERSIONS, row_partition
from keyrotation_pipeline.defs.refusals import sentence_of
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.columns import TableName
from keyrotation_pipeline.model.request import Step, StepRecord, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import superseding

FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
UNFINISHED = [status for status in dg.DagsterRunStatus if status not in FINISHED]


@dg.sensor(
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def ledger_mirror(context: dg.SensorEvaluationContext, pipeline: PipelineParameter) -> dg.SensorResult | dg.SkipReason:
    """Shows steps that the ledger has and Dagster has not: a rotation run by `keyrotation rotate` or `demo`."""
    pipeline.note_look("ledger_mirror", context)
    try:
        with pipeline.open("dagster ledger_mirror") as opened:
            return reflect(context.instance, opened)
    except Exception as error:  # noqa: BLE001  a tick is stored: no text but our own sentences
        return dg.SkipReason(sentence_of(error))


def reflect(instance: dg.DagsterInstance, pipeline: Pipeline) -> dg.SensorResult | dg.SkipReason:
    """Events, without a run, for each recorded step and check that Dagster lacks; the ledger stays the truth."""
    events: list[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation] = []
    versions = []
    walks = [each for each in pipeline.ledger.requests() if isinstance(each, Walk)]
    for rotation in reversed(walks):
        if _runs_here(instance, rotation):
            continue  # its assets say so themselves, in a moment
        missing = list(_missing(instance, pipeline, rotation))
        events += missing
        if missing and not instance.has_dynamic_partition(KEY_VERSION, str(rotation.target)):
            versions.append(str(rotation.target))
    if (current := superseding.next_up(pipeline)) is not None:
        events += interim_evaluations(instance, pipeline, current)
    if not events:
        return dg.SkipReason("Dagster shows every step that the ledger has")
    added = [KEY_VERSIONS.build_add_request(versions)] if versions else []
    return dg.SensorResult(asset_events=events, dynamic_partitions_requests=added)


def _runs_here(instance: dg.DagsterInstance, rotation: Walk) -> bool:
    unfinished = dg.RunsFilter(tags={ROTATION_TAG: rotation.id}, statuses=UNFINISHED)
    runs = (record.dagster_run for record in instance.get_run_records(unfinished, limit=RUNS_LOOKED_AT))
    return any(PastRun.believed(run.job_name, run.tags, None) is not None for run in runs)


def _missing(instance: dg.DagsterInstance, pipeline: Pipeline, rotation: Walk) -> Iterator[dg.AssetMaterialization]:
    shown: dict[dg.AssetKey, set[str]] = {}
    for record in rotation.steps:
        key, partition = _asset_of(rotation, record)
        if key is None:
            continue
        if key not in shown:
            shown[key] = set(instance.get_materialized_partitions(key))
        if partition not in shown[key]:
            yield dg.AssetMaterialization(
                key,
                description="run outside Dagster",
                partition=partition,
                metadata=dict(metadata_of(pipeline, rotation, record)),
            )


def _asset_of(rotation: Walk, record: StepRecord) -> tuple[dg.AssetKey | None, str]:
    if record.table is not None and record.shard is not None:
        return rows_key(TableName.parse(record.table)), row_partition(rotation.target, record.shard)
    # The closing record of the rows has no asset of its own.
    return (None if record.step is Step.ROWS else step_key(record.step)), str(rotation.target)
