"""What a store holds: read together, compared by whole fingerprints."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.errors import KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import DamagedKey, KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline_tests.fakes import START, V1, V2, V3

ONE, TWO = KeyMaterial(bytes([1]) * 32), KeyMaterial(bytes([2]) * 32)
BROKEN = DamagedKey("v3 is not a key; restore it")
RECORD = KeyRecord(V1, KeyState.ARCHIVED, ONE.fingerprint, START)


def test_a_key_in_both_places_is_live() -> None:
    stored = StoredKeys.of({V2: TWO, V1: ONE}, {V3: ONE, V1: TWO}, V2)
    assert (tuple(stored.live), tuple(stored.archived), stored.versions) == ((V1, V2), (V3,), (V1, V2, V3))
    assert stored.material(V1) == ONE


@pytest.mark.parametrize(
    "stored",
    [StoredKeys.of({V1: ONE}, {}, V1), StoredKeys.of({V2: TWO}, {V1: ONE}, V2)],
    ids=["live", "archived"],
)
def test_the_registered_key_is_known_wherever_it_lies(stored: StoredKeys) -> None:
    assert stored.registered(RECORD) == ONE


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        pytest.param(StoredKeys.of({V1: TWO}, {}, V1), r"another v1 .*, move it away, .*restore-key v1`", id="another"),
        pytest.param(StoredKeys.of({V2: ONE}, {}, V2), "holds no v1; put it back .*restore-key v1`", id="missing"),
        pytest.param(StoredKeys.of({V1: BROKEN}, {}, V1), "v3 is not a key; restore it", id="damaged"),
    ],
)
def test_whatever_is_not_the_registered_key_is_damage(stored: StoredKeys, sentence: str) -> None:
    with pytest.raises(KeyStoreDamagedError, match=sentence):
        stored.registered(RECORD)


def test_a_key_whose_fingerprint_only_begins_like_the_registered_one_is_another() -> None:
    alike = replace(RECORD, fingerprint=ONE.fingerprint[:16] + "0" * 48)
    with pytest.raises(KeyStoreDamagedError, match="another v1"):
        StoredKeys.of({V1: ONE}, {}, V1).registered(alike)


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        pytest.param(
            StoredKeys.of({V1: ONE}, {}, None),
            "names no primary; .*`keyrotation restore-key`, else run `keyrotation init`",
            id="no primary",
        ),
        pytest.param(StoredKeys.of({V1: ONE}, {V2: TWO}, V2), "primary is v2, whose key is not live", id="not live"),
        pytest.param(StoredKeys.of({V1: ONE, V3: BROKEN}, {}, V1), "v3 is not a key", id="damaged"),
    ],
)
def test_a_store_that_cannot_be_right_gives_no_ring(stored: StoredKeys, sentence: str) -> None:
    with pytest.raises(KeyStoreDamagedError, match=sentence):
        stored.ring()


def test_a_damaged_archived_key_keeps_no_application_from_its_ring() -> None:
    ring = StoredKeys.of({V1: ONE}, {V3: BROKEN}, V1).ring()
    assert (ring.versions, ring.primary) == ((V1,), V1)


def test_every_difference_gives_another_revision() -> None:
    contents = [
        ({}, {}, None),
        ({V1: ONE}, {}, None),
        ({V1: ONE}, {}, V1),
        ({V1: TWO}, {}, V1),
        ({V1: BROKEN}, {}, V1),
        ({V2: TWO}, {V1: ONE}, V2),
        ({V1: ONE, V2: TWO}, {}, V2),
    ]
    assert len({StoredKeys.of(*content).revision for content in contents}) == len(contents)  # type: ignore[arg-type]
    assert StoredKeys.of({V1: ONE, V2: TWO}, {}, V1).revision == StoredKeys.of({V2: TWO, V1: ONE}, {}, V1).revision


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(StoredKeys.of({V1: ONE, V2: TWO, V2.other_generation: ONE}, {}, V1), id="a number"),
        pytest.param(StoredKeys.of({V1: ONE, V2.other_generation: ONE}, {}, V1), id="a key"),
        pytest.param(
            StoredKeys.of({V2.other_generation: TWO}, {V2: ONE}, V2.other_generation), id="one of them archived"
        ),
    ],
)
def test_nothing_is_given_out_that_is_there_for_both_generations(stored: StoredKeys) -> None:
    with pytest.raises(KeyStoreDamagedError, match="v2x, one number or one key in both"):
        stored.material(V2.other_generation)
    with pytest.raises(KeyStoreDamagedError, match="in both generations"):
        stored.ring()
