"""Makes an AES-GCM value that two keys open, as whoever knows both can (Dodis and others, CRYPTO 2018)."""

import os

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

_REDUCTION = 0xE1 << 120


def opened_by_both(first: bytes, second: bytes) -> tuple[bytes, bytes]:
    """Returns a nonce of 12 bytes, and one block of ciphertext with a tag that is right under both keys."""
    nonce = os.urandom(12)
    return nonce, sealed_by_both(first, second, nonce, b"")


def sealed_by_both(first: bytes, second: bytes, nonce: bytes, associated_data: bytes) -> bytes:
    """Returns one block of ciphertext with a tag that is right under both keys.

    The tag of a block C is A·Hⁿ + … + C·H² + L·H + E(nonce ‖ 1), so equal tags are a linear equation for C.
    """
    padded = associated_data + bytes(-len(associated_data) % 16)
    # With nothing where C stands; the last block tells both lengths in bits.
    blocks = [int.from_bytes(padded[at : at + 16], "big") for at in range(0, len(padded), 16)]
    blocks += [0, 8 * len(associated_data) << 64 | 128]
    h1, h2 = _block(first, bytes(16)), _block(second, bytes(16))
    without = [_hashed(h, blocks) ^ _block(key, nonce + b"\0\0\0\1") for key, h in ((first, h1), (second, h2))]
    ciphertext = _times(without[0] ^ without[1], _inverse(_times(h1, h1) ^ _times(h2, h2)))
    tag = without[0] ^ _times(ciphertext, _times(h1, h1))
    return ciphertext.to_bytes(16, "big") + tag.to_bytes(16, "big")


def _hashed(h: int, blocks: list[int]) -> int:
    """GHASH."""
    hashed = 0
    for block in blocks:
        hashed = _times(hashed ^ block, h)
    return hashed


def _block(key: bytes, block: bytes) -> int:
    encryptor = Cipher(AES256(key), ECB()).encryptor()  # noqa: S305  a single block
    return int.from_bytes(encryptor.update(block), "big")


def _times(left: int, right: int) -> int:
    """Multiplies in GCM's field, whose bits are in the order of NIST SP 800-38D, section 6.3."""
    product = 0
    for place in reversed(range(128)):
        if left >> place & 1:
            product ^= right
        right = right >> 1 ^ (_REDUCTION if right & 1 else 0)
    return product


def _inverse(element: int) -> int:
    """Raises to the power of 2¹²⁸ - 2."""
    result = 1 << 127  # one
    for _ in range(127):
        element = _times(element, element)
        result = _times(result, element)
    return result
