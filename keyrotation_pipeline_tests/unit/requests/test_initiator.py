"""Who authorised a rotation, as the source procedure's table names them."""

import pytest

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.request_events import RotationAuditWritten
from keyrotation_pipeline.requests.approvals import authorised_by
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import ROSTER
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request

NAMES = {officer.fingerprint: officer.name for officer in ROSTER.officers}


def test_the_row_names_an_officer_who_signed_and_not_whoever_asked() -> None:
    world = before_any_rotation()
    world.signatures.addresses[ADA] = "ada@clinic.example"
    walk = approved(world)
    for _ in runner.run(world.pipeline, walk.id, world.report):
        pass
    begun, done = recorded(world.ledger, RotationAuditWritten, walk.id)
    assert {begun.initiated_by, done.initiated_by} == {f"{NAMES[ADA]} <ada@clinic.example>"}


def test_an_address_that_does_not_fit_the_column_is_left_out() -> None:
    world = before_any_rotation()
    world.signatures.addresses[ADA] = f"{'a' * 250}@clinic.example"
    assert authorised_by(world.pipeline, approved(world)) == NAMES[ADA]


def test_nobody_is_named_who_has_not_signed_or_whose_signature_does_not_count() -> None:
    world = before_any_rotation()
    with pytest.raises(ApprovalError, match="nobody has signed request"):
        authorised_by(world.pipeline, request(world))
    world = before_any_rotation()
    walk = approved(world)
    world.signatures.revoked.add(ADA)
    assert authorised_by(world.pipeline, walk).startswith("Ben")
    world.signatures.revoked.add(BEN)
    with pytest.raises(ApprovalError, match="is revoked"):
        authorised_by(world.pipeline, walk)
