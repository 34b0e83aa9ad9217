"""A request whose signatures have run out after its promotion is taken over by a new one, and never stuck."""

from datetime import timedelta

import pytest

from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.errors import BlockedError, RequestError
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, Walk
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.rotation import rollback, runner
from keyrotation_pipeline_tests.fakes import V1, V2, FakeWorld, ProcessKilled
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign

PAST = timedelta(days=91)


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def run(world: FakeWorld, rotation: Walk, through: Step | None = None) -> list[Step]:
    return [record.step for record in runner.run(world.pipeline, rotation.id, world.report, through)]


def wait_until_past(world: FakeWorld) -> None:
    world.clock.at += PAST
    world.signatures.signed_at = world.clock.at


def continued(world: FakeWorld) -> Walk:
    rotation = request(world)
    for officer in (ADA, BEN):
        sign(world, rotation, officer)
    return world.ledger.walk(rotation.id)


AFTER_PROMOTION = WALK[WALK.index(Step.PRIMARY_KEY_ROLLOUT) : -1]


@pytest.mark.parametrize("through", AFTER_PROMOTION)
def test_a_rotation_past_its_dates_is_taken_over_where_it_stands(world: FakeWorld, through: Step) -> None:
    stuck = approved(world)
    run(world, stuck, through)
    wait_until_past(world)
    with pytest.raises(BlockedError, match="take it over with `keyrotation request`"):
        run(world, stuck)
    successor = continued(world)
    assert (successor.source, successor.target, successor.supersedes) == (V1, V2, stuck.id)
    run(world, successor)
    assert world.ledger.walk(stuck.id).status is RequestStatus.CANCELLED
    assert world.ledger.walk(successor.id).status is RequestStatus.FINISHED
    assert (world.keys.versions(), world.keys.archived()) == ((V2,), (V1,))
    assert world.ledger.state.keys[V1].state is KeyState.ARCHIVED
    assert world.database.rows == {"clients": [{"first_name": "v2:Zoe", "email": "v2:zoe@example.org"}]}
    verify_audit(world.ledger)


def test_rows_are_taken_over_and_the_proof_is_not(world: FakeWorld) -> None:
    stuck = approved(world)
    run(world, stuck, Step.ZERO_OLD_ROWS_PROOF)
    wait_until_past(world)
    successor = continued(world)
    run(world, successor, Step.ZERO_OLD_ROWS_PROOF)
    former, now = world.ledger.walk(stuck.id), world.ledger.walk(successor.id)
    assert now.done(Step.ROWS) == former.done(Step.ROWS)
    assert now.done(Step.ZERO_OLD_ROWS_PROOF) != former.done(Step.ZERO_OLD_ROWS_PROOF)
    assert now.promotion_xid == former.promotion_xid


def test_a_promotion_that_was_killed_half_way_is_taken_over_twice(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, Step.DUAL_KEY_ROLLOUT)
    world.journal.die_at = len(world.journal.entries) + 3
    with pytest.raises(ProcessKilled):
        run(world, rotation)
    world.journal.die_at = None
    world.ledger.locks.clear()
    assert world.keys.primary() == V2
    for _ in range(2):
        wait_until_past(world)
        rotation = continued(world)
        with pytest.raises(ZeroDivisionError):
            next_step_fails(world, rotation)
    run(world, rotation)
    assert (world.keys.primary(), world.keys.archived()) == (V2, (V1,))


def next_step_fails(world: FakeWorld, rotation: Walk) -> None:
    """Takes over, and no more."""
    for _ in runner.run(world.pipeline, rotation.id, world.report):
        raise ZeroDivisionError


def test_a_continuation_that_dies_at_any_change_ends_the_same_when_it_is_run_again(world: FakeWorld) -> None:
    run(world, approved(world), Step.ROWS)
    wait_until_past(world)
    successor = continued(world)
    deaths, allowed = 0, 0
    while world.ledger.walk(successor.id).status is not RequestStatus.FINISHED:
        world.journal.die_at = len(world.journal.entries) + allowed
        before = world.ledger.walk(successor.id).steps
        try:
            run(world, successor)
        except ProcessKilled:
            deaths += 1
            world.ledger.locks.clear()
            allowed = allowed + 1 if world.ledger.walk(successor.id).steps == before else 0
    world.journal.die_at = None
    assert deaths > len(WALK)
    assert (world.keys.versions(), world.keys.archived()) == ((V2,), (V1,))
    verify_audit(world.ledger)


def test_a_rotation_within_its_dates_is_not_taken_over(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, Step.ROWS)
    with pytest.raises(RequestError, match=rotation.id):
        request(world)


def test_a_rotation_past_its_dates_before_promotion_is_cancelled_instead(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, Step.DUAL_KEY_ROLLOUT)
    wait_until_past(world)
    with pytest.raises(RequestError, match="or cancel it"):
        request(world)
    cancel(world.pipeline, rotation)


def test_a_cancelled_continuation_leaves_the_key_where_it_is(world: FakeWorld) -> None:
    run(world, approved(world), Step.ROWS)
    wait_until_past(world)
    cancel(world.pipeline, request(world))
    assert world.keys.versions() == (V1, V2)


def test_a_rotation_past_its_dates_is_rolled_back_at_any_time(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, Step.ROWS)
    wait_until_past(world)
    undoing = rollback.open_rollback(world.pipeline, rotation, reason="too late", requested_by="dba")
    for officer in (ADA, BEN):
        sign(world, undoing, officer)
    run(world, undoing)
    assert (world.keys.primary(), world.keys.archived()) == (V1, (V2,))


def test_a_rollback_past_its_dates_is_taken_over_too(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, Step.ROWS)
    undoing = rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba")
    for officer in (ADA, BEN):
        sign(world, undoing, officer)
    run(world, undoing, Step.PRIMARY_KEY_ROLLOUT)
    wait_until_past(world)
    successor = continued(world)
    assert (successor.action, successor.target) == ("rollback", V1)
    run(world, successor)
    assert (world.keys.primary(), world.keys.archived()) == (V1, (V2,))
    record = world.ledger.walk(successor.id).done(Step.COMPLIANCE_REPORT)
    assert record is not None
    assert f"Rotation {rotation.id} (v1 to v2) was abandoned" in record.facts["post_mortem"]
