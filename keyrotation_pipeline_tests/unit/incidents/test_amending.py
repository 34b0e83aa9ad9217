"""What people add to an incident after it was opened, and the notices that they have sent."""

from datetime import date, timedelta

import pytest

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.assessing import assessment_of, unsettled_in_words
from keyrotation_pipeline.incidents.handling import amend, close, record_notice
from keyrotation_pipeline.incidents.report import FOR_PEOPLE, incident_report, kept_report
from keyrotation_pipeline.model.incident_events import IncidentAmended
from keyrotation_pipeline.model.incidents import Incident, IncidentType
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline_tests.fakes import START, V1, V2, FakeWorld
from keyrotation_pipeline_tests.unit.incidents.cases import opened, signed, walk
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

TEXTS = {"scope": "the web log", "impact": "low: one host", "root_cause": "a debug line", "lessons": "scan logs"}
DISCOVERED = (START - timedelta(hours=1)).date()


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def closed(world: FakeWorld) -> Incident:
    incident, prepared = opened(world)
    walk(world, signed(world, prepared))
    return close(world.pipeline, incident.id, "ben@clinic", root_cause="a bug")


def test_everything_of_the_source_procedures_form_is_in_the_report(world: FakeWorld) -> None:
    incident = closed(world)
    before = incident_report(world.pipeline, incident.id).markdown()
    assert before.count("incident amend takes it") == 2
    amend(
        world.pipeline, incident.id, "ada@clinic", {**TEXTS, "remediation": "removed it"},
        ["revoked the login"], ["review of log lines"],
    )  # fmt: skip
    amend(world.pipeline, incident.id, "ada@clinic", {}, ["told the vendor"])
    report = incident_report(world.pipeline, incident.id)
    lines = {section.heading: section.lines for section in report.sections}
    assert ("Severity", "low: one host") in report.facts
    assert "Scope: the web log" in lines["Summary"]
    assert lines["Root Cause"] == ("a debug line",), "the newest text counts"
    assert lines["Remediation"][1:] == (
        "Action taken: revoked the login", "Action taken: told the vendor", "removed it",
        "Prevention measure: review of log lines",
    )  # fmt: skip
    assert lines["Lessons Learned"][-1] == "scan logs"
    moment = f"{START:%Y-%m-%d %H:%M:%S} UTC: "
    assert f"{moment}action taken: told the vendor (reported by ada@clinic)" in lines["Timeline"]
    assert f"{moment}scope, impact, root cause, remediation, lessons written by ada@clinic" in lines["Timeline"]
    assert FOR_PEOPLE not in str(lines)


def test_each_change_is_an_event_with_its_author_and_a_new_version_of_the_report(world: FakeWorld) -> None:
    incident, _ = opened(world)
    first = kept_report(world.pipeline, incident.id).number
    amend(world.pipeline, incident.id, "ada@clinic", {"scope": "one log"})
    (event,) = recorded(world.ledger, IncidentAmended)
    assert (event.by, event.at, event.scope, event.lessons) == ("ada@clinic", START, "one log", None)
    assert kept_report(world.pipeline, incident.id).number == first + 1


def test_closing_without_a_text_leaves_the_one_that_was_there(world: FakeWorld) -> None:
    incident, prepared = opened(world)
    amend(world.pipeline, incident.id, "ada@clinic", {"root_cause": "a bug"})
    walk(world, signed(world, prepared))
    assert close(world.pipeline, incident.id, "ben@clinic", lessons="none").root_cause == "a bug"


@pytest.mark.parametrize(
    ("texts", "actions", "sentence"),
    [
        pytest.param({}, [], "nothing is given to add", id="nothing"),
        pytest.param({"scope": "two\nlines"}, [], "its scope holds line breaks", id="lines"),
        pytest.param({}, [f"put {'A' * 43}= back"], "its action holds what looks like a key", id="a key"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    world: FakeWorld, texts: dict[str, str], actions: list[str], sentence: str
) -> None:
    incident, _ = opened(world)
    with pytest.raises(IncidentError, match=sentence):
        amend(world.pipeline, incident.id, "ada@clinic", texts, actions)
    assert list(recorded(world.ledger, IncidentAmended)) == []


def test_a_notice_that_was_sent_meets_its_deadline_and_no_other(world: FakeWorld) -> None:
    incident = closed(world)
    assert "individuals by" in unsettled_in_words(world.pipeline)[0]
    record_notice(world.pipeline, incident.id, "ada@clinic", "Individuals", DISCOVERED)
    record_notice(world.pipeline, incident.id, "ada@clinic", "individuals", DISCOVERED)
    found = incidents(world.ledger).incident(incident.id)
    assert [each.to for each in found.notices] == ["individuals"], "again is no change"
    lines = assessment_of(world.pipeline, found).lines()
    assert f"Notice to individuals: sent {DISCOVERED}, in time (164.404), reported by ada@clinic" in lines
    assert any(line.startswith("Notice to HHS: without unreasonable delay") for line in lines)
    (duty,) = unsettled_in_words(world.pipeline)
    assert "individuals by" not in duty
    assert "HHS by" in duty
    assert any(
        "notice to individuals of" in line for line in incident_report(world.pipeline, incident.id).sections[1].lines
    )

    for to in ("hhs", "media of Ohio"):
        record_notice(world.pipeline, incident.id, "ada@clinic", to, DISCOVERED)
    (duty,) = unsettled_in_words(world.pipeline)
    assert "media by" in duty, "media of one State are not those of every State"
    lines = assessment_of(world.pipeline, incidents(world.ledger).incident(incident.id)).lines()
    assert not any(line.startswith("Notice to media: sent") for line in lines)
    record_notice(world.pipeline, incident.id, "ada@clinic", "media", DISCOVERED)
    (duty,) = unsettled_in_words(world.pipeline)
    assert "notices are due to nobody any more" in duty
    assert "officers have not signed whether it is a breach" in duty, "one person alone does not settle it"


def test_a_notice_after_its_last_date_is_late(world: FakeWorld) -> None:
    incident, _ = opened(world)
    world.clock.at += timedelta(days=90)
    record_notice(world.pipeline, incident.id, "ada@clinic", "individuals", DISCOVERED + timedelta(days=61))
    found = incidents(world.ledger).incident(incident.id)
    assert any(", late (164.404)" in line for line in assessment_of(world.pipeline, found).lines())


@pytest.mark.parametrize(
    ("to", "day", "sentence"),
    [
        pytest.param("the press", DISCOVERED, "goes to individuals, HHS, media, media of STATE", id="nobody"),
        pytest.param("media of STATE", DISCOVERED + timedelta(days=9), "is in the future", id="future"),
        pytest.param("HHS", date(2025, 1, 1), "is before the discovery", id="before discovery"),
    ],
)
def test_a_notice_that_cannot_be_right_is_refused(world: FakeWorld, to: str, day: date, sentence: str) -> None:
    incident, _ = opened(world)
    with pytest.raises(IncidentError, match=sentence):
        record_notice(world.pipeline, incident.id, "ada@clinic", to, day)
    assert incidents(world.ledger).incident(incident.id).notices == ()


def test_an_incident_of_another_type_holds_every_live_key_and_prepares_its_request(world: FakeWorld) -> None:
    incident, prepared = opened(world, type="other", description="a laptop was stolen")
    assert (incident.type, incident.versions) == (IncidentType.OTHER, (V1,))
    assert (prepared.target, prepared.incident) == (V2, incident.id)
    assert len(overview(world.pipeline).incidents) == 1
