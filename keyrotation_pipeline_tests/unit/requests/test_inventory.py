"""The inventory and the pre-flight, as the procedure asks for them."""

from datetime import timedelta

import pytest

from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.tables import FoundColumn
from keyrotation_pipeline.requests.inventory import renew_counts, require_preflight, take_inventory
from keyrotation_pipeline_tests.fakes import V1, V2, V3, fake_pipeline

WARNING = Problem("an index is in the way", fatal=False)


def test_the_inventory_keeps_its_counts_for_status() -> None:
    world = fake_pipeline({"clients": [{"first_name": "v1:x", "email": "v2:y"}]})
    inventory = take_inventory(world.pipeline)
    assert inventory.counts[0].values_by_version == {V1: 1, V2: 1}
    assert world.ledger.counts(world.pipeline.tables) == inventory.counts
    assert (inventory.findings, inventory.quarantine) == ((), ())


@pytest.mark.parametrize(
    ("cell", "finding", "unreadable"),
    [
        pytest.param("plain", False, False, id="unencrypted value"),
        pytest.param("v1:x", True, False, id="undeclared column"),
        pytest.param("v1:x", False, True, id="unreadable value"),
    ],
)
def test_the_inventory_shows_an(cell: str, finding: bool, unreadable: bool) -> None:
    world = fake_pipeline({"clients": [{"first_name": cell, "email": None}]})
    world.database.findings = (FoundColumn("notes", "c", 1, 0, (V1,)),) if finding else ()
    world.database.unreadable = {("clients", 0, "first_name")} if unreadable else set()
    shown = take_inventory(world.pipeline)
    assert (bool(shown.findings), bool(shown.quarantine)) == (finding, not finding)


def test_of_tables_that_do_not_fit_together_the_one_that_was_not_counted_for_longest_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = fake_pipeline({name: [{"first_name": "v1:x", "email": None}] for name in ("clients", "visits")})
    spans = [PageSpan(name, name, 0, 2048, 1, 600, world.clock.now(), read=True) for name in world.database.rows]
    monkeypatch.setattr(world.pipeline.inventory, "page_spans", lambda _: spans)
    turns = []
    for _ in range(3):
        world.clock.at += timedelta(days=1)
        counts = renew_counts(world.pipeline, 1000)
        turns.append([str(each.table.name) for each in counts if each.counted_at == world.clock.now()])
    assert turns == [["clients"], ["visits"], ["clients"]]
    assert renew_counts(world.pipeline, 1200)[1].counted_at == world.clock.now()


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        pytest.param(["a trigger"], r"^a trigger$", id="one"),
        pytest.param(["a trigger", "a rule", "a view"], r"^a trigger \(2 more problems", id="three"),
    ],
)
def test_a_fatal_problem_stops_and_the_others_are_numbered(problems: list[str], message: str) -> None:
    world = fake_pipeline()
    world.database.problems = (WARNING, *(Problem(sentence, fatal=True) for sentence in problems))
    with pytest.raises(PreflightError, match=message):
        require_preflight(world.pipeline, V3)


def test_warnings_alone_are_given_back() -> None:
    world = fake_pipeline()
    world.database.problems = (WARNING,)
    assert require_preflight(world.pipeline, V3) == (WARNING,)
