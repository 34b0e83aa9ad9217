"""The calendar: every morning the checks say whether a rotation is due, and for which reason."""

import dagster as dg

from keyrotation_pipeline.defs.jobs import EVIDENCE
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.resources import PipelineParameter


def rotation_calendar(naming: Naming) -> dg.ScheduleDefinition:
    """The schedule `rotation_calendar`: the job `evidence` daily, so that a key grows old in sight."""

    @dg.schedule(
        name=naming.name("rotation_calendar"),
        job_name=naming.name(EVIDENCE),
        cron_schedule="0 6 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every check, every morning: `rotation_not_overdue` warns 60 days before a rotation is due.",
    )
    def scheduled(keyrotation: PipelineParameter) -> dg.RunRequest:
        keyrotation.note_look("rotation_calendar")
        return dg.RunRequest()

    return scheduled
