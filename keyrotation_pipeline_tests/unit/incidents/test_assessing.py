"""Answers to the breach decision: what adds to the duties holds at once, what lightens them takes two officers."""

from dataclasses import replace
from datetime import date, time, timedelta
from typing import Any

import pytest

from keyrotation_pipeline.audit.assessments import Assessment, assessment_from
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.errors import ApprovalError, AuditError, IncidentError
from keyrotation_pipeline.incidents.assessing import (
    answers_in,
    assess,
    assessed,
    assessment_of,
    sign_assessment,
    text_to_sign,
)
from keyrotation_pipeline.incidents.handling import close
from keyrotation_pipeline.incidents.report import incident_report, kept_report, version, versions
from keyrotation_pipeline.model.approval import Officer, Roster, rendered, signed_fields
from keyrotation_pipeline.model.breach import (
    AssessmentSigned,
    BreachAnswers,
    Outcome,
)
from keyrotation_pipeline.model.earlier_summaries import FIRST_ASSESSMENT
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.request_events import RosterPinned
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.model.signed_summary import ASSESSMENT
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline_tests.fakes import ROSTER, FakeSignatures, FakeWorld
from keyrotation_pipeline_tests.signed_texts import with_lines
from keyrotation_pipeline_tests.unit.incidents.cases import opened
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, before_any_rotation

LOW = {
    "key_kept_apart": "yes", "ciphertext_reached": "yes", "plaintext_reached": "no", "nature_of_phi": "names only",
    "unauthorised_person": "a colleague", "acquired_or_viewed": "not viewed", "mitigation": "returned, attested",
    "low_probability": True,
}  # fmt: skip
SECURED = {"key_breached": "no", "key_kept_apart": "yes", "ciphertext_reached": "yes", "plaintext_reached": "no"}
NOTHING_REACHED = {"ciphertext_reached": "no", "plaintext_reached": "no"}
LARGE = {"ciphertext_reached": "yes", "affected": {"Ohio": 501, "Utah": 20}, "count_complete": True}


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


@pytest.fixture
def incident(world: FakeWorld) -> Incident:
    return opened(world)[0]


def said(world: FakeWorld, incident: Incident, **answers: Any) -> Assessment:  # noqa: ANN401  of any question
    return assess(world.pipeline, incident.id, answers_in(answers), "ada@clinic")


def sign(world: FakeWorld, incident: Incident, officer: str) -> Assessment:
    text = text_to_sign(world.pipeline, assessment_of(world.pipeline, incident))
    world.signatures.signed_at = world.clock.now()
    return sign_assessment(world.pipeline, incident.id, FakeSignatures.sign(officer, text))[1]


def dates(assessment: Assessment) -> dict[str, date]:
    return {each.to: each.last_date for each in assessment.in_force.notices}


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        pytest.param(LOW, Outcome.NO_BREACH, id="164.402(2): low probability"),
        pytest.param(SECURED, Outcome.SAFE_HARBOR, id="164.402: secured"),
        pytest.param(NOTHING_REACHED, Outcome.NO_BREACH, id="164.402: nothing reached"),
        pytest.param({"exclusion": "good-faith-access"}, Outcome.NO_BREACH, id="164.402(1)(i)"),
    ],
)
def test_no_single_person_ends_the_duty_to_notify(
    world: FakeWorld, incident: Incident, answers: dict[str, Any], outcome: Outcome
) -> None:
    presumed = assessment_of(world.pipeline, incident).in_force
    alone = said(world, incident, **answers)
    assert alone.answered is not None
    assert (alone.in_force, alone.answered.outcome) == (presumed, outcome)
    assert sign(world, incident, ADA).in_force == presumed
    both = sign(world, incident, BEN)
    assert (both.in_force.outcome, both.answered, both.signed_by) == (outcome, None, ("Ada", "Ben"))


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param({"role": "business associate"}, id="164.410: only the covered entity is told"),
        pytest.param({"affected": {"Ohio": 40}, "count_complete": True}, id="164.408(c): fewer than 500"),
        pytest.param({"known_on": "2026-03-01"}, id="164.404(a)(2): discovered later"),
        pytest.param({"delays": [{"stated_on": "2026-01-10", "until": "2026-06-01"}]}, id="164.412: a delay"),
    ],
)
def test_what_only_lightens_a_duty_waits_for_signatures_too(
    world: FakeWorld, incident: Incident, answers: dict[str, Any]
) -> None:
    before = said(world, incident, ciphertext_reached="yes")
    alone = said(world, incident, **answers)
    assert set(before.in_force.notices) <= set(alone.in_force.notices)
    assert alone.in_force.outcome is before.in_force.outcome
    assert alone.answered is not None
    assert any("in force with 2 more signatures" in line for line in alone.lines())
    sign(world, incident, ADA)
    assert sign(world, incident, BEN).in_force == alone.answered


def test_what_adds_to_the_duties_holds_at_once(world: FakeWorld, incident: Incident) -> None:
    found = said(world, incident, **LARGE)
    assert found.answered is None
    assert found.in_force.outcome is Outcome.NOTIFY
    assert set(dates(found)) == {"individuals", "media of Ohio", "HHS"}


def test_a_count_raised_later_holds_at_once_also_against_what_was_signed(world: FakeWorld, incident: Incident) -> None:
    said(world, incident, ciphertext_reached="yes", affected={"Ohio": 40}, count_complete=True)
    sign(world, incident, ADA)
    assert dates(sign(world, incident, BEN))["HHS"] == date(2027, 3, 1)
    raised = said(world, incident, affected={"Ohio": 501})
    assert (raised.answered, raised.signed_by) == (None, ())
    assert dates(raised)["HHS"] == dates(raised)["individuals"] == dates(raised)["media of Ohio"]
    lowered = said(world, incident, affected={"Ohio": 39})
    assert dates(lowered) == dates(raised), "whoever raised it does not lower it alone"
    assert lowered.answered is not None


@pytest.mark.parametrize(
    ("affected", "sentence"),
    [
        pytest.param({"elsewhere": 600}, "write --elsewhere-unknown N", id="elsewhere"),
        pytest.param({"Unknown": 600}, "write --elsewhere-unknown N", id="unknown"),
        pytest.param({"Ohio": 300, "ohio": 300}, "one State is named twice", id="twice"),
    ],
)
def test_people_are_counted_by_states_that_there_are(affected: dict[str, int], sentence: str) -> None:
    with pytest.raises(IncidentError, match=sentence):
        answers_in({"affected": affected})


def test_a_state_written_in_other_letters_is_the_same_state(world: FakeWorld, incident: Incident) -> None:
    said(world, incident, ciphertext_reached="yes", affected={"Ohio": 400})
    found = said(world, incident, affected={"OHIO": 501})
    assert found.answers.affected == {"Ohio": 501}
    assert "media of Ohio" in dates(found)


def test_answers_that_add_and_lighten_add_only(world: FakeWorld, incident: Incident) -> None:
    said(world, incident, ciphertext_reached="yes", affected={"Ohio": 700})
    both = said(world, incident, affected={"Utah": 900}, role="covered entity", known_on="2026-03-01")
    assert both.answered is not None
    assert {"individuals", "media of Ohio", "media of Utah", "HHS"} <= set(dates(both))


def test_a_signature_is_over_these_answers_and_no_others(world: FakeWorld, incident: Incident) -> None:
    said(world, incident, **SECURED)
    text = text_to_sign(world.pipeline, assessment_of(world.pipeline, incident))
    assert b"\nDecision: secured PHI: no notification\nNotices: none\n" in text
    assert b"key breached: no\n" in text
    sign(world, incident, ADA)
    with pytest.raises(ApprovalError, match="Ada has signed these answers already"):
        sign(world, incident, ADA)
    changed = said(world, incident, mitigation="none at all")
    assert changed.signed_by == ()
    with pytest.raises(ApprovalError):
        sign_assessment(world.pipeline, incident.id, FakeSignatures.sign(BEN, text))
    # Whoever can write events writes one with a signature over what was signed before, or over another's text.
    world.ledger.refuses = False
    for signed, fault in ((text, "another line Answers than its facts"), (b"anything", "that nobody can have signed")):
        signature = FakeSignatures.sign(BEN, signed).hex()
        world.ledger.append(AssessmentSigned(incident.id, BEN, signature, signed.decode()))
        assert fault in str(assessed(world.pipeline.ledger)[-1].fault)
    assert assessment_from(assessed(world.pipeline.ledger), incident).signed_by == ()
    with pytest.raises(AuditError, match=r"\(breach_assessment_signed\) has a text"):
        assessment_of(world.pipeline, incident)


def test_signatures_of_a_roster_that_nobody_signed_for_make_the_audit_refused(
    world: FakeWorld, incident: Incident
) -> None:
    said(world, incident, **SECURED)
    forged = Roster(1, (replace(ROSTER.officers[0], fingerprint="E" * 40, name="Eve"),), ROSTER.recipients)
    world.ledger.refuses = False
    world.ledger.append(RosterPinned.of(forged))
    text = text_to_sign(world.pipeline, assessment_of(world.pipeline, incident))
    world.ledger.append(
        AssessmentSigned(incident.id, "E" * 40, FakeSignatures.sign("E" * 40, text).hex(), text.decode())
    )
    with pytest.raises(AuditError):
        assessment_of(world.pipeline, incident)


def test_the_history_says_who_said_what(world: FakeWorld, incident: Incident) -> None:
    said(world, incident, key_breached="unknown")
    world.clock.at += timedelta(hours=1)
    said(world, incident, key_breached="no", affected={"Ohio": 12})
    sign(world, incident, ADA)
    reported = [sentence for _, sentence in assessment_of(world.pipeline, incident).history]
    assert reported == [
        "breach assessment by ada@clinic: key breached: unknown",
        "breach assessment by ada@clinic: key breached: no; affected: 12 of Ohio",
        "breach assessment signed by Ada",
    ]
    report = incident_report(world.pipeline, incident.id).markdown()
    assert all(sentence in report for sentence in reported)


@pytest.mark.parametrize(
    ("answers", "refusal"),
    [
        pytest.param({"key_breached": "perhaps"}, "the answer to key_breached is none", id="no answer"),
        pytest.param({"role": "hospital"}, "the answer to role", id="no role"),
        pytest.param({"known_on": "yesterday"}, "the answer to known_on", id="no date"),
        pytest.param({"known_on": time(9)}, "the answer to known_on", id="a time, as TOML has it"),
        pytest.param({"affected": {"Ohio": "2"}}, "the answer to affected.Ohio", id="a number as text"),
        pytest.param({"affected": {"Ohio": -1}}, "the answer to affected.Ohio", id="fewer than nobody"),
        pytest.param({"colour": "red"}, "'colour' is no question", id="no question"),
        pytest.param({"exclusion": "because"}, "the exclusion is none of none, good-faith-access", id="no exclusion"),
        pytest.param({"mitigation": "a\nDecision: none"}, "line breaks", id="a line that could pass for another"),
        pytest.param({"affected": {"Ohio\nDecision": 1}}, "line breaks", id="a State that could"),
        pytest.param({"nature_of_phi": "A" * 43 + "="}, "looks like a key", id="a key"),
    ],
)
def test_what_is_no_answer_is_refused_in_one_sentence(answers: dict[str, Any], refusal: str) -> None:
    with pytest.raises(IncidentError, match=refusal):
        answers_in(answers)


def test_a_day_may_be_one_of_toml() -> None:
    assert answers_in({"known_on": date(2026, 1, 2)}) == answers_in({"known_on": "2026-01-02"})


def test_nothing_is_signed_or_taken_in_where_nothing_is_answered(world: FakeWorld, incident: Incident) -> None:
    with pytest.raises(IncidentError, match="answer first, then sign"):
        text_to_sign(world.pipeline, assessment_of(world.pipeline, incident))
    with pytest.raises(IncidentError, match="nothing is answered"):
        assess(world.pipeline, incident.id, BreachAnswers(), "ada")


def test_each_change_gives_the_next_version_of_the_report_and_keeps_the_former(
    world: FakeWorld, incident: Incident
) -> None:
    first = kept_report(world.pipeline, incident.id)
    world.clock.at += timedelta(hours=5)
    assert kept_report(world.pipeline, incident.id) == first, "time alone changes nothing"
    said(world, incident, key_breached="no")
    second = kept_report(world.pipeline, incident.id)
    assert (first.number, second.number) == (1, 2)
    assert "key breached: no" in second.markdown
    assert "key breached: no" not in version(world.pipeline.ledger, incident.id, 1).markdown
    head = world.ledger.state.events[-2]
    assert f"2, of audit event {head.seq} {head.hash}" in second.markdown
    assert f"2, of audit event {head.seq} {head.hash}" in second.html
    prepared = incidents(world.ledger).incident(incident.id).request
    world.ledger.set_status(str(prepared), RequestStatus.CANCELLED)
    said(world, incident, **NOTHING_REACHED)
    sign(world, incident, ADA)
    sign(world, incident, BEN)
    close(world.pipeline, incident.id, "ada", root_cause="a bug")
    assert said(world, incident, affected={"Ohio": 600}).since is not None, "a count is raised after the end, too"
    kept_report(world.pipeline, incident.id)
    assert [each.number for each in versions(world.pipeline.ledger, incident.id)] == [1, 2, 3]
    with pytest.raises(IncidentError, match=r"has 3 versions, and no 4"):
        version(world.pipeline.ledger, incident.id, 4)


def test_a_report_never_says_not_assessed_next_to_a_signed_assessment(world: FakeWorld, incident: Incident) -> None:
    said(world, incident, **NOTHING_REACHED)
    assert "not assessed" in incident_report(world.pipeline, incident.id).markdown()
    for officer in (ADA, BEN):
        sign(world, incident, officer)
    markdown = incident_report(world.pipeline, incident.id).markdown()
    assert "not assessed" not in markdown
    assert f"Assessed by people: {Outcome.NO_BREACH}, signed by " in markdown


CEM = Officer("Cem", "C" * 40)
WITHOUT_BEN = Roster(2, (ROSTER.officers[0], CEM), ROSTER.recipients)


def test_an_officer_who_has_left_counts_for_no_decision(world: FakeWorld, incident: Incident) -> None:
    alone = said(world, incident, **LOW)
    sign(world, incident, BEN)
    officers_change(world)
    late = sign(world, incident, ADA)
    assert (late.in_force, late.signed_by, late.is_settled) == (alone.in_force, ("Ada",), False)
    assert any("in force with 1 more signature" in line for line in late.lines())
    assert incident.id not in world.ledger.replayed().settled
    both = sign(world, incident, CEM.fingerprint)
    assert (both.in_force.outcome, both.is_settled) == (Outcome.NO_BREACH, True)
    assert incident.id in world.ledger.replayed().settled


def test_what_was_signed_under_the_first_form_stays_as_it_was(world: FakeWorld, incident: Incident) -> None:
    """Release 0.1.0 counted whoever had signed the answers."""
    said(world, incident, **LOW)
    now = assessment_of(world.pipeline, incident)
    assert now.since is not None
    text = text_to_sign(world.pipeline, now)
    fields = dict(signed_fields(text, ASSESSMENT)) | {"Audit event": str(now.since[0])}
    del fields["Audit head"]
    first = rendered(FIRST_ASSESSMENT, list(fields.items()))
    for officer in (BEN, ADA):
        signature = FakeSignatures.sign(officer, first).hex()
        world.ledger.append(AssessmentSigned(incident.id, officer, signature, first.decode()))
        if officer == BEN:
            officers_change(world)
    assert world.ledger.replayed().faults == ()
    assert assessment_of(world.pipeline, incident).in_force.outcome is Outcome.NO_BREACH


def test_what_officers_sign_of_a_breach_names_database_and_head(world: FakeWorld, incident: Incident) -> None:
    said(world, incident, **LOW)
    now = assessment_of(world.pipeline, incident)
    assert now.since is not None
    text = text_to_sign(world.pipeline, now)
    world.ledger.refuses = False  # what the database's owner writes
    head = f"{now.since[0]} {world.ledger.replayed().hash_at(now.since[0])}"
    assert f"\nAudit head: {head}\n" in text.decode()
    for name, value, fault in (
        ("Database", "other, system identifier 7", "is about an incident of another database"),
        ("Audit head", f"{now.since[0]} {'0' * 64}", "has a text with another line Audit head than its facts"),
    ):
        forged = with_lines(text, {name: value})
        signature = FakeSignatures.sign(ADA, forged).hex()
        world.ledger.append(AssessmentSigned(incident.id, ADA, signature, forged.decode()))
        assert assessed(world.pipeline.ledger)[-1].fault == fault


def officers_change(world: FakeWorld) -> None:
    """Ben leaves and Cem comes, by a policy that both signed while Ben was there."""
    world.signatures.configured = WITHOUT_BEN
    policy = open_policy(world.pipeline, reason="Ben leaves", requested_by="dba")
    text = world.ledger.approval_text(policy.id)
    for officer in (ADA, BEN):
        add_approval(world.pipeline, policy, FakeSignatures.sign(officer, text))
    change_policy(world.pipeline, policy)
