"""Search indexes in the procedure: which number the next key has, and when indexes under a key are refused."""

from dataclasses import replace
from typing import Any

import pytest

from keyrotation_pipeline.cli.rotate import phase_line
from keyrotation_pipeline.defs.summaries import Names, summary
from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.blind_index import BlindIndexForm
from keyrotation_pipeline.fieldcrypto.formats.lockbox import LOCKBOX
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.search_index import IndexForm
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RequestStatus, Step, StepRecord
from keyrotation_pipeline.model.tables import SearchIndex
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.rotation.archive import confirm_key_withdrawn
from keyrotation_pipeline.rotation.fences import fences
from keyrotation_pipeline.rotation.key_checks import undetermined_turns
from keyrotation_pipeline.rotation.keys import _generate
from keyrotation_pipeline.rotation.reconcile import plan
from keyrotation_pipeline.rotation.rollback import reactivate_key
from keyrotation_pipeline.rotation.rollout import await_instances
from keyrotation_pipeline.rotation.rotate import next_version
from keyrotation_pipeline_tests.fakes import START, V1, V2, FakeWorld, fake_pipeline, rotation_of

INDEX = SearchIndex("email", "email_odd", "email_even", IndexForm("clients.email"))


@pytest.fixture
def world() -> FakeWorld:
    """One table with a search index; v2 is the primary and v1 is still live."""
    made = fake_pipeline()
    tables = tuple(replace(table, indexes=(INDEX,)) for table in made.pipeline.tables)
    made.pipeline = replace(made.pipeline, tables=tables)
    return made


@pytest.mark.parametrize(
    ("live", "seen", "number"),
    [
        pytest.param((2,), 2, 3, id="a rotation after another"),
        pytest.param((1,), 2, 4, id="after a rotation that was cancelled or rolled back"),
        pytest.param((1, 2), 2, 4, id="an emergency in the middle of a rotation"),
        pytest.param((2, 3), 3, 5, id="the same one version later"),
        pytest.param((1, 2, 4), 4, 6, id="an emergency in that emergency"),
    ],
)
def test_the_next_number_leaves_the_column_of_the_oldest_live_key_alone(
    world: FakeWorld, live: tuple[int, ...], seen: int, number: int
) -> None:
    world.keys.live.clear()
    world.keys.shelf.clear()
    for each in live:
        world.keys.live[KeyVersion(each)] = KeyMaterial.generate()
    for each in set(range(1, seen + 1)).difference(live):
        world.keys.shelf[KeyVersion(each)] = KeyMaterial.generate()
    world.keys.primary_version = KeyVersion(max(live))
    assert next_version(world.pipeline, ()) == KeyVersion(number)
    without = replace(world.pipeline, tables=tuple(replace(each, indexes=()) for each in world.pipeline.tables))
    assert next_version(without, ()) == KeyVersion(seen + 1)


def test_indexes_are_cleared_and_refused_once_no_instance_has_the_key(world: FakeWorld) -> None:
    rotation = rotation_of(world)
    world.keys.archive(V1)
    facts = confirm_key_withdrawn(world.pipeline, rotation, world.report)
    assert facts["search_indexes_cleared"] == {"clients": 0}
    entries = [entry for entry in world.journal.entries if "indexes" in entry]
    assert entries == ["search indexes clients", "fence of indexes clients v1"]


def test_nothing_is_cleared_while_applications_get_the_key(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    rotation = rotation_of(world)
    world.keys.archive(V1)

    def restored_meanwhile(*arguments: Any) -> object:  # noqa: ANN401  as `await_instances`
        world.keys.restore(V1)
        return await_instances(*arguments)

    monkeypatch.setattr("keyrotation_pipeline.rotation.archive.await_instances", restored_meanwhile)
    with pytest.raises(KeyStoreError, match="v1 is live in the key store again"):
        confirm_key_withdrawn(world.pipeline, rotation, world.report)
    assert not [entry for entry in world.journal.entries if "indexes" in entry]


@pytest.mark.parametrize("declared", [pytest.param(True, id="declared"), pytest.param(False, id="no longer declared")])
def test_a_rollback_takes_indexes_again_before_anybody_gets_the_key(world: FakeWorld, *, declared: bool) -> None:
    world.keys.archive(V1)
    world.database.index_fences["clients"] = (V1,)
    if not declared:
        without = tuple(replace(table, indexes=()) for table in world.pipeline.tables)
        world.pipeline = replace(world.pipeline, tables=without)
    back = replace(rotation_of(world), source=V2, target=V1)
    begun = len(world.journal.entries)
    reactivate_key(world.pipeline, back, world.report)
    entries = world.journal.entries[begun:]
    assert entries[0] == "unfence of indexes clients v1"
    assert V1 in world.keys.live


def archived(world: FakeWorld) -> None:
    """What the audit says after a rotation to v2: v1 was retired, and indexes under it were cleared in one table."""
    walk = rotation_of(world)
    tables = tuple(str(table.name) for table in world.pipeline.tables)
    retirement = KeyRetired(V1, tables, 0, 9, "0/1", START, (V1,), (V1,), V2, "backup")
    world.ledger.append(retirement, walk.id)
    record = StepRecord(
        Step.ARCHIVED_KEY, None, None, START, {"archived": [], "search_indexes_cleared": {"clients": 3}}
    )
    world.ledger.finish_step(walk.id, record)
    world.ledger.set_status(walk.id, RequestStatus.FINISHED)
    world.database.fence_state.update(dict.fromkeys(tables, (V1,)))


def test_a_table_that_takes_old_indexes_again_is_attention_and_reconciled(world: FakeWorld) -> None:
    world.keys_are({V1: KeyState.ARCHIVED, V2: KeyState.ACTIVE})
    archived(world)
    world.database.index_fences["clients"] = (V1,)
    assert [each for each in overview(world.pipeline).attention if "search indexes" in each] == []

    world.database.index_fences["clients"] = ()
    (sentence,) = (each for each in overview(world.pipeline).attention if "search indexes" in each)
    assert sentence.startswith("table clients takes search indexes under v1 again, which were retired in it; find out")
    assert sentence.endswith("…_retired_search_indexes, and have them refused again with `keyrotation reconcile`")
    decided = plan(world.pipeline)
    assert "table clients accepts search indexes under v1 again, which were retired in it" in decided.findings
    assert "; refuse search indexes under v1 in clients" in decided.message()


def test_indexes_that_came_back_by_a_rollback_are_not_missed(world: FakeWorld) -> None:
    world.keys_are({V1: KeyState.ARCHIVED, V2: KeyState.ACTIVE})
    archived(world)
    walk = rotation_of(world, V2, V1)
    world.ledger.set_key_state(V2, KeyState.DEACTIVATED, walk.id)
    world.ledger.set_key_state(V1, KeyState.ACTIVE, walk.id)
    assert [each for each in overview(world.pipeline).attention if "search indexes" in each] == []


def test_the_line_and_the_page_of_the_step_tell_how_many_rows_were_cleared(world: FakeWorld) -> None:
    rotation = rotation_of(world)
    facts = {"archived": [], "instances": 2, "names": ["a", "b"], "search_indexes_cleared": {"clients": 1200, "t": 34}}
    record = StepRecord(Step.ARCHIVED_KEY, None, None, START, facts)
    assert phase_line(record, 1.0).endswith("2 instances, search indexes of 1,234 rows cleared")
    assert summary(rotation, record, Names({})).endswith(" Search indexes under it were cleared in 1,234 rows.")
    before = replace(record, facts={**facts, "search_indexes_cleared": None})
    assert phase_line(before, 1.0).endswith("2 instances")
    assert "Search indexes" not in summary(rotation, before, Names({}))


BLIND = SearchIndex("email", "email_bidx", "email_bidx_v2", BlindIndexForm("clients", "email_bidx", "email_bidx_v2"))


@pytest.fixture
def blind(world: FakeWorld) -> FakeWorld:
    """The same with indexes that name no key."""
    tables = tuple(replace(table, format=LOCKBOX, indexes=(BLIND,)) for table in world.pipeline.tables)
    world.pipeline = replace(world.pipeline, tables=tables)
    return world


def test_indexes_that_name_no_key_are_cleared_and_nobody_looks_for_a_fence_of_them(blind: FakeWorld) -> None:
    rotation = rotation_of(blind)
    blind.keys.archive(V1)
    assert confirm_key_withdrawn(blind.pipeline, rotation, blind.report)["search_indexes_cleared"] == {"clients": 0}
    assert [entry for entry in blind.journal.entries if "indexes" in entry] == ["search indexes clients"]
    archived(blind)
    found = fences(blind.pipeline)
    assert (found.indexes, [each for each in found.attention() if "indexes" in each]) == (None, [])


@pytest.mark.parametrize("last", [0x70, 0x71])
def test_the_last_digit_of_a_new_key_says_that_its_indexes_are_in_the_other_column(blind: FakeWorld, last: int) -> None:
    rotation, present = replace(rotation_of(blind), source=V1, target=V2), KeyMaterial(bytes(31) + bytes([last]))
    blind.keys.live.clear()
    blind.keys.live[V1], blind.keys.primary_version = present, V1
    digits = {raw_of(_generate(blind.pipeline, blind.pipeline.keys.read(), rotation))[-1] & 1 for _ in range(20)}
    assert digits == {1 - last % 2}
    again = replace(rotation, target=KeyVersion(3))
    assert raw_of(_generate(blind.pipeline, blind.pipeline.keys.read(), again))[-1] & 1 == last % 2
    assert undetermined_turns(blind.pipeline.tables, KeyRing({V1: present}, V1)) == ()
    (sentence,) = undetermined_turns(blind.pipeline.tables, KeyRing({V1: present, V2: present}, V1))
    assert "the last digits of the master keys v1, v2 do not alternate between odd and even" in sentence
    tables = tuple(replace(table, indexes=()) for table in blind.pipeline.tables)
    assert (
        undetermined_turns(replace(blind.pipeline, tables=tables).tables, KeyRing({V1: present, V2: present}, V1)) == ()
    )
