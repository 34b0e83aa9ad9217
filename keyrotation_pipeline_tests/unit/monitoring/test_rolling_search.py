"""When what is not declared is searched, and what is said of it."""

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from keyrotation_pipeline.model.page_reading import PageSpan, Verification
from keyrotation_pipeline.model.progress import AllowedHours
from keyrotation_pipeline.model.tables import FoundColumn
from keyrotation_pipeline.monitoring.rolling_search import LOCK, due_now, search_what_is_due
from keyrotation_pipeline_tests.fakes import V1, FakeWorld, fake_pipeline


@pytest.fixture
def world() -> FakeWorld:
    """One in which it may be searched for an hour from now."""
    world = fake_pipeline()
    now = world.clock.now()
    hours = AllowedHours(now.time(), (now + timedelta(hours=1)).time(), "UTC")
    object.__setattr__(world.pipeline, "verification", Verification(90, hours))
    return world


def test_it_ends_where_the_allowed_hours_do(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    may: list[bool] = []

    def search(_tables: object, spans: Sequence[PageSpan], go_on: Callable[[], bool]) -> int:
        may.append(go_on())
        world.clock.at += timedelta(hours=2)
        may.append(go_on())
        return len(spans)

    monkeypatch.setattr(world.database, "search_spans", search)
    assert search_what_is_due(world.pipeline).pages == 1
    assert may == [True, False]
    assert due_now(world.pipeline) == ()


def test_what_another_process_searches_is_left_to_that(world: FakeWorld) -> None:
    with world.ledger.lock(LOCK):
        left = search_what_is_due(world.pipeline)
    assert (left.pages, left.far.read_pages) == (0, 0)
    assert search_what_is_due(world.pipeline).far.complete


def test_what_the_definitions_in_the_catalogue_hold_is_found_each_time(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.database, "definitions_found", lambda: (FoundColumn("views", "seed", 2, 0, (V1,)),))
    assert dict(search_what_is_due(world.pipeline).found) == {"views.seed": 2}
    assert search_what_is_due(world.pipeline).pages == 0
    assert dict(search_what_is_due(world.pipeline).found) == {"views.seed": 2}
