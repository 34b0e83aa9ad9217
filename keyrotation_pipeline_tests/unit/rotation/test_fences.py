"""What was retired stays refused, or `status` says so: tables and versions come and go meanwhile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.request_events import DatabaseReconciled
from keyrotation_pipeline.model.requests import RequestAction, RequestStatus
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.rotation.fences import fences
from keyrotation_pipeline_tests.contract.ledger_suite import opened_as, signature_by, text_of
from keyrotation_pipeline_tests.fakes import ROSTER, START, V1, V2, FakeWorld, fake_pipeline, rotation_of
from keyrotation_pipeline_tests.fakes.retirement import FakeFencing

V3 = KeyVersion(3)


def retired(world: FakeWorld, *tables: str, versions: tuple[KeyVersion, ...] = (V1,), target: KeyVersion = V2) -> None:
    """What the audit says after a retirement."""
    walk = rotation_of(world, versions[0], target)
    retirement = KeyRetired(versions[0], tables, 0, 9, "0/1", START, versions, versions, target, "backup")
    world.ledger.append(retirement, walk.id)
    world.ledger.set_status(walk.id, RequestStatus.FINISHED)


@pytest.fixture
def world() -> FakeWorld:
    """v1 was retired in both tables, which refuse it."""
    rows = [{"first_name": "v2:Zoe", "email": "v2:zoe@example.org"}]
    made = fake_pipeline({"clients": rows, "visits": []})
    made.keys_are({V1: KeyState.ARCHIVED, V2: KeyState.ACTIVE})
    retired(made, "clients", "visits")
    made.database.fence_state.update(clients=(V1,), visits=(V1,))
    return made


def reported(world: FakeWorld) -> list[str]:
    """What `status` says of it, in attention and warnings."""
    shown = overview(world.pipeline)
    words = ("takes", "refuses", "under v1")
    return [each for each in (*shown.attention, *shown.warnings) if any(word in each for word in words)]


def test_nothing_is_said_while_every_table_refuses_what_was_retired_in_it(world: FakeWorld) -> None:
    assert reported(world) == []
    assert fences(world.pipeline).retired == {"clients": (V1,), "visits": (V1,)}


def test_a_table_without_its_fence_is_attention(world: FakeWorld) -> None:
    world.database.fence_state["clients"] = ()
    (sentence,) = reported(world)
    assert sentence in overview(world.pipeline).attention
    assert sentence.startswith("table clients takes values under v1 again, which was retired in it; find out who")


def test_a_compromised_version_that_was_retired_is_looked_for_too(world: FakeWorld) -> None:
    world.ledger.state.keys[V1] = replace(world.ledger.state.keys[V1], state=KeyState.COMPROMISED)
    world.database.fence_state["visits"] = ()
    assert fences(world.pipeline).lost == (("visits", V1),)


def test_every_version_that_was_ever_retired_is_looked_for(world: FakeWorld) -> None:
    retired(world, "clients", "visits", versions=(V1, V2), target=V3)
    assert fences(world.pipeline).lost == (("clients", V2), ("visits", V2))
    world.database.fence_state.update(clients=(V1, V2), visits=(V2,))
    assert fences(world.pipeline).lost == (("visits", V1),)


def test_values_under_an_archived_version_are_attention(world: FakeWorld) -> None:
    world.database.rows["visits"].append({"first_name": "v1:Mal", "email": None})
    world.ledger.save_counts(world.pipeline.inventory.count(world.pipeline.tables))
    (sentence,) = reported(world)
    assert sentence in overview(world.pipeline).attention
    assert sentence.startswith("table visits holds 1 value under v1, which is archived")


def with_tables(world: FakeWorld, *names: str) -> FakeWorld:
    columns = world.pipeline.tables[0].columns
    tables = tuple(EncryptedTable(TableName.parse(name), columns) for name in names)
    for name in names:
        world.database.rows.setdefault(name, [])
    return replace(world, pipeline=replace(world.pipeline, tables=tables))


def test_a_table_that_was_declared_later_promises_nothing_and_is_not_said_to_be_fine(world: FakeWorld) -> None:
    shown = overview(with_tables(world, "clients", "visits", "letters").pipeline)
    assert not any("letters takes" in sentence for sentence in shown.attention)
    assert (
        "table letters was declared after v1 was retired and takes it; the next rotation refuses it" in shown.warnings
    )


def test_a_table_that_is_declared_no_longer_is_reported_while_it_is_there(world: FakeWorld) -> None:
    fewer = with_tables(world, "clients")
    assert any("nobody looks whether table visits still refuses v1" in each for each in reported(fewer))
    del world.database.rows["visits"]  # dropped, or renamed
    assert reported(fewer) == []


@dataclass
class WithoutVisits(FakeFencing):
    """A database whose table `visits` is gone."""

    gone: tuple[str, ...] = field(default=("visits",))

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        if str(table.name) in self.gone:
            raise PreflightError(f"table {table.name} is not in the database; correct [[tables]]")
        return super().fences(table)


def test_a_declared_table_that_cannot_be_looked_at_is_attention(world: FakeWorld) -> None:
    shown = overview(replace(world.pipeline, fencing=WithoutVisits(world.database)))
    assert any(
        each.startswith("what table visits refuses was not seen: table visits is not") for each in shown.attention
    )
    assert shown.tables[1].fenced_against == ()


def rolled_back(world: FakeWorld) -> None:
    walk = rotation_of(world, V2, V1, promoted=False)
    world.ledger.set_key_state(V2, KeyState.DEACTIVATED, walk.id)
    world.ledger.set_key_state(V1, KeyState.ACTIVE, walk.id)
    world.ledger.set_status(walk.id, RequestStatus.FINISHED)


def being_rolled_back(world: FakeWorld) -> None:
    """Its fences are lifted before it is active again."""
    rotation_of(world, V2, V1, promoted=False)


def reconciled(world: FakeWorld, *, signed_by: int = 2) -> None:
    states: Mapping[str, str] = {"v1": "deactivated", "v2": "active"}
    opened = opened_as(RequestAction.RECONCILE)
    text = text_of(opened, ROSTER)
    world.ledger.refuses = False
    world.ledger.open(opened, text)
    for officer in ROSTER.officers[:signed_by]:
        world.ledger.add_signature(opened.id, signature_by(officer.fingerprint, text))
    world.ledger.set_status(opened.id, RequestStatus.RUNNING)
    world.ledger.append(DatabaseReconciled("restored", V2, (V1, V2), states, (), ()), opened.id)


@pytest.mark.parametrize("comes_back", [rolled_back, being_rolled_back, reconciled])
def test_a_version_that_came_back_need_not_be_refused(
    world: FakeWorld, comes_back: Callable[[FakeWorld], None]
) -> None:
    comes_back(world)
    world.database.fence_state.update(clients=(), visits=())
    assert fences(world.pipeline).lost == ()
    assert fences(world.pipeline).younger == ()


def test_no_reconciliation_that_too_few_have_signed_lifts_a_fence(world: FakeWorld) -> None:
    reconciled(world, signed_by=1)
    world.database.fence_state.update(clients=(), visits=())
    assert fences(world.pipeline).lost == (("clients", V1), ("visits", V1))


def test_a_version_that_came_back_and_was_retired_again_is_looked_for(world: FakeWorld) -> None:
    rolled_back(world)
    retired(world, "clients", "visits", versions=(V1, V2), target=V3)
    world.database.fence_state.update(clients=(), visits=(V1, V2))
    assert fences(world.pipeline).lost == (("clients", V1), ("clients", V2))
