"""Makes an AES-GCM value that two keys open, as whoever knows both can (Dodis and others, CRYPTO 2018)."""

import os

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

_REDUCTION = 0xE1 << 120


def opened_by_both(first: bytes, second: bytes) -> tuple[bytes, bytes]:
    """Returns a nonce of 12 bytes, and one block of ciphertext with a tag that is right under both keys.

    The tag of a block C is C·H² + L·H + E(nonce ‖ 1), so equal tags are a linear equation for C.
    """
    nonce, length = os.urandom(12), 128  # the lengths block: no associated data, 128 bits
    h1, h2 = _block(first, bytes(16)), _block(second, bytes(16))
    e1, e2 = (_block(key, nonce + b"\0\0\0\1") for key in (first, second))
    right = _times(length, h1) ^ _times(length, h2) ^ e1 ^ e2
    ciphertext = _times(right, _inverse(_times(h1, h1) ^ _times(h2, h2)))
    tag = _times(ciphertext, _times(h1, h1)) ^ _times(length, h1) ^ e1
    return nonce, ciphertext.to_bytes(16, "big") + tag.to_bytes(16, "big")


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
