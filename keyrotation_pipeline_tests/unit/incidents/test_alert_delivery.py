"""Who is notified of what and when: once by each channel, to whom appendix B names, never in the way of a rotation."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

import pytest

from keyrotation_pipeline.errors import AlertError
from keyrotation_pipeline.incidents.alerts import Channels, deliver, notices
from keyrotation_pipeline.incidents.handling import acknowledge
from keyrotation_pipeline.model.approval import Officer, Roster
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backups import CertificateStatus
from keyrotation_pipeline.model.incidents import Alert, Contact, ContactRole
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline_tests.fakes import ROSTER, FakeWorld
from keyrotation_pipeline_tests.unit.incidents.cases import opened, signed, walk
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation


@dataclass
class FakeChannel:
    """`AlertChannel` that keeps what it took, or refuses."""

    name: str
    down: bool = False
    took: list[Alert] = field(default_factory=list)

    def deliver(self, alert: Alert) -> None:
        if self.down:
            raise AlertError(f"{self.name} does not answer; check it")
        self.took.append(alert)

    @property
    def keys(self) -> list[str]:
        return [each.key for each in self.took]


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


@dataclass
class People:
    world: FakeWorld
    topic: FakeChannel = field(default_factory=lambda: FakeChannel("topic"))
    mail: dict[ContactRole, FakeChannel] = field(
        default_factory=lambda: {role: FakeChannel(f"mail to {role}") for role in ContactRole}
    )

    def reported(self, after: timedelta = timedelta(0), **also: list[str]) -> tuple[str, ...]:
        self.world.clock.at += after
        by_role = {role: (channel,) for role, channel in self.mail.items()}
        channels = Channels((self.topic,), by_role, (Contact(ContactRole.ON_CALL, "Zoe", phone="+1 555 0100"),))
        news = notices(self.world.pipeline, channels.contacts, **also)  # type: ignore[arg-type]
        return deliver(self.world.pipeline, channels, news)


def test_the_officers_get_the_exact_text_to_sign(world: FakeWorld) -> None:
    incident, prepared = opened(world)
    people = People(world)
    assert people.reported() == ()
    (to_sign,) = people.mail[ContactRole.OFFICER].took
    assert to_sign.key == f"incident/{incident.id}/sign/{prepared.id}"
    assert world.ledger.approval_text(prepared.id).decode() in to_sign.text
    assert f"`keyrotation approve {prepared.id}` shows it again" in to_sign.text
    (called,) = people.mail[ContactRole.ON_CALL].took
    assert "on-call: Zoe, +1 555 0100" in called.text


def test_the_officers_are_told_how_many_of_them_must_sign(world: FakeWorld) -> None:
    roster = Roster(3, (*ROSTER.officers, Officer("Cem", "C" * 40)), ROSTER.recipients)
    world.signatures.configured = roster
    world.keys.roster = roster.digest
    world.ledger.begin_with(roster, *world.ledger.keys())
    opened(world)
    people = People(world)
    people.reported()
    (to_sign,) = people.mail[ContactRole.OFFICER].took
    assert "3 of 3 officers sign exactly this text; until then no key changes" in to_sign.text


def test_escalation_continues_until_somebody_acknowledges(world: FakeWorld) -> None:
    incident, _ = opened(world)
    people, lead = People(world), ContactRole.DEVOPS_LEAD
    people.reported(timedelta(minutes=29))
    assert people.mail[lead].keys == []
    people.reported(timedelta(minutes=1))
    assert people.mail[lead].keys == [f"incident/{incident.id}/escalated/devops-lead"]
    acknowledge(world.pipeline, incident.id, "zoe")
    people.reported(timedelta(hours=1))
    assert f"incident/{incident.id}/escalated/security-officer" not in people.topic.keys


def test_each_threshold_of_the_clock_is_reported_once(world: FakeWorld) -> None:
    incident, _ = opened(world)  # discovered an hour ago
    people = People(world)
    for _ in range(60):
        people.reported(timedelta(hours=1))
    reported = Counter(people.topic.keys)
    stages = {key.split("/")[2] for key in reported if key.rsplit("/", 1)[1] in {"50", "80", "100"}}
    assert stages == {"assessed", "dual_key", "reencrypted", "retired_and_audited"}
    assert all(
        reported[f"incident/{incident.id}/{stage}/{percent}"] == 1
        for stage in ("dual_key", "reencrypted")
        for percent in (50, 80, 100)
    )
    assert set(reported.values()) == {1}


def test_compliance_is_notified_when_officers_have_signed(world: FakeWorld) -> None:
    incident, prepared = opened(world)
    people = People(world)
    people.reported()
    assert people.mail[ContactRole.COMPLIANCE_OFFICER].took == []
    signed(world, prepared)
    people.reported()
    assert people.mail[ContactRole.COMPLIANCE_OFFICER].keys == [f"incident/{incident.id}/breach-assessment"]


def test_a_channel_that_is_down_is_visible_stops_nothing_and_is_tried_again(world: FakeWorld) -> None:
    _, prepared = opened(world)
    people = People(world, FakeChannel("topic", down=True))
    assert people.reported() == ("topic does not answer; check it",)
    assert people.mail[ContactRole.ON_CALL].keys
    people.reported()
    assert world.ledger.event_names().count("alert_channel_failed") == 1
    assert any("alerts do not reach topic since" in each for each in overview(world.pipeline).attention)
    walk(world, signed(world, prepared))
    people.topic.down = False
    people.reported()
    assert people.topic.keys
    assert not any("alerts do not reach" in each for each in overview(world.pipeline).attention)


def test_failures_checks_and_attention_are_reported_once_in_their_time(world: FakeWorld) -> None:
    people = People(world)
    for _ in range(3):
        facts = {"run": "r", "job": "backup", "subject": None, "attempt": None}
        world.ledger.append(Note(EventKind.RUN_FAILED, facts))
        people.reported(attention=["the last backup is of 2026-01-01"], failed_checks=[("a/b", "it fails")])  # type: ignore[list-item]
    assert [key.split("/")[0] for key in people.topic.keys] == ["run", "check", "attention"]
    people.reported(timedelta(days=8), attention=["the last backup is of 2026-01-09"])
    assert [key.split("/")[0] for key in people.topic.keys] == ["run", "check", "attention", "attention"]


def test_nothing_is_news_where_nothing_happened(world: FakeWorld) -> None:
    assert notices(world.pipeline) == ()


def test_a_certificate_that_ends_is_announced_sixty_thirty_and_seven_days_before(world: FakeWorld) -> None:
    people = People(world)
    ends_at = world.clock.now() + timedelta(days=70)
    world.signatures.standings = (CertificateStatus("certificate ada.asc", False, ends_at, fingerprint="A" * 40),)
    told = []
    for _ in range(75):
        people.reported(timedelta(days=1))
        told.append(len(people.topic.took))
    assert [day for day, (before, after) in enumerate(pairwise([0, *told]), 1) if after > before] == [10, 40, 63]
    assert all(key.startswith(f"certificate/{'A' * 40}/signatures/") for key in people.topic.keys)
    assert people.mail[ContactRole.SECURITY_OFFICER].keys == people.topic.keys
