"""The whole walk over fakes: in order, once, only when authorised, and taken up again wherever it died."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from random import Random

import pytest

from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.errors import (
    ApprovalError,
    BlockedError,
    DatabaseUnavailableError,
    KeyRotationError,
    OutOfOrderError,
    PreflightError,
)
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, Walk
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, V1, V2, FakeClock, FakeWorld, ProcessKilled
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, approved, before_any_rotation, request, sign

# Seen with 1200, too, which takes minutes.
MANY_SHARDS = 100


@pytest.fixture
def world() -> FakeWorld:
    """Before any rotation; the one application instance uses what the key store gives it."""
    return before_any_rotation()


def run(world: FakeWorld, rotation: Walk, through: Step | None = None) -> list[Step]:
    return [record.step for record in runner.run(world.pipeline, rotation.id, world.report, through)]


def test_the_walk_ends_with_every_value_under_the_new_key_and_the_old_one_archived(world: FakeWorld) -> None:
    rotation = approved(world)
    assert list(dict.fromkeys(run(world, rotation))) == list(WALK)
    finished = world.ledger.walk(rotation.id)
    assert (finished.status, finished.blocked_by) == (RequestStatus.FINISHED, None)
    assert world.database.rows == {"clients": [{"first_name": "v2:Zoe", "email": "v2:zoe@example.org"}]}
    assert (world.keys.versions(), world.keys.archived(), world.keys.primary()) == ((V2,), (V1,), V2)
    assert {version: key.state for version, key in world.ledger.state.keys.items()} == {
        V1: KeyState.ARCHIVED,
        V2: KeyState.ACTIVE,
    }
    assert world.ledger.event_names()[-2:] == ["step_finished", "status_changed"]
    verify_audit(world.ledger)


def test_a_table_that_changed_between_request_and_start_stops_the_walk_before_a_key_is_made(world: FakeWorld) -> None:
    rotation = approved(world)
    world.database.problems = (Problem("trigger touched of clients would fire; drop it", fatal=True),)
    with pytest.raises(PreflightError, match="trigger touched"):
        run(world, rotation)
    assert world.keys.versions() == (V1,)
    assert world.ledger.walk(rotation.id).started_at is None
    world.database.problems = ()
    assert run(world, rotation)[-1] is WALK[-1]


def test_the_store_is_read_once_a_task_and_once_more_where_a_key_is_used(world: FakeWorld) -> None:
    rotation = approved(world)
    reads: dict[Step, list[int]] = {}
    before = world.keys.reads
    for record in runner.run(world.pipeline, rotation.id, world.report):
        reads.setdefault(record.step, []).append(world.keys.reads - before)
        before = world.keys.reads
    assert reads == {
        Step.KEY_VERSION: [3],
        Step.DUAL_KEY_ROLLOUT: [1],
        Step.PRIMARY_KEY_ROLLOUT: [3],
        Step.ROWS: [2, 2, 1],
        Step.ZERO_OLD_ROWS_PROOF: [2],
        Step.RETIRED_KEY: [4],
        Step.ARCHIVED_KEY: [3],  # before and after it has waited for instances
        Step.KEY_ROTATION_AUDIT: [1],
        Step.COMPLIANCE_REPORT: [1],
    }


def test_the_walk_stops_after_the_step_that_it_is_to_go_through(world: FakeWorld) -> None:
    rotation = approved(world)
    assert run(world, rotation, Step.PRIMARY_KEY_ROLLOUT)[-1] is Step.PRIMARY_KEY_ROLLOUT
    assert run(world, rotation, Step.PRIMARY_KEY_ROLLOUT) == []
    assert world.ledger.walk(rotation.id).status is RequestStatus.RUNNING


def test_a_walk_that_dies_at_any_change_ends_the_same_when_it_is_run_again(world: FakeWorld) -> None:
    rotation = approved(world)
    deaths, allowed = 0, 0
    while world.ledger.walk(rotation.id).status is not RequestStatus.FINISHED:
        world.journal.die_at = len(world.journal.entries) + allowed
        before = world.ledger.walk(rotation.id).steps
        try:
            run(world, rotation)
        except ProcessKilled:
            deaths += 1
            world.ledger.locks.clear()
            # One change more each time, until the walk got a step further.
            allowed = allowed + 1 if world.ledger.walk(rotation.id).steps == before else 0
    world.journal.die_at = None
    assert deaths > 2 * len(WALK)
    assert world.database.rows == {"clients": [{"first_name": "v2:Zoe", "email": "v2:zoe@example.org"}]}
    assert (world.keys.versions(), world.keys.archived()) == ((V2,), (V1,))
    steps = world.ledger.walk(rotation.id).steps
    assert len(steps) == len({(record.step, record.table, record.shard) for record in steps})
    verify_audit(world.ledger)


@dataclass
class JumpingClock(FakeClock):
    """Somebody sets it forth and back all the time, by up to three hours."""

    dice: Random = field(default_factory=Random)

    def now(self) -> datetime:
        return self.at + timedelta(seconds=self.dice.uniform(-10_800, 10_800))


@pytest.mark.parametrize("seed", range(4))
def test_a_clock_that_jumps_stops_a_walk_with_a_sentence_at_most(world: FakeWorld, seed: int) -> None:
    rotation = approved(world)
    # At each moment the signatures may seem to be from the future, or from before the request.
    jumping = replace(world, pipeline=replace(world.pipeline, clock=JumpingClock(dice=Random(seed))))
    refusals: list[str] = []
    while world.ledger.walk(rotation.id).status is not RequestStatus.FINISHED and len(refusals) < 200:
        try:
            run(jumping, rotation)
        except ApprovalError as refusal:
            refusals.append(str(refusal))
    assert refusals
    assert all("in the future" in each for each in refusals)
    assert world.database.rows == {"clients": [{"first_name": "v2:Zoe", "email": "v2:zoe@example.org"}]}
    assert (world.keys.versions(), world.keys.archived(), world.keys.primary()) == ((V2,), (V1,), V2)
    verify_audit(world.ledger)


def test_the_last_step_and_the_end_of_the_rotation_are_recorded_together(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, WALK[-2])
    # Dies between the two: before the event of the status.
    world.journal.die_at = len(world.journal.entries) + 1
    with pytest.raises(ProcessKilled):
        run(world, rotation)
    assert world.ledger.walk(rotation.id).done(WALK[-1]) is None


@pytest.mark.parametrize("step", WALK[1:])
def test_a_step_out_of_order_is_refused_and_changes_nothing(world: FakeWorld, step: Step) -> None:
    rotation = approved(world)
    before = list(world.journal.entries)
    with pytest.raises(OutOfOrderError, match=f"{step} is not due in rotation {rotation.id}; due is: key_version"):
        runner.run_step(world.pipeline, rotation.id, Task(step), world.report)
    assert world.journal.entries == before


def test_a_shard_that_the_configuration_does_not_have_is_never_due(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, Step.PRIMARY_KEY_ROLLOUT)
    stranger = Shard(world.pipeline.tables[0], 7, 8)
    with pytest.raises(OutOfOrderError):
        runner.run_step(world.pipeline, rotation.id, Task(Step.ROWS, stranger), world.report)


def test_a_step_that_is_done_is_given_back_as_recorded(world: FakeWorld) -> None:
    rotation = approved(world)
    (first, *_) = runner.run(world.pipeline, rotation.id, world.report, Step.KEY_VERSION)
    before = list(world.journal.entries)
    assert runner.run_step(world.pipeline, rotation.id, Task(Step.KEY_VERSION), world.report) == first
    assert world.journal.entries == before


def one_signature_gone(world: FakeWorld, rotation: Walk) -> None:
    world.ledger.state.signatures[rotation.id].pop()


def another_key_store(world: FakeWorld, rotation: Walk) -> None:
    world.keys.description = "another key store"


@pytest.mark.parametrize("step", WALK)
@pytest.mark.parametrize("change", [one_signature_gone, another_key_store])
def test_every_step_takes_the_approval_again(
    world: FakeWorld, step: Step, change: Callable[[FakeWorld, Walk], None]
) -> None:
    rotation = approved(world)
    if WALK.index(step):
        run(world, rotation, WALK[WALK.index(step) - 1])
    change(world, rotation)
    before = (dict(world.keys.live), world.database.rows["clients"][0].copy(), world.ledger.keys())
    with pytest.raises(ApprovalError):
        run(world, rotation)
    assert (dict(world.keys.live), world.database.rows["clients"][0], world.ledger.keys()) == before
    assert world.ledger.walk(rotation.id).blocked_by is not None


def test_a_walk_without_enough_approvals_says_what_it_waits_for(world: FakeWorld) -> None:
    rotation = request(world)
    sign(world, rotation, ADA)
    with pytest.raises(BlockedError, match="1 more approval"):
        run(world, rotation)


def test_what_stopped_a_step_is_shown_as_what_blocks_the_rotation(world: FakeWorld) -> None:
    world.rollout.running = (Instance("web-1", (V1,), V1, START),)
    rotation = approved(world)
    with pytest.raises(KeyRotationError, match="web-1") as refused:
        run(world, rotation)
    assert world.ledger.walk(rotation.id).blocked_by == str(refused.value)


def test_a_connection_that_ends_with_a_step_hides_no_reason(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.rollout.running = (Instance("web-1", (V1,), V1, START),)
    rotation, block = approved(world), world.ledger.block

    def gone(request: str, sentence: str | None, *, rollout_pending: bool = False) -> None:
        if sentence is not None:
            raise DatabaseUnavailableError("the connection to clinic@localhost was lost")
        block(request, sentence, rollout_pending=rollout_pending)

    monkeypatch.setattr(world.ledger, "block", gone)
    with pytest.raises(KeyRotationError, match="web-1"):
        run(world, rotation)


def test_nothing_that_may_be_slow_is_asked_in_the_transaction_of_the_retirement(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = approved(world)
    run(world, rotation, Step.ZERO_OLD_ROWS_PROOF)
    asked = set()

    def ask(name: str, answer: Callable[..., object], *given: object) -> object:
        asked.add(name)
        assert not world.ledger.depth, f"{name} is asked in a transaction"
        return answer(*given)

    for port, name in ((world.keys, "read"), (world.rollout, "instances"), (world.vault, "key_backup")):
        monkeypatch.setattr(port, name, partial(ask, name, getattr(port, name)))
    run(world, rotation, Step.RETIRED_KEY)
    assert asked == {"read", "instances", "key_backup"}


def test_the_source_procedures_row_is_there_from_the_start(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, Step.KEY_VERSION)
    assert world.ledger.state.seed_rows == {rotation.id: (0, None)}


def test_a_request_that_did_not_start_in_time_never_starts(world: FakeWorld) -> None:
    rotation = approved(world)
    world.clock.at += timedelta(days=31)
    with pytest.raises(BlockedError, match="did not start by"):
        run(world, rotation)


def test_many_failing_shards_are_all_tried_again_by_each_run(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    rotation = approved(world)
    run(world, rotation, Step.PRIMARY_KEY_ROLLOUT)
    pipeline = replace(world.pipeline, shards=MANY_SHARDS)
    tried: list[int] = []

    def locked(request: str, shard: Shard, *_: object) -> None:
        tried.append(shard.index)
        raise BlockedError(f"shard {shard.index} is locked; run it again")

    with monkeypatch.context() as patch:
        patch.setattr(world.pipeline.rewriting, "reencrypt_shard", locked)
        for _ in range(2):
            tried.clear()
            with pytest.raises(BlockedError, match="shard 0 is locked"):
                list(runner.run_shards(pipeline, rotation.id, world.report))
            assert tried == list(range(MANY_SHARDS))
    done = [record.shard for record in runner.run_shards(pipeline, rotation.id, world.report)]
    assert sorted(index for index in done if index is not None) == list(range(MANY_SHARDS))


def test_the_first_shard_of_a_small_table_is_all_of_it_and_every_shard_is_recorded(world: FakeWorld) -> None:
    world.database.small = frozenset({"clients"})
    rotation = approved(world)
    run(world, rotation, Step.PRIMARY_KEY_ROLLOUT)
    done = [record.shard for record in runner.run_shards(world.pipeline, rotation.id, world.report)]
    assert done == list(range(world.pipeline.shards))
    assert [each for each in world.journal.entries if each.startswith("shard")] == ["shard 0 of 1, clients"]
    assert world.database.rows == {"clients": [{"first_name": "v2:Zoe", "email": "v2:zoe@example.org"}]}
    shards = [each for each in world.ledger.walk(rotation.id).steps if each.step is Step.ROWS]
    assert [each.facts["rows"] for each in shards] == [1, *[0] * (world.pipeline.shards - 1)]
    assert run(world, rotation)[-1] is WALK[-1]


def test_another_shard_of_a_small_table_that_comes_first_does_its_own_part_alone(world: FakeWorld) -> None:
    world.database.small = frozenset({"clients"})
    rotation = approved(world)
    run(world, rotation, Step.PRIMARY_KEY_ROLLOUT)
    (table,) = world.pipeline.tables
    last = Shard(table, world.pipeline.shards - 1, world.pipeline.shards)
    assert runner.run_step(world.pipeline, rotation.id, Task(Step.ROWS, last), world.report).facts["rows"] == 1
    due = runner.next_decision(Situation(world.pipeline), world.ledger.walk(rotation.id)).tasks
    assert [task.shard and task.shard.index for task in due] == list(range(world.pipeline.shards - 1))
    done = list(runner.run_shards(world.pipeline, rotation.id, world.report))
    assert [each.facts["rows"] for each in done] == [0] * (world.pipeline.shards - 1)
