"""Defines the value format as text, in one place: parser, inventory, engine and fence all take it from here.

A stored value of the first generation is ``v<N>:<nonce>:<ciphertext>``: ASCII, N without leading zeros and at most six
digits, then 16 base64 characters (a nonce of 12 bytes), then the canonical base64 of ciphertext ‖ 16-byte tag. One of
the second is ``v<N>x:<nonce>:<ciphertext>``: 32 characters (24 bytes), then ciphertext ‖ tag ‖ 32-byte commitment. A
number belongs to one generation, so ``v2`` and ``v2x`` are never both keys.

Two more files know the format: `cipher` encrypts and decrypts one value, `batch` many at once. SQL is composed from
these patterns in one file of the inventory, `grammar_sql`.
"""

import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from keyrotation_pipeline.errors import InvalidKeyError, MalformedCiphertextError

TAG_BYTES = 16
_NO_KEY = "plaintext"
_CODE_OF_NO_KEY = -4  # which no value has
MAX_VERSION_NUMBER = 999_999


@dataclass(frozen=True, slots=True)
class Generation:
    """What differs between the values of the two generations of the format.

    Args:
        number: 1 or 2.
        marker: between the number of a version and its colon.
        nonce_bytes: a multiple of three, so that the base64 of a nonce has no padding.
        overhead_bytes: what follows the ciphertext: the tag, and in the second generation the key commitment.
    """

    number: int
    marker: str
    nonce_bytes: int
    overhead_bytes: int

    @property
    def nonce_chars(self) -> int:
        """Returns the length of a nonce as base64."""
        return self.nonce_bytes // 3 * 4

    @property
    def shortest_body_chars(self) -> int:
        """Returns the length of the base64 of an empty text's ciphertext, with its padding."""
        return (self.overhead_bytes + 2) // 3 * 4


COMMITMENT_BYTES = 32
FIRST = Generation(1, "", 12, TAG_BYTES)
SECOND = Generation(2, "x", 24, TAG_BYTES + COMMITMENT_BYTES)
GENERATIONS = (FIRST, SECOND)

# Python's `re` and PostgreSQL's regular expressions read these the same way (a test runs both over one table), so that
# the database and the parser cannot disagree. Match the whole text: `fullmatch` here, `^(?:…)$` there.
_NUMBER_PATTERN = r"[1-9][0-9]{0,5}"
VERSION_PATTERN = rf"v{_NUMBER_PATTERN}{SECOND.marker}?"
PREFIX_PATTERN = rf"{VERSION_PATTERN}:"
# A last group of base64 that is padded has no stray bits before its padding.
_LAST_OF_THREE, _LAST_OF_TWO = r"[AEIMQUYcgkosw048]=", r"[AQgw]=="


def _head_pattern(generation: Generation) -> str:
    return rf"v{_NUMBER_PATTERN}{generation.marker}:[A-Za-z0-9+/]{{{generation.nonce_chars}}}:"


HEAD_PATTERN = f"(?:{_head_pattern(FIRST)}|{_head_pattern(SECOND)})"
_GROUP, _PADDED = "[A-Za-z0-9+/]{4}", f"[A-Za-z0-9+/]{{2}}{_LAST_OF_THREE}|[A-Za-z0-9+/]{_LAST_OF_TWO}"
# 16 bytes (the tag alone, of an empty text) are 24 characters, the last two padding; with the commitment, 48 are 64.
VALUE_PATTERN = (
    f"(?:{_head_pattern(FIRST)}(?:{_GROUP}){{5,}}(?:{_GROUP}|{_PADDED})"
    f"|{_head_pattern(SECOND)}(?:{_GROUP}){{16,}}(?:{_PADDED})?)"
)
# Where the text after the head is known to have a length divisible by four and enough for an empty text, this accepts
# exactly what VALUE_PATTERN accepts, in two thirds of the time.
BASE64_OF_GOOD_LENGTH_PATTERN = rf"[A-Za-z0-9+/]+(?:{_LAST_OF_THREE}|{_LAST_OF_TWO})?"
VALUE_OF_GOOD_LENGTH_PATTERN = rf"{HEAD_PATTERN}{BASE64_OF_GOOD_LENGTH_PATTERN}"
# How text begins that was meant to be one of our values: `v01:`, ` v1:`, `V1:`, `v1X:`. Valid values match as well.
NEAR_MISS_PATTERN = r"[ \t\n\r\f\v]*[vV][0-9]+[xX]?[ \t\n\r\f\v]*:"

# In characters: the longest prefix; the base64 of a tag alone, without its padding.
LONGEST_PREFIX_CHARS = len(f"v{MAX_VERSION_NUMBER}{SECOND.marker}:")
SHORTEST_UNPADDED_CHARS = (TAG_BYTES * 4 + 2) // 3

# A near miss that goes on as a value does: with what may have been a nonce, and a colon.
_DAMAGED_PATTERN = rf"{NEAR_MISS_PATTERN}[A-Za-z0-9+/_=-]{{{FIRST.nonce_chars},{SECOND.nonce_chars}}}:"

_VERSION = re.compile(rf"{VERSION_PATTERN}\Z", re.ASCII)
_HEAD = re.compile(rf"({VERSION_PATTERN}):([A-Za-z0-9+/]{{{FIRST.nonce_chars},{SECOND.nonce_chars}}}):")
_HEAD_IN_BYTES = re.compile(HEAD_PATTERN.encode())
_DAMAGED = re.compile(_DAMAGED_PATTERN)


@dataclass(frozen=True, order=True, slots=True)
class KeyVersion:
    """The name of a key: its number, and the generation of the values that it encrypts.

    Numbers only grow and are never reused, whatever happens to the key; so a number has one generation.

    Args:
        number: 1 to 999999.
        generation_number: 1 (``v2``) or 2 (``v2x``).
    """

    number: int
    generation_number: int = FIRST.number

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MAX_VERSION_NUMBER:
            raise InvalidKeyError(
                f"key version number {self.number} is outside 1 to {MAX_VERSION_NUMBER}; name a version as v1, v2, …"
            )

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parses ``v2`` or ``v2x``, or the word for no key, ``plaintext``.

        Raises:
            InvalidKeyError: anything else, also ``v02``, ``V2``, ``v2X`` and `` v2``.
        """
        if name == _NO_KEY:
            return cls.without_key()
        if not _VERSION.match(name):
            raise InvalidKeyError("a key version is named v1, v2, … without leading zeros")
        second = name.endswith(SECOND.marker)
        return cls(int(name[1:].rstrip(SECOND.marker)), SECOND.number if second else FIRST.number)

    @classmethod
    def without_key(cls) -> Self:
        """Returns what stands for plaintext: it comes before every version, and never has a key or a state."""
        made = object.__new__(cls)
        object.__setattr__(made, "number", 0)
        object.__setattr__(made, "generation_number", FIRST.number)
        return made

    @classmethod
    def of_code(cls, code: int) -> Self:
        """Returns the version that `code` gives a number for."""
        generation, number = divmod(code, MAX_VERSION_NUMBER + 1)
        return cls(number, generation + 1)

    @property
    def code(self) -> int:
        """Returns one number for the version, by which SQL counts: 2 for v2, 1000002 for v2x."""
        if not self.number:
            return _CODE_OF_NO_KEY
        return (self.generation_number - 1) * (MAX_VERSION_NUMBER + 1) + self.number

    @property
    def generation(self) -> Generation:
        """Returns the generation of the values that this key encrypts."""
        return GENERATIONS[self.generation_number - 1]

    @property
    def prefix(self) -> str:
        """Returns the text that every value under this version begins with, ``v2:`` or ``v2x:``."""
        return f"{self}:"

    @property
    def other_generation(self) -> Self:
        """Returns the name that this number has in the other generation, under which there is never a key."""
        return type(self)(self.number, FIRST.number + SECOND.number - self.generation_number)

    def next(self, generation: Generation | None = None) -> Self:
        """Returns the version with the next higher number, of the same generation unless another is given."""
        return type(self)(self.number + 1, (generation or self.generation).number)

    def __str__(self) -> str:
        return f"v{self.number}{self.generation.marker}" if self.number else _NO_KEY


# The primary of a home without a key, and what its first rotation starts from.
PLAINTEXT = KeyVersion.without_key()


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A stored value split into its parts; `str()` gives the stored form, `repr` only its version and size.

    Args:
        version: the key that encrypted it.
        nonce: 12 bytes, 24 in the second generation.
        body: ciphertext ‖ 16-byte tag, and in the second generation ‖ 32-byte commitment.
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
        stored: ``v<N>:<16 base64 characters: 12 B nonce>:<base64: ciphertext ‖ 16 B tag>``, or
            ``v<N>x:<32 base64 characters: 24 B nonce>:<base64: ciphertext ‖ 16 B tag ‖ 32 B commitment>``.

    Raises:
        MalformedCiphertextError: any other shape; the message holds no part of `stored`.

    Source: the source procedure, section 4.2; NIST SP 800-38D (96-bit IV, 128-bit tag); RFC 4648 section 3.5
    (canonical).
    """
    head = _HEAD.match(stored)
    if head is None:
        raise MalformedCiphertextError
    version = KeyVersion.parse(head[1])
    if len(head[2]) != version.generation.nonce_chars:
        raise MalformedCiphertextError
    body = _body(stored[head.end() :], version.generation.overhead_bytes)
    return Ciphertext(version, binascii.a2b_base64(head[2]), body)


def parsed(stored: str) -> Ciphertext | None:
    """Splits a stored value into its parts; returns None where it does not match the value grammar."""
    try:
        return parse(stored)
    except MalformedCiphertextError:
        return None


def version_named(text: str) -> KeyVersion | None:
    """Returns the version that a text names before its first colon, as values and indexes do; None: none."""
    try:
        return KeyVersion.parse(text.partition(":")[0])
    except InvalidKeyError:
        return None


def any_value_in(plaintexts: Iterable[bytes]) -> bool:
    """Returns whether any of some plaintexts is itself a stored value, under whatever key.

    A text that only begins like one (``v2: final version``) is a text.
    """
    # The comparison takes a third of the pattern's time, and nearly every text fails it.
    heads = [each for each in plaintexts if b"v" <= each < b"w" and _HEAD_IN_BYTES.match(each)]
    return any(parsed(each.decode("latin-1")) is not None for each in heads)


def looks_damaged(stored: str) -> bool:
    """Returns whether a text that is no value was one before it was damaged, or was meant to be one.

    It has the name of a version and a nonce, as far as these can be recognised; ``v1: see above`` has none.
    """
    return _DAMAGED.match(stored) is not None


def ciphertext_length(
    characters: int, *, bytes_per_character: int = 4, version_digits: int = 6, generation: int = 1
) -> int:
    """Returns the column width that the encrypted form of a text needs, in characters (all ASCII, so also in bytes).

    Args:
        characters: the longest plaintext, in Unicode code points, as ``varchar(n)`` counts them.
        bytes_per_character: UTF-8 takes 1 (ASCII only) to 4 (the worst case, the default) for each.
        version_digits: digits of the highest key version to come. The default allows for every possible version; a
            narrower column must be widened before, say, v9 is followed by v10.
        generation: 2: also enough for values of the second generation, which are at most 61 characters longer.
    """
    kind = GENERATIONS[generation - 1]
    body = characters * bytes_per_character + kind.overhead_bytes
    return len(f"v{kind.marker}:") + version_digits + kind.nonce_chars + len(":") + _base64_length(body)


def _body(text: str, shortest_bytes: int) -> bytes:
    """Decodes canonical base64 of so many bytes: no other alphabet, white space or stray bits in the last byte."""
    body = _decoded(text)
    last_group = body[(len(body) - 1) // 3 * 3 :]
    if len(body) < shortest_bytes or not text.endswith(_base64(last_group)):
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
