"""From the flag to the retired key: what a flag changes, what signatures change, and what is taken over."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.audit.verify import require_verified, verify_audit
from keyrotation_pipeline.errors import (
    AtWorkError,
    AuditError,
    BlockedError,
    IncidentError,
    KeyStoreError,
    OutOfOrderError,
    RequestError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.incidents import opening
from keyrotation_pipeline.incidents.handling import acknowledge, close
from keyrotation_pipeline.incidents.opening import open_incident, prepare, prepare_requests
from keyrotation_pipeline.incidents.report import incident_report
from keyrotation_pipeline.model.approval import Signature
from keyrotation_pipeline.model.audit import AuditHead, Fact, Note
from keyrotation_pipeline.model.incidents import Incident, IncidentStatus
from keyrotation_pipeline.model.key_events import PrimaryChangeIntended
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import WALK, RequestStatus, RotationType, Step, Walk
from keyrotation_pipeline.monitoring import status
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import deploy, rollback, runner
from keyrotation_pipeline.rotation.reconcile import plan
from keyrotation_pipeline.rotation.reencrypt import ring_fit_for_rows
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.fakes import ROSTER, V1, V2, V3, FakeWorld, ProcessKilled
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.unit.incidents.cases import FLAG, opened, raised, signed, walk
from keyrotation_pipeline_tests.unit.incidents.test_closing import NONE, answered
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def state(world: FakeWorld, version: object) -> KeyState:
    return world.ledger.state.keys[version].state  # type: ignore[index]


def test_a_flag_alone_changes_no_key_and_prepares_the_request(world: FakeWorld) -> None:
    before = (dict(world.keys.live), dict(world.ledger.state.keys))
    incident, prepared = opened(world)
    assert (dict(world.keys.live), dict(world.ledger.state.keys)) == before
    assert (incident.id, incident.versions) == ("INC-2026-001", (V1,))
    assert (prepared.type, prepared.incident, prepared.source, prepared.target) == ("emergency", incident.id, V1, V2)
    text = world.ledger.approval_text(prepared.id).decode()
    assert (
        "Authorises: hold v1 compromised, never to be the primary again; end whatever else runs or is signed, or take "
        "it over where it stands if it is to rotate v1 to v2: create v2"
    ) in text
    assert f"Reason: incident {incident.id}: key_exposed: the key stands in a log file\n" in text


def test_the_last_signature_marks_the_version_before_anything_runs(world: FakeWorld) -> None:
    _, prepared = opened(world)
    sign(world, prepared, ADA)
    assert state(world, V1) is KeyState.ACTIVE
    sign(world, prepared, BEN)
    assert state(world, V1) is KeyState.COMPROMISED


def test_a_whole_emergency_leaves_the_version_compromised_and_the_incident_to_be_closed(world: FakeWorld) -> None:
    incident, prepared = opened(world)
    with pytest.raises(IncidentError, match="which is not over"):
        close(world.pipeline, incident.id, "ada")
    assert walk(world, signed(world, prepared)).status is RequestStatus.FINISHED
    assert (state(world, V1), world.keys.primary(), world.keys.archived()) == (KeyState.COMPROMISED, V2, (V1,))
    acknowledge(world.pipeline, incident.id, "ben")
    closed = close(world.pipeline, incident.id.lower(), "ada", root_cause="a bug")
    assert (closed.status, closed.acknowledged_by, closed.root_cause) == (IncidentStatus.CLOSED, "ben", "a bug")
    assert incidents(world.ledger).unfinished == ()
    with pytest.raises(RequestError, match="INC-2026-001 is closed"):
        request(world, incident=incident.id)
    verify_audit(world.ledger)


@pytest.mark.parametrize("through", WALK[: WALK.index(Step.KEY_ROTATION_AUDIT)])
def test_an_emergency_takes_a_routine_rotation_over_from_any_step(world: FakeWorld, through: Step) -> None:
    routine = approved(world)
    done = {record.step for record in walk(world, routine, through).steps}
    _, prepared = opened(world)
    assert (prepared.supersedes, prepared.source, prepared.target) == (routine.id, V1, V2)
    finished = walk(world, signed(world, prepared))
    former = world.ledger.walk(routine.id)
    assert (former.status, finished.status) == (RequestStatus.CANCELLED, RequestStatus.FINISHED)
    for step in done & takeover.TAKEN_OVER:
        assert finished.done(step) == former.done(step)
    assert (state(world, V1), world.keys.primary(), world.keys.archived()) == (KeyState.COMPROMISED, V2, (V1,))
    assert world.database.rows == {"clients": [{"first_name": "v2:Zoe", "email": "v2:zoe@example.org"}]}
    with pytest.raises(RequestError, match="cancelled"):
        sign(world, former, ADA)


@pytest.mark.parametrize(
    ("through", "written"),
    [
        pytest.param(Step.DUAL_KEY_ROLLOUT, "still wrote under the compromised key from discovery", id="before"),
        pytest.param(Step.PRIMARY_KEY_ROLLOUT, "wrote under another key since 2026-", id="after"),
    ],
)
def test_the_report_says_whether_applications_wrote_under_the_key_after_its_exposure_was_known(
    world: FakeWorld, through: Step, written: str
) -> None:
    walk(world, approved(world), through)
    world.clock.at += timedelta(minutes=1)
    incident, prepared = opened(world, discovered_at=world.clock.now())
    world.clock.at += timedelta(minutes=1)
    world.signatures.signed_at = world.clock.now()
    walk(world, signed(world, prepared))
    assert f"Applications {written}" in incident_report(world.pipeline, incident.id).markdown()


def test_the_report_counts_what_a_routine_rotation_reached_before_the_emergency_was_signed(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.DUAL_KEY_ROLLOUT)
    incident, prepared = opened(world, discovered_at=world.clock.now())
    world.clock.at += timedelta(minutes=3)
    walk(world, routine)
    promoted = world.ledger.walk(routine.id).done(Step.PRIMARY_KEY_ROLLOUT)
    assert promoted is not None
    markdown = incident_report(world.pipeline, incident.id).markdown()
    assert f"until {promoted.finished_at:%Y-%m-%d %H:%M:%S} UTC" in markdown
    assert "Retired and audited" in markdown
    assert "writes have not moved" not in markdown
    assert world.ledger.walk(prepared.id).started_at is None


@pytest.mark.parametrize("through", [Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT, Step.ROWS])
def test_an_incident_on_the_new_key_too_moves_on_to_a_fresh_one(world: FakeWorld, through: Step) -> None:
    routine = approved(world)
    walk(world, routine, through)
    incident, prepared = opened(world, type="server_compromise")
    assert incident.versions == (V1, V2)
    assert (prepared.target, prepared.source) == (V3, world.keys.primary())
    signed(world, prepared)
    assert {state(world, V1), state(world, V2)} == {KeyState.COMPROMISED}
    routine = world.ledger.walk(routine.id)
    assert routine.status is RequestStatus.PAUSED
    walk(world, prepared)
    assert (world.keys.primary(), world.keys.archived()) == (V3, (V1, V2))
    assert {state(world, V1), state(world, V2)} == {KeyState.COMPROMISED}
    report = {each.heading: each.lines for each in incident_report(world.pipeline, incident.id).sections}
    assert report["Remediation"][0].startswith("v1, v2 were replaced by v3 and withdrawn from the key store")
    assert report["Remediation"][0].endswith("the database refuses them")
    assert world.database.rows == {"clients": [{"first_name": "v3:Zoe", "email": "v3:zoe@example.org"}]}


def test_nothing_is_encrypted_under_a_compromised_version(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.PRIMARY_KEY_ROLLOUT)
    ring_fit_for_rows(world.pipeline, routine)
    _, prepared = opened(world, versions=("v2",))
    signed(world, prepared)
    with pytest.raises(OutOfOrderError, match="v2 is compromised"):
        ring_fit_for_rows(world.pipeline, routine)


@pytest.mark.parametrize("through", [None, Step.KEY_VERSION, Step.PRIMARY_KEY_ROLLOUT, Step.ROWS])
def test_an_emergency_takes_a_rollback_over_while_its_target_is_sound(world: FakeWorld, through: Step | None) -> None:
    rotation = approved(world)
    walk(world, rotation, Step.ROWS)
    undoing = rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba")
    if through is not None:
        walk(world, signed(world, undoing), through)
    # A rollback that waits stands next to the rotation that it is to undo.
    versions = ("v2",) if through is not None else ("v1",)
    _, prepared = opened(world, versions=versions)
    assert (prepared.action, prepared.target) == (("rollback", V1) if through is not None else ("rotate", V2))
    walk(world, signed(world, prepared))
    assert world.ledger.walk(undoing.id).status is RequestStatus.CANCELLED
    assert world.keys.primary() == prepared.target


def test_a_rollback_to_a_compromised_version_is_ended_by_a_fresh_one(world: FakeWorld) -> None:
    rotation = approved(world)
    walk(world, rotation, Step.ROWS)
    undoing = rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba")
    walk(world, signed(world, undoing), Step.PRIMARY_KEY_ROLLOUT)
    _, prepared = opened(world, versions=("v1",))
    assert (prepared.action, prepared.source, prepared.target) == ("rotate", V1, V3)
    walk(world, signed(world, prepared))
    assert (world.keys.primary(), state(world, V1)) == (V3, KeyState.COMPROMISED)


def test_a_take_over_that_dies_at_any_change_ends_the_same_when_it_is_run_again(world: FakeWorld) -> None:
    walk(world, approved(world), Step.PRIMARY_KEY_ROLLOUT)
    _, prepared = opened(world)
    deaths, allowed = 0, 0
    while world.ledger.walk(prepared.id).status is not RequestStatus.FINISHED:
        world.journal.die_at = len(world.journal.entries) + allowed
        before = (world.ledger.walk(prepared.id).steps, world.ledger.walk(prepared.id).approvals)
        try:
            for officer in ROSTER.officers:
                if officer.fingerprint not in world.ledger.walk(prepared.id).approvals:
                    sign(world, prepared, officer.fingerprint)
            walk(world, prepared)
        except ProcessKilled:
            deaths += 1
            world.ledger.locks.clear()
            now = (world.ledger.walk(prepared.id).steps, world.ledger.walk(prepared.id).approvals)
            allowed = allowed + 1 if now == before else 0
    world.journal.die_at = None
    assert deaths > len(WALK)
    assert (state(world, V1), world.keys.primary(), world.keys.archived()) == (KeyState.COMPROMISED, V2, (V1,))
    verify_audit(world.ledger)


def test_a_request_that_the_sensor_prepares_at_the_same_moment_is_the_one(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    incident = open_incident(world.pipeline, FLAG)

    def overtaken(pipeline: Pipeline, *, reason: str, requested_by: str, incident: str) -> Walk:
        monkeypatch.setattr(opening, "open_request", open_request)
        assert prepare_requests(pipeline, "the sensor") == ()
        return open_request(pipeline, reason=reason, requested_by=requested_by, incident=incident)

    monkeypatch.setattr(opening, "open_request", overtaken)
    assert prepare(world.pipeline, incident, "ada").requested_by == "the sensor"
    assert len(world.ledger.requests()) == 1


def test_one_request_serves_every_incident_about_the_same_versions(world: FakeWorld) -> None:
    first, prepared = opened(world)
    second = open_incident(world.pipeline, raised(2))
    assert prepare(world.pipeline, second, "test").id == prepared.id
    assert [each.request for each in incidents(world.ledger).by_id.values()] == [prepared.id] * 2
    assert (first.id, second.id) == ("INC-2026-001", "INC-2026-002")


def test_an_emergency_to_a_version_that_another_incident_names_is_prepared_again_for_a_fresh_one(
    world: FakeWorld,
) -> None:
    walk(world, approved(world), Step.KEY_VERSION)
    _, first = opened(world)
    sign(world, first, ADA)
    open_incident(world.pipeline, raised(2, type="insider"))
    (sentence,) = prepare_requests(world.pipeline, "test")
    assert world.ledger.request(first.id).status is RequestStatus.CANCELLED
    again = world.ledger.walk(str(incidents(world.ledger).by_id["INC-2026-001"].request))
    assert (first.target, again.target) == (V2, V3)
    assert f"no emergency request could be prepared for INC-2026-002: request {again.id}" in sentence
    walk(world, signed(world, again), Step.KEY_VERSION)
    assert prepare_requests(world.pipeline, "test") == ()
    second = world.ledger.walk(str(incidents(world.ledger).by_id["INC-2026-002"].request))
    assert (second.supersedes, second.target) == (again.id, V3)
    walk(world, signed(world, second))
    assert (world.keys.primary(), state(world, V1), state(world, V2)) == (
        V3,
        KeyState.COMPROMISED,
        KeyState.COMPROMISED,
    )


def test_a_request_that_can_never_start_is_prepared_again(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.KEY_VERSION)
    _, prepared = opened(world)
    cancel(world.pipeline, routine)
    assert prepare_requests(world.pipeline, "test") == ()
    again = incidents(world.ledger).by_id["INC-2026-001"].request
    assert again is not None
    assert again != prepared.id
    assert walk(world, signed(world, world.ledger.walk(again))).target == V3


def test_a_request_that_officers_have_cancelled_is_not_prepared_again_by_itself(world: FakeWorld) -> None:
    incident, prepared = opened(world)
    cancel(world.pipeline, prepared)
    assert prepare_requests(world.pipeline, "test") == ()
    assert incidents(world.ledger).by_id[incident.id].request == prepared.id
    asked = request(world, incident=incident.id.lower())
    assert (asked.type, asked.incident) == (RotationType.EMERGENCY, incident.id)
    assert incidents(world.ledger).by_id[incident.id].request == asked.id


def test_what_is_not_in_use_needs_no_rotation(world: FakeWorld) -> None:
    walk(world, approved(world))
    incident = open_incident(world.pipeline, raised(1, versions=("v1",)))
    sentence = "applications do not have v1 any more, so no rotation replaces it; it still opens old backups"
    with pytest.raises(IncidentError, match=sentence):
        prepare(world.pipeline, incident, "test")
    with pytest.raises(RequestError, match=sentence):
        request(world, incident=incident.id)
    (urgent,) = [each for each in status.incidents_now(world.pipeline, world.clock.now())[1] if incident.id in each]
    assert sentence in urgent


@pytest.mark.parametrize("signed_after", [Step.ROWS, Step.RETIRED_KEY, None])
def test_an_emergency_whose_rotation_has_ended_meanwhile_does_what_is_left(
    world: FakeWorld, signed_after: Step | None
) -> None:
    routine = approved(world)
    walk(world, routine, Step.ROWS)
    incident, prepared = opened(world)
    walk(world, routine, signed_after)
    finished = walk(world, signed(world, prepared))
    assert finished.status is RequestStatus.FINISHED
    assert {record.step for record in finished.steps} == set(WALK)
    assert (state(world, V1), world.keys.primary(), world.keys.archived()) == (KeyState.COMPROMISED, V2, (V1,))
    assert close(world.pipeline, incident.id, "ada").status is IncidentStatus.CLOSED
    verify_audit(world.ledger)


def test_a_routine_request_cannot_be_opened_during_an_incident(world: FakeWorld) -> None:
    opened(world)
    with pytest.raises(RequestError):
        request(world)


def test_a_policy_can_be_asked_for_while_the_primary_is_compromised(world: FakeWorld) -> None:
    signed(world, opened(world)[1])
    world.signatures.configured = type(ROSTER)(
        2, (*ROSTER.officers, type(ROSTER.officers[0])("Cem", "C" * 40)), ("F" * 40,)
    )
    assert open_policy(world.pipeline, reason="Cem comes", requested_by="test").source == V1


def test_the_same_is_not_opened_twice(world: FakeWorld) -> None:
    open_incident(world.pipeline, FLAG)
    with pytest.raises(IncidentError, match="INC-2026-001 was opened for exactly this already"):
        open_incident(world.pipeline, FLAG)


def test_a_compromised_target_is_never_promoted(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.DUAL_KEY_ROLLOUT)
    signed(world, opened(world, versions=("v2",))[1])
    world.ledger.set_status(routine.id, RequestStatus.RUNNING)
    with pytest.raises(BlockedError, match="v2 is compromised and never becomes the primary"):
        deploy.roll_out_primary_key(world.pipeline, world.ledger.walk(routine.id), world.report)


@pytest.mark.parametrize("back", [pytest.param(False, id="a rotation"), pytest.param(True, id="a rollback")])
def test_no_version_is_marked_between_the_last_look_at_it_and_its_record_as_the_primary(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, *, back: bool
) -> None:
    request, version = approved(world), V2
    walk(world, request, Step.ROWS if back else Step.DUAL_KEY_ROLLOUT)
    if back:
        undoing = rollback.open_rollback(world.pipeline, request, reason="slow", requested_by="dba")
        request, version = signed(world, undoing), V1
        walk(world, request, Step.DUAL_KEY_ROLLOUT)
    append, refused = world.ledger.append, list[BaseException]()

    def killed(*_: object) -> None:
        raise ProcessKilled

    def signed_meanwhile(fact: Fact | Note, of: str | None = None) -> AuditHead:
        if type(fact) is PrimaryChangeIntended and not refused:
            _, emergency = opened(world, versions=(str(version),))
            # Whoever marks it dies before the key store has another revision.
            with monkeypatch.context() as patch:
                patch.setattr(world.keys, "publish_compromised", killed)
                with pytest.raises((AtWorkError, ProcessKilled)) as refusal:
                    signed(world, emergency)
            refused.append(refusal.value)
        return append(fact, of)

    monkeypatch.setattr(world.ledger, "append", signed_meanwhile)
    walk(world, request, Step.PRIMARY_KEY_ROLLOUT)
    assert isinstance(refused[0], AtWorkError)
    assert "the signatures are stored: run `keyrotation rotate " in str(refused[0])
    assert (world.keys.primary(), state(world, version)) == (version, KeyState.ACTIVE)
    # What was signed is about another primary: it says so, and leaves room for a request about this one.
    (emergency,) = [each for each in world.ledger.requests() if isinstance(each, Walk) and each.incident is not None]
    with pytest.raises(BlockedError, match=f"{version} is the primary now; run `keyrotation cancel"):
        walk(world, emergency)
    cancel(world.pipeline, emergency)
    verify_audit(world.ledger)


def test_a_rotation_to_a_compromised_version_can_be_cancelled(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.DUAL_KEY_ROLLOUT)
    _, prepared = opened(world, versions=("v2",))
    signed(world, prepared)
    cancel(world.pipeline, world.ledger.walk(prepared.id))
    cancel(world.pipeline, routine)
    assert (world.keys.versions(), state(world, V2)) == ((V1,), KeyState.COMPROMISED)


def test_a_restored_database_is_reconciled_while_its_primary_is_compromised(world: FakeWorld) -> None:
    signed(world, opened(world)[1])
    decided = plan(world.pipeline)
    assert (decided.primary, decided.states[V1]) == (V1, KeyState.COMPROMISED)


def test_a_fresh_request_whose_source_was_replaced_meanwhile_is_prepared_again(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.DUAL_KEY_ROLLOUT)
    _, prepared = opened(world, versions=("v2",))
    assert (prepared.source, prepared.target) == (V1, V3)
    # Somebody names v2 in the key store, against the sentence that says not to.
    deploy.record_promotion(world.pipeline, world.ledger.walk(routine.id))
    world.keys.primary_version = V2
    with pytest.raises(BlockedError, match="v2 is the primary now"):
        walk(world, signed(world, prepared))
    assert prepare_requests(world.pipeline, "test") == ()
    again = world.ledger.walk(str(incidents(world.ledger).by_id["INC-2026-001"].request))
    assert (again.source, again.target) == (V2, V3)
    walk(world, signed(world, again))
    assert (world.keys.primary(), state(world, V2)) == (V3, KeyState.COMPROMISED)


@pytest.mark.parametrize("through", [Step.KEY_VERSION, Step.PRIMARY_KEY_ROLLOUT, Step.ROWS, Step.ARCHIVED_KEY])
def test_an_emergency_that_runs_longer_than_its_clock_continues_without_another_signature(
    world: FakeWorld, through: Step
) -> None:
    _, prepared = opened(world)
    walk(world, signed(world, prepared), through)
    world.clock.at += timedelta(hours=50)
    assert walk(world, prepared).status is RequestStatus.FINISHED


def test_officers_who_sign_on_the_second_day_need_no_other_request(world: FakeWorld) -> None:
    _, prepared = opened(world)
    world.clock.at += timedelta(hours=30)
    assert walk(world, signed(world, prepared)).status is RequestStatus.FINISHED


@pytest.mark.parametrize(
    ("type_", "through", "before", "after"),
    [
        pytest.param("key_exposed", None, set(), {V1}, id="the primary, which is written until another is promoted"),
        pytest.param("server_compromise", Step.KEY_VERSION, {V2}, {V1, V2}, id="a target too, at once"),
    ],
)
def test_the_key_store_publishes_what_is_compromised_to_applications(
    world: FakeWorld, type_: str, through: Step | None, before: set[KeyVersion], after: set[KeyVersion]
) -> None:
    if through is not None:
        walk(world, approved(world), through)
    _, prepared = opened(world, type=type_)
    signed(world, prepared)
    assert world.keys.compromised == before
    walk(world, prepared, Step.PRIMARY_KEY_ROLLOUT)
    assert world.keys.compromised == after
    walk(world, prepared)
    stored = world.keys.read()
    assert stored.ring().primary not in stored.compromised == after
    world.keys.restore(V1)
    with pytest.raises(KeyStoreError, match="never becomes the primary again"):
        world.keys.set_primary(V1)
    verify_audit(world.ledger)


def by_nobody(_world: FakeWorld) -> str | None:
    return None


def by_a_routine_rotation(world: FakeWorld) -> str:
    return approved(world).id


def by_an_emergency_that_one_has_signed(world: FakeWorld) -> str:
    _, prepared = opened(world)
    sign(world, prepared, ADA)
    return prepared.id


def by_an_emergency_about_another_version(world: FakeWorld) -> str:
    walk(world, approved(world), Step.KEY_VERSION)
    return signed(world, opened(world, versions=("v2",))[1]).id


def by_a_cancelled_emergency(world: FakeWorld) -> str:
    _, prepared = opened(world)
    sign(world, prepared, ADA)
    world.ledger.set_status(prepared.id, RequestStatus.CANCELLED)
    return prepared.id


@pytest.mark.parametrize(
    ("attack", "fault"),
    [
        (by_nobody, "is of a request that was never opened"),
        (by_a_routine_rotation, "is by a request that does not hold v1 compromised"),
        (by_an_emergency_that_one_has_signed, "is by a request that too few have signed"),
        (by_an_emergency_about_another_version, "is by a request that does not hold v1 compromised"),
        (by_a_cancelled_emergency, "is by a request that is cancelled"),
    ],
)
def test_no_event_alone_calls_a_version_compromised(
    world: FakeWorld, attack: Callable[[FakeWorld], str | None], fault: str
) -> None:
    """Else one row could stop every application: whoever owns the database can write events too."""
    world.ledger.refuses = False
    world.ledger.set_key_state(V1, KeyState.COMPROMISED, attack(world))
    replayed = LedgerState(good_at_start).apply(world.ledger.events())
    assert [each for each in replayed.faults if fault in each]
    assert replayed.keys[V1].state is KeyState.ACTIVE


def test_signatures_that_no_officer_made_call_no_version_compromised_though_their_request_is_over(
    world: FakeWorld,
) -> None:
    _, prepared = opened(world)
    world.ledger.refuses = False
    for officer in (ADA, BEN):
        world.ledger.add_signature(prepared.id, Signature(officer, b"forged", world.clock.now()))
    world.ledger.set_key_state(V1, KeyState.COMPROMISED, prepared.id)
    world.ledger.set_status(prepared.id, RequestStatus.CANCELLED)
    with pytest.raises(AuditError, match=r"\(signature_added\) has no good signature"):
        require_verified(world.pipeline)


def test_what_officers_have_signed_for_is_believed(world: FakeWorld) -> None:
    signed(world, opened(world)[1])
    replayed = LedgerState(good_at_start).apply(world.ledger.events())
    assert (replayed.faults, replayed.keys[V1].state) == ((), KeyState.COMPROMISED)
    require_verified(world.pipeline)


def test_an_emergency_key_is_described_as_the_source_procedure_does(world: FakeWorld) -> None:
    incident, prepared = opened(world)
    walk(world, signed(world, prepared), Step.PRIMARY_KEY_ROLLOUT)
    (described,) = filter(None, world.keys.descriptions)
    officer = ROSTER.officers[0].name
    assert described == f"Emergency rotation key (incident 20260105), v2 for {incident.id}, authorised by {officer}"


def named(world: FakeWorld, **changes: object) -> Incident:
    """An open incident for which nobody has prepared a request."""
    return open_incident(world.pipeline, replace(FLAG, **changes))  # type: ignore[arg-type]


SUSPECTED = "is named by the open incident INC-2026-001 and does not become the primary"
UNSETTLED = SUSPECTED.replace("open", "closed")


def test_an_archived_version_that_an_open_incident_names_is_no_way_back(world: FakeWorld) -> None:
    rotation = walk(world, approved(world))
    named(world, versions=("v1",))
    with pytest.raises(RequestError, match=f"cannot be rolled back: v1 {SUSPECTED}"):
        rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba")


def test_one_person_who_closes_an_incident_does_not_clear_the_key(world: FakeWorld) -> None:
    rotation = walk(world, approved(world))
    incident = named(world, versions=("v1",))
    close(world.pipeline, incident.id, "ada")
    with pytest.raises(RequestError, match=f"cannot be rolled back: v1 {UNSETTLED}.*incident assess INC-2026-001`$"):
        rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba")
    answered(world, incident, ADA, BEN, **NONE)
    assert rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba").target == V1


@pytest.mark.parametrize("signatures", [0, 1, 2])
def test_an_incident_on_the_former_version_stops_a_rollback_however_far_it_is_signed(
    world: FakeWorld, signatures: int
) -> None:
    rotation = walk(world, approved(world))
    undoing = rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba")
    for officer in (ADA, BEN)[:signatures]:
        sign(world, undoing, officer)
    incident = named(world, versions=("v1",))
    with pytest.raises(RequestError, match=f"v1 {SUSPECTED}"):
        sign(world, undoing, BEN)
    if signatures == len((ADA, BEN)):
        with pytest.raises(BlockedError, match=f"v1 {SUSPECTED}"):
            walk(world, undoing)
        assert f"v1 {SUSPECTED}" in str(runner.pending(Situation(world.pipeline), world.ledger.walk(undoing.id)))
    assert (world.keys.primary(), world.keys.archived()) == (V2, (V1,))
    assert incident.versions == (V1,)


@pytest.mark.parametrize("through", [Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT])
def test_a_new_version_that_an_open_incident_names_is_not_promoted(world: FakeWorld, through: Step) -> None:
    routine = approved(world)
    walk(world, routine, through)
    named(world, versions=("v2",))
    with pytest.raises(BlockedError, match=f"v2 {SUSPECTED}"):
        walk(world, routine)
    assert world.keys.primary() == V1


def test_an_incident_that_arrives_during_a_step_stops_the_promotion(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.DUAL_KEY_ROLLOUT)
    rotation = world.ledger.walk(routine.id)
    named(world, versions=("v2",))
    with pytest.raises(BlockedError, match=f"v2 {SUSPECTED}"):
        deploy.roll_out_primary_key(world.pipeline, rotation, world.report)
    assert world.keys.primary() == V1


def test_a_rotation_continues_once_the_incident_is_closed_as_a_false_alarm(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.DUAL_KEY_ROLLOUT)
    incident = named(world, versions=("v2",))
    answered(world, incident, ADA, BEN, **NONE)
    close(world.pipeline, incident.id, "ada")
    assert walk(world, routine).status is RequestStatus.FINISHED


def rolled_back(world: FakeWorld) -> Walk:
    """A rollback to v1 that officers have signed, after a rotation to v2 has ended."""
    rotation = walk(world, approved(world))
    return signed(world, rollback.open_rollback(world.pipeline, rotation, reason="slow", requested_by="dba"))


def test_an_emergency_is_carried_out_although_a_rollback_is_signed_and_has_not_begun(world: FakeWorld) -> None:
    undoing = rolled_back(world)
    _, prepared = opened(world, versions=("v2",))
    signed(world, prepared)
    with pytest.raises(BlockedError, match=f"the emergency {prepared.id} is signed and goes before rollback"):
        walk(world, undoing)
    assert walk(world, prepared).status is RequestStatus.FINISHED
    assert world.ledger.walk(undoing.id).status is RequestStatus.CANCELLED
    assert (world.keys.primary(), state(world, V2)) == (V3, KeyState.COMPROMISED)


@pytest.mark.parametrize("through", [Step.KEY_VERSION, Step.PRIMARY_KEY_ROLLOUT, Step.ROWS, Step.RETIRED_KEY])
def test_an_emergency_ends_a_rollback_that_began_while_it_was_signed(world: FakeWorld, through: Step) -> None:
    undoing = rolled_back(world)
    _, prepared = opened(world, versions=("v2",))
    walk(world, undoing, through)
    signed(world, prepared)
    with pytest.raises(BlockedError, match="is signed and goes before rollback"):
        walk(world, undoing)
    if world.keys.primary() == V2:
        assert walk(world, prepared).status is RequestStatus.FINISHED
    else:
        with pytest.raises(BlockedError, match="v1 is the primary now"):
            walk(world, prepared)
        assert prepare_requests(world.pipeline, "test") == ()
        again = world.ledger.walk(str(incidents(world.ledger).by_id["INC-2026-001"].request))
        # v1 is sound: the rollback replaces the compromised version, and is continued as an emergency.
        assert (again.action, again.source, again.target) == ("rollback", V2, V1)
        assert walk(world, signed(world, again)).status is RequestStatus.FINISHED
    assert world.ledger.walk(undoing.id).status is RequestStatus.CANCELLED
    assert world.keys.primary() in {V1, V3}
    assert (state(world, V2), world.keys.archived()[-1]) == (KeyState.COMPROMISED, V2)
    assert world.ledger.current() is world.ledger.waiting() is None
    verify_audit(world.ledger)


@pytest.mark.parametrize("through", [Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT, Step.ROWS])
def test_an_emergency_whose_finished_rotation_is_being_rolled_back_continues_that_rotation_or_is_requested_again(
    world: FakeWorld, through: Step
) -> None:
    routine = approved(world)
    walk(world, routine, Step.ROWS)
    emergency = request(world, incident="leak")
    undoing = rollback.open_rollback(world.pipeline, walk(world, routine), reason="slow", requested_by="dba")
    walk(world, signed(world, undoing), through)
    signed(world, emergency)
    if world.keys.primary() == V1:
        with pytest.raises(BlockedError, match="v1 is the primary now"):
            walk(world, emergency)
        cancel(world.pipeline, emergency)
        emergency = signed(world, request(world, incident="leak"))
    assert walk(world, emergency).status is RequestStatus.FINISHED
    assert world.ledger.walk(undoing.id).status is RequestStatus.CANCELLED
    assert world.keys.primary() == emergency.target
    assert (state(world, V1), world.keys.archived()[0]) == (KeyState.COMPROMISED, V1)
    verify_audit(world.ledger)


def test_officers_are_not_exchanged_while_a_signed_emergency_waits(world: FakeWorld) -> None:
    _, prepared = opened(world)
    cem = type(ROSTER.officers[0])("Cem", "C" * 40)
    changed, pinned = type(ROSTER)(2, (*ROSTER.officers, cem), ("F" * 40,)), world.signatures.configured
    world.signatures.configured = changed
    asked = open_policy(world.pipeline, reason="Cem comes", requested_by="test")
    for officer in (ADA, BEN):
        sign(world, asked, officer)
    world.signatures.configured = pinned
    signed(world, prepared)
    world.signatures.configured = changed
    with pytest.raises(BlockedError, match=f"the emergency {prepared.id} is signed and goes before policy"):
        change_policy(world.pipeline, asked)
    world.signatures.configured = pinned
    assert walk(world, prepared).status is RequestStatus.FINISHED
    world.signatures.configured = changed
    assert change_policy(world.pipeline, asked).name_of("C" * 40) == "Cem"


def test_a_routine_rotation_does_not_continue_once_an_emergency_is_signed(world: FakeWorld) -> None:
    routine = approved(world)
    walk(world, routine, Step.DUAL_KEY_ROLLOUT)
    _, prepared = opened(world)
    sign(world, prepared, ADA)
    walk(world, routine, Step.PRIMARY_KEY_ROLLOUT)
    sign(world, prepared, BEN)
    with pytest.raises(BlockedError, match=f"the emergency {prepared.id} is signed and goes before rotate"):
        walk(world, routine)
    assert walk(world, prepared).status is RequestStatus.FINISHED
