"""The next rotation, rehearsed on the newest backup: what would stop it, and how long it would take."""

from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from keyrotation_pipeline.defs.backups import DATABASE_BACKUP, GROUP, KEY_BACKUP
from keyrotation_pipeline.defs.owners import DATABASE_ADMINISTRATORS
from keyrotation_pipeline.defs.performing import actor_of
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.rehearsal import NOT_REHEARSED, Rehearsed


@dg.asset(
    deps=[KEY_BACKUP, DATABASE_BACKUP],
    group_name=GROUP,
    kinds={"gpg", "postgres"},
    owners=[DATABASE_ADMINISTRATORS],
)
def rotation_rehearsal(context: dg.AssetExecutionContext, pipeline: PipelineParameter) -> dg.MaterializeResult[None]:
    """The next rotation carried out on the newest backup, in a scratch server; nothing real is touched."""
    with refusals(), pipeline.open_backups(actor_of(context)) as site, pipeline.recovery_key() as key:
        done = pipeline.rehearse(site, key, lambda _progress: None)
    return dg.MaterializeResult(metadata=_metadata(done))


REHEARSAL_JOB = dg.define_asset_job(
    "rehearsal",
    dg.AssetSelection.assets(rotation_rehearsal).without_checks(),
    description="The next rotation, on the newest backup.",
    executor_def=dg.in_process_executor,
)


def nightly_rehearsal(time_zone: str) -> dg.ScheduleDefinition:
    """05:00 every day, when the night's backup is there; only where `[recovery] rehearse_nightly` asks for it."""

    @dg.schedule(
        name="nightly_rehearsal",
        job=REHEARSAL_JOB,
        cron_schedule="0 5 * * *",
        execution_timezone=time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="The next rotation, rehearsed on last night's backup.",
    )
    def scheduled(context: dg.ScheduleEvaluationContext, pipeline: PipelineParameter) -> dg.RunRequest:
        pipeline.note_look("nightly_rehearsal")
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
