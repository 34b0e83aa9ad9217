"""When backups are made and tested, by the clock of the clinic's own time zone."""

from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition as AssetJob,
)  # type only

from keyrotation_pipeline.defs.backups import DATABASE_BACKUP, KEY_BACKUP, RECOVERY_TEST
from keyrotation_pipeline.defs.launches import BACKUP
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.key_events import RecoveryTestDue

RECOVERY_DRILL = "recovery_drill"


def backup_job(naming: Naming) -> AssetJob:
    """The job `backup`."""
    return dg.define_asset_job(
        naming.name(BACKUP),
        dg.AssetSelection.assets(naming.asset(KEY_BACKUP), naming.asset(DATABASE_BACKUP)).without_checks(),
        description="Every key and the database, at one moment.",
        executor_def=dg.in_process_executor,
    )


def recovery_test_job(naming: Naming) -> AssetJob:
    """The job `recovery_drill`."""
    return dg.define_asset_job(
        naming.name(RECOVERY_DRILL),
        dg.AssetSelection.assets(naming.asset(RECOVERY_TEST)).without_checks(),
        description="Fetch, decrypt, restore and read the backups.",
        executor_def=dg.in_process_executor,
    )


def daily_key_backup(naming: Naming, time_zone: str) -> dg.ScheduleDefinition:
    """03:00 every day; after downtime for the last missed day only, whose run refuses if that is over."""

    @dg.schedule(
        name=naming.name("daily_key_backup"),
        job_name=naming.name(BACKUP),
        cron_schedule="0 3 * * *",
        execution_timezone=time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every key and the database, every night.",
    )
    def scheduled(context: dg.ScheduleEvaluationContext, keyrotation: PipelineParameter) -> dg.RunRequest:
        keyrotation.record_heartbeat("daily_key_backup")
        day = f"{context.scheduled_execution_time.astimezone(ZoneInfo(time_zone)):%Y-%m-%d}"
        return dg.RunRequest(run_key=day, partition_key=day)

    return scheduled


def quarterly_recovery_test(naming: Naming, time_zone: str) -> dg.ScheduleDefinition:
    """04:00 on the first day of a quarter; without a key on this machine the test is opened as due for an officer."""

    @dg.schedule(
        name=naming.name("quarterly_recovery_test"),
        job_name=naming.name(RECOVERY_DRILL),
        cron_schedule="0 4 1 1,4,7,10 *",
        execution_timezone=time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="A recovery test each quarter, or its entry among what is due.",
    )
    def scheduled(
        context: dg.ScheduleEvaluationContext, keyrotation: PipelineParameter
    ) -> dg.RunRequest | dg.SkipReason:
        keyrotation.record_heartbeat("quarterly_recovery_test")
        day = f"{context.scheduled_execution_time.astimezone(ZoneInfo(time_zone)):%Y-%m-%d}"
        with refusals():
            if keyrotation.has_recovery_key():
                return dg.RunRequest(run_key=day)
            with keyrotation.open("dagster quarterly_recovery_test") as opened:
                opened.ledger.append(RecoveryTestDue(day))
        return dg.SkipReason(
            "a recovery test is due, and [recovery] names no key; have an officer run "
            "`keyrotation recovery-test --key FILE`"
        )

    return scheduled
