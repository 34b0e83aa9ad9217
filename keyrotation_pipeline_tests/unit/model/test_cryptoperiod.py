"""By when the primary must be rotated: 12 months after it became that, or 24 hours after an emergency's request."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyrotation_pipeline.model.keys import KeyRecord, KeyState, duty_of, rotation_due
from keyrotation_pipeline.model.requests import RequestStatus, RotationType, Step, StepRecord, Walk
from keyrotation_pipeline_tests.fakes import V1, V2, fake_pipeline, rotation_of

IMPORTED = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
PROMOTED = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
KEYS = (
    KeyRecord(V1, KeyState.DEACTIVATED, "0" * 64, IMPORTED),
    KeyRecord(V2, KeyState.ACTIVE, "1" * 64, PROMOTED - timedelta(days=9)),
)
ROTATION = rotation_of(fake_pipeline())
TO_V2 = replace(
    ROTATION,
    status=RequestStatus.FINISHED,
    steps=(StepRecord(Step.PRIMARY_KEY_ROLLOUT, None, None, PROMOTED, {}),),
)
EMERGENCY = replace(
    ROTATION, type=RotationType.EMERGENCY, status=RequestStatus.REQUESTED, requested_at=PROMOTED, target=V2.next()
)


@pytest.mark.parametrize(
    ("primary", "rotations", "due"),
    [
        pytest.param(V1, (), datetime(2027, 1, 5, 9, tzinfo=UTC), id="an imported key counts from its registration"),
        pytest.param(V2, (TO_V2,), datetime(2027, 6, 1, 12, tzinfo=UTC), id="a made key counts from its promotion"),
        pytest.param(V2, (EMERGENCY, TO_V2), PROMOTED + timedelta(hours=24), id="an open emergency comes first"),
        pytest.param(
            V2,
            (replace(EMERGENCY, status=RequestStatus.FINISHED), TO_V2),
            datetime(2027, 6, 1, 12, tzinfo=UTC),
            id="a finished emergency is over",
        ),
        pytest.param(V2.next(), (), None, id="an unknown version"),
    ],
)
def test_rotation_due(primary: object, rotations: tuple[Walk, ...], due: datetime | None) -> None:
    found = rotation_due(primary, KEYS, rotations)  # type: ignore[arg-type]

    assert (found.at if found else None) == due


def test_a_key_of_29_february_is_due_on_the_28th() -> None:
    leap = KeyRecord(V1, KeyState.ACTIVE, "0" * 64, datetime(2028, 2, 29, tzinfo=UTC))
    found = rotation_due(V1, (leap,), ())

    assert found is not None
    assert found.at == datetime(2029, 2, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "soon", "overdue"),
    [
        pytest.param(timedelta(days=61), False, False, id="more than 60 days ahead"),
        pytest.param(timedelta(days=59), True, False, id="within 60 days"),
        pytest.param(timedelta(0), True, False, id="to the second"),
        pytest.param(timedelta(seconds=-1), True, True, id="a second late"),
    ],
)
def test_when_it_is_time(before: timedelta, soon: bool, overdue: bool) -> None:
    due = rotation_due(V1, KEYS, ())

    assert due is not None
    assert (due.soon(due.at - before), due.overdue(due.at - before)) == (soon, overdue)


def test_an_imported_key_is_as_old_as_it_was_said_to_be_and_otherwise_of_unknown_age() -> None:
    unknown, known = rotation_due(V1, KEYS, ()), rotation_due(V1, KEYS, (), {V1: datetime(2025, 3, 1, tzinfo=UTC)})
    assert unknown is not None
    assert known is not None
    assert "whose age is not known" in unknown.rule
    assert known.at == datetime(2026, 3, 1, tzinfo=UTC)
    assert "not known" not in known.rule


def test_a_key_that_a_rotation_made_is_never_called_imported() -> None:
    due = rotation_due(V2, KEYS, (replace(TO_V2, status=RequestStatus.RUNNING, steps=()),))
    assert due is not None
    assert due.at == datetime(2027, 5, 23, 12, tzinfo=UTC)
    assert due.rule == "12 months after v2 was made, whose promotion is not recorded yet"


@pytest.mark.parametrize(
    ("month", "quarter", "duty"),
    [(1, "2026-Q1", "review"), (6, "2026-Q2", "new key"), (7, "2026-Q3", "re-encrypt"), (12, "2026-Q4", "audit")],
)
def test_each_quarter_has_its_duty(month: int, quarter: str, duty: str) -> None:
    found = duty_of(datetime(2026, month, 28, tzinfo=UTC))
    assert found.quarter == quarter
    assert duty in found.message
