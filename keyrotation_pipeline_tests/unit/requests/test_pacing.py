"""The pace of a running rotation: the last word of an operator holds, and the audit has each."""

from typing import Any

import pytest

from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.errors import ConfigurationError, IncidentError, RequestError
from keyrotation_pipeline.model.progress import PaceSet
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.requests.control import pace_of, set_pace
from keyrotation_pipeline_tests.fakes import FakeWorld, fake_pipeline
from keyrotation_pipeline_tests.fakes.world import rotation_of


@pytest.fixture
def world() -> FakeWorld:
    return fake_pipeline()


def test_each_word_adds_to_those_before_and_a_reset_ends_them(world: FakeWorld) -> None:
    rotation = rotation_of(world)
    assert pace_of(world.pipeline.ledger, rotation) is None
    set_pace(world.pipeline.ledger, rotation, {"rows_per_second": 500}, "the clinic opens")
    set_pace(world.pipeline.ledger, rotation, {"duty_cycle": 0.1}, None)
    assert pace_of(world.pipeline.ledger, rotation) == PaceSet(500, 0.1)
    set_pace(world.pipeline.ledger, rotation, {"rows_per_second": 0}, None)
    assert pace_of(world.pipeline.ledger, rotation) == PaceSet(0, 0.1)
    set_pace(world.pipeline.ledger, rotation, {}, None)
    assert pace_of(world.pipeline.ledger, rotation) == PaceSet()
    assert str(pace_of(world.pipeline.ledger, rotation)) == "as configured"
    reported = list(recorded(world.ledger, PaceSet, rotation.id))
    assert [each.reason for each in reported] == ["the clinic opens", None, None, None]


@pytest.mark.parametrize(
    ("changes", "reason", "error"),
    [
        pytest.param({"rows_per_second": -1}, None, RequestError, id="below nothing"),
        pytest.param({"duty_cycle": 0.0}, None, RequestError, id="no work at all"),
        pytest.param({"duty_cycle": 1.5}, None, RequestError, id="more than always"),
        pytest.param({"duty_cycle": float("nan")}, None, RequestError, id="no number"),
        pytest.param({"hours": "at night"}, None, ConfigurationError, id="no hours"),
        pytest.param({"duty_cycle": 0.5}, "two\nlines", IncidentError, id="a reason of two lines"),
    ],
)
def test_what_can_be_no_pace_is_refused_and_changes_nothing(
    world: FakeWorld, changes: dict[str, Any], reason: str | None, error: type[Exception]
) -> None:
    rotation = rotation_of(world)
    with pytest.raises(error):
        set_pace(world.pipeline.ledger, rotation, changes, reason)
    assert pace_of(world.pipeline.ledger, rotation) is None


def test_what_is_over_has_no_pace(world: FakeWorld) -> None:
    rotation = rotation_of(world)
    world.ledger.set_status(rotation.id, RequestStatus.CANCELLED)
    with pytest.raises(RequestError, match="is cancelled; see `keyrotation status`"):
        set_pace(world.pipeline.ledger, rotation, {"rows_per_second": 1}, None)
