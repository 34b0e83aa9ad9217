"""Every kind of alert that is not about an incident reaches a real webhook, once, by the sensor."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from keyrotation_pipeline.adapters.alerts.webhook import Webhook
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.fleet import Failed, Instance
from keyrotation_pipeline.model.keys import GCM_LIMIT_ENCRYPTIONS
from keyrotation_pipeline_tests.contract.test_alert_channels import http_server
from keyrotation_pipeline_tests.defs.conftest import Dagster, channels, failure_of
from keyrotation_pipeline_tests.fakes import V1


def failed_run(dagster: Dagster) -> None:
    backup = dagster.definitions.resolve_job_def("backup")
    result = backup.execute_in_process(instance=dagster.instance, partition_key="2026-01-02", raise_on_error=False)
    assert "the backup of 2026-01-02 was missed" in failure_of(result)
    [event] = [event for event in result.all_events if event.is_run_failure]
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failure_alert",
        dagster_instance=dagster.instance,
        dagster_run=result.dagster_run,
        dagster_event=event,
        resources={"keyrotation": dagster.resource},
    ).for_run_failure()
    dagster.definitions.get_repository_def().get_sensor_def("run_failure_alert")(context)


def failed_check(dagster: Dagster) -> None:
    dagster.world.database.rows["clients"][0]["first_name"] = "no value of ours"
    dagster.check_run()


def stale_backup(dagster: Dagster) -> None:
    dagster.world.clock.at += timedelta(hours=27)


def overdue_rotation(dagster: Dagster) -> None:
    dagster.world.clock.at += timedelta(days=367)


def key_usage(dagster: Dagster) -> None:
    dagster.world.database.writes = GCM_LIMIT_ENCRYPTIONS // 2 // 4
    dagster.check_run()


def decrypt_failures(dagster: Dagster) -> None:
    now = dagster.world.clock.at
    failed = Failed("v1", 11, now, {now.replace(second=0, microsecond=0): 11})
    dagster.world.rollout.running = (Instance("web-1", (V1,), V1, now, failed=(failed,)),)


@pytest.mark.parametrize(
    ("happens", "subject", "text"),
    [
        pytest.param(
            failed_run, "A run of backup failed", "failed: the backup of 2026-01-02 was missed", id="run failure"
        ),
        pytest.param(failed_check, "/every_value_decrypts fails", "every_value_decrypts:", id="failed check"),
        pytest.param(stale_backup, "Key rotation needs attention", "the last backup is of", id="stale backup"),
        pytest.param(overdue_rotation, "Key rotation needs attention", "a rotation was due by", id="overdue rotation"),
        pytest.param(key_usage, "/key_usage_below_gcm_limit fails", "of the limit", id="key usage near 2^32"),
        pytest.param(decrypt_failures, "Applications cannot decrypt", "11 values within a minute", id="decryption"),
    ],
)
def test_each_kind_of_alert_reaches_a_webhook_once(
    dagster: Dagster, happens: Callable[[Dagster], None], subject: str, text: str
) -> None:
    received: list[dict[str, Any]] = []
    with http_server(200, received) as url:
        channels["test"] = Channels((Webhook(url),))
        dagster.tick("alert_delivery")
        before = [each for each in received if subject in each["subject"] and text in each["text"]]
        happens(dagster)
        for _ in range(2):
            result = dagster.tick("alert_delivery")
            assert isinstance(result, dg.SkipReason)
            assert result.skip_message == "every alert is delivered"
    reported = [each for each in received if subject in each["subject"] and text in each["text"]]
    assert (len(before), len(reported)) == (0, 1), [each["subject"] for each in received]
    assert "no value of ours" not in str(received)
