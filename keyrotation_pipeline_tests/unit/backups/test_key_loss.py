"""The key store is lost in the middle of a walk: each key comes back where the walk needs it, which then ends."""

from collections.abc import Callable
from typing import Any

import pytest

from keyrotation_pipeline.backups import key_loss
from keyrotation_pipeline.backups.destruction import destroy
from keyrotation_pipeline.backups.key_loss import lost_keys, restore_key
from keyrotation_pipeline.backups.restore_checks import sampled_under
from keyrotation_pipeline.errors import AtWorkError, KeyStoreError
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, Walk
from keyrotation_pipeline.requests.takeover import mark_compromised
from keyrotation_pipeline.rotation import rollback, runner
from keyrotation_pipeline_tests.fakes import START, V1, V2, FakeWorld
from keyrotation_pipeline_tests.unit.backups.test_destruction import clinic_of
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, sign


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def run(world: FakeWorld, rotation: Walk, through: Step | None = None) -> None:
    for _ in runner.run(world.pipeline, rotation.id, world.report, through):
        pass


def lose_and_restore(world: FakeWorld) -> dict[str, str]:
    """Loses the whole store and puts every key back from its backup; where each is then."""
    lost = {version: world.keys.get(version) for version in world.keys.contents().versions}
    world.keys.live, world.keys.shelf, world.keys.primary_version, world.keys.roster = {}, {}, None, None
    restored = (restore_key(world.pipeline, version, material, "a backup") for version, material in lost.items())
    return {str(each.version): each.place for each in restored}


@pytest.mark.parametrize("through", WALK)
def test_a_rotation_ends_though_the_key_store_was_lost_after_a_step(world: FakeWorld, through: Step) -> None:
    rotation = approved(world)
    run(world, rotation, through)
    is_retired = WALK.index(through) >= WALK.index(Step.RETIRED_KEY)
    assert lose_and_restore(world) == {"v1": "archive" if is_retired else "live", "v2": "live"}
    run(world, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.FINISHED
    assert (world.keys.versions(), world.keys.archived(), world.keys.primary()) == ((V2,), (V1,), V2)
    assert world.ledger.state.keys[V1].state is KeyState.ARCHIVED


@pytest.mark.parametrize("through", WALK)
@pytest.mark.parametrize("undone_after", [Step.RETIRED_KEY, WALK[-1]])
def test_a_rollback_ends_though_the_key_store_was_lost_after_a_step(
    world: FakeWorld, undone_after: Step, through: Step
) -> None:
    rotation = approved(world)
    run(world, rotation, undone_after)
    undoing = rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba")
    for officer in (ADA, BEN):
        sign(world, undoing, officer)
    run(world, undoing, through)
    lose_and_restore(world)
    run(world, undoing)
    assert world.ledger.walk(undoing.id).status is RequestStatus.FINISHED
    assert (world.keys.versions(), world.keys.archived(), world.keys.primary()) == ((V1,), (V2,), V1)


@pytest.mark.parametrize("through", [None, *WALK])
def test_an_emergency_ends_though_the_key_store_was_lost_after_a_step(world: FakeWorld, through: Step | None) -> None:
    emergency = approved(world, incident="INC-7")
    mark_compromised(world.pipeline, emergency)
    if through is not None:
        run(world, emergency, through)
    lose_and_restore(world)
    run(world, emergency)
    assert world.ledger.walk(emergency.id).status is RequestStatus.FINISHED
    assert (world.keys.versions(), world.keys.archived(), world.keys.primary()) == ((V2,), (V1,), V2)
    assert world.ledger.state.keys[V1].state is KeyState.COMPROMISED


def test_a_key_that_is_being_destroyed_is_not_restored_nor_one_destroyed_that_is_being_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clinic, refused = clinic_of(), list[str]()
    world, opened, material = clinic.world, clinic.signed(), clinic.world.keys.get(V1)
    removes, samples = type(world.keys).destroy, sampled_under

    def meanwhile(act: Callable[[], object]) -> None:
        with pytest.raises(AtWorkError) as refusal:
            act()
        refused.append(str(refusal.value))

    def destroys(*arguments: Any) -> Any:  # noqa: ANN401 - as the key store's own
        meanwhile(lambda: restore_key(world.pipeline, V1, material, "a backup"))
        return removes(*arguments)

    def looks(*arguments: Any) -> int:  # noqa: ANN401 - as the function's own
        meanwhile(lambda: destroy(clinic.site, opened))
        return samples(*arguments)

    monkeypatch.setattr(key_loss, "sampled_under", looks)
    assert restore_key(world.pipeline, V1, material, "a backup").place == "archive"
    monkeypatch.setattr(type(world.keys), "destroy", destroys)
    destroy(clinic.site, opened)
    assert refused == ["destroy is locked by another process; wait for it"] * 2
    assert V1 not in world.keys.contents()
    with pytest.raises(KeyStoreError, match="v1 is destroyed permanently"):
        restore_key(world.pipeline, V1, material, "a backup")


def test_a_destroyed_key_that_is_in_the_key_store_again_is_named_and_can_be_destroyed_again() -> None:
    clinic = clinic_of()
    world, material = clinic.world, clinic.world.keys.get(V1)

    def named() -> list[str]:
        return lost_keys(world.pipeline.ledger, world.keys.contents(), world.ledger.keys())

    clinic.destroyed()
    assert named() == []
    world.keys.shelf[V1] = material
    (sentence,) = named()
    assert sentence.startswith("v1 is destroyed, but the key store holds it again; ")
    clinic.signed()
    assert named() == []  # its request says so


def test_a_key_that_came_back_to_the_applications_is_not_waited_for_but_withdrawn_as_the_sentence_says(
    world: FakeWorld,
) -> None:
    rotation = approved(world)
    run(world, rotation, Step.RETIRED_KEY)
    world.keys.restore(V1)
    world.rollout.running = (Instance("web-1", (V1, V2), V2, START),)
    with pytest.raises(KeyStoreError, match=r"v1 is live in the key store again; .*`keyrotation restore-key v1`"):
        run(world, rotation)
    assert restore_key(world.pipeline, V1, world.keys.get(V1), "a backup").place == "archive"
    world.rollout.running = None
    run(world, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.FINISHED


def test_a_retired_key_under_which_values_came_again_is_put_back_to_the_applications(world: FakeWorld) -> None:
    run(world, approved(world), Step.RETIRED_KEY)
    material = world.keys.shelf.pop(V1)
    world.database.rows["clients"].append({"first_name": "v1:New", "email": None})
    assert restore_key(world.pipeline, V1, material, "a backup").place == "live"
