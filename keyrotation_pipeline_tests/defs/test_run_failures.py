"""A failed run is recorded once, and alerted once with its cause, unless it is retried by itself."""

import json
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from keyrotation_pipeline.adapters.alerts.webhook import Webhook
from keyrotation_pipeline.defs.outside_reports import Seal
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.run_requests import backup_request, evidence_request, sealed
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline_tests.contract.test_alert_channels import http_server
from keyrotation_pipeline_tests.defs.conftest import Dagster, channels

CAUSE = "the operating system has no randomness; wait"
NOT_BEGUN = "it did not begin, since no worker started for it in time or the code server did not answer"


def noticed(dagster: Dagster, run: dg.DagsterRun) -> None:
    """What the sensor does for one failed run, whatever its cursor says."""
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failure_alert",
        dagster_event=dg.DagsterEvent("PIPELINE_FAILURE", run.job_name),
        dagster_instance=dagster.instance,
        dagster_run=run,
        resources={"keyrotation": dagster.resource},
    ).for_run_failure()
    dagster.definitions.get_repository_def().get_sensor_def("run_failure_alert")(context)


def recorded(dagster: Dagster) -> list[dict[str, Any]]:
    return [json.loads(event.body)["facts"] for event in dagster.world.ledger.events(EventKind.RUN_FAILED)]


def mailed(dagster: Dagster) -> list[str]:
    """The texts of the alerts of failed runs."""
    received: list[dict[str, Any]] = []
    with http_server(200, received) as url:
        channels["test"] = Channels((Webhook(url),))
        dagster.tick("alert_delivery")
    return [each["text"] for each in received if each["key"].startswith("run/")]


def timed_out(dagster: Dagster, request: dg.RunRequest) -> None:
    """A run of the conductor that never begins, as after a code server that did not answer."""
    wanted = sealed(request, Seal(dagster.resource.signer()))
    assert wanted.job_name is not None
    tags = {**wanted.tags, "dagster/sensor_name": "rotation_conductor"}
    run = dg.DagsterRun(wanted.job_name, tags=tags, status=dg.DagsterRunStatus.STARTING)
    dagster.instance.add_run(run)
    dagster.instance.report_run_failed(run, "Exceeded maximum time limit of 180 seconds for run to start")
    found = dagster.instance.get_run_by_id(run.run_id)
    assert found is not None
    noticed(dagster, found)


def due(dagster: Dagster) -> dg.RunRequest:
    """What the conductor asks for, after the pause that follows a failure."""
    dagster.world.clock.at += timedelta(minutes=2)
    result = dagster.tick()
    assert isinstance(result, dg.SensorResult), result.skip_message
    assert result.run_requests is not None
    return result.run_requests[0]


def test_a_run_is_recorded_and_mailed_once_however_often_a_cursor_is_set_back(dagster: Dagster) -> None:
    result = dagster.materialize("retired_key", partition="v2")
    assert not result.success
    for _ in range(3):
        noticed(dagster, result.dagster_run)
    assert [each["run"] for each in recorded(dagster)] == [result.run_id]
    [text] = mailed(dagster)
    assert f"The run {result.run_id} of __ASSET_JOB failed: no rotation to v2 was requested" in text
    dagster.world.clock.at += timedelta(days=2)
    noticed(dagster, result.dagster_run)
    assert (len(recorded(dagster)), mailed(dagster)) == (1, [])


def test_a_run_that_times_out_in_the_queue_and_is_retried_alerts_nobody(dagster: Dagster, approved: Walk) -> None:
    for _ in range(2):
        timed_out(dagster, due(dagster))
    assert [each["retried"] for each in recorded(dagster)] == ["yes", "yes"]
    assert mailed(dagster) == []
    assert dagster.run(due(dagster)).success
    assert mailed(dagster) == []


def test_the_third_failure_in_a_row_is_mailed_once_with_its_cause(dagster: Dagster, approved: Walk) -> None:
    for _ in range(4):
        timed_out(dagster, due(dagster))
    assert ["retried" in each for each in recorded(dagster)] == [True, True, False, False]
    [text] = mailed(dagster)
    assert NOT_BEGUN in text
    assert "Exceeded" not in text  # a text of Dagster, which can hold any


def test_a_success_in_between_begins_the_count_again(dagster: Dagster, approved: Walk) -> None:
    for fails in (True, True, False, True, True):
        request = due(dagster)
        if fails:
            timed_out(dagster, request)
            continue
        wanted = sealed(request, Seal(dagster.resource.signer()))
        tags = {**wanted.tags, "dagster/sensor_name": "rotation_conductor"}
        run = dg.DagsterRun(str(wanted.job_name), tags=tags, status=dg.DagsterRunStatus.SUCCESS)
        dagster.instance.add_run(run)
        dagster.world.clock.at += timedelta(minutes=1)
    assert mailed(dagster) == []


def test_the_cause_is_the_sentence_of_the_step(
    dagster: Dagster, approved: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyRotationError(CAUSE)

    monkeypatch.setattr("keyrotation_pipeline.rotation.runner.require_authorised", fail)
    for _ in range(3):
        noticed(dagster, dagster.run(due(dagster)).dagster_run)
    [text] = mailed(dagster)
    assert f"of introduce_key (introduce_key) failed: {CAUSE}. Open it" in text


@pytest.mark.parametrize("attempts", [2, 3])
def test_the_last_attempt_of_a_backup_is_the_one_that_is_mailed(
    dagster: Dagster, approved: Walk, attempts: int
) -> None:
    for attempt in range(1, attempts + 1):
        timed_out(dagster, backup_request(OWN, approved, attempt, "2026-01-02"))
    assert len(mailed(dagster)) == attempts - 2


def test_a_run_of_every_check_which_nobody_retries_is_mailed_at_once(dagster: Dagster, approved: Walk) -> None:
    timed_out(dagster, evidence_request(OWN, approved))
    assert len(mailed(dagster)) == 1


@pytest.mark.parametrize("enabled", [True, False])
def test_a_retry_by_dagster_counts_where_dagster_retries(dagster: Dagster, enabled: bool) -> None:
    """Elsewhere anybody can put the tag on a run."""
    with dg.instance_for_test(overrides={"run_retries": {"enabled": enabled}}) as instance:
        run = dg.DagsterRun("backup", tags={"dagster/will_retry": "true"}, status=dg.DagsterRunStatus.FAILURE)
        instance.add_run(run)
        dagster.instance = instance
        noticed(dagster, run)
    assert ["retried" in each for each in recorded(dagster)] == [enabled]
