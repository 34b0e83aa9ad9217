"""A request that is left to people: officers sign that it is, and whoever carries it out is told what is due."""

import pytest

from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.model.approval import left_to_people
from keyrotation_pipeline.model.requests import WALK, RequestStatus, RotationType, Step, Walk
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.requests.approvals import approval_text
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import V1, V2, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, before_any_rotation, request, sign

LINE = "Carried out: by people, in Dagster or by keyrotation rotate; the conductor leaves it\n"


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


@pytest.fixture
def manual(world: FakeWorld) -> Walk:
    """Approved, and not begun."""
    opened = request(world, manual=True)
    for officer in (ADA, BEN):
        sign(world, opened, officer)
    return world.ledger.walk(opened.id)


def test_officers_sign_that_it_is_left_to_people(world: FakeWorld, manual: Walk) -> None:
    text = world.ledger.approval_text(manual.id)
    assert f"\n{LINE}Requested by: ".encode() in text
    assert left_to_people(text)
    assert approval_text(world.pipeline, manual) == text


@pytest.mark.parametrize("reason", [LINE.strip(), f"yearly. {LINE.strip()}"])
def test_a_reason_does_not_leave_a_request_to_people(world: FakeWorld, reason: str) -> None:
    opened = request(world, reason=reason)
    assert not left_to_people(world.ledger.approval_text(opened.id))


@pytest.mark.parametrize(
    ("through", "due"),
    [
        pytest.param(None, "key_version", id="nothing is done"),
        pytest.param(Step.DUAL_KEY_ROLLOUT, "primary_key_rollout", id="applications read the new key"),
        pytest.param(Step.PRIMARY_KEY_ROLLOUT, "rows/clients", id="the new key is the primary"),
        pytest.param(Step.ROWS, "zero_old_rows_proof", id="the rows are done"),
        pytest.param(Step.KEY_ROTATION_AUDIT, "compliance_report", id="only the report is left"),
    ],
)
def test_the_status_says_what_somebody_is_to_materialize(
    world: FakeWorld, manual: Walk, through: Step | None, due: str
) -> None:
    for _ in runner.run(world.pipeline, manual.id, world.report, through) if through else ():
        pass
    shown = overview(world.pipeline).rotation
    assert shown is not None
    assert shown.waiting_for == (
        f"somebody is to materialize {due} (partition v2) in Dagster; "
        f"do that there, or run `keyrotation rotate {manual.id}`"
    )


def test_once_the_shards_are_done_the_proof_is_next(world: FakeWorld, manual: Walk) -> None:
    list(runner.run(world.pipeline, manual.id, world.report, Step.PRIMARY_KEY_ROLLOUT))
    list(runner.run_shards(world.pipeline, manual.id, world.report))
    walk = world.ledger.walk(manual.id)
    assert walk.done(Step.ROWS) is None
    assert "materialize zero_old_rows_proof (partition v2)" in str(
        runner.pending_people(walk, runner.next_decision(Situation(world.pipeline), walk))
    )


def test_what_it_waits_for_otherwise_is_said_alone(world: FakeWorld) -> None:
    opened = request(world, manual=True)
    shown = overview(world.pipeline).rotation
    assert shown is not None
    assert str(shown.waiting_for).startswith(f"rotation {opened.id} needs 2 more approvals")
    assert "materialize" not in str(shown.waiting_for)


def test_a_person_who_types_rotate_carries_it_out(world: FakeWorld, manual: Walk) -> None:
    done = dict.fromkeys(record.step for record in runner.run(world.pipeline, manual.id, world.report))
    assert list(done) == list(WALK)
    finished = world.ledger.walk(manual.id)
    assert finished.status is RequestStatus.FINISHED
    assert runner.pending_people(finished, runner.next_decision(Situation(world.pipeline), finished)) is None
    assert (world.keys.versions(), world.keys.archived()) == ((V2,), (V1,))


def test_an_emergency_is_never_left_to_people(world: FakeWorld) -> None:
    with pytest.raises(RequestError, match="request it without --manual"):
        request(world, manual=True, incident="INC-7")
    assert world.ledger.requests() == ()


def test_an_emergency_takes_over_what_was_left_to_people_and_is_carried_out(world: FakeWorld, manual: Walk) -> None:
    list(runner.run(world.pipeline, manual.id, world.report, Step.PRIMARY_KEY_ROLLOUT))
    emergency = request(world, incident="INC-7")
    assert (emergency.supersedes, emergency.type) == (manual.id, RotationType.EMERGENCY)
    assert not left_to_people(world.ledger.approval_text(emergency.id))


def test_a_request_that_says_otherwise_than_its_signed_text_is_not_performed(world: FakeWorld, manual: Walk) -> None:
    world.ledger.change_request(manual.id, manual=False)
    with pytest.raises(Exception, match=r"no longer what its text for signing says \(Carried out\)"):
        list(runner.run(world.pipeline, manual.id, world.report))
    assert world.keys.versions() == (V1,)
