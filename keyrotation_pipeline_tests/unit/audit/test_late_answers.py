"""A key store that shows what was there before is behind the database, which then was not restored."""

import pytest

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import V1, V2, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation


@pytest.fixture
def promoted() -> FakeWorld:
    """v2 is the primary, and both versions are live."""
    world = before_any_rotation()
    list(runner.run(world.pipeline, approved(world).id, world.report, Step.PRIMARY_KEY_ROLLOUT))
    return world


def test_a_primary_that_was_replaced_is_reported_as_a_late_answer(promoted: FakeWorld) -> None:
    promoted.keys.primary_version = V1
    with pytest.raises(BlockedError, match=r"primary is v1, but v2 is active.*may answer late") as caught:
        require_consistent(promoted.pipeline, promoted.keys.read())
    assert "restored" not in str(caught.value)
    assert str(caught.value).endswith("run `keyrotation reconcile`")


def test_once_the_store_answers_with_the_present_it_goes_on(promoted: FakeWorld) -> None:
    promoted.keys.primary_version = V1
    late = promoted.keys.read()
    promoted.keys.primary_version = V2
    require_consistent(promoted.pipeline, late)


def test_a_store_that_lacks_more_than_an_answer_is_still_another_one(promoted: FakeWorld) -> None:
    promoted.keys.primary_version, promoted.keys.roster = V1, "5a" * 32
    with pytest.raises(BlockedError, match="this database was restored"):
        require_consistent(promoted.pipeline, promoted.keys.read())
