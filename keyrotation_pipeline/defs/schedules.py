"""The calendar: every morning the checks say whether a rotation is due, and for which reason."""

import dagster as dg

from keyrotation_pipeline.defs.jobs import Jobs
from keyrotation_pipeline.defs.resources import PipelineParameter


def rotation_calendar(jobs: Jobs) -> dg.ScheduleDefinition:
    """The schedule `rotation_calendar`: the job `evidence` daily, so that a key grows old in sight."""

    @dg.schedule(
        name="rotation_calendar",
        job=jobs.evidence,
        cron_schedule="0 6 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every check, every morning: `rotation_not_overdue` warns 60 days before a rotation is due.",
    )
    def scheduled(pipeline: PipelineParameter) -> dg.RunRequest:
        pipeline.note_look("rotation_calendar")
        return dg.RunRequest()

    return scheduled
