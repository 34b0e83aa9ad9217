"""Composition root of the Dagster code location: `defs` is what Dagster loads."""

import warnings
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import dagster as dg

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.defs.alerts import run_failure_alert
from keyrotation_pipeline.defs.archive import archived_key
from keyrotation_pipeline.defs.audit import compliance_report, key_rotation_audit
from keyrotation_pipeline.defs.automation import sensors_and_schedules_run
from keyrotation_pipeline.defs.backup_schedules import (
    BACKUP_JOB,
    RECOVERY_TEST_JOB,
    daily_key_backup,
    quarterly_recovery_test,
)
from keyrotation_pipeline.defs.backups import backup_assets, backup_decrypts, recovery_test_asset
from keyrotation_pipeline.defs.conductor import conductor_sensor
from keyrotation_pipeline.defs.deploy import dual_key_rollout, primary_key_rollout, rotation_not_overdue
from keyrotation_pipeline.defs.incident_assets import access_audit_asset, breach_decision_asset, incident_report_asset
from keyrotation_pipeline.defs.incidents import alert_delivery, incident_flag
from keyrotation_pipeline.defs.inventory import encrypted_columns, retired_versions_are_refused
from keyrotation_pipeline.defs.jobs import build_jobs
from keyrotation_pipeline.defs.keys import key_reads_back, key_usage_below_gcm_limit, key_version
from keyrotation_pipeline.defs.mirror import ledger_mirror
from keyrotation_pipeline.defs.prove import zero_old_rows_proof_asset
from keyrotation_pipeline.defs.readiness import rotation_readiness
from keyrotation_pipeline.defs.reencrypt import rows_asset, zero_old_rows_check
from keyrotation_pipeline.defs.rehearsal import REHEARSAL_JOB, nightly_rehearsal, rotation_rehearsal
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.defs.retire import every_value_decrypts, retired_key
from keyrotation_pipeline.defs.schedules import rotation_calendar
from keyrotation_pipeline.defs.time_stamps import audit_timestamp
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.model.columns import EncryptedTable


def build_definitions(
    tables: Sequence[EncryptedTable],
    shards: int,
    pipeline: PipelineResource,
    time_zone: str = "UTC",
    installed: datetime | None = None,
    *,
    rehearse_nightly: bool = False,
    timestamps: bool = False,
) -> dg.Definitions:
    """Everything that Dagster shows, over these tables; without tables no `rows` assets, all else as ever.

    Args:
        installed: when the days of backups begin; None: now.
        rehearse_nightly: whether each night's backup is rehearsed on.
        timestamps: whether an authority is asked for time stamps of the audit.
    """
    now = SystemClock().now()
    # Not of the future, where a clock was wrong then: today must have a partition.
    first_day = min(installed or now, now).astimezone(ZoneInfo(time_zone)).date()
    resource = pipeline.definition()
    jobs = build_jobs(tables, resource)
    assets: list[dg.AssetsDefinition] = [
        encrypted_columns,
        rotation_readiness,
        key_version,
        dual_key_rollout,
        primary_key_rollout,
        *(rows_asset(table, shards) for table in tables),
        zero_old_rows_proof_asset(tables),
        retired_key,
        archived_key,
        key_rotation_audit,
        compliance_report,
        backup_assets(time_zone, first_day),
        recovery_test_asset,
        rotation_rehearsal,
        incident_report_asset,
        breach_decision_asset,
        access_audit_asset,
    ]
    return dg.Definitions(
        assets=_linked_to_their_files(assets),
        asset_checks=[
            key_reads_back,
            key_usage_below_gcm_limit,
            rotation_not_overdue,
            sensors_and_schedules_run,
            retired_versions_are_refused,
            every_value_decrypts,
            backup_decrypts,
            *([zero_old_rows_check(tables)] if tables else []),
        ],
        jobs=[*jobs.all(), BACKUP_JOB, RECOVERY_TEST_JOB, REHEARSAL_JOB],
        schedules=[
            rotation_calendar(jobs),
            daily_key_backup(time_zone),
            quarterly_recovery_test(time_zone),
            *([nightly_rehearsal(time_zone)] if rehearse_nightly else []),
        ],
        sensors=[
            conductor_sensor(jobs),
            ledger_mirror,
            run_failure_alert,
            incident_flag,
            alert_delivery,
            *([audit_timestamp] if timestamps else []),
        ],
        resources={"pipeline": resource},
        executor=dg.in_process_executor,
    )


def _linked_to_their_files(assets: Sequence[dg.AssetsDefinition]) -> Sequence[dg.AssetsDefinition]:
    """With code references, which the UI shows; they are beta in this release of Dagster, as each load would say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return [each for each in dg.with_source_code_references(assets) if isinstance(each, dg.AssetsDefinition)]


def declared_definitions() -> dg.Definitions:
    """The definitions for the configuration that is found; for none, the procedure without tables."""
    assembly.harden_process()
    try:
        declared = settings.load()
    except HomeError:
        return build_definitions((), 1, PipelineResource())
    resource = PipelineResource(config_file=str(declared.path))
    shards, time_zone = declared.reencryption.shards, declared.time_zone
    return build_definitions(
        declared.encrypted_tables,
        shards,
        resource,
        time_zone,
        assembly.installed_at(declared.home),
        rehearse_nightly=declared.recovery.rehearse_nightly,
        timestamps=declared.audit.timestamp_url is not None,
    )


defs = declared_definitions()
