"""Checks in the middle of a rotation: what is known without counting, so that none stands as "not evaluated".

A check counts and decrypts everything when a rotation has ended, and each morning. Between, an asset that was just
materialized has outdated the last evaluation. Then what is cheap is looked at anew, and the rest says what is known.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord  # type only

from keyrotation_pipeline.defs.deploy import not_overdue
from keyrotation_pipeline.defs.keys import below_gcm_limit, reads_back
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.under_way import marked
from keyrotation_pipeline.model.audit import read
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.requests import Step, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.monitoring.progress import TableProgress, tables_progress
from keyrotation_pipeline.ports.pipeline import Pipeline

Look = Callable[[], dg.AssetCheckResult]


def interim_evaluations(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, rotation: Walk
) -> Iterator[dg.AssetCheckEvaluation]:
    """An evaluation of each check that is older than its asset, or than the proof that it tells of."""
    looks = _looks(naming, pipeline, rotation)
    evaluated = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(looks))
    latest = instance.event_log_storage.get_latest_materialization_events({key.asset_key for key in looks})
    proof = rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    for key, look in looks.items():
        materialized, last = latest.get(key.asset_key), evaluated.get(key)
        if materialized is not None and _is_outdated(key, materialized, last, proof):
            yield _evaluation(key, look())
        elif key.name == "rotation_not_overdue" and (failed := _failed(last)) is not None:
            # A morning's warning to request a rotation, which was requested since.
            evaluation = _evaluation(key, look())
            if evaluation.description != failed.description:
                yield evaluation


def _failed(last: AssetCheckExecutionRecord | None) -> dg.AssetCheckEvaluation | None:
    # Of one that was planned in a run that failed, the event is another.
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
    """When it was evaluated; where that runs or failed, when it was planned. SQLite plans in whole seconds."""
    return execution.event.timestamp if execution.event is not None else execution.create_timestamp


def _looks(naming: Naming, pipeline: Pipeline, rotation: Walk) -> Mapping[dg.AssetCheckKey, Look]:
    def key(step: Step, name: str) -> dg.AssetCheckKey:
        return dg.AssetCheckKey(naming.step(step), name)

    @cache
    def far() -> Mapping[str, TableProgress]:
        return {each.table: each for each in tables_progress(pipeline, rotation, pipeline.tables)}

    def rows(table: EncryptedTable) -> Look:
        return lambda: zero_old_rows_so_far(rotation, table, far()[str(table.name)])

    return {
        key(Step.KEY_VERSION, "key_reads_back"): lambda: reads_back(pipeline),
        key(Step.KEY_VERSION, "key_usage_below_gcm_limit"): lambda: below_gcm_limit(pipeline),
        key(Step.PRIMARY_KEY_ROLLOUT, "rotation_not_overdue"): lambda: not_overdue(pipeline),
        key(Step.RETIRED_KEY, "every_value_decrypts"): lambda: decrypted_by_the_proof(rotation),
        **{dg.AssetCheckKey(naming.rows(table.name), "zero_old_rows"): rows(table) for table in pipeline.tables},
    }


def zero_old_rows_so_far(rotation: Walk, table: EncryptedTable, far: TableProgress) -> dg.AssetCheckResult:
    """Not passed until the proof has counted; that of the proof is as good as it was then."""
    record = rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    if record is not None:
        return dg.AssetCheckResult(
            passed=True,
            description=f"the proof of {_minute(record.finished_at)} found no row of {table.name} under "
            f"{rotation.source}; counted again when the rotation has ended",
            metadata={"old_rows": 0},
        )
    return dg.AssetCheckResult(
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"under way: {far}; rows under {rotation.source} are counted when every shard is done",
        metadata={"table_percent": round(100 * far.share, 1), **marked(under_way=True)},
    )


def decrypted_by_the_proof(rotation: Walk) -> dg.AssetCheckResult:
    """What the proof decrypted, minutes before the key was retired."""
    record = rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    if record is None:
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description="under way: every value is decrypted by the proof, before a key is retired",
            metadata=marked(under_way=True),
        )
    values = read(Proven, record.facts).values_decrypted
    return dg.AssetCheckResult(
        passed=True,
        description=f"the proof of {_minute(record.finished_at)} decrypted all {values:,} values; done again when the "
        "rotation has ended",
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


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
