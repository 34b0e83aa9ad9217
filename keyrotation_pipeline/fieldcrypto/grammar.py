"""The value grammar, in one place: the parser, the inventory and the fence in the database all take it from here.

A stored value is ``v<N>:<nonce>:<ciphertext>``: ASCII, N without leading zeros and at most six digits, then 16 base64
characters (a nonce of 12 bytes), then the canonical base64 of ciphertext ‖ 16-byte tag.
"""

import re
from dataclasses import dataclass
from typing import Self

from keyrotation_pipeline.errors import InvalidKeyError

NONCE_BYTES = 12
TAG_BYTES = 16
MAX_VERSION_NUMBER = 999_999

# Python's `re` and PostgreSQL's regular expressions read these the same way (a test runs both over one table), so that
# the database and the parser cannot disagree. Match the whole text: `fullmatch` here, `^(?:…)$` there.
VERSION_PATTERN = r"v[1-9][0-9]{0,5}"
NONCE_PATTERN = r"[A-Za-z0-9+/]{16}"
# 16 bytes (the tag alone, of an empty text) are 24 characters; the last group has no stray bits.
BASE64_PATTERN = (
    r"(?:[A-Za-z0-9+/]{4}){5,}"
    r"(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)"
)
VALUE_PATTERN = rf"{VERSION_PATTERN}:{NONCE_PATTERN}:{BASE64_PATTERN}"
# How something begins that somebody meant to be one of our values: `v01:`, ` v1:`, `V1:`. Ours begin like this too.
NEAR_MISS_PATTERN = r"[ \t\n\r\f\v]*[vV][0-9]+[ \t\n\r\f\v]*:"

_VERSION = re.compile(rf"{VERSION_PATTERN}\Z", re.ASCII)


@dataclass(frozen=True, order=True, slots=True)
class KeyVersion:
    """The number of a key. Numbers only grow and are never used again, whatever becomes of the key.

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
        """Read ``v2``.

        Raises:
            InvalidKeyError: anything else, also ``v02``, ``V2`` and `` v2``.
        """
        if not _VERSION.match(name):
            raise InvalidKeyError("a key version is named v1, v2, … without leading zeros")
        return cls(int(name[1:]))

    @property
    def prefix(self) -> str:
        """What every value under this version begins with, ``v2:``."""
        return f"v{self.number}:"

    def next(self) -> Self:
        """The version with the next higher number."""
        return type(self)(self.number + 1)

    def __str__(self) -> str:
        return f"v{self.number}"
