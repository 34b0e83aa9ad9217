"""Provisional results of checks during a rotation, so that Dagster shows none as "not evaluated".

A check counts and decrypts everything after a rotation, and each morning. In between, each materialization of an asset
makes its last evaluation outdated. Then cheap checks are evaluated again, and the others report what is already known.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord  # type only

from keyrotation_pipeline.defs.checks import below_gcm_limit, not_overdue, progress_metadata, reads_back
from keyrotation_pipeline.defs.partitions import Naming
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.progress import TableProgress
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.requests import Step, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.monitoring.progress import tables_progress
from keyrotation_pipeline.ports.pipeline import Pipeline

Evaluate = Callable[[], dg.AssetCheckResult]


def provisional_evaluations(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, rotation: Walk
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluates each check whose last result is older than its asset, or than the proof that it rests on."""
    checks = _checks(naming, pipeline, rotation)
    evaluated = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(checks))
    latest = instance.event_log_storage.get_latest_materialization_events({key.asset_key for key in checks})
    proof = rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    for key, evaluate in checks.items():
        materialized, last = latest.get(key.asset_key), evaluated.get(key)
        if materialized is not None and _is_outdated(key, materialized, last, proof):
            yield _evaluation(key, evaluate())
        elif key.name == "rotation_not_overdue" and (failed := _failed(last)) is not None:
            # The morning's run warned to request a rotation, which has been requested since.
            evaluation = _evaluation(key, evaluate())
            if evaluation.description != failed.description:
                yield evaluation


def _failed(last: AssetCheckExecutionRecord | None) -> dg.AssetCheckEvaluation | None:
    # A check that was planned in a failed run has another kind of event.
    evaluation: object = last.evaluation if last is not None else None
    return evaluation if isinstance(evaluation, dg.AssetCheckEvaluation) and not evaluation.passed else None


def _is_outdated(
    key: dg.AssetCheckKey,
    materialized: dg.EventLogEntry,
    last: AssetCheckExecutionRecord | None,
    proof: StepRecord | None,
) -> bool:
    at = materialized.timestamp
    if proof is not None and key.name == "zero_old_rows":
        at = max(at, proof.finished_at.timestamp())
    same_run = last is not None and last.run_id == materialized.run_id != ""
    return last is None or (_time_of(last) <= at and not same_run)


def _time_of(execution: AssetCheckExecutionRecord) -> float:
    """When it was evaluated; if that is unfinished or failed, when it was planned. SQLite stores whole seconds."""
    return execution.event.timestamp if execution.event is not None else execution.create_timestamp


def _checks(naming: Naming, pipeline: Pipeline, rotation: Walk) -> Mapping[dg.AssetCheckKey, Evaluate]:
    def key(step: Step, name: str) -> dg.AssetCheckKey:
        return dg.AssetCheckKey(naming.step(step), name)

    @cache
    def progress() -> Mapping[str, TableProgress]:
        return {each.table: each for each in tables_progress(pipeline, rotation, pipeline.tables)}

    def rows(table: EncryptedTable) -> Evaluate:
        return lambda: zero_old_rows_so_far(rotation, table, progress()[str(table.name)])

    return {
        key(Step.KEY_VERSION, "key_reads_back"): lambda: reads_back(pipeline),
        key(Step.KEY_VERSION, "key_usage_below_gcm_limit"): lambda: below_gcm_limit(pipeline),
        key(Step.PRIMARY_KEY_ROLLOUT, "rotation_not_overdue"): lambda: not_overdue(pipeline),
        key(Step.RETIRED_KEY, "every_value_decrypts"): lambda: decrypted_by_the_proof(rotation),
        **{dg.AssetCheckKey(naming.rows(table.name), "zero_old_rows"): rows(table) for table in pipeline.tables},
    }


def zero_old_rows_so_far(rotation: Walk, table: EncryptedTable, progress: TableProgress) -> dg.AssetCheckResult:
    """Not passed until the proof has counted; then the result of the proof."""
    record = rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    if record is not None:
        return dg.AssetCheckResult(
            passed=True,
            description=f"the proof of {utc_minute(record.finished_at)} found no row of {table.name} under "
            f"{rotation.source}; counted again when the rotation has ended",
            metadata={"old_rows": 0},
        )
    return dg.AssetCheckResult(
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"under way: {progress}; rows under {rotation.source} are counted when every shard is done",
        metadata={"table_percent": round(100 * progress.share, 1), **progress_metadata(under_way=True)},
    )


def decrypted_by_the_proof(rotation: Walk) -> dg.AssetCheckResult:
    """The result of the proof, which decrypted everything minutes before the key was retired."""
    record = rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    if record is None:
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description="under way: every value is decrypted by the proof, before a key is retired",
            metadata=progress_metadata(under_way=True),
        )
    values = read(Proven, record.facts).values_decrypted
    return dg.AssetCheckResult(
        passed=True,
        description=f"the proof of {utc_minute(record.finished_at)} decrypted all {values:,} values; done again when "
        "the rotation has ended",
        metadata={"values": values},
    )


def _evaluation(key: dg.AssetCheckKey, result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )
