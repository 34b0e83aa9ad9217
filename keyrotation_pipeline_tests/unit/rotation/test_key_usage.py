"""A rotation never begins by which its new key would encrypt more than half of what it may."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM
from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng import CLOAK_47NG
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption import RAILS
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.status import Light
from keyrotation_pipeline.model.tables import TableCount
from keyrotation_pipeline.monitoring import data_readiness
from keyrotation_pipeline.rotation.key_checks import require_room
from keyrotation_pipeline_tests.fakes import V2, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation, request

V2X = KeyVersion(2, 2)
COLUMNS = 2  # of the only table of this world
HALF = 2**31


@pytest.fixture
def world() -> FakeWorld:
    return before_any_rotation()


def counted(world: FakeWorld, values: int) -> list[TableCount]:
    (count,) = world.pipeline.inventory.count(world.pipeline.tables)
    (version,) = count.values_by_version
    return [replace(count, values_by_version={version: values})]


def test_a_billion_rows_of_five_columns_are_refused_with_the_way_out(world: FakeWorld) -> None:
    with pytest.raises(RequestError, match=r"v2 would encrypt about 5,000,000,000 values .* 116% of the 2\^32") as said:
        require_room(world.pipeline, V2, counted(world, 5_000_000_000))
    assert "write generation = 2 under [format]" in str(said.value)


def test_the_second_generation_takes_them(world: FakeWorld) -> None:
    world.database.writes = 10**15
    require_room(world.pipeline, V2X, counted(world, 5_000_000_000))


@pytest.mark.parametrize(
    ("values", "rows_written", "fits"),
    [
        pytest.param(HALF - 1, 0, True, id="one less than half"),
        pytest.param(HALF, 0, False, id="half"),
        pytest.param(1_000, (HALF - 1_001) // COLUMNS, True, id="with the writes one less than half"),
        pytest.param(1_000, HALF // COLUMNS, False, id="by the writes alone"),
        pytest.param(HALF // 2, HALF // 2 // COLUMNS, False, id="by both together"),
    ],
)
def test_values_and_expected_writes_together_decide(
    world: FakeWorld, values: int, rows_written: int, *, fits: bool
) -> None:
    world.database.writes = rows_written
    if fits:
        require_room(world.pipeline, V2, counted(world, values))
    else:
        with pytest.raises(RequestError, match="that AES-GCM allows"):
            require_room(world.pipeline, V2, counted(world, values))


def test_a_request_is_refused_in_the_first_generation_and_opened_in_the_second(world: FakeWorld) -> None:
    world.database.writes = HALF
    with pytest.raises(RequestError, match="v2 would encrypt about"):
        request(world)
    assert world.ledger.requests() == ()
    assert request(of_format(world, replace(NATIVE, generation=2))).target == V2X


def of_format(world: FakeWorld, value_format: ValueFormat) -> FakeWorld:
    tables = tuple(replace(table, format=value_format) for table in world.pipeline.tables)
    object.__setattr__(world.pipeline, "tables", tables)
    return world


def test_fernet_has_no_such_limit(world: FakeWorld) -> None:
    counts = counted(world, 5_000_000_000)
    require_room(of_format(world, FERNET).pipeline, V2, counts)
    (check,) = data_readiness.usage(world.pipeline)
    assert (check.light, check.value) == (Light.GREEN, "a key of the format fernet has no such limit")


@pytest.mark.parametrize("value_format", [AES_GCM, RAILS, CLOAK_47NG], ids=lambda each: each.name)
def test_a_format_of_another_library_is_not_sent_to_our_second_generation(
    world: FakeWorld, value_format: ValueFormat
) -> None:
    counts = counted(world, 5_000_000_000)
    with pytest.raises(RequestError, match="give some of the tables a key of their own") as said:
        require_room(of_format(world, value_format).pipeline, V2, counts)
    assert "generation" not in str(said.value)


def test_an_emergency_is_not_refused(world: FakeWorld) -> None:
    world.database.writes = HALF
    assert request(world, incident="INC-2026-001").target == V2
