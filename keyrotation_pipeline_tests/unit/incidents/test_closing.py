"""One person alone ends no incident whose key is in use, and no duty to notify."""

from collections.abc import Callable
from typing import Any

import pytest

from keyrotation_pipeline.errors import ApprovalError, IncidentError
from keyrotation_pipeline.incidents.alerts import notices
from keyrotation_pipeline.incidents.assessing import (
    answers_in,
    assess,
    assessment_of,
    sign_assessment,
    text_to_sign,
    unsettled_in_words,
)
from keyrotation_pipeline.incidents.handling import close
from keyrotation_pipeline.incidents.opening import open_incident
from keyrotation_pipeline.model.approval import Officer, Roster
from keyrotation_pipeline.model.breach import AssessmentSigned, Outcome
from keyrotation_pipeline.model.incidents import Incident, IncidentStatus
from keyrotation_pipeline.model.request_events import RosterPinned
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline_tests.fakes import ROSTER, FakeSignatures, FakeWorld
from keyrotation_pipeline_tests.unit.incidents.cases import opened, raised, signed, walk
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, sign

NONE = {"ciphertext_reached": "no", "plaintext_reached": "no"}
BREACH = {"ciphertext_reached": "yes", "affected": {"Ohio": 501}, "count_complete": True}


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def without_a_request(world: FakeWorld) -> Incident:
    return open_incident(world.pipeline, raised(1))


def with_a_cancelled_request(world: FakeWorld) -> Incident:
    incident, prepared = opened(world)
    cancel(world.pipeline, prepared)
    return incident


def about_a_key_that_is_being_left(world: FakeWorld) -> Incident:
    walk(world, approved(world), Step.ROWS)
    return without_a_request(world)


IN_USE = pytest.mark.parametrize(
    "incident_of", [without_a_request, with_a_cancelled_request, about_a_key_that_is_being_left]
)


def answered(world: FakeWorld, incident: Incident, *officers: str, **answers: Any) -> None:  # noqa: ANN401
    assess(world.pipeline, incident.id, answers_in(answers), "ada@clinic")
    for officer in officers:
        text = text_to_sign(world.pipeline, assessment_of(world.pipeline, incident))
        world.signatures.signed_at = world.clock.now()
        sign_assessment(world.pipeline, incident.id, FakeSignatures.sign(officer, text))


@IN_USE
@pytest.mark.parametrize(
    ("answers", "officers"),
    [
        pytest.param({}, (), id="nobody has said anything"),
        pytest.param(NONE, (), id="one person has answered"),
        pytest.param(NONE, (ADA,), id="one officer has signed"),
        pytest.param(BREACH, (ADA, BEN), id="both have signed that it is a breach"),
    ],
)
def test_an_incident_is_not_closed_while_its_key_is_in_use(
    world: FakeWorld,
    incident_of: Callable[[FakeWorld], Incident],
    answers: dict[str, Any],
    officers: tuple[str, ...],
) -> None:
    incident = incident_of(world)
    if answers:
        answered(world, incident, *officers, **answers)
    with pytest.raises(IncidentError, match="names v1, which is still in use; run `keyrotation request"):
        close(world.pipeline, incident.id, "mal")
    assert [each.incident.id for each in overview(world.pipeline).incidents] == [incident.id]


@IN_USE
def test_two_officers_close_one_that_they_have_signed_is_none(
    world: FakeWorld, incident_of: Callable[[FakeWorld], Incident]
) -> None:
    incident = incident_of(world)
    answered(world, incident, ADA, BEN, **NONE)
    assert close(world.pipeline, incident.id, "ada").status is IncidentStatus.CLOSED
    assert unsettled_in_words(world.pipeline) == []


@pytest.fixture
def closed(world: FakeWorld) -> Incident:
    incident, prepared = opened(world)
    walk(world, signed(world, prepared))
    return close(world.pipeline, incident.id, "mal")


def test_what_is_due_of_a_closed_incident_is_reported_until_officers_settle_it(
    world: FakeWorld, closed: Incident
) -> None:
    (sentence,) = unsettled_in_words(world.pipeline)
    assert sentence in overview(world.pipeline, duties=[sentence]).attention
    assert f"{closed.id} is closed, and officers have not signed" in sentence
    assert "individuals by 2026-03-" in sentence
    assert "(164.404)" in sentence
    assert [each.alert.text for each in notices(world.pipeline) if "/unsettled/" in each.alert.key] == [f"{sentence}."]
    answered(world, closed, ADA, **BREACH)
    assert "HHS by 2026-03-" in unsettled_in_words(world.pipeline)[0], "what adds to the duties holds at once"
    answered(world, closed, ADA, BEN, **BREACH)
    assert unsettled_in_words(world.pipeline) == []
    answered(world, closed, affected={"Utah": 900})
    assert "media of Utah" in unsettled_in_words(world.pipeline)[0]


CEM = Officer("Cem", "C" * 40)


def asking_for(world: FakeWorld, required: int) -> None:
    """Officers pin a roster of three that asks for so many signatures."""
    roster = Roster(required, (*ROSTER.officers, CEM), ROSTER.recipients)
    pinned = world.ledger.pinned_roster()
    assert pinned is not None
    world.signatures.configured = roster
    policy = open_policy(world.pipeline, reason="another threshold", requested_by="dba")
    for officer in pinned.officers:
        sign(world, policy, officer.fingerprint)
    change_policy(world.pipeline, policy)


def test_a_threshold_that_is_lowered_afterwards_settles_nothing(world: FakeWorld, closed: Incident) -> None:
    asking_for(world, 3)
    answered(world, closed, ADA, BEN, **NONE)
    asking_for(world, 2)
    found = assessment_of(world.pipeline, closed)
    assert (found.is_settled, found.in_force.outcome) == (False, Outcome.UNDECIDED)
    assert "individuals by 2026-03-" in unsettled_in_words(world.pipeline)[0]
    assert any("in force with 1 more signature" in line for line in found.lines())
    assert not world.ledger.replayed().is_settled_as_none(closed.id)
    text = text_to_sign(world.pipeline, found)
    signed_again = AssessmentSigned(closed.id, ADA, FakeSignatures.sign(ADA, text).hex(), text.decode())
    world.ledger.append(signed_again)
    assert not assessment_of(world.pipeline, closed).is_settled, "the same signature once more"
    assert not world.ledger.replayed().is_settled_as_none(closed.id)
    with pytest.raises(ApprovalError, match="another officer must sign them too, or give an answer again"):
        sign_assessment(world.pipeline, closed.id, FakeSignatures.sign(ADA, text))
    sign_assessment(world.pipeline, closed.id, FakeSignatures.sign(CEM.fingerprint, text))
    found = assessment_of(world.pipeline, closed)
    assert (found.is_settled_as_none, unsettled_in_words(world.pipeline)) == (True, [])
    assert world.ledger.replayed().is_settled_as_none(closed.id)


def test_a_threshold_that_is_raised_afterwards_unsettles_nothing(world: FakeWorld, closed: Incident) -> None:
    answered(world, closed, ADA, BEN, **NONE)
    asking_for(world, 3)
    assert (assessment_of(world.pipeline, closed).is_settled_as_none, unsettled_in_words(world.pipeline)) == (True, [])
    assert world.ledger.replayed().is_settled_as_none(closed.id)


def test_officers_whom_nobody_pinned_settle_nothing(world: FakeWorld, closed: Incident) -> None:
    answered(world, closed, ADA, BEN, **NONE)
    world.ledger.refuses = False
    world.ledger.append(RosterPinned.of(Roster(1, ROSTER.officers, ROSTER.recipients)))
    assert len(unsettled_in_words(world.pipeline)) == 1
