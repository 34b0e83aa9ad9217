"""Everything that Dagster shows, put together."""

import warnings
from collections.abc import Sequence
from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from keyrotation_pipeline import assembly
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.defs.alerts import run_failure_alert_sensor
from keyrotation_pipeline.defs.archive import archived_key_asset
from keyrotation_pipeline.defs.audit import compliance_report_asset, key_rotation_audit_asset
from keyrotation_pipeline.defs.automation import sensors_and_schedules_run_check
from keyrotation_pipeline.defs.backup_schedules import (
    backup_job,
    daily_key_backup,
    quarterly_recovery_test,
    recovery_test_job,
)
from keyrotation_pipeline.defs.backups import backup_assets, backup_decrypts_check, recovery_test_asset
from keyrotation_pipeline.defs.conductor import conductor_sensor
from keyrotation_pipeline.defs.deploy import (
    dual_key_rollout_asset,
    primary_key_rollout_asset,
    rotation_not_overdue_check,
)
from keyrotation_pipeline.defs.incident_assets import access_audit_asset, breach_decision_asset, incident_report_asset
from keyrotation_pipeline.defs.incidents import alert_delivery_sensor, incident_flag_sensor
from keyrotation_pipeline.defs.inventory import encrypted_columns_asset, retired_versions_are_refused_check
from keyrotation_pipeline.defs.jobs import build_jobs
from keyrotation_pipeline.defs.keys import key_reads_back_check, key_usage_below_gcm_limit_check, key_version_asset
from keyrotation_pipeline.defs.mirror import ledger_mirror_sensor
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.ours import Ours
from keyrotation_pipeline.defs.prove import zero_old_rows_proof_asset
from keyrotation_pipeline.defs.readiness import rotation_readiness_asset
from keyrotation_pipeline.defs.reencrypt import DUE_SHARDS, rows_asset, zero_old_rows_check
from keyrotation_pipeline.defs.rehearsal import nightly_rehearsal, rehearsal_job, rotation_rehearsal_asset
from keyrotation_pipeline.defs.resources import RESOURCE, PipelineResource
from keyrotation_pipeline.defs.retire import every_value_decrypts_check, retired_key_asset
from keyrotation_pipeline.defs.schedules import rolling_decrypt, rotation_calendar
from keyrotation_pipeline.defs.time_stamps import audit_timestamp_sensor
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.settings import Settings


def configured_definitions(declared: Settings, naming: Naming) -> dg.Definitions:
    """Everything for a configuration, named for the project that it stands in."""
    return build_definitions(
        declared.encrypted_tables,
        declared.reencryption.shards,
        PipelineResource(str(declared.path), naming),
        declared.time_zone,
        assembly.installed_at(declared.home),
        rehearse_nightly=declared.recovery.rehearse_nightly,
        timestamps=declared.audit.timestamp_url is not None,
    )


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
    now, naming, resource = SystemClock().now(), pipeline.naming, pipeline.definition()
    # Not of the future, where a clock was wrong then: today must have a partition.
    first_day = min(installed or now, now).astimezone(ZoneInfo(time_zone)).date()
    assets = _linked_to_their_files(_assets(naming, tables, shards, time_zone, first_day))
    checks = _checks(naming, tables)
    jobs = build_jobs(naming, tables, (key for each in (*assets, *checks) for key in each.check_keys), resource)
    backup = backup_job(naming)
    everything = (*jobs.all(), backup, recovery_test_job(naming), rehearsal_job(naming))
    ours = Ours.of((*assets, *checks), (naming.name(DUE_SHARDS),), (job.name for job in everything))
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=everything,
        schedules=[
            rotation_calendar(naming),
            rolling_decrypt(naming),
            daily_key_backup(naming, time_zone),
            quarterly_recovery_test(naming, time_zone),
            *([nightly_rehearsal(naming, time_zone)] if rehearse_nightly else []),
        ],
        sensors=[
            conductor_sensor(naming, jobs, backup, time_zone),
            ledger_mirror_sensor(naming),
            run_failure_alert_sensor(naming, ours),
            incident_flag_sensor(naming),
            alert_delivery_sensor(naming, ours),
            *([audit_timestamp_sensor(naming)] if timestamps else []),
        ],
        resources={RESOURCE: resource},
    )


def _assets(
    naming: Naming, tables: Sequence[EncryptedTable], shards: int, time_zone: str, first_day: date
) -> Sequence[dg.AssetsDefinition]:
    return [
        encrypted_columns_asset(naming),
        rotation_readiness_asset(naming),
        key_version_asset(naming),
        dual_key_rollout_asset(naming),
        primary_key_rollout_asset(naming),
        *(rows_asset(naming, table, shards) for table in tables),
        zero_old_rows_proof_asset(naming, tables),
        retired_key_asset(naming),
        archived_key_asset(naming),
        key_rotation_audit_asset(naming),
        compliance_report_asset(naming),
        backup_assets(naming, time_zone, first_day),
        recovery_test_asset(naming),
        rotation_rehearsal_asset(naming),
        incident_report_asset(naming),
        breach_decision_asset(naming),
        access_audit_asset(naming),
    ]


def _checks(naming: Naming, tables: Sequence[EncryptedTable]) -> Sequence[dg.AssetChecksDefinition]:
    return [
        key_reads_back_check(naming),
        key_usage_below_gcm_limit_check(naming),
        rotation_not_overdue_check(naming),
        sensors_and_schedules_run_check(naming),
        retired_versions_are_refused_check(naming),
        every_value_decrypts_check(naming),
        backup_decrypts_check(naming),
        *([zero_old_rows_check(naming, tables)] if tables else []),
    ]


def _linked_to_their_files(assets: Sequence[dg.AssetsDefinition]) -> Sequence[dg.AssetsDefinition]:
    """With code references, which the UI shows; they are beta in this release of Dagster, as each load would say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return [each for each in dg.with_source_code_references(assets) if isinstance(each, dg.AssetsDefinition)]
