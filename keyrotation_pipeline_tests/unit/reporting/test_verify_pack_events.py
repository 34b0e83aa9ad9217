"""`verify.py` of a pack and the history judge the same chains alike, valid and forged."""

import json
from collections.abc import Callable

import pytest

from keyrotation_pipeline.audit.history import whole_history
from keyrotation_pipeline.audit.rules import COUNTING
from keyrotation_pipeline.model.approval import HEADER, Officer, Roster, Signature
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyReplaced, KeyStateChanged
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, KeyState
from keyrotation_pipeline.model.request_events import (
    Blocked,
    DatabaseReconciled,
    PromotionRecorded,
    RosterPinned,
    SignatureAdded,
    StatusChanged,
    StepFinished,
)
from keyrotation_pipeline.model.requests import MAY_FOLLOW, RequestAction, RequestStatus, Step
from keyrotation_pipeline.reporting.verify_pack import STATE_AFTER, STATUS_AFTER, State
from keyrotation_pipeline_tests.contract.ledger_suite import opened_as
from keyrotation_pipeline_tests.fakes import ROSTER, START, V1, V2, FakeWorld
from keyrotation_pipeline_tests.unit.incidents.cases import opened, signed, walk
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation

LATER = Roster(2, (Officer("Cem", "C" * 40), Officer("Dan", "D" * 40)), ())
OTHER_KEY = "ab" * 32
RUNNING, CANCELLED = RequestStatus.RUNNING, RequestStatus.CANCELLED


def running(world: FakeWorld, action: RequestAction, *, by: Roster = ROSTER, signers: int = 2, text: str = "") -> str:
    """A running request to do something, signed by the first officers of a roster."""
    request = opened_as(action)
    world.ledger.open(request, text.encode())
    for officer in by.officers[:signers]:
        world.ledger.add_signature(request.id, Signature(officer.fingerprint, b"signed", START))
    world.ledger.set_status(request.id, RUNNING)
    return request.id


def own_key(world: FakeWorld) -> str:
    return world.ledger.state.keys[V1].fingerprint


def to_replace(world: FakeWorld, after: str = OTHER_KEY, signers: int = 2) -> str:
    text = f"{HEADER}\nFrom: v1 {own_key(world)}\nTo: v1 {after}\n"
    return running(world, RequestAction.REPLACE_KEY, text=text, signers=signers)


def replaced(world: FakeWorld, request: str | None) -> None:
    world.ledger.append(KeyReplaced(V1, own_key(world), OTHER_KEY), request)


def key_is(world: FakeWorld, *states: KeyState, request: str | None = None) -> None:
    for state in states:
        world.ledger.set_key_state(V1, state, request)


ARCHIVED = (KeyState.DEACTIVATED, KeyState.ARCHIVED)


def a_rotation(world: FakeWorld) -> None:
    walk(world, approved(world), Step.ZERO_OLD_ROWS_PROOF)


def an_emergency(world: FakeWorld) -> None:
    walk(world, signed(world, opened(world)[1]), Step.ROWS)


def another_roster(world: FakeWorld) -> None:
    world.ledger.pin_roster(LATER, running(world, RequestAction.POLICY))


def a_lost_roster(world: FakeWorld) -> None:
    request = running(world, RequestAction.RECONCILE, by=LATER)
    world.ledger.pin_roster(LATER, request)
    world.ledger.append(DatabaseReconciled("restored", V1, (V1,), {}, (), ()), request)


def another_key(world: FakeWorld) -> None:
    replaced(world, to_replace(world))


def a_destroyed_key(world: FakeWorld) -> None:
    key_is(world, *ARCHIVED)
    key_is(world, KeyState.DESTROYED, request=running(world, RequestAction.DESTROY))


def opened_twice(world: FakeWorld) -> None:
    for _ in range(2):
        world.ledger.open(opened_as(RequestAction.POLICY), b"")


def brought_back(world: FakeWorld) -> None:
    request = running(world, RequestAction.POLICY)
    world.ledger.set_status(request, CANCELLED)
    world.ledger.append(StatusChanged(CANCELLED, RUNNING, START), request)
    world.ledger.append(SignatureAdded("E" * 40, START, "ab"), request)


VALID = (a_rotation, an_emergency, another_roster, a_lost_roster, another_key, a_destroyed_key)
FORGED: dict[str, Callable[[FakeWorld], object]] = {
    "a roster of nobody": lambda w: w.ledger.append(RosterPinned.of(LATER), None),
    "a roster that one signed": lambda w: w.ledger.pin_roster(LATER, running(w, RequestAction.POLICY, signers=1)),
    "a roster by a request to destroy": lambda w: w.ledger.pin_roster(LATER, running(w, RequestAction.DESTROY)),
    "a roster by officers of its own": lambda w: w.ledger.pin_roster(LATER, running(w, RequestAction.POLICY, by=LATER)),
    "a reconciliation that one signed": lambda w: w.ledger.append(
        DatabaseReconciled("x", V1, (V1,), {}, (), ()), running(w, RequestAction.RECONCILE, signers=1)
    ),
    "a second opening": opened_twice,
    "a second signature": lambda w: w.ledger.append(
        SignatureAdded(ROSTER.officers[0].fingerprint, START, "ab"), running(w, RequestAction.POLICY)
    ),
    "a signature on nothing": lambda w: w.ledger.append(SignatureAdded("A" * 40, START, "ab"), "0f" * 16),
    "a status that is not the one before": lambda w: w.ledger.append(
        StatusChanged(RequestStatus.PAUSED, RUNNING, START), running(w, RequestAction.POLICY)
    ),
    "a step of a policy": lambda w: w.ledger.append(
        StepFinished(Step.ROWS, None, None, START, {}), running(w, RequestAction.POLICY)
    ),
    "a step again": lambda w: [
        w.ledger.append(StepFinished(Step.ROWS, None, None, START, {}), approved_once(w)) for _ in range(2)
    ],
    "a promotion again": lambda w: [w.ledger.append(PromotionRecorded(9), approved_once(w)) for _ in range(2)],
    "what blocks nothing": lambda w: w.ledger.append(Blocked("x"), "0f" * 16),
    "a version again": lambda w: w.ledger.append(KeyRegistered(V1, KeyState.ARCHIVED, OTHER_KEY, START), None),
    "a version that is destroyed from the first": lambda w: w.ledger.append(
        KeyRegistered(V2, KeyState.DESTROYED, OTHER_KEY, START), None
    ),
    "a state of another key": lambda w: w.ledger.append(
        KeyStateChanged(V1, KeyState.ACTIVE, KeyState.DEACTIVATED, OTHER_KEY), None
    ),
    "a state that does not follow": lambda w: w.ledger.append(
        KeyStateChanged(V1, KeyState.ACTIVE, KeyState.ARCHIVED, own_key(w)), None
    ),
    "destroyed by nobody": lambda w: key_is(w, *ARCHIVED, KeyState.DESTROYED),
    "destroyed by a policy": lambda w: key_is(
        w, *ARCHIVED, KeyState.DESTROYED, request=running(w, RequestAction.POLICY)
    ),
    "destroyed by one officer": lambda w: key_is(
        w, *ARCHIVED, KeyState.DESTROYED, request=running(w, RequestAction.DESTROY, signers=1)
    ),
    "compromised by nobody": lambda w: key_is(w, KeyState.COMPROMISED),
    "compromised by a routine request": lambda w: key_is(w, KeyState.COMPROMISED, request=approved(w).id),
    "compromised by an emergency that nobody signed": lambda w: key_is(
        w, KeyState.COMPROMISED, request=opened(w)[1].id
    ),
    "a key replaced by nobody": lambda w: replaced(w, None),
    "a key replaced by one officer": lambda w: replaced(w, to_replace(w, signers=1)),
    "a key replaced by another than was signed": lambda w: replaced(w, to_replace(w, "cd" * 32)),
    "a key replaced by a text that is none": lambda w: replaced(w, running(w, RequestAction.REPLACE_KEY, text="x")),
    "a key replaced by a policy": lambda w: replaced(w, running(w, RequestAction.POLICY)),
    "a request that is back": brought_back,
}


def approved_once(world: FakeWorld) -> str:
    current = world.ledger.waiting() or world.ledger.current()
    return (current or approved(world)).id


def judged(world: FakeWorld) -> list[int]:
    """The events that cannot have happened, by both; both must leave the same keys and requests, too."""
    told, expected = whole_history(world.ledger.events(), world.ledger.verify)
    state, events = State(), [json.loads(event.body) for event in world.ledger.events()]
    impossible = [event["seq"] for event in events if not state.take(event)]
    assert impossible == [each.seq for each in told if each.fault is not None]
    assert state.keys == {str(name): (str(each.state), each.fingerprint) for name, each in expected.keys.items()}
    shown = {name: (each["status"], set(each["signed"])) for name, each in state.requests.items()}
    assert shown == {name: (str(each.status), set(each.approvals)) for name, each in expected.requests.items()}
    return impossible


@pytest.mark.parametrize("happens", VALID)
def test_what_can_happen_counts_for_both(happens: Callable[[FakeWorld], None]) -> None:
    world = before_any_rotation()
    happens(world)
    assert judged(world) == []


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_what_cannot_have_happened_counts_for_neither(forge: Callable[[FakeWorld], object]) -> None:
    world = before_any_rotation()
    forge(world)
    assert judged(world)


def test_what_may_follow_is_the_same() -> None:
    assert {str(before): set(map(str, after)) for before, after in MAY_FOLLOW.items()} == STATUS_AFTER
    assert {str(before): set(map(str, after)) for before, after in ALLOWED_TRANSITIONS.items()} == STATE_AFTER


def test_every_kind_that_has_a_rule_has_one_in_the_pack() -> None:
    without = {str(kind) for kind in COUNTING if not hasattr(State, f"on_{kind}")}
    assert without == {"rotation_audit_written", "breach_assessed"}, "these change anything at any time"
