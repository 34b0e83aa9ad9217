"""Key material: 32 bytes that never show themselves."""

import base64
import binascii
import hashlib
import hmac
import os
from typing import NoReturn, Self

from keyrotation_pipeline.errors import InvalidKeyError

KEY_BYTES = 32
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
        """A new key from the operating system's CSPRNG."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def from_base64(cls, text: str) -> Self:
        """Read standard base64 (white space around it is ignored, as the seed's files may end with a newline).

        Raises:
            InvalidKeyError: not base64, or not 32 bytes.
        """
        try:
            raw = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise InvalidKeyError("a key is not valid base64; give the base64 of 32 bytes") from None
        return cls(raw)

    @property
    def raw(self) -> bytes:
        """The key bytes, for a cipher object and nothing else."""
        return self._raw

    def to_base64(self) -> str:
        """The form in which stores and backups hold it."""
        return base64.b64encode(self._raw).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over a fixed label and the key, 64 hex digits: names the key without telling of it."""
        return hashlib.sha256(FINGERPRINT_LABEL + self._raw).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyMaterial) and hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"KeyMaterial({self.fingerprint[:16]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("key material cannot be pickled")
