"""The next rotation, rehearsed on the newest backup: what would stop it, and how long it would take."""

from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition as AssetJob,
)  # type only

from keyrotation_pipeline.defs.backups import DATABASE_BACKUP, GROUP, KEY_BACKUP
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import DATABASE_ADMINISTRATORS
from keyrotation_pipeline.defs.performing import actor_of
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.request_events import NOT_REHEARSED, Rehearsed

REHEARSAL = "rehearsal"


def rotation_rehearsal_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `rotation_rehearsal`."""

    @dg.asset(
        key_prefix=naming.prefix,
        deps=[naming.asset(KEY_BACKUP), naming.asset(DATABASE_BACKUP)],
        group_name=naming.name(GROUP),
        kinds={"gpg", "postgres"},
        owners=[DATABASE_ADMINISTRATORS],
    )
    def rotation_rehearsal(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """The next rotation carried out on the newest backup, in a scratch server; nothing real is touched."""
        with refusals(), keyrotation.open_backups(actor_of(context)) as site, keyrotation.recovery_key() as key:
            done = keyrotation.rehearse(site, key, lambda _progress: None)
        return dg.MaterializeResult(metadata=_metadata(done))

    return rotation_rehearsal


def rehearsal_job(naming: Naming) -> AssetJob:
    """The job `rehearsal`."""
    return dg.define_asset_job(
        naming.name(REHEARSAL),
        dg.AssetSelection.assets(naming.asset("rotation_rehearsal")).without_checks(),
        description="The next rotation, on the newest backup.",
        executor_def=dg.in_process_executor,
    )


def nightly_rehearsal(naming: Naming, time_zone: str) -> dg.ScheduleDefinition:
    """05:00 every day, when the night's backup is there; only where `[recovery] rehearse_nightly` asks for it."""

    @dg.schedule(
        name=naming.name("nightly_rehearsal"),
        job_name=naming.name(REHEARSAL),
        cron_schedule="0 5 * * *",
        execution_timezone=time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="The next rotation, rehearsed on last night's backup.",
    )
    def scheduled(context: dg.ScheduleEvaluationContext, keyrotation: PipelineParameter) -> dg.RunRequest:
        keyrotation.record_heartbeat("nightly_rehearsal")
        return dg.RunRequest(run_key=f"{context.scheduled_execution_time.astimezone(ZoneInfo(time_zone)):%Y-%m-%d}")

    return scheduled


def _metadata(done: Rehearsed) -> Mapping[str, Any]:
    total = done.total_seconds
    findings = "\n".join(f"- **{each.step}**: {each.sentence}" for each in done.findings)
    steps = "\n".join(f"| {step} | {seconds:,.1f} |" for step, seconds in done.predicted_seconds.items())
    return {
        "would_stop_at": dg.MetadataValue.md(findings or "Nothing stopped it."),
        "predicted_seconds": round(total, 1) if total is not None else "it did not come to its end",
        "predicted": dg.MetadataValue.md(f"| step | seconds |\n|---|---|\n{steps}"),
        "from": str(done.source),
        "to": str(done.target),
        "backup": done.dump,
        "rows_in_backup": done.dump_rows,
        "rows_now": done.rows_now,
        "not_rehearsed": dg.MetadataValue.md("\n".join(f"- {each}" for each in NOT_REHEARSED)),
    }
