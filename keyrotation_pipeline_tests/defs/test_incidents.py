"""What Dagster does by itself about incidents: flags are taken in, and people are alerted."""

import dagster as dg
import pytest

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.defs.assets import build_asset
from keyrotation_pipeline.defs.incidents import INCIDENT_ASSETS
from keyrotation_pipeline.defs.outside_reports import Seal
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.incidents.handling import amend
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline_tests.defs.conftest import Dagster, channels
from keyrotation_pipeline_tests.fakes import V1
from keyrotation_pipeline_tests.unit.incidents.cases import FLAG, signed
from keyrotation_pipeline_tests.unit.incidents.test_alert_delivery import FakeChannel


def said(dagster: Dagster, sensor: str) -> str:
    result = dagster.tick(sensor)
    assert isinstance(result, dg.SkipReason)
    return str(result.skip_message)


def renewed(dagster: Dagster) -> bool:
    """Whether the sensor asks for the pages of incidents; then they are written."""
    result = dagster.tick("incident_flag")
    if not isinstance(result, dg.SensorResult):
        return False
    (wanted,) = result.run_requests or ()
    job = dagster.definitions.resolve_job_def("incidents")
    assert job.execute_in_process(instance=dagster.instance).success
    assert wanted.run_key is None, "a forged run could have it already"
    return True


def test_the_pages_of_incidents_are_written_again_after_each_change_and_only_then(dagster: Dagster) -> None:
    assert not renewed(dagster), "there is no incident"
    dagster.world.ledger.flags = [FLAG]
    said(dagster, "incident_flag")
    assert [renewed(dagster) for _ in range(3)] == [True, False, False]
    (incident,) = incidents(dagster.world.ledger).unfinished
    amend(dagster.world.pipeline, incident.id, "Ada", {"scope": "one host"})
    assert [renewed(dagster) for _ in range(3)] == [True, False, False]
    shown = dagster.instance.get_latest_materialization_event(dg.AssetKey("incident_report"))
    assert shown is not None
    assert shown.asset_materialization is not None
    assert "one host" in str(shown.asset_materialization.metadata[incident.id].value)


@pytest.mark.parametrize("cursor", ["x", "1000000000", "1000000000 c2lnbmVk", "another sensor's"])
def test_a_cursor_that_somebody_has_set_stops_neither_flags_nor_pages(dagster: Dagster, cursor: str) -> None:
    if cursor == "another sensor's":
        cursor = Seal(dagster.resource.signer()).on_cursor("1000000000 5")
    dagster.cursors["incident_flag"] = cursor
    dagster.world.ledger.flags = [FLAG]
    assert said(dagster, "incident_flag").startswith("opened INC-")
    assert [renewed(dagster) for _ in range(2)] == [True, False]
    dagster.cursors["incident_flag"] = cursor
    assert renewed(dagster)


def test_the_sensor_takes_a_flag_once_and_prepares_the_request(dagster: Dagster) -> None:
    dagster.world.ledger.flags = [FLAG]
    assert said(dagster, "incident_flag").startswith("opened INC-")
    assert renewed(dagster)
    assert said(dagster, "incident_flag") == "no new flag was raised"
    (incident,) = incidents(dagster.world.ledger).unfinished
    assert (incident.versions, dagster.world.keys.primary()) == ((V1,), V1)
    prepared = dagster.world.ledger.waiting()
    assert prepared is not None
    assert prepared.id == incident.request
    assert "needs 2 more approvals" in said(dagster, "rotation_conductor")


def test_a_failed_check_is_reported_once_and_one_that_passes_is_not(dagster: Dagster) -> None:
    topic = FakeChannel("topic")
    channels["test"] = Channels((topic,))
    dagster.world.database.rows["clients"][0]["first_name"] = "no value of ours"
    dagster.check_run()
    for _ in range(2):
        assert said(dagster, "alert_delivery") == "every alert is delivered"
    reported = [key for key in topic.keys if key.startswith("check/")]
    assert len(reported) == len(set(reported))
    assert any("every_value_decrypts" in key for key in reported)
    assert not any("key_reads_back" in key for key in reported)


def test_a_channel_that_is_down_is_reported_by_the_sensor(dagster: Dagster) -> None:
    channels["test"] = Channels((FakeChannel("topic", down=True),))
    dagster.world.ledger.flags = [FLAG]
    said(dagster, "incident_flag")
    assert said(dagster, "alert_delivery") == "topic does not answer; check it"


def carry(dagster: Dagster) -> list[str]:
    """Do what the conductor asks until it waits; the jobs that ran."""
    jobs: list[str] = []
    while isinstance(result := dagster.tick(), dg.SensorResult) and result.run_requests:
        for wanted in result.run_requests:
            assert dagster.run(wanted).success
            jobs.append(str(wanted.job_name))
    return jobs


def test_a_flag_lets_a_running_rotation_go_on_until_officers_have_signed(dagster: Dagster, approved: Walk) -> None:
    first = dagster.tick()
    assert isinstance(first, dg.SensorResult)
    (introduce,) = first.run_requests or ()
    assert dagster.run(introduce).success
    dagster.world.ledger.flags = [FLAG]
    said(dagster, "incident_flag")
    assert set(carry(dagster)) == {"reencrypt_rows", "retire_key", "backup"}
    assert dagster.world.ledger.walk(approved.id).status is RequestStatus.FINISHED


def test_a_signed_emergency_continues_where_the_rotation_stood(dagster: Dagster, approved: Walk) -> None:
    first = dagster.tick()
    assert isinstance(first, dg.SensorResult)
    (introduce,) = first.run_requests or ()
    assert dagster.run(introduce).success
    dagster.world.ledger.flags = [FLAG]
    said(dagster, "incident_flag")
    (incident,) = incidents(dagster.world.ledger).unfinished
    signed(dagster.world, dagster.world.ledger.walk(str(incident.request)))
    assert set(carry(dagster)) == {"introduce_key", "reencrypt_rows", "retire_key", "backup", "evidence"}
    assert dagster.world.ledger.walk(approved.id).status is RequestStatus.CANCELLED
    assert dagster.world.ledger.walk(str(incident.request)).status is RequestStatus.FINISHED


def test_the_report_and_the_presumed_decision_are_shown(dagster: Dagster) -> None:
    dagster.world.ledger.flags = [FLAG]
    said(dagster, "incident_flag")
    done = dg.materialize(
        [build_asset(OWN, row) for row in INCIDENT_ASSETS],
        resources={"keyrotation": dagster.resource},
        instance=dagster.instance,
    )
    shown, decided = (
        done.asset_materializations_for_node(name)[0].metadata for name in ("incident_report", "breach_decision")
    )
    (name,) = incidents(dagster.world.ledger).by_id
    assert shown["incidents_open"].value == 1
    assert "## Timeline" in str(shown[name].value)
    # 60 days from the day of discovery, 2026-01-05 08:00 UTC, which is the 4th somewhere.
    assert "Notice to individuals: without unreasonable delay, at the latest 2026-03-05 (164.404)" in str(
        decided[name].value
    )
    accessed = done.asset_materializations_for_node("access_audit")[0].metadata
    assert "- arn:…/\\*web\\* from 10.0.0.1" in str(accessed[name].value)
    assert "█" in str(accessed[name].value)
    assert "presumed a breach until shown otherwise" in str(decided[name].value)
