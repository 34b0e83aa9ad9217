"""Finds a known key or passphrase in a text, in any form in which one is usually written."""

import base64
import binascii
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from urllib.parse import unquote_to_bytes

from keyrotation_pipeline.fieldcrypto.material import (
    AES_KEY_BYTES,
    LONGEST_PASSPHRASE,
    SHORTEST_PASSPHRASE,
    fingerprint_of,
)

# Of each length of a key: its characters of base64 without the padding, and the padding.
_BASE64_CHARS = {size: (-(-4 * size // 3), b"=" * (-size % 3)) for size in AES_KEY_BYTES}
_HEX = re.compile(rb"[0-9A-Fa-f]{%d,}" % (2 * min(AES_KEY_BYTES)))
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{%d,}" % _BASE64_CHARS[min(AES_KEY_BYTES)][0])
# What may be encoded: the shortest passphrase, or a key.
_ENCODED_HEX = re.compile(rb"[0-9A-Fa-f]{%d,}" % (2 * SHORTEST_PASSPHRASE))
_ENCODED_BASE64 = re.compile(rb"[A-Za-z0-9+/]{%d,}" % (SHORTEST_PASSPHRASE * 4 // 3))
_PRINTABLE = re.compile(rb"[ -~]{%d,}" % SHORTEST_PASSPHRASE)
# Characters that words, settings, lists and URLs have next to a passphrase; it may hold them too.
_BESIDE = re.compile(rb"""[ "'`,:;=@/&?#|()<>{}\[\]\\]""")
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
# Base64 of base64, as in a manifest of Kubernetes, or percent-encoded twice.
_MOST_LAYERS = 4


def key_in(text: bytes, fingerprints: Collection[str]) -> str | None:
    """Returns the fingerprint of a key that a text holds, even among other characters; None: it holds none of them.

    A key is recognized raw, in hex, and in base64: standard or URL-safe, with or without padding, broken by white
    space, percent-encoded, and encoded again. So is a passphrase that begins and ends where the text does, or a line,
    or next to a space, a quote, a bracket or one of ``,:;=@/&?#|``; one that runs into other characters is not found.

    Args:
        fingerprints: as of `KeyMaterial`.
    """
    if not fingerprints:
        return None
    layers, looked_at = {text}, set[bytes]()
    for _ in range(_MOST_LAYERS):
        layers = {each for layer in layers for each in (layer, b"".join(layer.split()))} - looked_at
        looked_at |= layers
        for raw in (raw for layer in layers for raw in _candidates(layer)):
            if (fingerprint := fingerprint_of(raw)) in fingerprints:
                return fingerprint
        layers = {each for layer in layers for each in _decoded(layer)}
    return None


def _candidates(text: bytes) -> Iterator[bytes]:
    """Everything in a text that could be a key or a passphrase."""
    for size in AES_KEY_BYTES:
        yield from _windows(text, size)
    for run in _HEX.findall(text):
        yield from (binascii.unhexlify(window) for size in AES_KEY_BYTES for window in _windows(run, 2 * size))
    for run in _BASE64.findall(text.translate(_STANDARD_ALPHABET)):
        for chars, padding in _BASE64_CHARS.values():
            yield from (base64.b64decode(window + padding) for window in _windows(run, chars))
    for run in _PRINTABLE.findall(text):
        yield from _words(run)


def _words(text: bytes) -> Iterator[bytes]:
    """Everything of a passphrase's length that stands between characters which may be next to it."""
    beside = [found.start() for found in _BESIDE.finditer(text)]
    ends = [*beside, len(text)]
    for start in (0, *(at + 1 for at in beside)):
        first, last = bisect_left(ends, start + SHORTEST_PASSPHRASE), bisect_right(ends, start + LONGEST_PASSPHRASE)
        yield from (text[start:end] for end in ends[first:last])


def _decoded(text: bytes) -> Iterator[bytes]:
    """The text without percent-encoding, and what whole runs of base64 and hex hold."""
    yield unquote_to_bytes(text)
    for run in _ENCODED_HEX.findall(text):
        yield binascii.unhexlify(run[: len(run) // 2 * 2])
    for run in _ENCODED_BASE64.findall(text.translate(_STANDARD_ALPHABET)):
        yield base64.b64decode(run[: len(run) // 4 * 4] if len(run) % 4 == 1 else run + b"=" * (-len(run) % 4))


def _windows(text: bytes, length: int) -> Iterator[bytes]:
    return (text[start : start + length] for start in range(len(text) - length + 1))
