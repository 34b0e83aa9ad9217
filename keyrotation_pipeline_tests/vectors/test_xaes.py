"""KC-XAES-256-GCM against the vectors of its specifications."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from keyrotation_pipeline.fieldcrypto.grammar import COMMITMENT_BYTES
from keyrotation_pipeline.fieldcrypto.xaes import KcXaes256Gcm

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("xaes.json").read_text())
BLOCK_BYTES = 1 << 16


class Stream:
    """SHAKE-128 of nothing, read piece by piece.

    hashlib only gives a digest from its beginning, so it is made again, twice as long, whenever it is used up.
    """

    def __init__(self) -> None:
        self._read, self._made = 0, b""

    def take(self, size: int) -> bytes:
        if self._read + size > len(self._made):
            self._made = hashlib.shake_128().digest(max(BLOCK_BYTES, 2 * len(self._made)))
        self._read += size
        return self._made[self._read - size : self._read]

    def vector(self) -> bytes:
        return self.take(self.take(1)[0])


@pytest.mark.parametrize("case", VECTORS["values"], ids=lambda case: case["key"][:2] + case["nonce"][:2])
def test_a_vector_of_the_specification_is_reproduced_and_read(case: dict[str, str]) -> None:
    cipher, nonce = KcXaes256Gcm(bytes.fromhex(case["key"])), bytes.fromhex(case["nonce"])
    text, bound = bytes.fromhex(case["plaintext"]), bytes.fromhex(case["associated_data"])
    key, commitment = cipher.derived(nonce)
    assert case["derived_key"] in {None, key.hex()}
    assert commitment.hex() == case["commitment"]
    assert cipher.encrypt(nonce, text, bound).hex() == case["ciphertext"] + case["commitment"]
    assert cipher.decrypt(nonce, bytes.fromhex(case["ciphertext"] + case["commitment"]), bound) == text


@pytest.mark.parametrize(
    "iterations", [10_000, pytest.param(1_000_000, marks=pytest.mark.extended)], ids=lambda number: f"{number}"
)
def test_the_accumulated_vectors_of_the_specification_are_reproduced(iterations: int) -> None:
    stream, hashed = Stream(), hashlib.shake_128()
    for _ in range(iterations):
        key, nonce = stream.take(32), stream.take(24)
        text, bound = stream.vector(), stream.vector()
        hashed.update(KcXaes256Gcm(key).encrypt(nonce, text, bound)[:-COMMITMENT_BYTES])
    assert hashed.hexdigest(32) == VECTORS["accumulated"][str(iterations)]


def test_every_changed_bit_of_a_ciphertext_is_noticed() -> None:
    cipher, nonce = KcXaes256Gcm(bytes(32)), bytes(24)
    good = cipher.encrypt(nonce, b"Ada", b"clients.email")
    for bit in range(8 * len(good)):
        changed = (int.from_bytes(good) ^ 1 << bit).to_bytes(len(good))
        with pytest.raises(InvalidTag):
            cipher.decrypt(nonce, changed, b"clients.email")
    for cut in (good[:-1], good[1:], good[:40], b""):
        with pytest.raises(InvalidTag):
            cipher.decrypt(nonce, cut, b"clients.email")
