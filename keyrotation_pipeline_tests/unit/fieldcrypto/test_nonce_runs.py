"""Nonces of the second generation that a batch draws: in runs, never repeated, and the same from both codecs."""

import os
import random
from types import ModuleType

import pytest

from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import TextArray
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto import compiled
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import FIRST, SECOND, KeyVersion, parse
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.xaes import RUN_VALUES, drawn_nonces
from keyrotation_pipeline_tests.unit.fieldcrypto.codec_fuzz import bound
from keyrotation_pipeline_tests.unit.fieldcrypto.test_native import DAMAGE, built, chosen

V1, V2, V3X, V4X = KeyVersion(1), KeyVersion(2), KeyVersion(3, 2), KeyVersion(4, 2)
RING = KeyRing({version: KeyMaterial.generate() for version in (V1, V2, V3X, V4X)}, V4X)
LABELS = ("clients.email", "clients.email")
ROWS = RUN_VALUES + 50
native = pytest.mark.skipif(not compiled.is_native(), reason="the native codec was not built here")


def nonces(joined: bytes) -> list[bytes]:
    return [joined[at : at + 24] for at in range(0, len(joined), 24)]


def old_rows(number: int) -> list[tuple[bytes, bytes]]:
    return [(bound(RING, number, f"{row}"), bound(RING, number, "é" * (row % 9))) for row in range(ROWS)]


def rotated(rows: list[tuple[bytes, bytes]], target: KeyVersion) -> list[list[bytes | None]]:
    return format_of(NATIVE).reencryptor(RING, target, LABELS).reencrypt(list(zip(*rows, strict=True))).columns


@pytest.mark.parametrize("values", [0, 1, RUN_VALUES, RUN_VALUES + 1, 3 * RUN_VALUES - 1])
def test_a_run_has_one_first_half_and_counts_on(values: int) -> None:
    made = nonces(drawn_nonces(SECOND, values))
    assert len(made) == len(set(made)) == values
    assert len({nonce[:12] for nonce in made}) == -(-values // RUN_VALUES)
    assert drawn_nonces(SECOND, values)[:12] != drawn_nonces(SECOND, values)[:12] or not values
    for at, nonce in enumerate(made):
        start = int.from_bytes(made[at - at % RUN_VALUES][12:])
        assert int.from_bytes(nonce[12:]) == (start + at % RUN_VALUES) % 2**96


def test_a_run_continues_with_zero_after_the_largest_number_and_leaves_the_first_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
    assert nonces(drawn_nonces(SECOND, 3)) == [b"\xff" * 24, b"\xff" * 12 + bytes(12), b"\xff" * 12 + bytes(11) + b"\1"]


def test_every_value_of_the_first_generation_has_a_random_nonce() -> None:
    made = drawn_nonces(FIRST, 1000)
    assert len({made[at : at + 8] for at in range(0, len(made), 12)}) == 1000


@native
@pytest.mark.parametrize(
    "start", [b"\xff" * 24, bytes(22) + b"\xff\xf0", os.urandom(24)], ids=["largest", "low", "any"]
)
def test_both_codecs_give_a_long_batch_the_same_nonces(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = old_rows(1)
    rows[3], rows[ROWS - 1] = (rows[3][0], b""), (bound(RING, 4, "stays"), rows[5][1])
    codec = format_of(NATIVE).native_codec(RING, V4X, LABELS)
    assert codec is not None
    further = os.urandom(24 * 2 * ROWS)
    monkeypatch.setattr(os, "urandom", lambda size: (start + further)[:size])
    packed = codec.reencrypt(rows, 0, 2)
    assert packed is not None
    expected = rotated(rows, V4X)
    assert [TextArray(values).packed for values in expected] == list(packed.arrays)
    used = [parse(value.decode()).nonce for column in expected for value in column if value]
    assert len(used) == len(set(used)) == 2 * ROWS - 2


@native
@pytest.mark.parametrize("target", [V4X, V2], ids=["within", "back"])
def test_values_of_many_runs_in_any_order_open_as_in_python_and_a_changed_one_does_not(target: KeyVersion) -> None:
    chance = random.Random(11)
    values = [value for _ in range(12) for column in rotated(old_rows(1)[:20], V3X) for value in column if value]
    rows = [(value, chance.choice(values)) for value in values]
    chance.shuffle(rows)
    codec = format_of(NATIVE).native_codec(RING, target, LABELS)
    assert codec is not None
    packed, expected = codec.reencrypt(rows, 0, 2), rotated(rows, target)
    assert packed is not None
    assert packed.changed == len(rows) * 2 == sum(map(len, expected))
    for _ in range(300):
        good = bytearray(chance.choice(values))
        good[chance.randrange(4, len(good))] ^= chance.choice((1, 2, 4, 8))
        # After its unchanged neighbours, whose derived keys are remembered.
        assert codec.check([*rows[:3], (bytes(good), None)], 0, 2) is None


# Of a value after the first of a run, or of what encrypts: only what verifies derives the key independently.
DAMAGES = {
    "the first half of its nonce": "seen ? (element)[10] ^= 1 : 0",
    "the second half of its nonce": "seen ? (element)[30] ^= 1 : 0",
    "its body": "seen ? (element)[42] ^= 1 : 0",
    "its commitment": "seen ? (element)[(bytes) - 9] ^= 1 : 0",
    "the commitments' remembered state": "codec->sealing.derived[0].chained[20] ^= 1",
    "the remembered key schedule": (
        "EVP_CipherInit_ex(codec->sealing.derived[0].context, NULL, NULL, (uint8_t[32]){1}, NULL, 1)"
    ),
    "the subkey": "codec->sealing.subkey[3] ^= seen == 1, codec->sealing.derived[0].is_known = 0",
}


@pytest.fixture(scope="module")
def damaging(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A codec that damages what follows the first value since the damage was chosen."""
    since = f'static int seen, last; int now = atoi(getenv("{DAMAGE}")); if (now != last) {{ last = now; seen = 0; }}'
    statement = f"({{ {since} {chosen(DAMAGES.values())} seen++; }})"
    return built(tmp_path_factory.mktemp("damaging"), f"-DAFTER_PACKING(element,bytes)={statement}")


@native
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_fault_after_the_first_value_of_a_run_is_noticed(
    damage: str, damaging: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "MODULE", damaging)
    monkeypatch.setenv(DAMAGE, str(list(DAMAGES).index(damage)))
    rows = [(bound(RING, 1, "a text of 17 char"),)]
    codec = format_of(NATIVE).native_codec(RING, V4X, LABELS[:1])
    assert codec is not None
    assert codec.reencrypt(rows, 0, 1) is not None
    codec = format_of(NATIVE).native_codec(RING, V4X, LABELS[:1])
    assert codec is not None
    with pytest.raises(KeyRotationError, match="faulty"):
        codec.reencrypt(rows * 3, 0, 1)
