"""What of the cluster refuses a run is what blocks its rotation, until a process works at it."""

from datetime import timedelta

import dagster as dg
import pytest

from keyrotation_pipeline.defs.launch_refusals import ANSWER
from keyrotation_pipeline.incidents.alerts import notices
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline_tests.defs.conftest import Dagster
from keyrotation_pipeline_tests.defs.test_conductor import TRUE_TAGS, requests

POLICY = "jobs.batch \"r\" is invalid: : ValidatingAdmissionPolicy 'keyrotation-jobs.pazpaz' denied request: our image"
TIMED_OUT = "Run timed out due to taking longer than 600 seconds to start.\nWarning FailedCreate: pods"


def failed(dagster: Dagster, reason: str) -> None:
    """The next run that the conductor asks for fails, and the sensor sees it."""
    [request] = requests(dagster)
    run = dg.DagsterRun(str(request.job_name), tags={**TRUE_TAGS, **request.tags})
    dagster.instance.add_run(run)
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failure_alert",
        dagster_event=dagster.instance.report_run_failed(run, reason),
        dagster_instance=dagster.instance,
        dagster_run=run,
        resources={"keyrotation": dagster.resource},
    ).for_run_failure()
    dagster.definitions.get_repository_def().get_sensor_def("run_failure_alert")(context)


@pytest.mark.parametrize(
    ("reason", "by"),
    [
        pytest.param(f"{ANSWER} (HTTP 422): {POLICY}", "admission policy keyrotation-jobs.pazpaz", id="a policy"),
        pytest.param(f'{ANSWER} (HTTP 403): admission webhook "a.b" denied it', "admission webhook a.b", id="webhook"),
        pytest.param(
            f'{ANSWER} (HTTP 403): jobs.batch is forbidden: User "x" cannot', "the rights of the account", id="no right"
        ),
        pytest.param(f"{TIMED_OUT} is forbidden: exceeded quota: cpu, requested: 1", "quota cpu", id="a quota of Pods"),
        pytest.param(
            f'{TIMED_OUT} violates PodSecurity "restricted:latest": x',
            "Pod Security, restricted",
            id="Pods",
        ),
        pytest.param(f"{ANSWER} (HTTP 422): Job.batch is invalid", "the API server, HTTP 422", id="no Job"),
    ],
)
def test_a_run_that_the_cluster_refuses_blocks_its_rotation_until_a_process_works(
    dagster: Dagster, approved: Walk, reason: str, by: str
) -> None:
    failed(dagster, reason)

    assert dagster.world.ledger.facts_of("dagster_run_failed")["refused_by"] == by
    shown = overview(dagster.world.pipeline)
    sentence = f"the cluster starts no process for introduce_key: {by} refuses it"
    assert shown.rotation is not None
    assert sentence in str(shown.rotation.blocked_by)
    [attention] = [each for each in shown.attention if sentence in each]
    assert len(attention) <= 200 + len(by)
    alerts = notices(dagster.world.pipeline, attention=shown.attention)
    assert [f"{by} refuses it" in each.alert.text for each in alerts if each.alert.key.startswith("run/")] == [True]
    dagster.world.clock.at += timedelta(minutes=2)
    [again] = requests(dagster)
    assert dagster.run(again).success
    assert dagster.world.ledger.walk(approved.id).blocked_by is None


@pytest.mark.parametrize("reason", ["its process is gone", "quota", f"{ANSWER}: `keyrotation cancel`", ""])
def test_a_run_that_failed_for_another_reason_blocks_nothing(dagster: Dagster, approved: Walk, reason: str) -> None:
    failed(dagster, reason)
    assert "refused_by" not in dagster.world.ledger.facts_of("dagster_run_failed")
    assert dagster.world.ledger.walk(approved.id).blocked_by is None


def test_a_refusal_that_is_noticed_while_a_process_works_blocks_nothing(dagster: Dagster, approved: Walk) -> None:
    with dagster.world.ledger.lock(f"{approved.id}/key_version"):
        failed(dagster, f"{ANSWER} (HTTP 422): {POLICY}")
    assert dagster.world.ledger.walk(approved.id).blocked_by is None
