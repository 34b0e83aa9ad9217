"""What `status` says of Dagster's daemon, sensors and schedules."""

from datetime import UTC, datetime, timedelta

import pytest

from keyrotation_pipeline.model.status import Heartbeat
from keyrotation_pipeline.monitoring.scheduler_health import stalled

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
JUST, LONG_AGO = NOW - timedelta(seconds=30), NOW - timedelta(hours=5)
MORNING = {"daily_key_backup": LONG_AGO}


@pytest.mark.parametrize(("heartbeats", "sentences"), [
    pytest.param([], [], id="Dagster never ran here"),
    pytest.param([Heartbeat("rotation_conductor", JUST, {})], [], id="all is well"),
    pytest.param(
        [Heartbeat("ledger_mirror", LONG_AGO, {}), Heartbeat("rotation_conductor", LONG_AGO, {})],
        ["neither Dagster's daemon nor its sensors have run here since 2026-11-25 07:00 UTC"],
        id="the daemon is down",
    ),
    pytest.param(
        [Heartbeat("ledger_mirror", JUST, {}), Heartbeat("rotation_conductor", LONG_AGO, {})],
        ["rotation_conductor has not run since 2026-11-25 07:00 UTC, while Dagster runs"],
        id="the conductor hangs",
    ),
    pytest.param(
        [Heartbeat("ledger_mirror", JUST, {"rotation_conductor": LONG_AGO}),
         Heartbeat("rotation_conductor", LONG_AGO, {})],
        ["rotation_conductor is switched off in Dagster since 2026-11-25 07:00 UTC"],
        id="the conductor is switched off",
    ),
    pytest.param(
        [Heartbeat("rotation_conductor", JUST, MORNING)],
        ["daily_key_backup is switched off in Dagster since 2026-11-25 07:00 UTC"],
        id="a schedule is switched off",
    ),
    pytest.param(
        [Heartbeat("ledger_mirror", LONG_AGO, {}), Heartbeat("rotation_conductor", JUST, {})],
        ["ledger_mirror has not run since 2026-11-25 07:00 UTC, while Dagster runs"],
        id="another sensor hangs",
    ),
    pytest.param(
        [Heartbeat("daily_key_backup", NOW - timedelta(days=2), {}), Heartbeat("rotation_conductor", JUST, {})],
        ["daily_key_backup has not run since 2026-11-23 12:00 UTC, while Dagster runs"],
        id="a schedule does not run",
    ),
    pytest.param(
        [Heartbeat("quarterly_recovery_test", NOW - timedelta(days=94), {}), Heartbeat("ledger_mirror", JUST, {})],
        ["quarterly_recovery_test has not run since 2026-08-23 12:00 UTC, while Dagster runs"],
        id="the schedule of a quarter does not run",
    ),
    pytest.param(
        [Heartbeat("nightly_rehearsal", NOW - timedelta(hours=28), {}), Heartbeat("ledger_mirror", JUST, {})],
        ["nightly_rehearsal has not run since 2026-11-24 08:00 UTC, while Dagster runs"],
        id="a night without a rehearsal",
    ),
    pytest.param(
        [
            Heartbeat("daily_key_backup", NOW - timedelta(hours=26), {}), Heartbeat("rotation_conductor", JUST, {}),
            Heartbeat("quarterly_recovery_test", NOW - timedelta(days=92), {}),
        ],
        [],
        id="schedules in their time",
    ),
    pytest.param(
        [Heartbeat("daily_key_backup", JUST, {}), Heartbeat("rotation_conductor", LONG_AGO, {})],
        ["neither Dagster's daemon nor its sensors have run here since 2026-11-25 07:00 UTC"],
        id="a schedule alone carries no rotation",
    ),
    pytest.param(
        [Heartbeat("ledger_mirror", LONG_AGO, MORNING), Heartbeat("rotation_conductor", JUST, {})],
        ["ledger_mirror has not run since 2026-11-25 07:00 UTC, while Dagster runs"],
        id="a schedule was switched on since",
    ),
    pytest.param(
        [Heartbeat("somebody_elses", LONG_AGO, {}), Heartbeat("rotation_conductor", JUST, {})], [], id="unknown"
    ),
    pytest.param(
        [Heartbeat("ledger_mirror", LONG_AGO, {"ledger_mirror": JUST}),
         Heartbeat("rotation_conductor", LONG_AGO, MORNING)],
        ["neither Dagster's daemon nor its sensors have run here since 2026-11-25 07:00 UTC"],
        id="what was switched off is old news once nothing looks",
    ),
])  # fmt: skip
def test_each_thing_that_stands_still_is_reported_with_since_when(
    heartbeats: list[Heartbeat], sentences: list[str]
) -> None:
    found = list(stalled(heartbeats, NOW))

    assert [sentence.partition(";")[0].partition(", so no")[0] for sentence in found] == sentences
