"""Nobody is paged by a rotation that goes well, whoever carries it out; who must act is alerted, with what is open."""

from collections.abc import Callable
from datetime import timedelta

import dagster as dg
import pytest

from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.incidents import Alert, Severity
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, Walk
from keyrotation_pipeline.monitoring.due import due_rotation
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.defs.conftest import Dagster, channels
from keyrotation_pipeline_tests.fakes import START, FakeWorld
from keyrotation_pipeline_tests.fakes.journal import ProcessKilled
from keyrotation_pipeline_tests.unit.incidents.test_alert_delivery import FakeChannel
from keyrotation_pipeline_tests.unit.rotation.requests import approved as approved_in
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

Walked = Callable[[Step | None], Walk]
NOT_OVERDUE = dg.AssetCheckKey(dg.AssetKey("primary_key_rollout"), "rotation_not_overdue")
A_YEAR = timedelta(days=365)


@pytest.fixture
def topic(dagster: Dagster) -> FakeChannel:
    """What people get; whatever is wrong in a world of fakes before the rotation is news no longer."""
    topic = FakeChannel("topic")
    channels["test"] = Channels((topic,))
    dagster.world.ledger.save_counts(dagster.world.pipeline.inventory.count(dagster.world.pipeline.tables))
    dagster.check_run()
    dagster.tick("alert_delivery")
    topic.took.clear()
    return topic


def look(dagster: Dagster) -> None:
    """Twice the mirror: what it shows outdates evaluations."""
    for sensor in ("ledger_mirror", "ledger_mirror", "alert_delivery"):
        dagster.tick(sensor)


def pages(topic: FakeChannel) -> list[Alert]:
    """What somebody has to look at; dates and announcements are no such thing."""
    return [each for each in topic.took if each.severity is not Severity.INFO]


def test_a_rotation_on_the_command_line_pages_nobody(dagster: Dagster, topic: FakeChannel, walked: Walked) -> None:
    look(dagster)
    for step in WALK:
        walked(step)
        look(dagster)
    assert pages(topic) == []


def test_a_rotation_by_the_conductor_pages_nobody_nor_do_the_checks_of_a_morning(
    dagster: Dagster, topic: FakeChannel, approved: Walk
) -> None:
    jobs: list[str | None] = []
    look(dagster)
    while "evidence" not in jobs:
        result = dagster.tick()
        assert isinstance(result, dg.SensorResult)
        for wanted in result.run_requests or ():
            assert dagster.run(wanted).success
            jobs.append(wanted.job_name)
            look(dagster)
            dagster.check_run(**{"dagster/schedule_name": "rotation_calendar"})
            look(dagster)
    assert pages(topic) == []


def test_at_no_moment_of_a_rotation_does_status_ask_for_attention() -> None:
    world = before_any_rotation()
    world.ledger.save_counts(world.pipeline.inventory.count(world.pipeline.tables))
    rotation, allowed, deaths = approved_in(world), 0, 0
    before = overview(world.pipeline).attention
    while world.ledger.walk(rotation.id).status is not RequestStatus.FINISHED:
        steps = world.ledger.walk(rotation.id).steps
        world.journal.die_at = len(world.journal.entries) + allowed
        try:
            for _ in runner.run(world.pipeline, rotation.id, world.report):
                pass
        except ProcessKilled:
            world.ledger.locks.clear()
            deaths += 1
            allowed = allowed + 1 if world.ledger.walk(rotation.id).steps == steps else 0
        world.journal.die_at = None
        assert set(overview(world.pipeline).attention) <= set(before)
    assert deaths > len(WALK)


def requested_in(world: FakeWorld) -> Walk:
    return open_request(world.pipeline, reason="yearly", requested_by="test")


def paused_in(world: FakeWorld) -> Walk:
    rotation = approved_in(world)
    world.ledger.set_status(rotation.id, RequestStatus.PAUSED)
    return rotation


def begun_in(world: FakeWorld) -> Walk:
    rotation = approved_in(world)
    for _ in runner.run(world.pipeline, rotation.id, world.report, Step.DUAL_KEY_ROLLOUT):
        pass
    return rotation


def blocked_in(world: FakeWorld) -> Walk:
    rotation = begun_in(world)
    world.ledger.block(rotation.id, "the key store refuses it; grant the right")
    return rotation


@pytest.mark.parametrize(
    ("opened", "attention", "warning"),
    [
        pytest.param(None, "run `keyrotation request --reason TEXT`", None, id="none"),
        pytest.param(requested_in, "rotation {id} needs 2 more approvals; sign with", None, id="unsigned"),
        pytest.param(paused_in, "rotation {id} is paused; continue with", None, id="paused"),
        pytest.param(blocked_in, "rotate {id} is blocked; see `keyrotation status`", None, id="blocked"),
        pytest.param(approved_in, None, "rotate {id} is approved", id="approved"),
        pytest.param(begun_in, None, "rotate {id} is under way", id="running"),
    ],
)
def test_what_is_overdue_says_what_is_open_and_asks_for_nobody_while_that_runs(
    opened: Callable[[FakeWorld], Walk] | None, attention: str | None, warning: str | None
) -> None:
    world = before_any_rotation()
    world.clock.at += A_YEAR + timedelta(days=1)
    world.signatures.signed_at = world.clock.at
    rotation = opened(world) if opened else None
    shown = overview(world.pipeline)
    said = {
        name: [each for each in sentences if each.startswith("a rotation was due by")]
        for name, sentences in (("attention", shown.attention), ("warnings", shown.warnings))
    }
    for name, sentence in (("attention", attention), ("warnings", warning)):
        wanted = sentence.format(id=rotation.id if rotation else "") if sentence else None
        assert [f"UTC; {wanted}" in each for each in said[name]] == ([True] if wanted else []), said
    assert ("run `keyrotation request" in str(said)) is (rotation is None)


@pytest.mark.parametrize("now", [START], ids=["on a known day"])
@pytest.mark.parametrize(
    ("days", "passed", "severity"),
    [
        pytest.param(320, True, dg.AssetCheckSeverity.WARN, id="due soon, so in time"),
        pytest.param(366, False, dg.AssetCheckSeverity.WARN, id="overdue, and somebody works at it"),
    ],
)
def test_the_check_of_the_morning_is_corrected_when_a_rotation_is_approved(
    dagster: Dagster, topic: FakeChannel, days: int, passed: bool, severity: dg.AssetCheckSeverity
) -> None:
    world = dagster.world
    world.clock.at = world.signatures.signed_at = START + timedelta(days=days)
    assert "keyrotation request" in str(dagster.check("rotation_not_overdue", "primary_key_rollout").description)
    rotation = approved_in(world)
    dagster.tick("ledger_mirror")
    found = dagster.instance.event_log_storage.get_latest_asset_check_execution_by_key([NOT_OVERDUE])[NOT_OVERDUE]
    assert found.evaluation is not None
    assert (found.evaluation.passed, found.evaluation.severity) == (passed, severity)
    assert f"rotate {rotation.id} is approved" in str(found.evaluation.description)
    topic.took.clear()
    world.clock.at += timedelta(days=1)
    dagster.tick("alert_delivery")
    assert [each.key for each in pages(topic) if "not_overdue" in each.key or "was due" in each.text] == []
    assert dagster.tick("ledger_mirror") == dg.SkipReason("Dagster shows every step that the ledger has")


@pytest.mark.parametrize(("days", "in_time"), [(364, True), (366, False)], ids=["before it is due", "after it is due"])
def test_a_rotation_that_is_planned_for_later_than_it_is_due_is_not_in_time(days: int, in_time: bool) -> None:
    world = before_any_rotation()
    world.clock.at = START + timedelta(days=320)
    request = open_request(
        world.pipeline, reason="yearly", requested_by="test", not_before=START + timedelta(days=days)
    )
    found = due_rotation(Situation(world.pipeline), request.source)
    assert found is not None
    assert found.in_time is in_time
