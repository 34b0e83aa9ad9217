"""The sensor that asks again for time stamps."""

from dataclasses import replace

from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.model.backup_events import AuditTimestamped
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline_tests.defs.conftest import Dagster
from keyrotation_pipeline_tests.fakes import FakeTimestampAuthority


def test_what_could_not_be_stamped_is_stamped_by_the_next_look(dagster: Dagster, approved: Walk) -> None:
    authority = FakeTimestampAuthority(dagster.world.clock, down=True)
    dagster.world.pipeline = replace(dagster.world.pipeline, timestamps=authority)
    tables = dagster.world.pipeline.tables
    definitions = replace(dagster, definitions=build_definitions(tables, 2, dagster.resource, timestamps=True))
    definitions.tick("audit_timestamp")
    assert authority.asked == 0, "no request has ended"

    dagster.world.ledger.set_status(approved.id, RequestStatus.RUNNING)
    dagster.world.ledger.set_status(approved.id, RequestStatus.FINISHED)
    definitions.tick("audit_timestamp")
    authority.down = False
    definitions.tick("audit_timestamp")
    definitions.tick("audit_timestamp")
    assert (authority.asked, len(list(dagster.world.ledger.events(AuditTimestamped.kind)))) == (2, 1)
