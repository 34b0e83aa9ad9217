"""The status as a value, and the object that programs read of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.audit.store_owner import OwnedKeyStore
from keyrotation_pipeline.backups.key_loss import restore_key
from keyrotation_pipeline.cli.progress import OnLines
from keyrotation_pipeline.errors import (
    BlockedError,
    KeyRotationError,
    KeyStoreError,
    PausedError,
    RolloutPendingError,
)
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.fleet import Instance, RolloutMode
from keyrotation_pipeline.model.key_events import KeyDestructionIntended
from keyrotation_pipeline.model.pending import MOST_WORDS, words
from keyrotation_pipeline.model.progress import Pace
from keyrotation_pipeline.model.requests import RequestStatus, Step
from keyrotation_pipeline.monitoring.metrics import in_open_metrics
from keyrotation_pipeline.monitoring.progress import seconds_left
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.control import pause, resume, set_pace
from keyrotation_pipeline.requests.takeover import mark_compromised
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rollback import open_rollback
from keyrotation_pipeline_tests.fakes import START, V1, V2, FakeKeyStore, fake_pipeline
from keyrotation_pipeline_tests.fakes.rollout import FakeRollout
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign


def test_the_object_of_a_status_has_what_programs_read() -> None:
    world = fake_pipeline(
        {"clients": [{"first_name": "v1:x", "email": "v2:y"}, {"first_name": "plain", "email": None}]}
    )
    world.ledger.save_counts(world.pipeline.inventory.count(world.pipeline.tables))
    shown = json.loads(json.dumps(overview(world.pipeline).as_json()))
    head = world.ledger.head()
    attention = shown.pop("attention")
    assert any("holds 1 unencrypted value," in sentence for sentence in attention)
    assert shown == {
        "schema": 1,
        "generated_at": "2026-01-05T09:00:00+00:00",
        "database": "clinic@localhost",
        "key_versions": [
            {
                "version": str(version),
                "state": state,
                "fingerprint": world.keys.get(version).fingerprint[:16],
                "created_at": "2026-01-05T09:00:00+00:00",
            }
            for version, state in ((V1, "deactivated"), (V2, "active"))
        ],
        "primary": "v2",
        "tables": [
            {
                "table": "clients",
                "columns": ["first_name", "email"],
                "identified_by": "marker",
                "rows": 2,
                "values_by_version": {"v1": 1, "v2": 1},
                "unencrypted": 1,
                "unreadable": 1,
                "fenced_against": [],
                "counted_at": "2026-01-05T09:00:00+00:00",
            }
        ],
        "rotation": None,
        "last_backup": "2026-01-05T09:00:00+00:00",
        "last_backup_versions": [],
        "backup_signer": None,
        "last_recovery_test": None,
        "recovery_test_failed": None,
        "last_rehearsal": None,
        "incidents_open": 0,
        "incidents": [],
        "requests": [],
        "contacts": [],
        "audit": {"seq": head.seq, "head": head.hash},
        "warnings": [],
        "next_rotation_due": "2027-01-05T09:00:00+00:00",
    }


def test_a_key_store_that_cannot_be_read_is_said_once_and_nothing_else_is_kept_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = before_any_rotation()
    world.keys.unavailable = "there is no Secret"
    # As a rollout over Deployments, which asks the key store what each Pod can have.
    monkeypatch.setattr(world.rollout, "instances", world.keys.read)
    shown = overview(world.pipeline).as_json()
    assert [sentence for sentence in shown["attention"] if "there is no Secret" in sentence] == ["there is no Secret"]
    assert [key["version"] for key in shown["key_versions"]] == ["v1"]


@pytest.mark.parametrize("incident", [None, "INC-7"], ids=["active", "compromised"])
def test_the_way_back_to_a_primary_is_the_one_to_its_key(incident: str | None) -> None:
    world = before_any_rotation()
    walk = approved(world, incident=incident)
    mark_compromised(world.pipeline, walk)

    def said(ports: Pipeline = world.pipeline) -> list[str]:
        return [sentence for sentence in overview(ports).attention if sentence.startswith("the key store")]

    world.keys.primary_version = None
    assert said() == ["the key store names no primary; name v1 with `keyrotation restore-key v1`"]
    world.keys.live.clear()
    assert said() == ["the key store holds no v1; put it back with `keyrotation restore-key v1`"]
    keys = OwnedKeyStore(world.keys, world.ledger, recovery_key_named=False)
    assert said(replace(world.pipeline, keys=keys)) == [
        "the key store holds no v1; put it back with `keyrotation restore-key v1 --key FILE`"
    ]


def test_key_store_and_applications_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = before_any_rotation()
    overview(world.pipeline)  # the first one also compares the pinned roster with the store's
    look, looks = world.rollout.instances, list[tuple[Instance, ...]]()

    def instances() -> tuple[Instance, ...]:
        looks.append(look())
        return looks[-1]

    monkeypatch.setattr(world.rollout, "instances", instances)
    before = world.keys.reads
    assert overview(world.pipeline).primary == V1
    assert (world.keys.reads - before, len(looks)) == (1, 1)


def test_the_object_of_a_rotation_has_what_programs_read() -> None:
    world = before_any_rotation()
    walk = approved(world)
    world.clock.at = START + timedelta(hours=1)
    shown = overview(world.pipeline).as_json()["rotation"]
    assert shown == {
        "id": walk.id,
        "type": "routine",
        "phase": "requested",
        "from": "v1",
        "to": "v2",
        "approvals": 2,
        "approvals_required": 2,
        "started_at": None,
        "progress": 0.0,
        "eta_seconds": None,
        "waiting_for": None,
        "blocked_by": None,
    }


def test_the_eta_is_there_from_the_first_step_to_the_last_and_progress_grows() -> None:
    world = before_any_rotation()
    walk = approved(world)
    seen = []
    for _ in runner.run(world.pipeline, walk.id, world.report):
        world.clock.at += timedelta(seconds=1)
        if (shown := overview(world.pipeline).rotation) is not None:
            seen.append((shown.progress, shown.eta_seconds))

    assert [far for far, _ in seen] == sorted({far for far, _ in seen})
    assert all(left is not None and left >= 0 for _, left in seen)
    world.signatures.signed_at = world.clock.now()
    following = approved(world)
    next(runner.run(world.pipeline, following.id, world.report))
    shown = overview(world.pipeline).rotation
    assert shown is not None
    assert shown.eta_seconds is not None, "with the last one to go by"


@pytest.mark.parametrize("by", ["configuration", "operator"])
def test_status_and_rotate_say_the_same_time_left_which_follows_the_cap(by: str) -> None:
    """They said 17 s and 16 min of the same rotation."""
    world = before_any_rotation()
    walk = approved(world)
    list(runner.run(world.pipeline, walk.id, world.report, Step.PRIMARY_KEY_ROLLOUT))
    rows = 3600
    world.ledger.save_counts([replace(each, rows=rows) for each in world.ledger.counts(world.pipeline.tables)])
    if by == "operator":
        set_pace(world.ledger, world.ledger.walk(walk.id), {"rows_per_second": 1}, None)
    ports = replace(world.pipeline, pace=Pace(1.0)) if by == "configuration" else world.pipeline

    shown = overview(ports)
    assert shown.rotation is not None
    assert shown.rotation.eta_seconds == seconds_left(ports, walk.id)
    assert shown.rotation.eta_seconds == pytest.approx(rows, rel=0.01)
    assert "\nkeyrotation_rotation_eta_seconds{" in in_open_metrics(shown)
    uncapped = seconds_left(replace(ports, pace=Pace()), walk.id)
    assert by == "operator" or (uncapped is not None and uncapped < rows / 10)


def test_a_rotation_says_whether_a_process_works_at_it() -> None:
    world = before_any_rotation()
    walk = approved(world)
    running, waiting = world.ledger.lock(f"{walk.id}/key_version"), world.ledger.lock("another/key_version")

    def at_work() -> bool:
        shown = overview(world.pipeline).rotation
        assert shown is not None
        return shown.at_work

    with waiting:
        assert not at_work()
        with running:
            assert at_work()


@pytest.mark.parametrize("stopped", ["paused", "blocked"])
def test_no_eta_is_shown_while_nobody_works_at_a_rotation(stopped: str) -> None:
    world = before_any_rotation()
    walk = approved(world)
    next(runner.run(world.pipeline, walk.id, world.report))
    if stopped == "paused":
        world.ledger.set_status(walk.id, RequestStatus.PAUSED)
    else:
        world.ledger.block(walk.id, "an instance is silent")
    shown = overview(world.pipeline).rotation
    assert shown is not None
    assert (shown.eta_seconds, shown.progress > 0) == (None, True)


def test_an_approved_rotation_that_cannot_begin_is_attention_and_one_that_is_not_signed_is_not() -> None:
    world = before_any_rotation()
    world.rollout.running = ()
    walk = request(world)
    assert [sentence for sentence in overview(world.pipeline).attention if walk.id in sentence] == []
    for officer in (ADA, BEN):
        sign(world, walk, officer)

    shown = overview(world.pipeline)
    assert shown.rotation is not None
    awaited = shown.rotation.waiting_for
    assert awaited is not None
    assert awaited.startswith("no application instance reports itself")
    assert f"rotation {walk.id} cannot begin: {awaited}" in shown.attention


def test_who_never_answers_is_named_and_has_not_failed() -> None:
    world = before_any_rotation()
    walk = approved(world)
    world.rollout.running = (Instance("web-1", (V1,), V1, world.clock.at),)
    with pytest.raises(BlockedError, match="web-1"):
        list(runner.run(world.pipeline, walk.id, world.report))

    shown = overview(world.pipeline)
    assert shown.rotation is not None
    assert shown.rotation.as_json()["blocked_by"] is None
    again = f"reload or restart what lags; then run `keyrotation rotate {walk.id}`"
    awaited = f"web-1 (reads v1): not seen to read v2; {again}"
    assert shown.rotation.waiting_for == awaited
    assert f"rotation {walk.id} timed out waiting: {awaited}" in shown.attention

    world.rollout.running = None  # it follows the key store
    shown = overview(world.pipeline)
    assert shown.rotation is not None
    assert [sentence for sentence in shown.attention if walk.id in sentence] == []
    assert (shown.rotation.waiting_for, shown.rotation.blocked_by) == (None, None)

    world.ledger.block(walk.id, "the disk is full")
    shown = overview(world.pipeline)
    assert f"rotation {walk.id} is blocked: the disk is full" in shown.attention


def test_a_pause_in_the_middle_of_a_wait_is_nothing_that_failed() -> None:
    world = before_any_rotation()
    walk = approved(world)
    world.ledger.block(walk.id, "the disk is full")
    world.rollout.running = (Instance("web-1", (V1,), V1, world.clock.at),)
    world.rollout.timeout_seconds, world.rollout.meanwhile = 60, lambda: pause(world.ledger, walk)
    with pytest.raises(PausedError):
        list(runner.run(world.pipeline, walk.id, world.report))
    shown = overview(world.pipeline).rotation
    assert shown is not None
    assert (shown.blocked_by, shown.walk.blocked_by) == (None, None)
    resume(world.ledger, walk)
    assert world.ledger.walk(walk.id).failure is None


def test_who_waits_is_told_once_who_is_waited_for_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    world = before_any_rotation()
    walk = approved(world)
    list(runner.run(world.pipeline, walk.id, world.report, Step.KEY_VERSION))
    world.rollout.running = ()
    world.rollout.timeout_seconds = 60
    with pytest.raises(RolloutPendingError, match=f"; then run `keyrotation rotate {walk.id}`$"):
        list(runner.run(world.pipeline, walk.id, OnLines(world.clock.now, None, world.clock.monotonic)))
    (line,) = capsys.readouterr().err.splitlines()
    _, _, said = line.partition("dual_key_rollout read v2: ")
    help_ = f"add `attest()` (`keyrotation docs applications`), or `keyrotation confirm {walk.id[:8]}`"
    assert said == f"no application instance reports itself; {help_}"
    assert words(said) <= MOST_WORDS


def test_a_rollback_is_called_one() -> None:
    world = before_any_rotation()
    walk = approved(world)
    list(runner.run(world.pipeline, walk.id, world.report, Step.KEY_VERSION))
    undoing = open_rollback(world.pipeline, world.ledger.walk(walk.id), reason="slow", requested_by="dba")
    for officer in (ADA, BEN):
        sign(world, undoing, officer)
    next(runner.run(world.pipeline, undoing.id, world.report))
    world.ledger.block(undoing.id, "the disk is full")
    assert f"rollback {undoing.id} is blocked: the disk is full" in overview(world.pipeline).attention
    world.clock.at = undoing.finish_by + timedelta(days=1)
    ended = f"rollback {undoing.id} was to be finished by {undoing.finish_by:%Y-%m-%d %H:%M} UTC"
    assert ended in overview(world.pipeline).attention


@pytest.mark.parametrize("mode", [RolloutMode.ATTEST, RolloutMode.CONFIRM])
def test_the_instances_are_asked_for_once(mode: RolloutMode, monkeypatch: pytest.MonkeyPatch) -> None:
    world = before_any_rotation()
    walk = approved(world)
    next(runner.run(world.pipeline, walk.id, world.report))
    world.rollout.mode = mode
    asked: list[object] = []
    seen = FakeRollout.instances

    def counted(rollout: FakeRollout) -> tuple[Instance, ...]:
        asked.append(rollout)
        return seen(rollout)

    monkeypatch.setattr(FakeRollout, "instances", counted)
    shown = overview(world.pipeline)
    assert shown.rotation is not None
    assert shown.rotation.phase == "dual_key_rollout"
    assert len(asked) == 1


@pytest.mark.parametrize("kind", [KeyStoreError, BlockedError])
def test_in_the_middle_of_a_rotation_instances_that_cannot_be_seen_are_reported_and_asked_for_once(
    kind: type[KeyRotationError], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = before_any_rotation()
    walk = approved(world)
    next(runner.run(world.pipeline, walk.id, world.report))
    world.ledger.block(walk.id, "web-1: silent", rollout_pending=True)
    asked: list[object] = []

    def unseen(rollout: FakeRollout) -> tuple[Instance, ...]:
        asked.append(rollout)
        raise kind("the cluster does not answer; try again")

    monkeypatch.setattr(FakeRollout, "instances", unseen)
    shown = overview(world.pipeline)
    assert shown.rotation is not None
    assert shown.rotation.waiting_for == "the cluster does not answer; try again"
    assert "the cluster does not answer; try again" in shown.attention
    assert len(asked) == 1


def test_a_table_that_was_never_counted_is_shown_without_numbers() -> None:
    (table,) = overview(fake_pipeline().pipeline).tables
    assert (table.count, table.values_by_version) == (None, {})
    assert {table.as_json()[name] for name in ("rows", "unencrypted", "unreadable", "counted_at")} == {None}


def test_a_request_is_listed_with_who_has_signed_it_and_who_has_not() -> None:
    world = before_any_rotation()
    walk = request(world)
    sign(world, walk, ADA)
    (listed,) = overview(world.pipeline).requests
    assert listed.as_json() == {
        "id": walk.id,
        "action": "rotate",
        "type": "routine",
        "from": "v1",
        "to": "v2",
        "reason": "yearly rotation",
        "incident": None,
        "signed_by": ["Ada"],
        "missing": ["Ben"],
        "required": 2,
        "status": "requested",
        "not_before": None,
        "manual": False,
        "start_by": "2026-02-04T09:00:00+00:00",
        "finish_by": "2026-04-05T09:00:00+00:00",
    }


def test_where_the_database_was_restored_reconcile_comes_before_the_rotation() -> None:
    world = before_any_rotation()
    rotation = approved(world)
    world.clock.at = rotation.finish_by + timedelta(days=1)
    world.keys.live[V2] = KeyMaterial.generate()  # of which the audit of an earlier time knows nothing
    status = overview(world.pipeline)
    assert "this database was restored" in status.attention[0]
    assert status.attention[0].endswith("run `keyrotation reconcile`")
    assert any(rotation.id in sentence for sentence in status.attention[1:])
    assert status.rotation is not None
    assert status.rotation.waiting_for == status.attention[0]


def missing_from_archive(keys: FakeKeyStore) -> None:
    del keys.shelf[V1]


def another_archived(keys: FakeKeyStore) -> None:
    keys.shelf[V1] = KeyMaterial.generate()


def missing_primary(keys: FakeKeyStore) -> None:
    del keys.live[V2]


@pytest.mark.parametrize(
    ("lose", "sentence"),
    [
        pytest.param(missing_from_archive, "the key store holds no v1; put it back with", id="an archived key"),
        pytest.param(another_archived, "the key store holds another v1", id="another key in its place"),
        pytest.param(missing_primary, "the key store holds no v2; put it back with", id="the primary"),
        pytest.param(lambda keys: keys.broken.add(V2), "v2 is not a key; restore it", id="a damaged entry"),
    ],
)
def test_a_key_that_is_gone_from_the_key_store_is_seen_though_nothing_asks_for_it(
    lose: Callable[[FakeKeyStore], None], sentence: str
) -> None:
    world = before_any_rotation()
    for _ in runner.run(world.pipeline, approved(world).id, world.report):
        pass
    assert overview(world.pipeline).attention == ()
    lose(world.keys)
    (found,) = overview(world.pipeline).attention
    assert found.startswith(sentence)


def test_a_key_that_is_being_destroyed_is_not_missed() -> None:
    world = before_any_rotation()
    for _ in runner.run(world.pipeline, approved(world).id, world.report):
        pass
    world.ledger.append(KeyDestructionIntended(V1, world.keys.get(V1).fingerprint, (), ()))
    del world.keys.shelf[V1]  # and here it was killed
    assert overview(world.pipeline).attention == ()


def test_a_retired_key_that_somebody_put_back_is_attention_until_a_walk_takes_it() -> None:
    world = before_any_rotation()
    rotation = approved(world)
    for _ in runner.run(world.pipeline, rotation.id, world.report):
        pass
    message = "v1 is live in the key store; find out who put it there, and have `keyrotation restore-key v1` archive it"
    assert message not in overview(world.pipeline).attention
    world.keys.live[V1] = world.keys.shelf[V1]
    assert message in overview(world.pipeline).attention
    restore_key(world.pipeline, V1, world.keys.shelf[V1], "a backup")
    assert message not in overview(world.pipeline).attention, "the command that it names ends it"
    world.keys.live[V1.next().next()] = world.keys.shelf[V1]
    assert any("the key of v1 is live in the key store as v3" in each for each in overview(world.pipeline).attention)
    del world.keys.live[V1.next().next()]
    open_rollback(world.pipeline, rotation, reason="it is slow", requested_by="ops")
    world.keys.live[V1] = world.keys.shelf[V1]
    assert message not in overview(world.pipeline).attention
