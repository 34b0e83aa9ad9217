"""A stopped conductor, schedule or daemon was seen by nobody: `status`, its exit code and a check tell."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.monitoring.scheduler_health import (
    OPTIONAL,
    SCHEDULES,
    SENSORS,
    conductor_at_work,
    stalled,
)
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline_tests.defs.conftest import Dagster


@pytest.fixture
def dagster(dagster: Dagster, tmp_path: Path) -> Iterator[Dagster]:
    """On an instance that keeps what is switched off."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield replace(dagster, instance=instance)


def switch_off(instance: dg.DagsterInstance, name: str, kind: InstigatorType) -> None:
    """As somebody does in the UI."""
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="keyrotation_pipeline.definitions"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
    data = ScheduleInstigatorData("0 3 * * *") if kind is InstigatorType.SCHEDULE else None
    instance.add_instigator_state(InstigatorState(origin, kind, InstigatorStatus.STOPPED, data))


def wrong(dagster: Dagster) -> list[str]:
    words = ("Dagster", "rotation_conductor", "daily_key_backup", "rotation_calendar")
    return [sentence for sentence in overview(dagster.world.pipeline).attention if any(map(sentence.count, words))]


def test_without_dagster_nothing_is_missed(dagster: Dagster) -> None:
    assert wrong(dagster) == []


@pytest.mark.parametrize("sensor", ["rotation_conductor", "ledger_mirror"])
def test_a_daemon_that_is_down_is_reported_by_status(dagster: Dagster, sensor: str) -> None:
    dagster.tick(sensor)
    assert wrong(dagster) == []

    dagster.world.clock.at += timedelta(hours=1)
    assert "neither Dagster's daemon nor its sensors have run here since" in wrong(dagster)[0]


@pytest.mark.parametrize(("name", "kind", "looks"), [
    ("rotation_conductor", InstigatorType.SENSOR, "ledger_mirror"),
    ("daily_key_backup", InstigatorType.SCHEDULE, "rotation_conductor"),
])  # fmt: skip
def test_what_is_switched_off_is_reported_by_status_and_a_check(
    dagster: Dagster, name: str, kind: InstigatorType, looks: str
) -> None:
    assert dagster.check("sensors_and_schedules_run", "encrypted_columns").passed
    switch_off(dagster.instance, name, kind)
    dagster.tick(looks)

    [sentence] = wrong(dagster)
    assert sentence.startswith(f"{name} is switched off in Dagster since 20")
    shown = dagster.check("sensors_and_schedules_run", "encrypted_columns")
    assert (shown.passed, shown.description) == (False, sentence)


def test_what_was_switched_on_again_is_no_longer_reported_at_the_next_tick(dagster: Dagster) -> None:
    switch_off(dagster.instance, "daily_key_backup", InstigatorType.SCHEDULE)
    for sensor in ("incident_flag", "ledger_mirror"):
        dagster.tick(sensor)
    assert len(wrong(dagster)) == 1
    for state in dagster.instance.all_instigator_state():
        dagster.instance.update_instigator_state(state.with_status(InstigatorStatus.RUNNING))
    dagster.tick("ledger_mirror")
    assert wrong(dagster) == []


def test_a_conductor_that_is_switched_off_carries_nothing_from_the_next_look_of_another_sensor_on(
    dagster: Dagster,
) -> None:
    dagster.tick()
    heartbeats, now = dagster.world.pipeline.heartbeats, dagster.world.clock.at
    assert conductor_at_work(heartbeats.last(), now) is not None
    switch_off(dagster.instance, "rotation_conductor", InstigatorType.SENSOR)
    dagster.tick("ledger_mirror")
    assert conductor_at_work(heartbeats.last(), now) is None


def test_a_schedule_that_no_longer_runs_is_reported_until_it_ticks_again(dagster: Dagster) -> None:
    dagster.tick()
    heartbeats = dagster.world.pipeline.heartbeats
    long_ago = dagster.world.clock.at - timedelta(days=2)
    for name in ("daily_key_backup", "rotation_calendar"):
        heartbeats.record(name, long_ago)
    assert [sentence.partition(",")[0] for sentence in wrong(dagster)] == [
        f"{name} has not run since {long_ago:%Y-%m-%d %H:%M} UTC" for name in ("daily_key_backup", "rotation_calendar")
    ]
    assert not dagster.check("sensors_and_schedules_run", "encrypted_columns").passed

    for name in ("daily_key_backup", "rotation_calendar"):
        with dg.build_schedule_context(
            instance=dagster.instance, scheduled_execution_time=dagster.world.clock.at,
            repository_def=dagster.definitions.get_repository_def(), resources={"keyrotation": dagster.resource},
        ) as context:  # fmt: skip
            dagster.definitions.resolve_schedule_def(name).evaluate_tick(context)
    assert wrong(dagster) == []


def test_each_schedule_and_sensor_is_expected(dagster: Dagster) -> None:
    here = dagster.definitions.get_repository_def()
    assert {each.name for each in here.schedule_defs} <= SCHEDULES.keys()
    # It looks only when a run has failed; that it is switched off is reported all the same.
    assert {each.name for each in here.sensor_defs} - {"run_failure_alert"} <= set(SENSORS)


def test_what_is_optional_is_expected_where_it_is_and_forgotten_where_it_is_not(dagster: Dagster) -> None:
    tables = dagster.world.pipeline.tables
    tables += (replace(tables[0], name=replace(tables[0].name, database="north")),)
    everything = build_definitions(tables, 2, dagster.resource, timestamps=True, witnesses=True, rehearse_nightly=True)
    asked_for = replace(dagster, definitions=everything)
    here = asked_for.definitions.get_repository_def()
    assert {each.name for each in here.schedule_defs} == SCHEDULES.keys()
    assert {each.name for each in here.sensor_defs} - {"run_failure_alert"} == set(SENSORS)

    asked_for.tick("audit_timestamp")
    asked_for.tick("audit_witness")
    asked_for.tick("member_check")
    heartbeats = dagster.world.pipeline.heartbeats
    assert {each.name for each in heartbeats.last()} >= OPTIONAL
    dagster.tick("ledger_mirror")  # by a configuration that asks for neither
    assert not {each.name for each in heartbeats.last()} & OPTIONAL
    assert list(stalled(heartbeats.last(), dagster.world.clock.at)) == []


def test_a_sensor_of_others_that_is_switched_off_is_not_reported(dagster: Dagster) -> None:
    switch_off(dagster.instance, "somebody_elses", InstigatorType.SENSOR)
    dagster.tick()

    assert wrong(dagster) == []
