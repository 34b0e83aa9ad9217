"""Rollback from every phase: the former key is primary again, every row under it, and nothing written since is lost."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.errors import ApprovalError, BlockedError, KeyStoreError, RequestError
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.key_events import PrimaryChangeIntended
from keyrotation_pipeline.model.keys import KeyState, activated_at
from keyrotation_pipeline.model.request_events import Blocked
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.control import cancel, pause, resume
from keyrotation_pipeline.rotation import rollback, runner
from keyrotation_pipeline_tests.fakes import START, V1, V2, V3, FakeWorld, ProcessKilled
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign

PROMOTED = WALK.index(Step.PRIMARY_KEY_ROLLOUT)


@pytest.fixture
def world() -> FakeWorld:
    """Before any rotation; the one application instance uses what the key store gives it."""
    return before_any_rotation()


def run(world: FakeWorld, rotation: Walk, through: Step | None = None) -> list[Step]:
    return [record.step for record in runner.run(world.pipeline, rotation.id, world.report, through)]


def rotated(world: FakeWorld, through: Step) -> Walk:
    """A rotation up to one of its steps; once v2 is the primary, the application has written under it."""
    rotation = approved(world)
    run(world, rotation, through)
    if WALK.index(through) >= PROMOTED:
        world.database.rows["clients"].append({"first_name": "v2:New", "email": "v2:new@example.org"})
    return world.ledger.walk(rotation.id)


def opened(world: FakeWorld, rotation: Walk) -> Walk:
    return rollback.open_rollback(world.pipeline, rotation, reason="reports are slow", requested_by="dba@clinic")


def signed(world: FakeWorld, rotation: Walk) -> Walk:
    undoing = opened(world, rotation)
    for officer in (ADA, BEN):
        sign(world, undoing, officer)
    return world.ledger.walk(undoing.id)


def assert_rolled_back(world: FakeWorld, undoing: Walk, *, new_rows: bool) -> None:
    rows = [{"first_name": "v1:Zoe", "email": "v1:zoe@example.org"}]
    if new_rows:
        rows.append({"first_name": "v1:New", "email": "v1:new@example.org"})
    assert world.database.rows == {"clients": rows}
    assert (world.keys.versions(), world.keys.archived(), world.keys.primary()) == ((V1,), (V2,), V1)
    assert {version: key.state for version, key in world.ledger.state.keys.items()} == {
        V1: KeyState.ACTIVE,
        V2: KeyState.ARCHIVED,
    }
    assert world.database.fence_state == {"clients": (V2,)}
    assert world.ledger.walk(undoing.id).status is RequestStatus.FINISHED
    assert world.ledger.current() is world.ledger.waiting() is None
    verify_audit(world.ledger)


@pytest.mark.parametrize("through", WALK)
def test_a_rollback_from_any_phase_ends_under_the_former_key_with_every_write_kept(
    world: FakeWorld, through: Step
) -> None:
    rotation = rotated(world, through)
    undoing = signed(world, rotation)
    assert list(dict.fromkeys(run(world, undoing))) == list(WALK)
    assert_rolled_back(world, undoing, new_rows=WALK.index(through) >= PROMOTED)
    ended = RequestStatus.FINISHED if through is WALK[-1] else RequestStatus.CANCELLED
    assert world.ledger.walk(rotation.id).status is ended


@pytest.mark.parametrize("through", [Step.KEY_VERSION, Step.PRIMARY_KEY_ROLLOUT, Step.ROWS, Step.RETIRED_KEY, WALK[-1]])
def test_a_rollback_that_dies_at_any_change_ends_the_same_when_it_is_run_again(world: FakeWorld, through: Step) -> None:
    undoing = signed(world, rotated(world, through))
    deaths, allowed = 0, 0
    while world.ledger.walk(undoing.id).status is not RequestStatus.FINISHED:
        world.journal.die_at = len(world.journal.entries) + allowed
        before = world.ledger.walk(undoing.id).steps
        try:
            run(world, undoing)
        except ProcessKilled:
            deaths += 1
            world.ledger.locks.clear()
            allowed = allowed + 1 if world.ledger.walk(undoing.id).steps == before else 0
    world.journal.die_at = None
    assert deaths > 2 * len(WALK)
    assert_rolled_back(world, undoing, new_rows=WALK.index(through) >= PROMOTED)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"reason": ""}, id="no reason"),
        pytest.param({"reason": "slow\u202egnol"}, id="a misleading character"),
        pytest.param({"reason": "a" * 1001}, id="a reason that is too long"),
        pytest.param({"requested_by": ""}, id="nobody asks"),
        pytest.param({"start_by": START}, id="a start that has passed"),
        pytest.param({"finish_by": START}, id="an end that has passed"),
    ],
)
def test_nothing_is_paused_before_every_argument_is_right(world: FakeWorld, wrong: dict[str, Any]) -> None:
    rotation, head = rotated(world, Step.ROWS), world.ledger.head()
    with pytest.raises((ApprovalError, RequestError)):
        rollback.open_rollback(world.pipeline, rotation, **{"reason": "slow", "requested_by": "dba"} | wrong)
    assert world.ledger.walk(rotation.id).status is RequestStatus.RUNNING
    assert world.ledger.head() == head


def test_a_rotation_killed_between_the_primary_and_its_record_is_rolled_back_too(world: FakeWorld) -> None:
    rotation = approved(world)
    run(world, rotation, Step.DUAL_KEY_ROLLOUT)
    # And nothing else: what kill -9 leaves behind.
    world.ledger.append(PrimaryChangeIntended(V1, V2), rotation.id)
    world.keys.set_primary(V2)
    undoing = signed(world, rotation)
    run(world, undoing)
    assert_rolled_back(world, undoing, new_rows=False)


def test_fences_against_the_former_version_fall_before_anything_writes_under_it(world: FakeWorld) -> None:
    undoing = signed(world, rotated(world, WALK[-1]))
    run(world, undoing)
    entries = world.journal.entries
    assert entries.index("keys.restore v1") < entries.index("unfence clients v1") < entries.index("keys.set_primary v1")


def test_the_number_of_the_version_that_was_rolled_back_is_never_used_again(world: FakeWorld) -> None:
    run(world, signed(world, rotated(world, Step.ROWS)))
    assert request(world).target == V3


def test_the_former_key_does_not_get_younger_by_a_rollback(world: FakeWorld) -> None:
    rotation = rotated(world, Step.ROWS)
    world.clock.at += timedelta(days=5)
    world.signatures.signed_at = world.clock.at
    run(world, signed(world, rotation))
    assert activated_at(V1, world.ledger.keys(), world.ledger.requests()) == START


def test_officers_sign_what_is_undone_and_both_fingerprints(world: FakeWorld) -> None:
    rotation = rotated(world, Step.ROWS)
    undoing = opened(world, rotation)
    text = world.ledger.approval_text(undoing.id).decode()
    keys = world.ledger.state.keys
    assert "Action: rollback\n" in text
    assert f"Authorises: end rotation {rotation.id} and undo it: make v1 the primary again" in text
    assert f"From: v2 {keys[V2].fingerprint}\nTo: v1 {keys[V1].fingerprint}\n" in text


def test_an_opened_rollback_pauses_the_rotation_and_waits_for_two_officers(world: FakeWorld) -> None:
    rotation = rotated(world, Step.ROWS)
    undoing = opened(world, rotation)
    sign(world, undoing, ADA)
    assert world.ledger.walk(rotation.id).status is RequestStatus.PAUSED
    assert takeover.current_or_next(world.pipeline) == world.ledger.walk(rotation.id)
    with pytest.raises(BlockedError, match="1 more approval"):
        run(world, undoing)
    sign(world, undoing, BEN)
    assert takeover.current_or_next(world.pipeline) == world.ledger.walk(undoing.id)


def test_a_rollback_that_nobody_signs_is_cancelled_and_the_rotation_continues(world: FakeWorld) -> None:
    rotation = rotated(world, Step.ROWS)
    cancel(world.pipeline, opened(world, rotation))
    assert (world.keys.versions(), world.ledger.state.keys[V1].state) == ((V1, V2), KeyState.DEACTIVATED)
    resume(world.pipeline.ledger, rotation)
    run(world, rotation)
    assert (world.keys.versions(), world.keys.archived()) == ((V2,), (V1,))


def test_a_rollback_that_has_begun_is_not_cancelled(world: FakeWorld) -> None:
    undoing = signed(world, rotated(world, Step.KEY_VERSION))
    run(world, undoing, Step.KEY_VERSION)
    with pytest.raises(RequestError, match="continue with"):
        cancel(world.pipeline, undoing)
    assert V1 in world.keys.versions()


def test_a_rollback_waits_until_no_step_of_the_rotation_runs(world: FakeWorld) -> None:
    rotation = rotated(world, Step.PRIMARY_KEY_ROLLOUT)
    undoing = signed(world, rotation)
    with world.ledger.lock(f"{rotation.id}/rows/clients shard 01"), pytest.raises(BlockedError, match="shard 01"):
        run(world, undoing)
    assert world.ledger.walk(rotation.id).status is RequestStatus.PAUSED
    run(world, undoing)
    assert_rolled_back(world, undoing, new_rows=True)


def test_a_rotation_that_was_resumed_meanwhile_is_stopped_again_and_ended(world: FakeWorld) -> None:
    rotation = rotated(world, Step.PRIMARY_KEY_ROLLOUT)
    undoing = signed(world, rotation)
    resume(world.pipeline.ledger, rotation)
    run(world, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.FINISHED
    run(world, undoing)
    assert_rolled_back(world, undoing, new_rows=True)


def test_writes_do_not_go_back_before_every_instance_reads_the_former_key(world: FakeWorld) -> None:
    undoing = signed(world, rotated(world, WALK[-1]))
    world.rollout.running = (Instance("web-1", (V2,), V2, START),)
    with pytest.raises(BlockedError, match="web-1"):
        run(world, undoing)
    assert world.keys.primary() == V2


def test_an_instance_that_started_since_and_does_not_read_the_former_key_stops_the_way_back(world: FakeWorld) -> None:
    undoing = signed(world, rotated(world, WALK[-1]))
    run(world, undoing, Step.DUAL_KEY_ROLLOUT)
    world.rollout.running = (*world.rollout.instances(), Instance("late-pod", (V2,), V2, START))
    with pytest.raises(BlockedError, match=r"^late-pod \(reads v2\): not seen to read v1"):
        run(world, undoing)
    assert world.keys.primary() == V2


def compromised(world: FakeWorld) -> None:
    world.ledger.state.keys[V1] = replace(world.ledger.state.keys[V1], state=KeyState.COMPROMISED)


@pytest.mark.parametrize("through", [Step.ROWS, WALK[-1]])
def test_nothing_is_rolled_back_to_a_compromised_version(world: FakeWorld, through: Step) -> None:
    rotation = rotated(world, through)
    compromised(world)
    with pytest.raises(
        RequestError, match=r"never becomes the primary again.*fresh version with `keyrotation request`"
    ):
        opened(world, rotation)


@pytest.mark.parametrize(
    ("through", "refusal"),
    [
        (None, "v1 is compromised; run `keyrotation cancel"),
        (Step.DUAL_KEY_ROLLOUT, "never becomes the primary again"),
    ],
)
def test_a_version_that_is_found_compromised_on_the_way_never_becomes_the_primary(
    world: FakeWorld, through: Step | None, refusal: str
) -> None:
    undoing = signed(world, rotated(world, Step.ROWS))
    if through is not None:
        run(world, undoing, through)
    compromised(world)
    with pytest.raises((BlockedError, RequestError), match=refusal):
        run(world, undoing)
    assert (world.keys.primary(), world.database.rows["clients"][0]["email"]) == (V2, "v2:zoe@example.org")


def lost(world: FakeWorld) -> None:
    del world.keys.shelf[V1]


def exchanged(world: FakeWorld) -> None:
    world.keys.shelf[V1] = KeyMaterial.generate()


@pytest.mark.parametrize(("change", "error"), [(lost, KeyStoreError), (exchanged, ApprovalError)])
def test_a_former_key_that_is_not_there_as_it_was_signed_stops_the_rollback(
    world: FakeWorld, change: Callable[[FakeWorld], None], error: type[Exception]
) -> None:
    undoing = signed(world, rotated(world, WALK[-1]))
    change(world)
    with pytest.raises(error):
        run(world, undoing)
    assert (world.keys.versions(), world.keys.primary()) == ((V2,), V2)


def test_only_the_last_finished_rotation_is_rolled_back(world: FakeWorld) -> None:
    first = rotated(world, WALK[-1])
    run(world, approved(world))
    with pytest.raises(RequestError, match="is not the last one: v3 is the primary now"):
        opened(world, first)


def test_who_asks_for_a_rollback_twice_is_sent_to_the_one_under_way(world: FakeWorld) -> None:
    first = rotated(world, WALK[-1])
    undoing = signed(world, first)
    run(world, undoing, Step.PRIMARY_KEY_ROLLOUT)
    with pytest.raises(RequestError, match=f"{first.id} is being rolled back already; .*rotate {undoing.id}`"):
        opened(world, first)


def test_a_rotation_without_a_key_is_cancelled_instead(world: FakeWorld) -> None:
    with pytest.raises(RequestError, match="keyrotation cancel"):
        opened(world, approved(world))


def test_a_rollback_is_not_rolled_back(world: FakeWorld) -> None:
    undoing = signed(world, rotated(world, Step.ROWS))
    run(world, undoing)
    with pytest.raises(RequestError, match="is a rollback itself"):
        opened(world, undoing)


def test_a_second_rollback_at_the_same_time_is_refused(world: FakeWorld) -> None:
    rotation = rotated(world, Step.ROWS)
    first = opened(world, rotation)
    with pytest.raises(RequestError, match=first.id):
        opened(world, rotation)
    with pytest.raises(RequestError, match=first.id):
        request(world)


def test_the_post_mortem_states_the_facts_in_the_form_of_the_source_procedure(world: FakeWorld) -> None:
    rotation = rotated(world, Step.ROWS)
    world.ledger.append(Blocked("instance web-1 lags; restart it"), rotation.id)
    undoing = signed(world, rotation)
    run(world, undoing)
    record = world.ledger.walk(undoing.id).done(Step.COMPLIANCE_REPORT)
    assert record is not None
    text = record.facts["post_mortem"]
    assert world.ledger.facts_of(EventKind.ROLLBACK_POST_MORTEM)["text"] == text
    for line in (
        "ROLLBACK POST-MORTEM", "Reason for rollback: reports are slow", f"Stopped rotation {rotation.id}",
        "its last finished step was rows. What blocked it last: instance web-1 lags; restart it.",
        "4 values decrypted, 0 left under v2, none in quarantine.", "Re-encrypted v2 to v1, 2 rows",
        "Prevention measures:",
    ):  # fmt: skip
        assert line in text


@pytest.mark.parametrize("through", WALK)
def test_the_post_mortem_says_how_far_the_rotation_had_come(world: FakeWorld, through: Step) -> None:
    rotation = rotated(world, through)
    steps = tuple(sorted(rotation.steps, key=lambda record: (record.step, record.table or "")))  # as the audit has them
    world.ledger.state.requests[rotation.id] = replace(rotation, steps=steps)
    undoing = signed(world, rotation)
    run(world, undoing)
    text = world.ledger.facts_of(EventKind.ROLLBACK_POST_MORTEM)["text"]
    reached = "finished" if through is WALK[-1] else f"abandoned; its last finished step was {through}"
    assert f"Rotation {rotation.id} (v1 to v2) was {reached}. Nothing had blocked it." in text


def test_paused_nothing_is_due_and_resumed_it_continues(world: FakeWorld) -> None:
    rotation = rotated(world, Step.PRIMARY_KEY_ROLLOUT)
    for _ in range(2):
        pause(world.pipeline.ledger, rotation)
    with pytest.raises(BlockedError, match="is paused"):
        run(world, rotation)
    for _ in range(2):
        resume(world.pipeline.ledger, rotation)
    assert run(world, rotation)[-1] is WALK[-1]


def test_a_request_paused_before_its_start_is_a_request_again(world: FakeWorld) -> None:
    rotation = request(world)
    pause(world.pipeline.ledger, rotation)
    resume(world.pipeline.ledger, rotation)
    assert world.ledger.walk(rotation.id).status is RequestStatus.REQUESTED


@pytest.mark.parametrize("change", [pause, resume])
def test_what_is_over_is_neither_paused_nor_resumed(world: FakeWorld, change: Callable[..., None]) -> None:
    rotation = rotated(world, WALK[-1])
    with pytest.raises(RequestError, match="is finished"):
        change(world.ledger, rotation)


def test_the_key_store_describes_its_keys_in_plain_words(world: FakeWorld) -> None:
    world.signatures.addresses[ADA] = "ada@clinic.example"
    rotation = approved(world)
    run(world, rotation)
    who = f"authorised by {world.signatures.configured.officers[0].name} <ada@clinic.example>"
    assert [each for each in world.keys.descriptions if each] == [
        f"Encryption key v2 (rotated 2026-01-05), {who}",
        f"Archived key v1 (rotated 2026-01-05), {who}",
    ]


def test_a_value_whose_parts_are_in_several_columns_is_not_given_back(world: FakeWorld) -> None:
    rotation = rotated(world, Step.PRIMARY_KEY_ROLLOUT)
    place = Place("email", source="attr-encrypted, iv email_iv", source_key="v9")
    pipeline = replace(world.pipeline, tables=(EncryptedTable.of(TableName("public", "clients"), [place]),))
    with pytest.raises(RequestError, match=r"a value of clients\.email has parts in email_iv too"):
        rollback.open_rollback(pipeline, rotation, reason="slow", requested_by="dba", decrypt=True)
