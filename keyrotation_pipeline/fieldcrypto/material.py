"""Key material: 32 bytes, another AES key, a passphrase, another library's key, or what names one that a server holds.

It is never printed. Only `key_bytes` reads the bytes.
"""

import hashlib
import hmac
import os
import re
import secrets
import string
from functools import lru_cache
from typing import NoReturn, Self

from keyrotation_pipeline.errors import InvalidKeyError

KEY_BYTES = 32
# Of AES, which libraries of applications use.
AES_KEY_BYTES = (16, 24, KEY_BYTES)
SHORTEST_PASSPHRASE, LONGEST_PASSPHRASE = 12, 256
FINGERPRINT_LABEL = b"keyrotation-key-fingerprint-v1"
LONGEST_NAME = 100
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}")
LONGEST_TRANSIT_BYTES = 300
LONGEST_SOURCE_KEY = 1024
# Of a key that somebody may have thought up: a fingerprint must not make guessing it cheap.
_STRETCHED = 200_000
_TRANSIT = re.compile(rb"vault:(v[1-9][0-9]{0,5}):[A-Za-z0-9+/]{38,}={0,2}:[0-9a-f]{64}")


def fingerprint_of(raw: bytes) -> str:
    """Returns SHA-256 over a fixed label and the bytes of a key, 64 hex digits: names the key without revealing it."""
    return hashlib.sha256(FINGERPRINT_LABEL + raw).hexdigest()


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
        """Returns the fingerprint of its bytes."""
        return fingerprint_of(self._raw)

    @property
    def name(self) -> str:
        """By which values name the key, where they do so by a text that is not made of the key; else empty."""
        return ""

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, KeyMaterial) and hmac.compare_digest(self._raw, other._raw)
        return same and isinstance(other, KeyMaterial) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"KeyMaterial({self.fingerprint[:16]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("key material cannot be pickled")


class AesKey(KeyMaterial):
    """A key of AES as an application's own library has it; the ciphers of our own format take none.

    Args:
        raw: 16, 24 or 32 bytes.
        name: by which values name it, if they do: up to 100 letters, digits, dots, hyphens and underscores.

    Raises:
        InvalidKeyError: anything else.
    """

    __slots__ = ("_name",)

    def __init__(self, raw: bytes, name: str = "") -> None:
        if len(raw) not in AES_KEY_BYTES:
            raise InvalidKeyError(f"a key of AES has 16, 24 or 32 bytes, this one has {len(raw)}")
        if name and _NAME.fullmatch(name) is None:
            raise InvalidKeyError(
                f"{name!r} cannot name a key here; a name has up to {LONGEST_NAME} letters, digits, dots, hyphens and "
                "underscores"
            )
        self._raw, self._name = bytes(raw), name

    @property
    def name(self) -> str:
        """See `KeyMaterial.name`."""
        return self._name


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


class SourceKey(KeyMaterial):
    """The one key of a library whose values a rotation encrypts under keys of our own, as the library reads it.

    It opens values, and is in no application's key ring. It may be a text that somebody thought up, so that its
    fingerprint is that of what PBKDF2 derives from it.

    Args:
        raw: 1 to 1024 bytes.
        name: of the environment variable that `init` imported it from.

    Raises:
        InvalidKeyError: anything else.
    """

    __slots__ = ("_name",)

    def __init__(self, raw: bytes, name: str) -> None:
        if not 1 <= len(raw) <= LONGEST_SOURCE_KEY or _NAME.fullmatch(name) is None:
            raise InvalidKeyError(
                f"the key of another library has 1 to {LONGEST_SOURCE_KEY} bytes and the name of a variable"
            )
        self._raw, self._name = bytes(raw), name

    @property
    def fingerprint(self) -> str:
        """See `KeyMaterial.fingerprint`."""
        return _fingerprint_of_stretched(self._raw)

    @property
    def name(self) -> str:
        """See `KeyMaterial.name`: no value has it, but the declarations of the places do."""
        return self._name


@lru_cache(maxsize=64)
def _fingerprint_of_stretched(raw: bytes) -> str:
    return fingerprint_of(hashlib.pbkdf2_hmac("sha256", raw, FINGERPRINT_LABEL, _STRETCHED))


class TransitKey(KeyMaterial):
    """A version of a key that never leaves Vault or OpenBao: by what it is known again, and no byte of it.

    Args:
        raw: a value under that version, ``vault:v2:<base64>``, a colon, and the SHA-256 of its plaintext, which was
            random and is stored nowhere: only who can decrypt with this version knows it.

    Raises:
        InvalidKeyError: anything else.
    """

    __slots__ = ("_name",)

    def __init__(self, raw: bytes) -> None:
        match = _TRANSIT.fullmatch(raw)
        if match is None or len(raw) > LONGEST_TRANSIT_BYTES:
            raise InvalidKeyError("this does not name a version of a key of Vault's transit engine")
        self._raw, self._name = bytes(raw), match[1].decode()

    @property
    def name(self) -> str:
        """See `KeyMaterial.name`: ``v2``."""
        return self._name
