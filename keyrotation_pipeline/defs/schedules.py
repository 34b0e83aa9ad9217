"""By the clock: each morning the checks say whether a rotation is due; each hour a part of everything may be read."""

import dagster as dg

from keyrotation_pipeline.defs.jobs import DECRYPT, EVIDENCE
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.monitoring import rolling


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
        keyrotation.record_heartbeat("rotation_calendar")
        return dg.RunRequest()

    return scheduled


def rolling_decrypt(naming: Naming) -> dg.ScheduleDefinition:
    """The schedule `rolling_decrypt`: what is due of the two rolling checks, in each hour that has some."""

    @dg.schedule(
        name=naming.name("rolling_decrypt"),
        job_name=naming.name(DECRYPT),
        cron_schedule="20 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Each day a part of all values is decrypted, and of all else searched, within the set hours.",
    )
    def scheduled(keyrotation: PipelineParameter) -> dg.RunRequest | dg.SkipReason:
        keyrotation.record_heartbeat("rolling_decrypt")
        with refusals(), keyrotation.open("dagster rolling_decrypt") as opened:
            if rolling.due_now(opened, rolling.DECRYPT) or rolling.due_now(opened, rolling.SEARCH):
                return dg.RunRequest()
        return dg.SkipReason("today's part was read, or this is not an hour for it, or a rotation reads everything")

    return scheduled
