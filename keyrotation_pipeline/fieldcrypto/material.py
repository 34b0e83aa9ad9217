"""Key material: 32 bytes, or a passphrase, that are never printed. Only `key_bytes` reads them."""

import hashlib
import hmac
import os
import secrets
import string
from typing import NoReturn, Self

from keyrotation_pipeline.errors import InvalidKeyError

KEY_BYTES = 32
SHORTEST_PASSPHRASE, LONGEST_PASSPHRASE = 12, 256
FINGERPRINT_LABEL = b"keyrotation-key-fingerprint-v1"


class KeyMaterial:
    """A 256-bit key. It has no useful `repr`, cannot be pickled, and compares in constant time.

    Args:
        raw: exactly 32 bytes.

    Raises:
        InvalidKeyError: another length.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise InvalidKeyError(f"a key has {KEY_BYTES} bytes, this one has {len(raw)}; give the base64 of 32 bytes")
        self._raw = bytes(raw)

    @classmethod
    def generate(cls) -> Self:
        """Generates a new key from the operating system's CSPRNG."""
        return cls(os.urandom(KEY_BYTES))

    @property
    def fingerprint(self) -> str:
        """Returns SHA-256 over a fixed label and the key, 64 hex digits: names the key without revealing it."""
        return hashlib.sha256(FINGERPRINT_LABEL + self._raw).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyMaterial) and hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"KeyMaterial({self.fingerprint[:16]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("key material cannot be pickled")


class Passphrase(KeyMaterial):
    """What an application's own library derives a key from; the ciphers that need 32 bytes take none.

    Args:
        raw: 12 to 256 characters of printable ASCII.

    Raises:
        InvalidKeyError: anything else.
    """

    __slots__ = ()

    def __init__(self, raw: bytes) -> None:
        if not (SHORTEST_PASSPHRASE <= len(raw) <= LONGEST_PASSPHRASE and raw.isascii() and raw.decode().isprintable()):
            raise InvalidKeyError(
                f"a passphrase has {SHORTEST_PASSPHRASE} to {LONGEST_PASSPHRASE} characters of printable ASCII"
            )
        self._raw = bytes(raw)

    @classmethod
    def generate(cls) -> Self:
        """Generates 32 letters and digits; it begins with a letter, so that YAML never takes it for a number."""
        letters = string.ascii_letters
        rest = (secrets.choice(letters + string.digits) for _ in range(KEY_BYTES - 1))
        return cls((secrets.choice(letters) + "".join(rest)).encode())
