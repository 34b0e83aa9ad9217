"""Definitions of somebody else's project, called as ours wherever they can be; a test copies this file into one.

What begins with our prefix already gets no other one in their project, so theirs cannot be called `rotation_calendar`.
"""

import os
from pathlib import Path

import dagster as dg


@dg.asset
def clients() -> None:
    """Their clients."""


@dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name="key_version"))
def key_version() -> None:
    """Partitions of theirs, under the name of ours."""


@dg.asset_check(asset=clients)
def zero_old_rows() -> dg.AssetCheckResult:
    """A check of theirs, which fails."""
    return dg.AssetCheckResult(passed=False, description="theirs is wrong")


@dg.op
def due_shards() -> None:
    """An op of theirs, which fails."""
    raise dg.Failure("theirs breaks")


@dg.job
def backup() -> None:
    """A job of theirs, which fails."""
    due_shards()


evidence = dg.define_asset_job("evidence", dg.AssetSelection.assets(clients))


@dg.schedule(cron_schedule="* * * * *", job=backup, default_status=dg.DefaultScheduleStatus.RUNNING)
def calendar() -> dg.RunRequest:
    """A schedule of theirs: every minute a run that fails."""
    return dg.RunRequest()


@dg.sensor(job=evidence, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def conductor() -> dg.SensorResult:
    """A sensor of theirs: one run, and a partition of their own."""
    added = dg.DynamicPartitionsDefinition(name="key_version").build_add_request(["theirs"])
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key="once")], dynamic_partitions_requests=[added])


@dg.run_failure_sensor(minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def run_failure_alert(context: dg.RunFailureSensorContext) -> None:
    """An alert of theirs: the names of jobs that failed."""
    with Path(os.environ["CLINIC_HEARD"]).open("a", encoding="utf-8") as file:
        file.write(f"{context.dagster_run.job_name}\n")
