"""A rotation is cancelled only while nothing is written under its new key."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from keyrotation_pipeline.errors import BlockedError, RequestError
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.requests import RequestStatus, Step, StepRecord, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline, StepFacts
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.requests.control import STEPS_BEFORE_ROWS, cancel
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, V1, V2, V3, FakeWorld, ProcessKilled
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation, made_key, request


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def test_cancelling_withdraws_the_new_key_and_burns_its_version(world: FakeWorld) -> None:
    rotation = approved(world)
    made_key(world)
    cancel(world.pipeline, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.CANCELLED
    assert world.keys.versions() == (V1,)
    assert world.keys.archived() == (V2,)
    assert world.ledger.state.keys[V2].state is KeyState.ARCHIVED
    assert request(world).target == V3


def test_cancelling_a_request_whose_key_was_never_made_leaves_its_version_free(world: FakeWorld) -> None:
    cancel(world.pipeline, request(world))
    assert request(world).target == V2


def test_cancelling_again_changes_nothing(world: FakeWorld) -> None:
    rotation = request(world)
    cancel(world.pipeline, rotation)
    before = list(world.journal.entries)
    cancel(world.pipeline, rotation)
    assert world.journal.entries == before


def test_cancelling_again_after_a_crash_at_any_change_ends_the_same(world: FakeWorld) -> None:
    rotation = request(world)
    made_key(world)
    deaths = 0
    while world.ledger.walk(rotation.id).status is not RequestStatus.CANCELLED:
        world.journal.die_at = len(world.journal.entries) + deaths
        try:
            cancel(world.pipeline, rotation)
        except ProcessKilled:
            deaths += 1
            world.ledger.locks.clear()
    world.journal.die_at = None
    assert deaths >= 3
    assert (world.keys.versions(), world.ledger.state.keys[V2].state) == ((V1,), KeyState.ARCHIVED)


def promoted_step(world: FakeWorld, rotation: Walk) -> None:
    world.ledger.refuses = False
    world.ledger.finish_step(rotation.id, StepRecord(Step.PRIMARY_KEY_ROLLOUT, None, None, START, {}))


def promoted_store(world: FakeWorld, rotation: Walk) -> None:
    world.keys.primary_version = V2


def promoted_xid(world: FakeWorld, rotation: Walk) -> None:
    world.ledger.refuses = False
    world.ledger.set_promotion(rotation.id, 4711)


def values_written(world: FakeWorld, rotation: Walk) -> None:
    world.database.rows["clients"][0]["email"] = "v2:early"


@pytest.mark.parametrize(
    ("happened", "sentence"),
    [
        (promoted_step, "has made v2 the primary"),
        (promoted_store, "has made v2 the primary"),
        (promoted_xid, "has made v2 the primary"),
        (values_written, "table clients holds values under"),
    ],
)
def test_nothing_is_cancelled_once_something_may_be_written_under_the_new_key(
    world: FakeWorld, happened: Callable[[FakeWorld, Walk], None], sentence: str
) -> None:
    rotation = request(world)
    made_key(world)
    happened(world, rotation)
    with pytest.raises(RequestError, match=sentence):
        cancel(world.pipeline, rotation)
    assert V2 in world.keys.versions()


def test_nothing_is_cancelled_while_one_of_its_steps_runs(world: FakeWorld) -> None:
    rotation = request(world)
    with world.ledger.lock(f"{rotation.id}/{Step.KEY_VERSION}"), pytest.raises(BlockedError):
        cancel(world.pipeline, rotation)


@pytest.mark.parametrize("step", STEPS_BEFORE_ROWS)
def test_a_step_that_is_performed_keeps_a_cancellation_and_a_second_performer_out(world: FakeWorld, step: Step) -> None:
    """Both go by the very lock that the performer takes: none of it may be missing, or have another name."""
    rotation, refused = approved(world), []
    action = world.pipeline.actions[rotation.action]

    def in_its_middle(pipeline: Pipeline, walk: Walk, report: Report) -> StepFacts:
        for other in (
            lambda: cancel(world.pipeline, rotation),
            lambda: runner.run_step(world.pipeline, rotation.id, Task(step), report),
        ):
            with pytest.raises(BlockedError) as refusal:
                other()
            refused.append(str(refusal.value))
        return action.steps[step](pipeline, walk, report)

    changed = replace(action, steps={**action.steps, step: in_its_middle})
    pipeline = replace(world.pipeline, actions={**world.pipeline.actions, rotation.action: changed})
    *_, last = runner.run(pipeline, rotation.id, world.report, step)
    assert last.step is step
    assert refused == [f"{rotation.id}/{step} is locked by another process; wait for it"] * 2
    assert world.ledger.walk(rotation.id).status is RequestStatus.RUNNING


def test_a_finished_rotation_is_not_cancelled(world: FakeWorld) -> None:
    rotation = approved(world)
    world.ledger.set_status(rotation.id, RequestStatus.RUNNING)
    world.ledger.set_status(rotation.id, RequestStatus.FINISHED)
    with pytest.raises(RequestError, match="is finished"):
        cancel(world.pipeline, rotation)
