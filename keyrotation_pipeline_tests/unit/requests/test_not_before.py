"""A request for a later day: it is signed at once, nothing of it starts before, and everybody is told when it does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from keyrotation_pipeline.cli.report import unambiguous_time
from keyrotation_pipeline.errors import ApprovalError, BlockedError, KeyRotationError, OutOfOrderError, RequestError
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.requests.conductor import Task, decide
from keyrotation_pipeline.requests.control import cancel
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, before_any_rotation, request, sign

LATER = START + timedelta(days=10)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


@pytest.fixture
def planned(world: FakeWorld) -> Walk:
    rotation = request(world, not_before=LATER + timedelta(microseconds=7))
    for officer in (ADA, BEN):
        sign(world, rotation, officer)
    return world.ledger.walk(rotation.id)


def test_it_is_signed_at_once_and_nothing_starts_before_its_date(world: FakeWorld, planned: Walk) -> None:
    sentence = f"rotation {planned.id} does not start before 2026-01-15 09:00 UTC; wait until then, or withdraw it with"
    world.clock.at = LATER - timedelta(microseconds=1)
    with pytest.raises(BlockedError, match=sentence):
        list(runner.run(world.pipeline, planned.id, world.report))
    with pytest.raises(OutOfOrderError, match="does not start before"):
        runner.run_step(world.pipeline, planned.id, Task(Step.KEY_VERSION), world.report)
    shown = overview(world.pipeline).rotation
    assert shown is not None
    assert str(shown.waiting_for).startswith(sentence)
    assert (world.ledger.walk(planned.id).steps, world.ledger.walk(planned.id).started_at) == ((), None)
    world.clock.at = LATER
    list(runner.run(world.pipeline, planned.id, world.report))
    assert world.ledger.walk(planned.id).status is RequestStatus.FINISHED


def test_its_dates_count_from_then_and_all_of_them_are_signed(world: FakeWorld, planned: Walk) -> None:
    assert planned.not_before == LATER
    assert (planned.start_by - LATER, planned.finish_by - LATER) == (timedelta(days=30), timedelta(days=90))
    text = world.ledger.approval_text(planned.id).decode()
    assert (
        "\nNot before: 2026-01-15T09:00:00Z\nStart by: 2026-02-14T09:00:00Z\nFinish by: 2026-04-15T09:00:00Z\n" in text
    )


def test_another_date_than_the_signed_one_starts_nothing(world: FakeWorld, planned: Walk) -> None:
    world.ledger.state.requests[planned.id] = replace(planned, not_before=None)
    with pytest.raises(ApprovalError, match=r"no longer what its text for signing says \(Not before\)"):
        list(runner.run(world.pipeline, planned.id, world.report))
    assert world.ledger.walk(planned.id).steps == ()


def test_a_clock_that_is_set_back_does_not_stop_what_has_begun(world: FakeWorld, planned: Walk) -> None:
    world.clock.at = LATER
    list(runner.run(world.pipeline, planned.id, world.report, Step.KEY_VERSION))
    begun = world.ledger.walk(planned.id)
    assert decide(begun, 2, world.pipeline.tables, 2, LATER - timedelta(days=1)).tasks == (Task(Step.DUAL_KEY_ROLLOUT),)


def test_one_that_waits_for_its_date_can_be_cancelled(world: FakeWorld, planned: Walk) -> None:
    cancel(world.pipeline, planned)
    assert world.ledger.walk(planned.id).status is RequestStatus.CANCELLED


def test_an_emergency_does_not_wait_for_a_planned_rotation(world: FakeWorld, planned: Walk) -> None:
    emergency = request(world, incident="INC-7")
    for officer in (ADA, BEN):
        sign(world, emergency, officer)
    list(runner.run(world.pipeline, emergency.id, world.report))
    assert world.ledger.walk(planned.id).status is RequestStatus.CANCELLED


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        pytest.param(
            {"not_before": START}, r"--not-before 2026-01-05 09:00 UTC has passed; give a later one", id="now"
        ),
        pytest.param({"not_before": datetime(1, 1, 1, tzinfo=UTC)}, "has passed; give a later one", id="long ago"),
        pytest.param({"not_before": START + timedelta(days=367)}, "is more than 366 days away; give", id="far away"),
        pytest.param({"not_before": datetime(9999, 12, 31, tzinfo=UTC)}, "is more than 366 days away", id="absurd"),
        pytest.param(
            {"not_before": LATER, "incident": "INC-7"}, "an emergency starts as soon as it is signed", id="emergency"
        ),
        pytest.param({"not_before": LATER, "start_by": LATER}, "correct the two dates", id="starts by then"),
    ],
)
def test_a_date_that_cannot_be_meant_is_refused(world: FakeWorld, given: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        request(world, **given)
    assert world.ledger.requests() == ()


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        pytest.param("2026-12-05", datetime(2026, 12, 4, 23, tzinfo=UTC), id="a day begins at its midnight"),
        pytest.param("2026-12-05T09:00", datetime(2026, 12, 5, 8, tzinfo=UTC), id="winter"),
        pytest.param("2026-07-05T09:00", datetime(2026, 7, 5, 7, tzinfo=UTC), id="summer"),
        pytest.param("2026-12-05T09:00Z", datetime(2026, 12, 5, 9, tzinfo=UTC), id="with an offset"),
        pytest.param(
            "2026-10-25T02:30+01:00", datetime(2026, 10, 25, 1, 30, tzinfo=UTC), id="shown twice, with offset"
        ),
    ],
)
def test_a_moment_without_offset_is_one_of_the_configured_time_zone(text: str, utc: datetime) -> None:
    assert unambiguous_time("--not-before", text, BERLIN).astimezone(UTC) == utc


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("2026-10-25T02:30", r"shown twice or never .* such as 2026-10-25T02:30\+02:00", id="twice"),
        pytest.param("2026-03-29T02:30", "shown twice or never by the clocks of Europe/Berlin", id="never"),
        pytest.param("tomorrow", "--not-before is not a date or time; write it as 2026-01-31", id="no date"),
        pytest.param("2026-02-30", "is not a date or time", id="no such day"),
        pytest.param("", "is not a date or time", id="nothing"),
        pytest.param("9999-12-31T23:59-12:00", "is not a date or time", id="beyond all time"),
    ],
)
def test_an_ambiguous_moment_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(KeyRotationError, match=sentence):
        unambiguous_time("--not-before", text, BERLIN)
