"""The two rollouts: who must be seen to do what, what stops the promotion, and every crash point of it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from keyrotation_pipeline.errors import BackupError, BlockedError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.key_events import PrimaryChangeIntended
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RotationType, Walk
from keyrotation_pipeline.rotation.deploy import roll_out_dual_key, roll_out_primary_key
from keyrotation_pipeline.rotation.keys import create_key_version
from keyrotation_pipeline_tests.fakes import START, V1, V2, V3, FakeWorld, ProcessKilled, fake_pipeline, rotation_of


@pytest.fixture
def world() -> FakeWorld:
    """v2 is the primary, v3 is made, both instances read it and write v2."""
    made = fake_pipeline({"clients": [{"first_name": "v2:Ada", "email": "v1:a@b"}], "visits": [{"first_name": ""}]})
    create_key_version(made.pipeline, rotation_of(made, V2, V3, promoted=False), made.report)
    made.journal.entries.clear()
    made.reported.clear()
    seen(made, web_1=V2, web_2=V2)
    return made


@pytest.fixture
def rotation(world: FakeWorld) -> Walk:
    return rotation_of(world)


def seen(world: FakeWorld, reads: tuple[KeyVersion, ...] = (V1, V2, V3), **writes: KeyVersion) -> None:
    world.rollout.running = tuple(Instance(name, reads, version, START) for name, version in writes.items())


def follow_the_store(world: FakeWorld) -> None:
    """One instance that reads and writes what the key store names."""
    world.rollout.running = None


def states(world: FakeWorld) -> dict[str, str]:
    return {str(record.version): str(record.state) for record in world.ledger.state.keys.values()}


# --- reading first --------------------------------------------------------------------------------------------------


def test_the_dual_key_rollout_ends_when_every_instance_reads_the_new_key(world: FakeWorld, rotation: Walk) -> None:
    facts = roll_out_dual_key(world.pipeline, rotation, world.report)
    assert facts == {"version": "v3", "instances": 2, "names": ["web_1", "web_2"], "proven": 0}
    assert world.keys.primary() == V2


def test_one_instance_that_does_not_read_the_new_key_holds_the_rollout(world: FakeWorld, rotation: Walk) -> None:
    world.rollout.running = (*world.rollout.instances(), Instance("old-pod", (V1, V2), V2, START))
    with pytest.raises(BlockedError, match=r"^old-pod \(reads v1, v2\): not seen to read v3; reload or restart"):
        roll_out_dual_key(world.pipeline, rotation, world.report)


ROLLOUTS = pytest.mark.parametrize("roll_out", [roll_out_dual_key, roll_out_primary_key])


@ROLLOUTS
def test_a_value_under_the_new_key_before_promotion_stops_the_rotation(
    world: FakeWorld, rotation: Walk, roll_out: object
) -> None:
    world.database.rows["visits"] = [{"first_name": "v2:x", "email": "v3:early"}, {"email": "v3:early"}]
    with pytest.raises(BlockedError, match="v3 value seen before promotion: table visits holds 2 in email; "):
        roll_out(world.pipeline, rotation, world.report)  # type: ignore[operator]
    assert world.keys.primary() == V2
    assert states(world)["v3"] == KeyState.PRE_ACTIVATION


@ROLLOUTS
def test_an_emergency_does_not_wait_for_a_look_through_everything_and_says_what_it_missed(
    world: FakeWorld, rotation: Walk, roll_out: Callable[..., Mapping[str, object]]
) -> None:
    follow_the_store(world)
    world.database.slow = frozenset({"visits"})
    world.ledger.refuses = False
    emergency = replace(rotation, type=RotationType.EMERGENCY)
    world.database.rows["clients"][0]["email"] = "v3:early"
    with pytest.raises(BlockedError, match="v3 value seen before promotion: table clients"):
        roll_out(world.pipeline, emergency, world.report)
    world.database.rows["clients"][0]["email"] = "v2:ann@example.org"
    assert roll_out(world.pipeline, emergency, world.report)["not_looked_through"] == ["visits"]


@ROLLOUTS
def test_an_instance_that_writes_under_the_new_key_before_promotion_stops_the_rotation(
    world: FakeWorld, rotation: Walk, roll_out: object
) -> None:
    seen(world, web_1=V2, web_2=V3)
    with pytest.raises(BlockedError, match="instance web_2 writes under v3 before its promotion"):
        roll_out(world.pipeline, rotation, world.report)  # type: ignore[operator]
    assert world.keys.primary() == V2


# --- then writing ---------------------------------------------------------------------------------------------------


def test_promotion_is_announced_before_and_recorded_after_and_its_transaction_comes_last(
    world: FakeWorld, rotation: Walk
) -> None:
    follow_the_store(world)
    facts = roll_out_primary_key(world.pipeline, rotation, world.report)
    assert world.journal.entries == [
        "event primary_change_intended",
        "keys.name_owner",
        "keys.set_primary v3",
        "event key_state_changed",
        "event key_state_changed",
        "event primary_changed",
        "commit",
        "event promotion_recorded",
    ]
    assert states(world) == {"v1": "deactivated", "v2": "deactivated", "v3": "active"}
    assert world.ledger.walk(rotation.id).promotion_xid == world.database.xid
    assert facts == {"primary": "v3", "instances": 1, "names": ["web-1"], "proven": 0}


def test_an_emergency_leaves_the_old_key_compromised(world: FakeWorld, rotation: Walk) -> None:
    follow_the_store(world)
    world.ledger.refuses = False
    roll_out_primary_key(world.pipeline, replace(rotation, type=RotationType.EMERGENCY), world.report)
    assert states(world) == {"v1": "deactivated", "v2": "compromised", "v3": "active"}


def test_an_instance_that_started_since_and_does_not_read_the_new_key_stops_the_promotion(
    world: FakeWorld, rotation: Walk
) -> None:
    roll_out_dual_key(world.pipeline, rotation, world.report)
    world.rollout.running = (*world.rollout.instances(), Instance("late-pod", (V1, V2), V2, START))
    with pytest.raises(BlockedError, match=r"^late-pod \(reads v1, v2\): not seen to read v3; reload or restart"):
        roll_out_primary_key(world.pipeline, rotation, world.report)
    assert world.keys.primary() == V2


def test_while_an_instance_still_writes_under_the_old_key_the_promotion_has_no_transaction(
    world: FakeWorld, rotation: Walk
) -> None:
    with pytest.raises(BlockedError, match=r"^web_1 \(writes v2\), web_2 \(writes v2\): not seen to write v3"):
        roll_out_primary_key(world.pipeline, rotation, world.report)
    assert world.keys.primary() == V3
    assert world.ledger.walk(rotation.id).promotion_xid is None
    seen(world, web_1=V3, web_2=V3)
    world.database.rows["clients"][0]["email"] = "v3:written since"
    roll_out_primary_key(world.pipeline, rotation, world.report)
    assert world.ledger.walk(rotation.id).promotion_xid is not None


@pytest.mark.parametrize("changes", range(7))
def test_a_promotion_ends_the_same_wherever_the_process_dies(world: FakeWorld, rotation: Walk, changes: int) -> None:
    follow_the_store(world)
    world.journal.die_at = changes
    with pytest.raises(ProcessKilled):
        roll_out_primary_key(world.pipeline, rotation, world.report)
    world.journal.die_at = None
    if world.keys.primary() == V3:
        world.database.rows["clients"][0]["email"] = "v3:written since"
    roll_out_primary_key(world.pipeline, world.ledger.walk(rotation.id), world.report)
    assert states(world) == {"v1": "deactivated", "v2": "deactivated", "v3": "active"}
    assert world.keys.primary() == V3
    assert world.ledger.walk(rotation.id).promotion_xid is not None
    assert world.ledger.event_names().count("primary_changed") == 1


def test_a_promotion_again_is_no_change(world: FakeWorld, rotation: Walk) -> None:
    follow_the_store(world)
    roll_out_primary_key(world.pipeline, rotation, world.report)
    entries = list(world.journal.entries)
    roll_out_primary_key(world.pipeline, world.ledger.walk(rotation.id), world.report)
    assert [each for each in world.journal.entries[len(entries) :] if each != "commit"] == []


@pytest.mark.parametrize("promoted", [False, True], ids=["before promotion", "after a crash in it"])
def test_a_compromised_key_never_becomes_the_primary(world: FakeWorld, rotation: Walk, promoted: bool) -> None:
    if promoted:
        world.journal.die_at = 2
        with pytest.raises(ProcessKilled):
            roll_out_primary_key(world.pipeline, rotation, world.report)
        world.journal.die_at = None
    world.ledger.state.keys[V3] = replace(world.ledger.state.keys[V3], state=KeyState.COMPROMISED)
    with pytest.raises(BlockedError, match="v3 is compromised and never becomes the primary"):
        roll_out_primary_key(world.pipeline, rotation, world.report)
    assert states(world)["v3"] == KeyState.COMPROMISED


def test_a_primary_that_somebody_else_named_is_not_taken_for_our_promotion(world: FakeWorld, rotation: Walk) -> None:
    world.keys.primary_version = V3
    seen(world, web_1=V3)
    with pytest.raises(BlockedError, match=r"names v3 as the primary, but rotation .* starts from v2"):
        roll_out_primary_key(world.pipeline, rotation, world.report)
    assert states(world)["v3"] == KeyState.PRE_ACTIVATION


def test_the_intent_of_another_rotation_is_not_taken_for_ours(world: FakeWorld, rotation: Walk) -> None:
    world.ledger.append(PrimaryChangeIntended(V2, V3), "ab" * 16)
    world.keys.primary_version = V3
    with pytest.raises(BlockedError, match="names v3 as the primary"):
        roll_out_primary_key(world.pipeline, rotation, world.report)


def test_a_key_without_a_backup_is_not_promoted(world: FakeWorld, rotation: Walk) -> None:
    del world.vault.backups[V3]
    with pytest.raises(BackupError, match=r"no intact backup of v3 .*`keyrotation backup`"):
        roll_out_primary_key(world.pipeline, rotation, world.report)
    assert world.keys.primary() == V2


def test_a_key_that_is_not_the_registered_one_is_not_promoted(world: FakeWorld, rotation: Walk) -> None:
    world.keys.live[V3] = KeyMaterial.generate()
    with pytest.raises(KeyStoreDamagedError, match="holds another v3"):
        roll_out_primary_key(world.pipeline, rotation, world.report)
    assert world.keys.primary() == V2


def test_a_key_that_is_not_registered_is_not_promoted(world: FakeWorld, rotation: Walk) -> None:
    del world.ledger.state.keys[V3]
    with pytest.raises(BlockedError, match="v3 is not registered"):
        roll_out_primary_key(world.pipeline, rotation, world.report)
    assert world.keys.primary() == V2
