"""Which rotation a command means that names none."""

import pytest

from keyrotation_pipeline.cli.options import chosen_walk
from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.fakes import FakeWorld, fake_pipeline


@pytest.fixture
def world() -> FakeWorld:
    return fake_pipeline({"clients": [{"first_name": "v1:Ada", "email": None}]})


def test_of_several_rotations_none_is_chosen_for_the_operator(world: FakeWorld) -> None:
    with pytest.raises(RequestError, match="no rotation or rollback is open"):
        chosen_walk(world.ledger, None)
    routine = open_request(world.pipeline, reason="yearly", requested_by="ops@host")
    assert chosen_walk(world.ledger, None).id == routine.id
    emergency = open_request(world.pipeline, reason="leaked", requested_by="ops@host", incident="INC-1")
    with pytest.raises(RequestError, match=rf"give the id of one: .*{routine.id} \(routine, v2 to v3, requested\)"):
        chosen_walk(world.ledger, None)
    assert chosen_walk(world.ledger, emergency.id).id == emergency.id
