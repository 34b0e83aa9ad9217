"""A command that another one overtakes between look and record: one of the two is refused, and neither is stuck."""

from collections.abc import Callable
from typing import Any

import pytest

from keyrotation_pipeline.backups import destruction
from keyrotation_pipeline.backups.catalog import BackupContext
from keyrotation_pipeline.backups.destruction import destroy, open_destruction
from keyrotation_pipeline.errors import BlockedError, KeyStoreError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, RotationType, Step, Walk
from keyrotation_pipeline.requests import opening, takeover
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import rollback, runner
from keyrotation_pipeline_tests.fakes import V1, V2, V3, FakeWorld
from keyrotation_pipeline_tests.fakes.database import FakeEnvironment
from keyrotation_pipeline_tests.fakes.inventory import FakeInventory
from keyrotation_pipeline_tests.unit.backups.test_destruction import site_of
from keyrotation_pipeline_tests.unit.incidents import cases
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign

V4 = KeyVersion(4)


@pytest.fixture
def world() -> FakeWorld:
    """After a rotation from v1 to v2, which is the primary."""
    world = before_any_rotation()
    run(world, approved(world))
    return world


def run(world: FakeWorld, rotation: Walk, through: Step | None = None) -> None:
    for _ in runner.run(world.pipeline, rotation.id, world.report, through):
        pass


def rotation_of(world: FakeWorld) -> Walk:
    return world.ledger.walk(world.ledger.requests()[-1].id)


def undone(world: FakeWorld, rotation: Walk) -> Walk:
    return rollback.open_rollback(world.pipeline, rotation, reason="reports are slow", requested_by="dba@clinic")


def signed(world: FakeWorld, walk: Walk) -> Walk:
    for officer in (ADA, BEN):
        sign(world, walk, officer)
    return world.ledger.walk(walk.id)


def meanwhile(monkeypatch: pytest.MonkeyPatch, place: type, name: str, act: Callable[[], Any]) -> list[Any]:
    """Lets somebody else act once, as soon as a method has answered; what that returned."""
    does, done = getattr(place, name), list[Any]()

    def answered(self: Any, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the method takes and returns
        answer = does(self, *arguments)
        if not done:
            done.append(None)
            done[0] = act()
        return answer

    monkeypatch.setattr(place, name, answered)
    return done


def replaced(world: FakeWorld, monkeypatch: pytest.MonkeyPatch, *, has_begun: bool) -> Walk:
    """A signed rollback from v2 to v1 whose source v3 has replaced, as 0.1.0 let a request overtake it."""
    world.ledger.append(Note(EventKind.BACKUP_MADE, {}))  # by a test, so the traces check leaves out what follows
    with monkeypatch.context() as before:
        undoing = meanwhile(before, FakeInventory, "count", lambda: undone(world, rotation_of(world)))
        before.setattr(opening, "require_none_waiting", lambda *_, **__: None)
        onward = request(world)
        run(world, signed(world, onward))
        signed(world, undoing[0])
        before.setattr(takeover, "dead_end", lambda *_: None)
        if has_begun:
            run(world, undoing[0], Step.DUAL_KEY_ROLLOUT)
    assert world.keys.primary() == V3
    return world.ledger.walk(undoing[0].id)


def test_a_request_that_counts_while_a_rollback_is_opened_is_refused(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    undoing = meanwhile(monkeypatch, FakeInventory, "count", lambda: undone(world, rotation_of(world)))
    with pytest.raises(RequestError, match=r"\(rollback v2 to v1\) waits for its start"):
        request(world)
    assert world.ledger.requests()[0] == undoing[0]
    run(world, signed(world, undoing[0]))
    assert world.keys.primary() == V1


@pytest.mark.parametrize("is_run", [False, True], ids=["opened", "run to its end"])
def test_a_rollback_that_reads_its_text_while_a_rotation_is_requested_is_refused(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, is_run: bool
) -> None:
    def other() -> None:
        onward = request(world)
        if is_run:
            run(world, signed(world, onward))

    first = rotation_of(world)
    meanwhile(monkeypatch, FakeEnvironment, "identity", other)
    with pytest.raises(RequestError, match="is not the last one: v3 is" if is_run else "is not finished; roll that"):
        undone(world, first)
    assert world.ledger.waiting() is None


def test_a_rollback_whose_source_was_replaced_never_begins_and_is_cancelled(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    undoing = replaced(world, monkeypatch, has_begun=False)
    with pytest.raises(BlockedError, match=r"rollback .* cannot proceed: v3 is the primary now; run `keyrotation canc"):
        run(world, undoing)
    assert world.keys.versions() == (V3,)
    cancel(world.pipeline, undoing)
    assert request(world).target == V4


@pytest.mark.parametrize("kind", RotationType)
def test_a_rollback_that_has_begun_though_its_source_was_replaced_is_ended_by_the_next_request(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, kind: RotationType
) -> None:
    undoing = replaced(world, monkeypatch, has_begun=True)
    with pytest.raises(BlockedError, match="; request a fresh version with `keyrotation request`"):
        run(world, undoing)
    if kind is RotationType.EMERGENCY:
        incident, onward = cases.opened(world)
        assert incident.versions == (V3,)
    else:
        onward = request(world)
        text = world.ledger.approval_text(onward.id).decode()
        assert f"Authorises: end rollback {undoing.id} to v1: create v4" in text
    assert (onward.source, onward.target) == (V3, V4)
    run(world, signed(world, onward))
    assert world.ledger.walk(undoing.id).status is RequestStatus.CANCELLED
    assert (world.keys.primary(), world.keys.versions()) == (V4, (V4,))


def destruction_of_v1(world: FakeWorld) -> tuple[BackupContext, Request]:
    site = site_of(world)
    asked, _ = open_destruction(site, V1, reason="ten years over", requested_by="dba")
    for officer in (ADA, BEN):
        sign(world, asked, officer)
    return site, world.ledger.request(asked.id)


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_key_to_which_a_rollback_is_opened_while_its_destruction_searches_stays(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    def other() -> Walk:
        undoing = signed(world, undone(world, rotation_of(world)))
        if has_begun:
            run(world, undoing, Step.KEY_VERSION)
        return undoing

    site, asked = destruction_of_v1(world)
    undoing = meanwhile(monkeypatch, FakeInventory, "discover", other)
    with pytest.raises(BlockedError, match=r"^rollback .* is about v1 and not finished; finish or cancel it first"):
        destroy(site, asked)
    run(world, undoing[0])
    assert world.keys.primary() == V1


def test_a_rollback_to_a_key_that_is_destroyed_while_its_text_is_read_is_refused(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, asked = destruction_of_v1(world)
    meanwhile(monkeypatch, FakeEnvironment, "identity", lambda: destroy(site, asked))
    with pytest.raises(RequestError, match="v1 is destroyed and never becomes the primary again"):
        undone(world, rotation_of(world))
    assert world.ledger.waiting() is None


def test_no_key_is_destroyed_to_which_a_rollback_waits_next_to_an_emergency(world: FakeWorld) -> None:
    undone(world, rotation_of(world))
    cases.opened(world)
    with pytest.raises(BlockedError, match=r"^rollback .* is about v1 and not finished"):
        destruction_of_v1(world)


@pytest.mark.parametrize("kind", RotationType)
def test_a_rollback_that_has_begun_to_a_key_that_the_audit_calls_destroyed_is_ended_by_the_next_request(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, kind: RotationType
) -> None:
    site, asked = destruction_of_v1(world)
    undoing = signed(world, undone(world, rotation_of(world)))
    run(world, undoing, Step.DUAL_KEY_ROLLOUT)
    world.ledger.append(Note(EventKind.BACKUP_MADE, {}))  # as above
    with monkeypatch.context() as before:
        before.setattr(destruction, "_require_no_walk", lambda *_: None)
        before.setattr(destruction, "_require_not_live", lambda *_: None)
        with pytest.raises(KeyStoreError, match="v1 is live in the key store"):
            destroy(site, asked)
    assert world.ledger.state.keys[V1].state is KeyState.DESTROYED
    with pytest.raises(RequestError, match="request a fresh version with `keyrotation request`"):
        run(world, undoing)
    onward = cases.opened(world)[1] if kind is RotationType.EMERGENCY else request(world)
    assert (onward.action, onward.source, onward.target) == (RequestAction.ROTATE, V2, V3)


def test_a_rollback_goes_on_where_the_key_store_was_lost_and_names_no_primary(world: FakeWorld) -> None:
    undoing = signed(world, undone(world, rotation_of(world)))
    world.keys.primary_version = None
    assert takeover.cannot_start(Situation(world.pipeline), undoing) is None
