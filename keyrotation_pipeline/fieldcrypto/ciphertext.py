"""Stored values: taken apart and put together, without a key."""

import binascii
import re
from dataclasses import dataclass

from keyrotation_pipeline.errors import MalformedCiphertextError
from keyrotation_pipeline.fieldcrypto.grammar import (
    NEAR_MISS_PATTERN,
    NONCE_BYTES,
    NONCE_PATTERN,
    TAG_BYTES,
    VERSION_PATTERN,
    KeyVersion,
)

_HEAD = re.compile(rf"({VERSION_PATTERN}):({NONCE_PATTERN}):")
_NEAR_MISS = re.compile(NEAR_MISS_PATTERN)


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A stored value in its parts; `str()` gives the stored form back, `repr` only its version and size.

    Args:
        version: the key that encrypted it.
        nonce: 12 bytes.
        body: ciphertext ‖ 16-byte tag.
    """

    version: KeyVersion
    nonce: bytes
    body: bytes

    def __str__(self) -> str:
        return f"{self.version.prefix}{_base64(self.nonce)}:{_base64(self.body)}"

    def __repr__(self) -> str:
        return f"Ciphertext({self.version}, {len(self.body)} bytes)"


def parse(stored: str) -> Ciphertext:
    """Split a stored value into version, nonce and ciphertext, without decrypting it.

    Accepts exactly what `grammar.VALUE_PATTERN` matches, in time and memory linear in the length.

    Args:
        stored: ``v<N>:<16 base64 characters: 12 B nonce>:<base64: ciphertext ‖ 16 B tag>``.

    Raises:
        MalformedCiphertextError: any other shape; the message holds no part of `stored`.

    Source: the seed procedure, section 4.2; NIST SP 800-38D (96-bit IV, 128-bit tag); RFC 4648 section 3.5 (canonical).
    """
    head = _HEAD.match(stored)
    if head is None:
        raise MalformedCiphertextError
    return Ciphertext(KeyVersion.parse(head[1]), binascii.a2b_base64(head[2]), _body(stored[head.end() :]))


def looks_encrypted(stored: str) -> bool:
    """Whether somebody meant this to be one of our values, however damaged (``v01:``, `` v1:``, a truncated one)."""
    return _NEAR_MISS.match(stored) is not None


def ciphertext_length(characters: int, *, bytes_per_character: int = 4, version_digits: int = 6) -> int:
    """The width that a column needs for the encrypted form of a text, in characters (all ASCII, so in bytes too).

    Args:
        characters: the longest plaintext, in Unicode code points, as ``varchar(n)`` counts them.
        bytes_per_character: UTF-8 takes 1 (ASCII only) to 4 (the worst case, the default) for each.
        version_digits: digits of the highest key version to come. The default holds every version there can be; a
            narrower column must be widened before, say, v9 is followed by v10.
    """
    body = characters * bytes_per_character + TAG_BYTES
    return len("v:") + version_digits + _base64_length(NONCE_BYTES) + len(":") + _base64_length(body)


def _body(text: str) -> bytes:
    """Decode canonical base64 of a tag or more: no other alphabet, no white space, no stray bits in the last byte."""
    body = _decoded(text)
    last_group = body[(len(body) - 1) // 3 * 3 :]
    if len(body) < TAG_BYTES or not text.endswith(_base64(last_group)):
        raise MalformedCiphertextError
    return body


def _decoded(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # also binascii.Error, and what is not ASCII
        raise MalformedCiphertextError from None


def _base64(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode("ascii")


def _base64_length(size_bytes: int) -> int:
    return (size_bytes + 2) // 3 * 4
