"""Order in bytes is found where it is, and not where it is not."""

import random
from collections.abc import Callable

import pytest

from keyrotation_pipeline.scan.statistics import has_fixed_positions, looks_random, uses_whole_alphabet
from keyrotation_pipeline_tests.unit.scan.ciphertexts import b64

Row = Callable[[random.Random], bytes]


def some(row: Row, count: int, seed: int = 0) -> list[bytes]:
    rng = random.Random(seed)
    return [row(rng) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12, 60, 200])
def test_random_bytes_look_random(count: int) -> None:
    values = [some(lambda rng: rng.randbytes(rng.randrange(17, 80)), count, seed) for seed in range(100)]
    assert sum(not looks_random(raws) for raws in values) <= 1
    assert sum(not uses_whole_alphabet([b64(raw) for raw in raws]) for raws in values) <= 1


@pytest.mark.parametrize("count", [3, 4, 12, 200])
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(lambda rng: b"\x0a" + rng.randbytes(40), id="first byte"),
        pytest.param(lambda rng: rng.randbytes(15) + b"\x01" + rng.randbytes(rng.randrange(20, 40)), id="16th byte"),
        pytest.param(lambda rng: rng.randbytes(rng.randrange(20, 40)) + b"\x00", id="last byte"),
    ],
)
def test_a_fixed_byte_is_order(row: Row, count: int) -> None:
    raws = some(row, count)
    assert has_fixed_positions(raws)
    assert not looks_random(raws)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(lambda rng: rng.choice((b"\x10", b"\x83", b"\xf2", b"\x4c")) + rng.randbytes(40), id="four heads"),
    ],
)
def test_a_byte_with_few_values_is_order_too(row: Row) -> None:
    assert not looks_random(some(row, 60))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(lambda rng: bytes(int(rng.gauss(128, 30)) & 255 for _ in range(40)), id="gaussian"),
        pytest.param(lambda rng: bytes(rng.randrange(128) for _ in range(40)), id="seven bits"),
        pytest.param(lambda rng: bytes(rng.randrange(0, 256, 2) for _ in range(40)), id="even ones"),
    ],
)
def test_uneven_bytes_are_order(row: Row) -> None:
    raws = some(row, 30)
    assert not has_fixed_positions(raws)
    assert not looks_random(raws)


@pytest.mark.parametrize(
    ("alphabet", "count"),
    [
        pytest.param("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 10, id="base62"),
        pytest.param("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz123456789", 10, id="base58"),
        pytest.param("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", 3, id="letters"),
        pytest.param("0123456789abcdefghijklmnopqrstuvwxyz", 3, id="one case"),
    ],
)
def test_other_alphabets_are_no_base64(alphabet: str, count: int) -> None:
    rng = random.Random(0)
    assert not uses_whole_alphabet(["".join(rng.choices(alphabet, k=40)) for _ in range(count)])
