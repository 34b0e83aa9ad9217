"""An emergency meets a restored database, a change of officers or a withdrawn key; `acceptance/` has every pair."""

from datetime import timedelta

import pytest

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.audit.verify import require_verified
from keyrotation_pipeline.errors import AuditError, BlockedError, IncidentError, RequestError
from keyrotation_pipeline.incidents.handling import close
from keyrotation_pipeline.incidents.opening import open_incident, prepare, prepare_requests
from keyrotation_pipeline.model.approval import Officer, Roster
from keyrotation_pipeline.model.incident_events import EmergencyPrepared
from keyrotation_pipeline.model.incidents import IncidentStatus
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import WALK, Request, RequestStatus, Step
from keyrotation_pipeline.monitoring.status import incidents_now
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.rotation.reconcile import plan
from keyrotation_pipeline_tests.fakes import ROSTER, V1, V2, V3, FakeWorld
from keyrotation_pipeline_tests.unit.incidents.cases import opened, raised, signed, walk
from keyrotation_pipeline_tests.unit.incidents.test_closing import NONE, answered
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign
from keyrotation_pipeline_tests.unit.rotation.test_reconcile import Dump, reconciled, states

WITH_CEM = Roster(2, (*ROSTER.officers, Officer("Cem", "C" * 40)), ("F" * 40,))


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def urgent(world: FakeWorld, incident: str) -> str:
    [sentence] = [each for each in incidents_now(world.pipeline, world.clock.now())[1] if each.startswith(incident)]
    return sentence


def signed_policy(world: FakeWorld) -> Request:
    world.signatures.configured = WITH_CEM
    asked = open_policy(world.pipeline, reason="Cem comes", requested_by="test")
    for officer in (ADA, BEN):
        sign(world, asked, officer)
    return asked


@pytest.mark.parametrize("through", [Step.KEY_VERSION, Step.ROWS, Step.RETIRED_KEY])
def test_officers_are_exchanged_while_an_emergency_runs_and_it_goes_on(world: FakeWorld, through: Step) -> None:
    prepared = signed(world, opened(world)[1])
    walk(world, prepared, through)
    assert change_policy(world.pipeline, signed_policy(world)) == WITH_CEM
    assert walk(world, prepared).status is RequestStatus.FINISHED
    assert world.ledger.replayed().faults == ()


def test_officers_are_not_exchanged_before_a_signed_emergency_has_begun(world: FakeWorld) -> None:
    prepared = signed(world, opened(world)[1])
    asked = signed_policy(world)
    with pytest.raises(BlockedError, match=f"run `keyrotation rotate {prepared.id}`.* undo the change in"):
        change_policy(world.pipeline, asked)
    world.signatures.configured = ROSTER
    assert walk(world, prepared).status is RequestStatus.FINISHED
    world.signatures.configured = WITH_CEM
    assert change_policy(world.pipeline, asked) == WITH_CEM


def test_officers_are_exchanged_once_the_signatures_of_an_emergency_have_lapsed(world: FakeWorld) -> None:
    walk(world, signed(world, opened(world)[1]), Step.ROWS)
    world.clock.at += timedelta(days=8)
    world.signatures.signed_at = world.clock.now()
    assert change_policy(world.pipeline, signed_policy(world)) == WITH_CEM


def test_no_emergency_is_signed_while_other_officers_are_pinned(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prepared = opened(world)
    sign(world, prepared, ADA)
    asked = signed_policy(world)
    begin = world.ledger.set_status

    def signed_just_before(id: str, status: RequestStatus, *, by: str | None = None) -> None:  # noqa: A002
        if id == asked.id and status is RequestStatus.RUNNING and not world.ledger.walk(prepared.id).approvals[1:]:
            world.signatures.configured = ROSTER
            sign(world, prepared, BEN)
            world.signatures.configured = WITH_CEM
        begin(id, status, by=by)

    monkeypatch.setattr(world.ledger, "set_status", signed_just_before)
    with pytest.raises(BlockedError, match=f"the emergency {prepared.id} is signed and goes before"):
        change_policy(world.pipeline, asked)
    assert world.ledger.replayed().roster == ROSTER


def test_a_late_answer_of_the_key_store_cancels_no_signed_emergency(world: FakeWorld) -> None:
    rotation = approved(world)
    walk(world, rotation, Step.DUAL_KEY_ROLLOUT)
    world.keys.be_late()
    late = world.keys.shown
    walk(world, rotation)
    _, prepared = opened(world)
    signed(world, prepared)
    world.keys.shown = late
    [sentence] = prepare_requests(world.pipeline, "sensor")
    assert "a key store may answer late" in sentence
    world.keys.shown = None
    assert prepare_requests(world.pipeline, "sensor") == ()
    assert len(world.ledger.walk(prepared.id).approvals) == 2
    assert walk(world, prepared).status is RequestStatus.FINISHED


def test_no_emergency_is_cancelled_in_a_restored_database(world: FakeWorld) -> None:
    prepared = signed(world, opened(world)[1])
    dump = Dump.of(world)
    walk(world, prepared)
    dump.restore(world)
    before = world.ledger.head()
    [sentence] = prepare_requests(world.pipeline, "sensor")
    assert "restored" in sentence
    assert world.ledger.head() == before


def test_an_exposed_key_that_was_withdrawn_is_settled_by_officers_and_leaves_a_sound_audit(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.DUAL_KEY_ROLLOUT)
    incident, prepared = opened(world, versions=("v2",))
    signed(world, prepared)
    cancel(world.pipeline, world.ledger.walk(prepared.id))
    cancel(world.pipeline, routine)
    with pytest.raises(
        IncidentError, match=r"names v2, which no rotation has retired; .*incident assess INC-2026-001`"
    ):
        close(world.pipeline, incident.id, "ada")
    require_verified(world.pipeline)
    answered(world, incident, ADA, BEN, **NONE)
    assert close(world.pipeline, incident.id, "ada").status is IncidentStatus.CLOSED
    require_verified(world.pipeline)


def restored_to_before_the_rotation(world: FakeWorld) -> None:
    dump = Dump.of(world)
    walk(world, approved(world))
    dump.restore(world)


def test_no_incident_is_called_needless_while_a_restored_database_has_values_under_its_key(world: FakeWorld) -> None:
    restored_to_before_the_rotation(world)
    incident = open_incident(world.pipeline, raised(1, versions=("v1",)))
    for attempt in (
        lambda: prepare(world.pipeline, incident, "test"),
        lambda: close(world.pipeline, incident.id, "ada"),
    ):
        with pytest.raises(BlockedError, match=r"run `keyrotation reconcile`$"):
            attempt()
    assert urgent(world, incident.id).endswith("run `keyrotation reconcile`")
    reconciled(world)
    assert prepare_requests(world.pipeline, "test") == ()
    assert "left to be assessed" in urgent(world, incident.id)


@pytest.mark.parametrize("dumped_after", [None, Step.PRIMARY_KEY_ROLLOUT, Step.ROWS])
def test_what_the_key_store_calls_compromised_stays_so_in_a_restored_database(
    world: FakeWorld, dumped_after: Step | None
) -> None:
    dump = Dump.of(world)
    _, prepared = opened(world)
    if dumped_after is not None:
        walk(world, signed(world, prepared), dumped_after)
        dump = Dump.of(world)
        walk(world, prepared)
    else:
        walk(world, signed(world, prepared))
    dump.restore(world)
    decided = plan(world.pipeline)
    assert decided.states[V1] is KeyState.COMPROMISED
    assert decided.message().startswith("hold v1 compromised, never") is (dumped_after is None)
    reconciled(world)
    assert states(world) == {V1: KeyState.COMPROMISED, V2: KeyState.ACTIVE}
    require_verified(world.pipeline)
    rotation = walk(world, approved(world))
    assert world.keys.primary() not in {V1, V2}
    assert rotation.status is RequestStatus.FINISHED


def test_a_restore_by_which_only_a_compromised_key_is_forgotten_stops_everything(world: FakeWorld) -> None:
    walk(world, approved(world))
    # By an emergency since, which changed nothing else: its key was replaced before.
    world.keys.publish_compromised(frozenset({V1}))
    with pytest.raises(BlockedError, match="the key store calls v1 compromised, and the database does not"):
        request(world)
    assert plan(world.pipeline).states == {V1: KeyState.COMPROMISED, V2: KeyState.ACTIVE}


def test_a_target_that_the_key_store_calls_compromised_is_registered_so_again(world: FakeWorld) -> None:
    dump = Dump.of(world)
    walk(world, approved(world), Step.KEY_VERSION)
    walk(world, signed(world, opened(world, versions=("v1", "v2"))[1]))
    dump.restore(world)
    reconciled(world)
    assert {version for version, state in states(world).items() if state is KeyState.COMPROMISED} == {V1, V2}
    require_verified(world.pipeline)


@pytest.mark.parametrize("through", [Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.ROWS, WALK[-1]])
@pytest.mark.parametrize("signatures", [0, 2])
def test_an_emergency_restored_to_before_its_start_gives_way_to_one_that_can_begin(
    world: FakeWorld, through: Step, signatures: int
) -> None:
    incident, prepared = opened(world)
    dump = Dump.of(world)
    signed(world, prepared)
    dump = Dump.of(world) if signatures else dump
    walk(world, prepared, through)
    dump.restore(world)
    reconciled(world)
    for officer in (ADA, BEN)[signatures:]:
        sign(world, prepared, officer)
    with pytest.raises(BlockedError, match=f"cannot proceed: .*; run `keyrotation cancel {prepared.id}`"):
        walk(world, prepared)
    assert world.ledger.walk(prepared.id).started_at is None
    assert prepare_requests(world.pipeline, "test") == ()
    again = world.ledger.walk(str(incidents(world.ledger).by_id[incident.id].request))
    assert walk(world, signed(world, again)).status is RequestStatus.FINISHED
    assert (world.keys.versions(), states(world)[V1]) == ((again.target,), KeyState.COMPROMISED)
    assert world.ledger.current() is world.ledger.waiting() is None
    assert close(world.pipeline, incident.id, "ada").status is IncidentStatus.CLOSED


def test_an_emergency_that_a_reconciliation_has_ended_is_asked_for_again(world: FakeWorld) -> None:
    incident, prepared = opened(world)
    walk(world, signed(world, prepared), Step.PRIMARY_KEY_ROLLOUT)
    dump = Dump.of(world)
    walk(world, prepared)
    dump.restore(world)
    reconciled(world)
    assert world.ledger.walk(prepared.id).status is RequestStatus.CANCELLED
    assert f"run `keyrotation request --emergency {incident.id}" in urgent(world, incident.id)
    again = signed(world, request(world, incident=incident.id))
    assert walk(world, again).status is RequestStatus.FINISHED
    assert V1 not in world.keys.versions()
    assert close(world.pipeline, incident.id, "ada").status is IncidentStatus.CLOSED


def test_a_flag_about_every_key_holds_an_emergency_up_until_officers_settle_it_and_costs_no_signature(
    world: FakeWorld,
) -> None:
    """What whoever may raise flags can do to an emergency that is on its way, and what ends it."""
    first, running = opened(world)
    walk(world, signed(world, running), Step.DUAL_KEY_ROLLOUT)
    keys = (dict(world.keys.live), states(world))
    flag, second = opened(world, type="insider", description="every key")
    assert (flag.versions, second.target) == ((V2,), V3)
    with pytest.raises(BlockedError, match=f"named by the open incident {flag.id} .*incident assess {flag.id}"):
        walk(world, running)
    assert (dict(world.keys.live), states(world)) == keys
    answered(world, flag, ADA, BEN, **NONE)
    cancel(world.pipeline, second)
    close(world.pipeline, flag.id, "ada")
    assert walk(world, running).status is RequestStatus.FINISHED
    assert close(world.pipeline, first.id, "ada").status is IncidentStatus.CLOSED


@pytest.mark.parametrize("through", [Step.PRIMARY_KEY_ROLLOUT, Step.ROWS, Step.ZERO_OLD_ROWS_PROOF])
def test_no_flag_holds_up_a_walk_whose_key_is_the_primary_already(world: FakeWorld, through: Step) -> None:
    running = approved(world)
    walk(world, running, through)
    opened(world, type="insider")
    assert walk(world, running).status is RequestStatus.FINISHED


def test_a_flag_lets_no_routine_rotation_be_requested_before_its_emergency_is_signed_or_withdrawn(
    world: FakeWorld,
) -> None:
    _, prepared = opened(world)
    with pytest.raises(RequestError, match=f"approve it with `keyrotation approve {prepared.id}`, or cancel it"):
        request(world)
    cancel(world.pipeline, prepared)
    assert walk(world, approved(world)).status is RequestStatus.FINISHED


def test_the_databases_owner_hides_no_incident_behind_a_request_that_is_finished(world: FakeWorld) -> None:
    finished = walk(world, approved(world))
    incident, prepared = opened(world)
    world.ledger.refuses = False
    world.ledger.append(EmergencyPrepared(incident.id, finished.id), finished.id)
    assert incidents(world.ledger).by_id[incident.id].request == prepared.id
    with pytest.raises(AuditError, match="prepares a request that does not hold its versions compromised"):
        require_verified(world.pipeline)
