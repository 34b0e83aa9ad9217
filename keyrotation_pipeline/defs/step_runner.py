"""Runs the step of an asset for the rotation of its partition; a failure is shown as one sentence, never its text."""

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg

from keyrotation_pipeline.defs import launch_refusals
from keyrotation_pipeline.defs.partitions import RunPartition, database_name, partition_of
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.defs.step_metadata import CommonFacts, metadata_of
from keyrotation_pipeline.errors import KeyRotationError, OutOfOrderError
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, Shard
from keyrotation_pipeline.model.visible_text import visible
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import reencrypt, runner

SECONDS_BETWEEN_LOG_LINES = 3.0
DAGSTER_RUN = "dagster run "
MAX_SHOWN_CHARS = 40


def run_step(
    context: dg.AssetExecutionContext,
    resource: PipelineResource,
    step: Step,
    *,
    closing: Step | None = None,
) -> Mapping[str, dg.MetadataValue]:
    """Runs the step of one asset and describes it.

    Args:
        closing: a step without an asset of its own, run first when it is due.

    Raises:
        KeyRotationError: the step was refused, mostly because it is not due; nothing was done.
    """
    with resource.open(actor_of(context)) as pipeline:
        rotation = rotation_of(pipeline, RunPartition.of(context).walk)
        launch_refusals.lift(pipeline.ledger, rotation)
        report = progress_to(context.log)
        if closing is not None and Task(closing) in runner.next_decision(Situation(pipeline), rotation).tasks:
            runner.run_step(pipeline, rotation.id, Task(closing), report)
        began = time.monotonic()
        record = runner.run_step(pipeline, rotation.id, Task(step), report)
        seconds = time.monotonic() - began
        return metadata_of(resource.naming, CommonFacts.of(pipeline, rotation, record), record, seconds=seconds)


def run_rows(
    context: dg.AssetExecutionContext, resource: PipelineResource, tables: Sequence[EncryptedTable]
) -> Mapping[str, dg.MetadataValue]:
    """Re-encrypts the shard that a partition names; in a fleet, every shard of the table in the database that it names.

    Args:
        tables: the same table in each database that has it.

    Raises:
        KeyRotationError: as `run_step`.
    """
    with resource.open(actor_of(context)) as pipeline:
        partition = RunPartition.of(context)
        rotation = rotation_of(pipeline, partition.walk)
        launch_refusals.lift(pipeline.ledger, rotation)
        table = next(each for each in tables if partition.database in {None, database_name(each.name)})
        shards = range(pipeline.shards) if partition.shard is None else (partition.shard,)
        tasks = [Task(Step.ROWS, Shard(table, index, pipeline.shards)) for index in shards]
        report = progress_to(context.log)
        records = [runner.run_step(pipeline, rotation.id, task, report) for task in tasks]
        record = records[-1]
        if partition.shard is None:
            record = replace(record, shard=None, facts=reencrypt.sum_of(records))
        return metadata_of(resource.naming, CommonFacts.of(pipeline, rotation, record), record)


def rotation_of(pipeline: Pipeline, partition: str) -> Walk:
    """The rotation or rollback of a partition: the current one, else the newest that was not cancelled.

    A rotation that waits to take over a running one has the same partition.

    Raises:
        OutOfOrderError: there is none.
    """
    current = takeover.current_or_next(pipeline)
    if current is not None and partition_of(current) == partition:
        return current
    wanted = [each for each in pipeline.ledger.requests() if isinstance(each, Walk) and partition_of(each) == partition]
    kept = [each for each in wanted if each.status is not RequestStatus.CANCELLED]
    for rotation in (*kept, *wanted):
        return rotation
    raise OutOfOrderError(_not_requested(pipeline, partition))


def _not_requested(pipeline: Pipeline, partition: str) -> str:
    """Somebody typed that partition: only its first characters are shown."""
    current = takeover.current_or_next(pipeline)
    advice = (
        f"choose the partition {partition_of(current)}"
        if current
        else "open one with `keyrotation request --reason TEXT`"
    )
    shown = visible(partition[:MAX_SHOWN_CHARS])
    return f"no rotation to {shown} was requested; {advice}"


def actor_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext) -> str:
    """The actor that the audit names: the run, since Dagster's UI has no login that could name a person."""
    return f"{DAGSTER_RUN}{context.run.run_id}"


def progress_to(log: dg.DagsterLogManager) -> Report:
    """Logs progress, at most one line every few seconds: each line is a row in Dagster's storage."""
    last = -SECONDS_BETWEEN_LOG_LINES

    def report(progress: Progress) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= SECONDS_BETWEEN_LOG_LINES:
            last = now
            log.info(line_of(progress))

    return report


def line_of(progress: Progress) -> str:
    """``clients: 12,000 of 40,000 rows (30 %)``."""
    part = f" of {progress.total:,}" if progress.total else ""
    percent = f" ({100 * progress.done // progress.total} %)" if progress.total else ""
    note = f"; {progress.note}" if progress.note else ""
    return f"{progress.subject}: {progress.done:,}{part} {progress.unit}{percent}{note}"


PACKAGE = Path(__file__).parent.parent


@contextmanager
def step_failures() -> Iterator[None]:
    """Turns any exception into a failed step with one sentence; `from None`, since a cause may carry parameters."""
    try:
        yield
    except dg.Failure:
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, its text must not be stored
        raise dg.Failure(message_of(error), allow_retries=False) from None


def message_of(error: Exception) -> str:
    """The message of an expected failure; of a defect its type and place, never its text."""
    if isinstance(error, KeyRotationError):
        return str(error)
    return (
        f"unexpected {type(error).__name__} at {_place(error)}; nothing was recorded as done, please report this defect"
    )


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
