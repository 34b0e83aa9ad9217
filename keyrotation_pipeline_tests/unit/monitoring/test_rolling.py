"""When a part of everything is read, and what is said of it."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from keyrotation_pipeline.model.page_reading import Verification
from keyrotation_pipeline.model.progress import AllowedHours
from keyrotation_pipeline.model.tables import FoundColumn
from keyrotation_pipeline.monitoring.rolling import (
    DECRYPT,
    SEARCH,
    RollingCheck,
    due_now,
    how_far,
    read_what_is_due,
    undeclared,
)
from keyrotation_pipeline_tests.fakes import V1, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation


def nobody(_: object) -> None:
    """Nobody listens."""


@pytest.fixture
def world() -> FakeWorld:
    """One in which it may be searched for an hour from now."""
    world = before_any_rotation()
    now = world.clock.now()
    hours = AllowedHours(now.time(), (now + timedelta(hours=1)).time(), "UTC")
    object.__setattr__(world.pipeline, "verification", Verification(90, hours))
    return world


CHECKS = [pytest.param(DECRYPT, "decrypt_spans", id="decrypt"), pytest.param(SEARCH, "search_spans", id="search")]


@pytest.mark.parametrize(("check", "method"), CHECKS)
def test_it_ends_where_the_allowed_hours_do(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, check: RollingCheck, method: str
) -> None:
    may: list[bool] = []

    def read(*given: Callable[[], bool]) -> int:
        should_continue = given[-1]
        may.append(should_continue())
        world.clock.at += timedelta(hours=2)
        may.append(should_continue())
        return 7

    port = world.pipeline.rewriting if check is DECRYPT else world.pipeline.inventory
    monkeypatch.setattr(port, method, read)
    object.__setattr__(world.pipeline, "tables", world.pipeline.tables[:1])
    assert read_what_is_due(world.pipeline, check, nobody) == 7
    assert may == [True, False]
    assert due_now(world.pipeline, check) == ()


@pytest.mark.parametrize(("check", "method"), CHECKS)
def test_what_another_process_reads_is_left_to_that(world: FakeWorld, check: RollingCheck, method: str) -> None:
    with world.ledger.lock(check.lock):
        assert read_what_is_due(world.pipeline, check, nobody) == 0
    assert how_far(world.pipeline, check).read_pages == 0, method
    assert read_what_is_due(world.pipeline, check, nobody) > 0
    assert how_far(world.pipeline, check).complete


def test_what_the_definitions_in_the_catalogue_hold_is_found_each_time(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (FoundColumn("views", "seed", 2, 0, (V1,)),)
    monkeypatch.setattr(world.pipeline.inventory, "definitions_found", lambda: found)
    for _ in range(2):
        read_what_is_due(world.pipeline, SEARCH, nobody)
        assert dict(undeclared(world.pipeline.inventory, how_far(world.pipeline, SEARCH))) == {"views.seed": 2}
