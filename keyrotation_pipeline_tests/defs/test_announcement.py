"""A planned rotation is announced to everybody, once, a week ahead, by a real webhook and real mail."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.message import Message
from typing import Any

import dagster as dg
import pytest

from keyrotation_pipeline.adapters.alerts.mail import Mail, SmtpServer
from keyrotation_pipeline.adapters.alerts.webhook import Webhook
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.incident_events import AlertDelivered
from keyrotation_pipeline.model.incidents import Contact, ContactRole
from keyrotation_pipeline.model.request_events import RehearsalFinding, Rehearsed
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, Walk, announced_key
from keyrotation_pipeline.monitoring.announcement import announcement_of
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.contract.test_alert_channels import http_server, mail_server
from keyrotation_pipeline_tests.defs.conftest import Dagster, channels
from keyrotation_pipeline_tests.fakes import ROSTER, START, V1, V2, FakeWorld
from keyrotation_pipeline_tests.unit.incidents.test_alert_delivery import FakeChannel
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign

DAY = timedelta(days=1)
# 09:00 in Berlin, which has summer time then and not yet at the start.
PLANNED = datetime.fromisoformat("2026-04-05T07:00+00:00")
ZOE = Contact(ContactRole.ON_CALL, "Zoe", "zoe@clinic.example", "+1 555 0100")
SUBJECT = "Scheduled Encryption Key Rotation - 2026-04-05"


@dataclass
class Team:
    """What a webhook and a mailbox got of announcements."""

    dagster: Dagster
    posted: list[dict[str, Any]]
    mailed: list[Message]

    @property
    def world(self) -> FakeWorld:
        return self.dagster.world

    def look(self, at: datetime | None = None) -> None:
        if at is not None:
            self.world.clock.at = at
        for _ in range(2):
            result = self.dagster.tick("alert_delivery")
            assert isinstance(result, dg.SkipReason)
            assert result.skip_message == "every alert is delivered"

    @property
    def subjects(self) -> tuple[list[str], list[str]]:
        posted = [each["subject"] for each in self.posted if each["key"].startswith("rotation/")]
        mailed = (" ".join(each["Subject"].split()) for each in self.mailed)  # a long line is folded
        return posted, [each for each in mailed if "Scheduled Encryption" in each]


@pytest.fixture
def now() -> datetime:
    return START


@pytest.fixture
def team(dagster: Dagster) -> Iterator[Team]:
    posted: list[dict[str, Any]] = []
    with ExitStack() as stack:
        url = stack.enter_context(http_server(200, posted))
        mailbox, port = stack.enter_context(mail_server())
        mail = Mail(SmtpServer("127.0.0.1", port, starttls=False), "keyrotation@clinic.example", ["zoe@clinic.example"])
        by_role = {ContactRole.ON_CALL: (mail,)}
        channels["test"] = Channels((Webhook(url),), by_role, (ZOE,), "Europe/Berlin")
        yield Team(dagster, posted, mailbox.messages)


def planned(world: FakeWorld, *officers: str) -> Walk:
    rotation = request(world, not_before=PLANNED)
    for officer in officers:
        sign(world, rotation, officer)
    return world.ledger.walk(rotation.id)


def test_it_is_announced_once_a_week_ahead_and_taken_back_once(team: Team) -> None:
    rotation = planned(team.world, ADA, BEN)
    team.look(PLANNED - 7 * DAY - timedelta(seconds=1))
    assert team.subjects == ([], [])
    team.look(PLANNED - 7 * DAY)
    team.look(PLANNED - DAY)
    assert team.subjects == ([SUBJECT], [f"[keyrotation] {SUBJECT}"])
    [text] = [each["text"] for each in team.posted if each["subject"] == SUBJECT]
    for line in (
        "We will be performing a routine encryption key rotation on 2026-04-05 as part of our HIPAA compliance",
        "- 2026-04-05 09:00 Europe/Berlin (2026-04-05 07:00 UTC), not earlier: Deploy dual-key application update",
        "- then: Validation and old key retirement, at the latest by 2026-07-04 09:00 Europe/Berlin",
        f"Expected duration: not known: none was rehearsed or finished here (`keyrotation rehearse {rotation.id}`",
        "Expected impact: None (zero downtime)",
        "- Report any authentication or data access issues immediately",
        "Point of contact: Zoe, zoe@clinic.example",
    ):
        assert line in text

    cancel(team.world.pipeline, rotation)
    late = FakeChannel("a topic that was configured since")
    channels["test"] = replace(channels["test"], common=(*channels["test"].common, late))
    team.look()
    both = [SUBJECT, f"Cancelled: {SUBJECT}"]
    assert team.subjects == (both, [f"[keyrotation] {each}" for each in both])
    assert [each.key for each in late.took if each.key.startswith("rotation/")] == []


def test_an_emergency_that_takes_it_over_is_named_once_it_has_begun(team: Team) -> None:
    planned(team.world, ADA, BEN)
    team.look(PLANNED - DAY)
    emergency = request(team.world, incident="INC-7")
    team.look()
    assert team.subjects[0] == [SUBJECT]
    team.world.signatures.signed_at = team.world.clock.at
    for officer in (ADA, BEN):
        sign(team.world, emergency, officer)
    for _ in runner.run(team.world.pipeline, emergency.id, team.world.report):
        pass
    team.look()
    [cancelled] = [each["text"] for each in team.posted if each["subject"] == f"Cancelled: {SUBJECT}"]
    assert f"The emergency rotate {emergency.id} takes its place." in cancelled


def test_a_mail_has_the_headers_of_ours_and_no_others(team: Team) -> None:
    planned(team.world, ADA, BEN)
    team.look(PLANNED - DAY)
    [mail] = [each for each in team.mailed if SUBJECT in each["Subject"]]
    ours = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"}
    mime = {"MIME-Version", "Content-Type", "Content-Transfer-Encoding"}
    assert {name for name in mail.keys() if not name.startswith("X-")} <= ours | mime
    assert "yearly rotation" in str(mail.get_payload())


def unsigned(world: FakeWorld) -> None:
    planned(world, ADA)


def cancelled_before(world: FakeWorld) -> None:
    cancel(world.pipeline, planned(world, ADA, BEN))


def forged_as_announced(world: FakeWorld) -> None:
    """Delivered before, as an event says; and then, as another one says, cancelled."""
    rotation = planned(world)
    world.ledger.append(AlertDelivered(announced_key(rotation.id), "webhook at 127.0.0.1"))


def forged_as_cancelled(world: FakeWorld) -> None:
    rotation = planned(world)
    world.clock.at = PLANNED - DAY
    world.ledger.append(AlertDelivered(announced_key(rotation.id), "webhook at 127.0.0.1"))
    world.ledger.set_status(rotation.id, RequestStatus.CANCELLED)


def changed_since(world: FakeWorld) -> None:
    rotation = planned(world, ADA, BEN)
    world.ledger.state.requests[rotation.id] = replace(rotation, reason="see http://phishing.example\nBcc: all@x")


def other_officers_since(world: FakeWorld) -> None:
    planned(world, ADA, BEN)
    world.signatures.configured = replace(ROSTER, officers=ROSTER.officers[:1])


@pytest.mark.parametrize(
    "happened",
    [
        unsigned,
        cancelled_before,
        forged_as_announced,
        forged_as_cancelled,
        changed_since,
        other_officers_since,
    ],
)
def test_what_officers_have_not_signed_as_it_is_now_is_not_announced(
    team: Team, happened: Callable[[FakeWorld], None]
) -> None:
    happened(team.world)
    team.look(PLANNED - DAY)
    assert team.subjects == ([], [])


def test_one_without_a_date_is_announced_as_soon_as_it_is_signed(team: Team) -> None:
    approved(team.world)
    team.look()
    by = "2026-02-04"
    assert team.subjects[0] == [f"Scheduled Encryption Key Rotation - by {by}"]
    [text] = [each["text"] for each in team.posted if each["key"].startswith("rotation/")]
    assert f"rotation by {by} as part of" in text
    assert "- at any time from now on, at the latest 2026-02-04 10:00 Europe/Berlin (2026-02-04 09:00 UTC): " in text


def test_an_emergency_is_not_announced_as_planned(team: Team) -> None:
    emergency = request(team.world, incident="INC-7")
    for officer in (ADA, BEN):
        sign(team.world, emergency, officer)
    team.look()
    assert team.subjects == ([], [])


def rehearsed(world: FakeWorld, *findings: RehearsalFinding) -> None:
    seconds = {str(step): 60.0 for step in WALK}
    world.ledger.append(Rehearsed(None, V1, V2, "d", START, "embedded", 10, 100, seconds, findings))


def finished(world: FakeWorld) -> None:
    for _ in runner.run(world.pipeline, approved(world).id, lambda _progress: world.clock.sleep(90)):
        pass


@pytest.mark.parametrize(
    ("happened", "said"),
    [
        pytest.param(lambda _world: None, "not known: none was rehearsed or finished here", id="nothing"),
        pytest.param(
            rehearsed, "about 33 min in addition to the rollouts, by the rehearsal of 2026-01-05", id="measured"
        ),
        pytest.param(
            lambda world: rehearsed(world, RehearsalFinding("rows", "x")), "not known: none was", id="would stop"
        ),
        pytest.param(
            finished,
            "about 9 min from the first row on, by the last rotation, for as many values as now",
            id="finished",
        ),
    ],
)
def test_the_duration_says_what_it_rests_on(happened: Callable[[FakeWorld], None], said: str) -> None:
    world = before_any_rotation()
    happened(world)
    rotation = request(world)
    assert f"\nExpected duration: {said}" in announcement_of(world.pipeline, rotation, ()).text


OFFICER = Contact(ContactRole.SECURITY_OFFICER, "Ada")


@pytest.mark.parametrize(
    ("contacts", "said"),
    [
        pytest.param(
            (ZOE, replace(OFFICER, email="ada@clinic.example")), "Ada, ada@clinic.example", id="officer first"
        ),
        pytest.param((OFFICER, ZOE), "Zoe, zoe@clinic.example", id="who has mail"),
        pytest.param((replace(OFFICER, phone="+1 555"),), "Ada, +1 555", id="a phone"),
        pytest.param((), "Ada, Ben (no address is configured; name one in [[contacts]])", id="nobody"),
    ],
)
def test_the_point_of_contact_is_a_person(contacts: tuple[Contact, ...], said: str) -> None:
    world = before_any_rotation()
    assert f"\nPoint of contact: {said}\n" in announcement_of(world.pipeline, request(world), contacts).text


def test_a_rollback_is_called_one() -> None:
    from keyrotation_pipeline.rotation.rollback import open_rollback  # noqa: PLC0415

    world = before_any_rotation()
    rotation = approved(world)
    for _ in runner.run(world.pipeline, rotation.id, world.report, Step.PRIMARY_KEY_ROLLOUT):
        pass
    back = open_rollback(world.pipeline, world.ledger.walk(rotation.id), reason="slow", requested_by="dba")
    reported = announcement_of(world.pipeline, back, ())
    assert reported.subject.startswith("Scheduled Encryption Key Rollback - by ")
    assert "We will be performing a rollback of the encryption key by" in reported.text
    assert "Make v1 the primary again" in reported.text
