"""Audits are looked up in the explorer's relation: what is recorded of them, and what is not a step of the protocol."""

from collections.abc import Iterable
from pathlib import Path

import pytest

import keyrotation_pipeline_tests.protocol.traces_check  # noqa: F401  which records
from keyrotation_pipeline.audit.events import entry_of
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, EventKind, body_of, hash_of
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.requests.control import pause
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import FakeWorld
from keyrotation_pipeline_tests.protocol.traces import LEFT_OUT, abstract, beyond, relation
from keyrotation_pipeline_tests.protocol.traces_recorder import Recorded, examined, recording
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "commands"


@pytest.fixture
def walked(spool: Path) -> tuple[FakeWorld, list[Recorded]]:
    """A rotation to its end, and what was recorded of it."""
    with recording(spool) as recorded:
        world = before_any_rotation()
        walk = approved(world)
        list(runner.run(world.pipeline, walk.id, world.report))
    return world, recorded


def chained(events: Iterable[AuditEvent]) -> list[Recorded]:
    """The same events as one chain, as whoever owns the database can write them."""
    made, head = list[Recorded](), GENESIS
    for seq, event in enumerate(events, 1):
        entry = entry_of(event)
        body = body_of(
            seq=seq, at=entry.at, actor=entry.actor, database=entry.database, request=entry.request, event=entry.kind,
            facts=entry.facts,
        )  # fmt: skip
        made.append(Recorded(AuditEvent(seq, body, head, hash_of(head, body), event.kind, event.request), False))
        head = made[-1].event.hash
    return made


def test_a_walk_is_recorded_whole_and_each_step_of_it_is_known(walked: tuple[FakeWorld, list[Recorded]]) -> None:
    world, recorded = walked
    assert {each.event.hash for each in recorded} >= {event.hash for event in world.ledger.events()}
    found = examined(recorded)
    modelled = [event for event in world.ledger.events() if event.kind not in LEFT_OUT]
    # Beginning with what a test arranged instead of `init`: the roster and one key.
    assert found.steps.total() == len(modelled) - 2
    assert found.steps.keys() <= relation()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("dual_key_rollout", id="promoted before every instance was seen to read the key"),
        pytest.param("zero_old_rows_proof", id="retired without a proof"),
        pytest.param("retired_key", id="archived without a retirement"),
    ],
)
def test_a_chain_without_one_of_its_steps_is_not_of_the_protocol(
    walked: tuple[FakeWorld, list[Recorded]], step: str
) -> None:
    world, _ = walked
    cut = [each for each in world.ledger.events() if entry_of(each).facts.get("step") != step]
    assert examined(chained(cut)).steps.keys() - relation()


def test_what_a_test_arranges_is_no_step_and_neither_is_what_follows(spool: Path) -> None:
    with recording(spool) as recorded:
        world = before_any_rotation()
        walk = approved(world)
        world.ledger.set_status(walk.id, RequestStatus.PAUSED)
        world.ledger.set_status(walk.id, RequestStatus.RUNNING)
        pause(world.pipeline.ledger, world.ledger.walk(walk.id))
    found = examined(recorded)
    assert not any("status_changed" in step for step in found.steps)
    assert (found.steps.total(), found.skipped) == (3, 3)


def test_an_audit_that_was_put_back_is_examined_from_there(walked: tuple[FakeWorld, list[Recorded]]) -> None:
    world, recorded = walked
    events = list(world.ledger.events())
    kinds = [event.kind for event in events]
    first, accounted = kinds.index(EventKind.STEP_FINISHED), kinds.index(EventKind.REPLICAS_ACCOUNTED)
    branch = chained([*events[:first], events[accounted]])
    unknown = examined([*recorded, *branch]).steps.keys() - relation()
    assert [step.partition(" |")[0] for step in unknown] == ["replicas_accounted"]


def test_nothing_that_the_explorer_reaches_is_called_beyond_its_bounds() -> None:
    assert not beyond() & relation()


def test_each_kind_of_event_is_modelled_or_left_out_for_a_reason(walked: tuple[FakeWorld, list[Recorded]]) -> None:
    modelled = {line.partition(" ")[0] for line in relation()}
    modelled |= {line.partition(" ")[0] for line in beyond()}
    assert set(EventKind) == modelled | set(LEFT_OUT)
    assert not modelled & set(LEFT_OUT)
    world, _ = walked
    (counted,) = list(world.ledger.events(EventKind.COUNTED))[:1]
    assert abstract(world.ledger.replayed(), counted) is None
