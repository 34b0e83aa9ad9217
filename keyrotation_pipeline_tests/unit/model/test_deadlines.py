"""The clock of an incident: 4, 8, 24 and 48 hours from discovery."""

from datetime import UTC, datetime, timedelta

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.breach import Deadline, ResponseStage, carried_by, deadlines, rate_needed
from keyrotation_pipeline.model.incidents import Incident, IncidentType
from keyrotation_pipeline.model.requests import (
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    Step,
    StepRecord,
    Walk,
)

FOUND = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
V1, V2 = KeyVersion(1), KeyVersion(2)
INCIDENT = Incident("INC-2026-001", IncidentType.KEY_EXPOSED, "x", FOUND, FOUND, "SIEM", (V1,), request="aa")


def walk(id_: str, *steps: Step, status: RequestStatus = RequestStatus.RUNNING, supersedes: str | None = None) -> Walk:
    records = tuple(StepRecord(each, None, None, FOUND + timedelta(hours=5), {}) for each in steps)
    started = None if status is RequestStatus.REQUESTED else FOUND
    return Walk(
        id_, RotationType.EMERGENCY, RequestAction.ROTATE, V1, "f", V2, "x", "INC-2026-001", "x", FOUND, FOUND, FOUND,
        (0, ""), status, (), started_at=started, supersedes=supersedes, steps=records,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "hours"),
    [
        (ResponseStage.ASSESSED, 4),
        (ResponseStage.DUAL_KEY, 8),
        (ResponseStage.REENCRYPTED, 24),
        (ResponseStage.RETIRED_AND_AUDITED, 48),
    ],
)
def test_each_stage_has_its_last_moment(stage: ResponseStage, hours: int) -> None:
    assert Deadline(stage, FOUND, None).due_at == FOUND + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("minutes", "left", "percent"),
    [
        pytest.param(0, 14400, None, id="at once"),
        pytest.param(119, 7260, None, id="before half"),
        pytest.param(120, 7200, 50, id="half"),
        pytest.param(192, 2880, 80, id="four fifths"),
        pytest.param(239, 60, 80, id="a minute before"),
        pytest.param(240, 0, 100, id="the last moment"),
        pytest.param(6000, -345600, 100, id="long after"),
    ],
)
def test_time_left_and_the_highest_threshold(minutes: int, left: int, percent: int | None) -> None:
    now, deadline = FOUND + timedelta(minutes=minutes), Deadline(ResponseStage.ASSESSED, FOUND, None)
    assert (deadline.seconds_left(now), deadline.passed_percent(now)) == (left, percent)


def test_a_stage_that_is_reached_has_no_time_left_and_alerts_nobody() -> None:
    reached = Deadline(ResponseStage.ASSESSED, FOUND, FOUND + timedelta(hours=9))
    assert (reached.seconds_left(FOUND), reached.passed_percent(FOUND + timedelta(days=9))) == (None, None)


@pytest.mark.parametrize(
    ("steps", "signed", "reached"),
    [
        pytest.param((), False, set(), id="nothing"),
        pytest.param((), True, {ResponseStage.ASSESSED}, id="signed"),
        pytest.param((Step.DUAL_KEY_ROLLOUT,), True, {ResponseStage.ASSESSED, ResponseStage.DUAL_KEY}, id="both keys"),
        pytest.param((Step.ROWS,), True, {ResponseStage.ASSESSED}, id="rows walked are not proven"),
        pytest.param(
            (Step.ZERO_OLD_ROWS_PROOF,), True, {ResponseStage.ASSESSED, ResponseStage.REENCRYPTED}, id="proven"
        ),
        pytest.param((Step.RETIRED_KEY,), True, {ResponseStage.ASSESSED}, id="retired is not audited"),
        pytest.param(
            (Step.KEY_ROTATION_AUDIT,), True, {ResponseStage.ASSESSED, ResponseStage.RETIRED_AND_AUDITED}, id="audited"
        ),
    ],
)
def test_stages_are_reached_by_signatures_and_steps(
    steps: tuple[Step, ...], signed: bool, reached: set[ResponseStage]
) -> None:
    found = deadlines(INCIDENT, [walk("aa", *steps)], FOUND if signed else None)
    assert {each.stage for each in found if each.reached_at is not None} == reached


@pytest.mark.parametrize(
    ("requests", "carrier"),
    [
        pytest.param((), None, id="none was prepared"),
        pytest.param((walk("aa"),), "aa", id="the prepared one"),
        pytest.param(
            (walk("aa", status=RequestStatus.CANCELLED), walk("bb", supersedes="aa")), "bb", id="what took it over"
        ),
        pytest.param(
            (
                walk("aa", status=RequestStatus.CANCELLED),
                walk("bb", supersedes="aa", status=RequestStatus.REQUESTED),
            ),
            "aa",
            id="what only waits took nothing over",
        ),
    ],
)
def test_the_request_that_carries_it(requests: tuple[Request, ...], carrier: str | None) -> None:
    found = carried_by(INCIDENT, requests)
    assert (found.id if found else None) == carrier


def test_the_rate_that_is_needed_from_now_on() -> None:
    deadline = Deadline(ResponseStage.REENCRYPTED, FOUND, None)
    assert rate_needed(86400, deadline, FOUND + timedelta(hours=12)) == 2.0
    assert rate_needed(86400, deadline, FOUND + timedelta(hours=24)) is None
