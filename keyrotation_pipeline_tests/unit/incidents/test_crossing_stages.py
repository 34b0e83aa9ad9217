"""An emergency at each stage meets each other work, over fakes; `acceptance/test_crossings.py` types the commands."""

import itertools
from collections.abc import Callable

import pytest

from keyrotation_pipeline.audit.divergence import divergence
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.audit.verify import require_verified
from keyrotation_pipeline.errors import BlockedError, KeyRotationError, RequestError
from keyrotation_pipeline.incidents.opening import open_incident, prepare_requests
from keyrotation_pipeline.model.breach import carried_by
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.requests.policy import change_policy
from keyrotation_pipeline.rotation import rollback
from keyrotation_pipeline_tests.fakes import ROSTER, FakeWorld
from keyrotation_pipeline_tests.unit.incidents.cases import opened, raised, signed, walk
from keyrotation_pipeline_tests.unit.incidents.test_crossings import WITH_CEM, signed_policy
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation, request, sign
from keyrotation_pipeline_tests.unit.rotation.test_reconcile import Dump, reconciled

STAGES = {
    "requested": None,
    "signed": None,
    "rows": Step.PRIMARY_KEY_ROLLOUT,
    "proof": Step.ZERO_OLD_ROWS_PROOF,
    "retired": Step.RETIRED_KEY,
}
BEFORE = [("nothing", each) for each in STAGES]
# What somebody on call does, and types again where a sentence says so.
PATIENCE = 6


def bring_to(world: FakeWorld, stage: str, prepared: Walk) -> None:
    if stage != "requested":
        signed(world, prepared)
    if (through := STAGES[stage]) is not None:
        walk(world, prepared, through)


def a_routine_request(world: FakeWorld, _stage: str, _emergency: Walk) -> None:
    with pytest.raises(RequestError, match=r"`keyrotation (approve|rotate)"):
        request(world)


def a_rollback(world: FakeWorld, _stage: str, emergency: Walk) -> None:
    with pytest.raises(RequestError, match="`keyrotation "):
        rollback.open_rollback(world.pipeline, emergency, reason="slow", requested_by="dba")


def a_change_of_officers(world: FakeWorld, stage: str, _emergency: Walk) -> None:
    asked = signed_policy(world)
    if stage != "signed":
        change_policy(world.pipeline, asked)
        return
    with pytest.raises(BlockedError, match="`keyrotation rotate"):
        change_policy(world.pipeline, asked)
    world.signatures.configured = ROSTER


def another_incident_about_the_same(world: FakeWorld, _stage: str, _emergency: Walk) -> None:
    open_incident(world.pipeline, raised(2))


def another_incident_about_every_key(world: FakeWorld, _stage: str, _emergency: Walk) -> None:
    open_incident(world.pipeline, raised(2, type="insider"))


def nothing(_world: FakeWorld, _stage: str, _emergency: Walk) -> None:
    pass


OTHERS = [
    a_routine_request,
    a_rollback,
    a_change_of_officers,
    another_incident_about_the_same,
    another_incident_about_every_key,
    nothing,
]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("other", OTHERS)
def test_an_emergency_ends_whatever_else_is_asked_for(
    other: Callable[[FakeWorld, str, Walk], None], stage: str
) -> None:
    world = before_any_rotation()
    _, prepared = opened(world)
    bring_to(world, stage, prepared)
    other(world, stage, prepared)
    handle(world)


@pytest.mark.parametrize(("kept", "stage"), [*itertools.combinations_with_replacement(STAGES, 2), *BEFORE])
def test_an_emergency_ends_though_the_database_is_restored(kept: str, stage: str) -> None:
    """To before the incident, or to any earlier stage of its emergency."""
    stages = list(STAGES)
    world = before_any_rotation()
    dump = Dump.of(world)
    _, prepared = opened(world)
    for each in stages[: stages.index(stage) + 1]:
        _advance(world, each, prepared)
        dump = Dump.of(world) if each == kept else dump
    dump.restore(world)
    if kept == "nothing":
        open_incident(world.pipeline, raised(1, versions=("v1",)))
    handle(world)


def _advance(world: FakeWorld, stage: str, prepared: Walk) -> None:
    if stage == "signed":
        signed(world, prepared)
    elif (through := STAGES[stage]) is not None:
        walk(world, prepared, through)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("undo", [False, True], ids=["a rotation", "a rollback"])
@pytest.mark.parametrize("type_", ["key_exposed", "insider"])
def test_an_emergency_ends_what_was_on_its_way(stage: str, type_: str, *, undo: bool) -> None:
    world = before_any_rotation()
    if undo:
        first = walk(world, approved(world), Step.ROWS)
        other = rollback.open_rollback(world.pipeline, first, reason="slow", requested_by="dba")
    else:
        other = request(world)
    bring_to(world, stage, other)
    open_incident(world.pipeline, raised(1, type=type_))
    handle(world)
    assert world.ledger.walk(other.id).is_over


def handle(world: FakeWorld) -> None:
    """Carry every open incident to its end, as the sensor, officers and the conductor do; what it names is out."""
    for incident in incidents(world.ledger).unfinished:
        _handle(world, incident)
    out = {version for each in incidents(world.ledger).by_id.values() for version in each.versions}
    states = {version: record.state for version, record in world.ledger.state.keys.items()}
    assert {states[version] for version in out} == {KeyState.COMPROMISED}
    assert out.isdisjoint({*world.keys.versions(), world.keys.primary()})
    assert world.ledger.current() is world.ledger.waiting() is None
    require_verified(world.pipeline)


def _handle(world: FakeWorld, incident: Incident) -> None:
    said = ""
    for _ in range(PATIENCE):
        if divergence(world.pipeline, world.keys.read()):
            reconciled(world)
        prepare_requests(world.pipeline, "test")
        carrier = carried_by(incidents(world.ledger).by_id[incident.id], world.ledger.requests())
        try:
            if carrier is None or carrier.status is RequestStatus.CANCELLED:
                carrier = request(world, incident=incident.id)
            if carrier.is_over:
                return
            for officer in (WITH_CEM if world.ledger.pinned_roster() == WITH_CEM else ROSTER).officers[:2]:
                if officer.fingerprint not in carrier.approvals:
                    sign(world, carrier, officer.fingerprint)
            walk(world, world.ledger.walk(carrier.id))
        except KeyRotationError as error:
            said = str(error)
            if "applications do not have" in said:
                return
            if "nobody saw every instance without it: run `keyrotation request " in said:
                walk(world, approved(world))
        begun = [each for each in world.ledger.requests() if each.started_at and not each.is_over]
        assert len(begun) <= 1
    raise AssertionError(said)
