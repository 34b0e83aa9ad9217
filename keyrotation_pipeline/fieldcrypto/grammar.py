"""Defines the value format as text, in one place: parser, inventory, engine and fence all take it from here.

A stored value is ``v<N>:<nonce>:<ciphertext>``: ASCII, N without leading zeros and at most six digits, then 16 base64
characters (a nonce of 12 bytes), then the canonical base64 of ciphertext ‖ 16-byte tag.

Two more files know the format: `cipher` encrypts and decrypts one value, `batch` many at once. SQL is composed from
these patterns in one file of the inventory, `grammar_sql`.
"""

import binascii
import re
from dataclasses import dataclass
from typing import Self

from keyrotation_pipeline.errors import InvalidKeyError, MalformedCiphertextError

NONCE_BYTES = 12
TAG_BYTES = 16
MAX_VERSION_NUMBER = 999_999

# Python's `re` and PostgreSQL's regular expressions read these the same way (a test runs both over one table), so that
# the database and the parser cannot disagree. Match the whole text: `fullmatch` here, `^(?:…)$` there.
VERSION_PATTERN = r"v[1-9][0-9]{0,5}"
PREFIX_PATTERN = rf"{VERSION_PATTERN}:"
NONCE_CHARS = NONCE_BYTES // 3 * 4
NONCE_PATTERN = rf"[A-Za-z0-9+/]{{{NONCE_CHARS}}}"
HEAD_PATTERN = rf"{PREFIX_PATTERN}{NONCE_PATTERN}:"
# A last group of base64 that is padded has no stray bits before its padding.
_LAST_OF_THREE, _LAST_OF_TWO = r"[AEIMQUYcgkosw048]=", r"[AQgw]=="
# 16 bytes (the tag alone, of an empty text) are 24 characters.
BASE64_PATTERN = (
    r"(?:[A-Za-z0-9+/]{4}){5,}"
    rf"(?:[A-Za-z0-9+/]{{4}}|[A-Za-z0-9+/]{{2}}{_LAST_OF_THREE}|[A-Za-z0-9+/]{_LAST_OF_TWO})"
)
VALUE_PATTERN = rf"{HEAD_PATTERN}{BASE64_PATTERN}"
# Where the text after the head is known to have a length divisible by four and enough for a tag, this accepts exactly
# what VALUE_PATTERN accepts, in two thirds of the time.
BASE64_OF_GOOD_LENGTH_PATTERN = rf"[A-Za-z0-9+/]+(?:{_LAST_OF_THREE}|{_LAST_OF_TWO})?"
VALUE_OF_GOOD_LENGTH_PATTERN = rf"{HEAD_PATTERN}{BASE64_OF_GOOD_LENGTH_PATTERN}"
# How text begins that was meant to be one of our values: `v01:`, ` v1:`, `V1:`. Valid values match as well.
NEAR_MISS_PATTERN = r"[ \t\n\r\f\v]*[vV][0-9]+[ \t\n\r\f\v]*:"

# In characters: the longest prefix; the base64 of a tag alone, with its padding and without.
LONGEST_PREFIX_CHARS = len(f"v{MAX_VERSION_NUMBER}:")
SHORTEST_BODY_CHARS = (TAG_BYTES + 2) // 3 * 4
SHORTEST_UNPADDED_CHARS = (TAG_BYTES * 4 + 2) // 3

_VERSION = re.compile(rf"{VERSION_PATTERN}\Z", re.ASCII)
_HEAD = re.compile(rf"({VERSION_PATTERN}):({NONCE_PATTERN}):")
_NEAR_MISS = re.compile(NEAR_MISS_PATTERN)


@dataclass(frozen=True, order=True, slots=True)
class KeyVersion:
    """The number of a key. Numbers only grow and are never reused, whatever happens to the key.

    Args:
        number: 1 to 999999.
    """

    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MAX_VERSION_NUMBER:
            raise InvalidKeyError(
                f"key version number {self.number} is outside 1 to {MAX_VERSION_NUMBER}; name a version as v1, v2, …"
            )

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parses ``v2``.

        Raises:
            InvalidKeyError: anything else, also ``v02``, ``V2`` and `` v2``.
        """
        if not _VERSION.match(name):
            raise InvalidKeyError("a key version is named v1, v2, … without leading zeros")
        return cls(int(name[1:]))

    @property
    def prefix(self) -> str:
        """Returns the text that every value under this version begins with, ``v2:``."""
        return f"v{self.number}:"

    def next(self) -> Self:
        """Returns the version with the next higher number."""
        return type(self)(self.number + 1)

    def __str__(self) -> str:
        return f"v{self.number}"


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A stored value split into its parts; `str()` gives the stored form, `repr` only its version and size.

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
    """Splits a stored value into version, nonce and ciphertext, without decrypting it.

    Accepts exactly what `grammar.VALUE_PATTERN` matches, in time and memory linear in the length.

    Args:
        stored: ``v<N>:<16 base64 characters: 12 B nonce>:<base64: ciphertext ‖ 16 B tag>``.

    Raises:
        MalformedCiphertextError: any other shape; the message holds no part of `stored`.

    Source: the source procedure, section 4.2; NIST SP 800-38D (96-bit IV, 128-bit tag); RFC 4648 section 3.5
    (canonical).
    """
    head = _HEAD.match(stored)
    if head is None:
        raise MalformedCiphertextError
    return Ciphertext(KeyVersion.parse(head[1]), binascii.a2b_base64(head[2]), _body(stored[head.end() :]))


def looks_encrypted(stored: str) -> bool:
    """Returns whether a text looks like one of our values, however damaged (``v01:``, `` v1:``, a truncated one)."""
    return _NEAR_MISS.match(stored) is not None


def ciphertext_length(characters: int, *, bytes_per_character: int = 4, version_digits: int = 6) -> int:
    """Returns the column width that the encrypted form of a text needs, in characters (all ASCII, so also in bytes).

    Args:
        characters: the longest plaintext, in Unicode code points, as ``varchar(n)`` counts them.
        bytes_per_character: UTF-8 takes 1 (ASCII only) to 4 (the worst case, the default) for each.
        version_digits: digits of the highest key version to come. The default allows for every possible version; a
            narrower column must be widened before, say, v9 is followed by v10.
    """
    body = characters * bytes_per_character + TAG_BYTES
    return len("v:") + version_digits + _base64_length(NONCE_BYTES) + len(":") + _base64_length(body)


def _body(text: str) -> bytes:
    """Decodes canonical base64 of at least a tag: no other alphabet, white space or stray bits in the last byte."""
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
