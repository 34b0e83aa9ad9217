"""The sensor that asks again for time stamps, where there is one, and what is told of optional schedules."""

from dataclasses import replace

from keyrotation_pipeline.assurance.automation import OPTIONAL, SCHEDULES, SENSORS, standing_still
from keyrotation_pipeline.definitions import build_definitions
from keyrotation_pipeline.defs.time_stamps import audit_timestamp
from keyrotation_pipeline.model.request import RequestStatus, Walk
from keyrotation_pipeline.model.timestamps import AuditTimestamped
from keyrotation_pipeline_tests.defs.conftest import Dagster
from keyrotation_pipeline_tests.fakes import FakeTimestampAuthority


def test_what_could_not_be_stamped_is_stamped_by_the_next_look(dagster: Dagster, approved: Walk) -> None:
    authority = FakeTimestampAuthority(dagster.world.clock, down=True)
    dagster.world.pipeline = replace(dagster.world.pipeline, timestamps=authority)
    definitions = replace_sensor(dagster)
    definitions.tick("audit_timestamp")
    assert authority.asked == 0, "no request has ended"

    dagster.world.ledger.set_status(approved.id, RequestStatus.RUNNING)
    dagster.world.ledger.set_status(approved.id, RequestStatus.FINISHED)
    definitions.tick("audit_timestamp")
    authority.down = False
    definitions.tick("audit_timestamp")
    definitions.tick("audit_timestamp")
    assert (authority.asked, len(list(dagster.world.ledger.events(AuditTimestamped.kind)))) == (2, 1)


def replace_sensor(dagster: Dagster) -> Dagster:
    tables = dagster.world.pipeline.tables
    made = build_definitions(tables, 2, dagster.resource, timestamps=True, rehearse_nightly=True)
    return replace(dagster, definitions=made)


def test_what_is_optional_is_expected_where_it_is_and_forgotten_where_it_is_not(dagster: Dagster) -> None:
    asked_for = replace_sensor(dagster)
    here = asked_for.definitions.get_repository_def()
    assert {each.name for each in here.schedule_defs} == SCHEDULES.keys()
    assert {each.name for each in here.sensor_defs} - {"run_failure_alert"} == set(SENSORS)

    asked_for.tick("audit_timestamp")
    ticks = dagster.world.pipeline.ticks
    assert {each.name for each in ticks.last()} >= OPTIONAL
    dagster.tick("ledger_mirror")  # by a configuration that asks for neither
    assert not {each.name for each in ticks.last()} & OPTIONAL
    assert audit_timestamp.name == "audit_timestamp"
    assert list(standing_still(ticks.last(), dagster.world.clock.at)) == []
