"""What the last counts cannot say: of a version that was promoted later, and of what was not read again."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.requests.inventory import recount, take_inventory
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rollback import open_rollback
from keyrotation_pipeline_tests.fakes import CLIENTS, START, V1, V2, FakeLedger, FakeWorld, fake_pipeline, rotation_of
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, sign


def counted(world: FakeWorld) -> None:
    world.ledger.save_counts(world.pipeline.inventory.count(world.pipeline.tables))


def never_counted(_world: FakeWorld) -> None:
    pass


def counted_only(world: FakeWorld) -> None:
    counted(world)


def promoted_since(world: FakeWorld) -> None:
    rotation = approved(world)
    counted(world)
    world.clock.at += timedelta(hours=1)
    for _ in runner.run(world.pipeline, rotation.id, world.report, Step.PRIMARY_KEY_ROLLOUT):
        pass


def promoted_since_and_rolled_back(world: FakeWorld) -> None:
    promoted_since(world)
    world.signatures.signed_at = world.clock.now()
    back = open_rollback(world.pipeline, rotation_of(world), reason="slow", requested_by="test")
    for officer in (ADA, BEN):
        sign(world, back, officer)
    for _ in runner.run(world.pipeline, back.id, world.report, Step.PRIMARY_KEY_ROLLOUT):
        pass


def promoted_and_counted(world: FakeWorld) -> None:
    promoted_since(world)
    world.clock.at += timedelta(hours=1)
    counted(world)


def proven(world: FakeWorld) -> None:
    promoted_since(world)
    world.clock.at += timedelta(hours=1)
    for _ in runner.run(world.pipeline, rotation_of(world).id, world.report, Step.ZERO_OLD_ROWS_PROOF):
        pass


@pytest.mark.parametrize(
    ("happen", "empty", "not_counted_since"),
    [
        pytest.param(never_counted, (), (), id="never counted"),
        pytest.param(counted_only, (), (), id="the primary is never empty"),
        pytest.param(promoted_since, (), (V2,), id="promoted after the count"),
        pytest.param(promoted_since_and_rolled_back, (), (V1, V2), id="promoted after the count, and rolled back"),
        pytest.param(promoted_and_counted, (), (), id="counted after the promotion, not re-encrypted"),
        pytest.param(proven, (V1,), (), id="proven"),
    ],
)
def test_a_version_that_was_promoted_after_the_count_is_not_called_empty(
    happen: Callable[[FakeWorld], None], empty: tuple[KeyVersion, ...], not_counted_since: tuple[KeyVersion, ...]
) -> None:
    world = before_any_rotation()
    happen(world)
    shown = overview(world.pipeline)
    assert (shown.empty_versions, shown.not_counted_since) == (empty, not_counted_since)


def test_what_a_retirement_did_not_read_again_is_a_warning_until_an_inventory_has_read_it() -> None:
    world = fake_pipeline({"clients": [{"first_name": "v2:Zoe", "email": None}]})
    retired = KeyRetired(
        V1, ("clients",), 0, 9, "0/1", START, (V1,), (V1,), V2, "key.gpg", (), (), ("audit.log",), START
    )
    world.ledger.append(retired, rotation_of(world).id)
    assert retired.unread in overview(world.pipeline).warnings
    world.clock.at += timedelta(seconds=1)
    counted(world)
    assert retired.unread in overview(world.pipeline).warnings, "a count reads declared columns only"
    take_inventory(world.pipeline)
    assert retired.unread not in overview(world.pipeline).warnings


def test_counting_one_table_again_records_the_last_counts_of_all() -> None:
    world = before_any_rotation()
    counted(world)
    world.clock.at += timedelta(hours=1)
    recount(world.pipeline, CLIENTS)
    facts = world.ledger.facts_of("counted")
    assert [each["table"] for each in facts["tables"]] == ["clients"]
    assert replace(world.ledger.counts([CLIENTS])[0], counted_at=START) == replace(
        world.pipeline.inventory.count([CLIENTS])[0], counted_at=START
    )


def test_daily_searches_are_not_read_where_every_retirement_has_read_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = fake_pipeline({"clients": [{"first_name": "v2:Zoe", "email": None}]})
    retired = KeyRetired(V1, ("clients",), 0, 9, "0/1", START, (V1,), (V1,), V2, "key.gpg")
    world.ledger.append(retired, rotation_of(world).id)
    take_inventory(world.pipeline)
    asked, events = set[EventKind](), FakeLedger.events

    def noted(ledger: FakeLedger, *kinds: EventKind, request: str | None = None, after_seq: int = 0) -> object:
        asked.update(kinds)
        return events(ledger, *kinds, request=request, after_seq=after_seq)

    monkeypatch.setattr(FakeLedger, "events", noted)
    overview(world.pipeline)
    assert EventKind.KEY_RETIRED in asked
    assert EventKind.UNDECLARED_COLUMNS_SEARCHED not in asked
