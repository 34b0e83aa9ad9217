"""Builds everything that Dagster shows."""

from collections.abc import Sequence
from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.assembly.home import installed_at
from keyrotation_pipeline.assembly.listed_members import all_tables
from keyrotation_pipeline.defs.assets import build_asset, step_assets, with_code_references
from keyrotation_pipeline.defs.backups import BACKUP_TESTS, backup_assets, backup_decrypts_check
from keyrotation_pipeline.defs.checks import checks
from keyrotation_pipeline.defs.incidents import INCIDENT_ASSETS
from keyrotation_pipeline.defs.inventory import READINESS, encrypted_columns_asset
from keyrotation_pipeline.defs.partitions import Naming, Ownership
from keyrotation_pipeline.defs.reencrypt import DUE_SHARDS, rows_assets, zero_old_rows_check
from keyrotation_pipeline.defs.resources import RESOURCE, PipelineResource
from keyrotation_pipeline.defs.schedules import build_jobs, schedules
from keyrotation_pipeline.defs.sensors import sensors
from keyrotation_pipeline.defs.status_page import STATUS_PAGE
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.settings import Settings


def configured_definitions(declared: Settings, naming: Naming) -> dg.Definitions:
    """Everything for a configuration, with the names that its project asks for."""
    return build_definitions(
        all_tables(declared),
        declared.reencryption.shards,
        PipelineResource(str(declared.path), naming),
        declared.time_zone,
        installed_at(declared.home),
        rehearse_nightly=declared.recovery.rehearse_nightly,
        timestamps=declared.audit.timestamp_url is not None,
        witnesses=bool(declared.audit.witness),
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
    witnesses: bool = False,
) -> dg.Definitions:
    """Everything that Dagster shows for these tables; without tables, everything but the `rows` assets.

    Args:
        installed: the first day that can have backups; None: today.
        rehearse_nightly: whether the next rotation is rehearsed on each night's backup.
        timestamps: whether an authority is asked for time stamps of the audit.
        witnesses: whether witnesses are asked to sign it.
    """
    now, naming, resource = SystemClock().now(), pipeline.naming, pipeline.definition()
    # Never in the future, if a clock was wrong then: today must have a partition.
    first_day = min(installed or now, now).astimezone(ZoneInfo(time_zone)).date()
    assets = _assets(naming, tables, shards, time_zone, first_day)
    asset_checks = _checks(naming, tables)
    check_keys = (key for each in (*assets, *asset_checks) for key in each.check_keys)
    jobs = build_jobs(naming, check_keys, resource, with_rows=bool(tables))
    job_names = (job.name for job in jobs.values())
    ownership = Ownership.of((*assets, *asset_checks), (naming.name(DUE_SHARDS),), job_names)
    return dg.Definitions(
        assets=assets,
        asset_checks=asset_checks,
        jobs=list(jobs.values()),
        schedules=list(schedules(naming, time_zone, rehearse_nightly=rehearse_nightly)),
        sensors=list(
            sensors(
                naming,
                jobs,
                ownership,
                time_zone,
                timestamps=timestamps,
                witnesses=witnesses,
                members=any(table.name.database for table in tables),
            )
        ),
        resources={RESOURCE: resource},
    )


def _assets(
    naming: Naming, tables: Sequence[EncryptedTable], shards: int, time_zone: str, first_day: date
) -> Sequence[dg.AssetsDefinition]:
    others = [
        encrypted_columns_asset(naming),
        *rows_assets(naming, tables, shards),
        backup_assets(naming, time_zone, first_day),
    ]
    return [
        *with_code_references(others),
        *step_assets(naming, tables),
        *(build_asset(naming, row) for row in (STATUS_PAGE, READINESS, *BACKUP_TESTS, *INCIDENT_ASSETS)),
    ]


def _checks(naming: Naming, tables: Sequence[EncryptedTable]) -> Sequence[dg.AssetChecksDefinition]:
    return [
        *checks(naming),
        backup_decrypts_check(naming),
        *([zero_old_rows_check(naming, tables)] if tables else []),
    ]
