"""Search indexes as blind_index for Ruby makes them from a master key; such an index names no key.

``base64(KDF(text, salt = K, 32 bytes))``, with K = HMAC-SHA-256(HKDF-SHA-384(master key, salt = table, info = 0x7E × 32
‖ column), the three names table, column, column packed as in CipherSweet). The last digit of a master key says in which
of the two columns its indexes are, so that an application knows it that has a list of keys and no numbers.

Source: blind_index 2.8 (`BlindIndex.generate_bidx`, `KeyGenerator#index_key`).
"""

import base64
import hashlib
import hmac
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.search_index import FULL_BYTES, is_odd

_INFO = b"\x7e" * 32
_KEY_BYTES = 32


class Algorithm(StrEnum):
    """How an index is computed, with the default costs of blind_index, or those of its ``slow: true``."""

    ARGON2ID = "argon2id"
    ARGON2ID_SLOW = "argon2id-slow"
    PBKDF2_SHA256 = "pbkdf2-sha256"
    PBKDF2_SHA256_SLOW = "pbkdf2-sha256-slow"
    SCRYPT = "scrypt"


def _argon2id(text: bytes, key: bytes, size: int, *, rounds: int, kibibytes: int) -> bytes:
    # Not above: OpenSSL has it from 3.2 on, and only these indexes need it.
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id  # noqa: PLC0415

    return Argon2id(salt=key, length=size, iterations=rounds, lanes=1, memory_cost=kibibytes).derive(text)


def _pbkdf2(text: bytes, key: bytes, size: int, *, rounds: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", text, key, rounds, size)


def _scrypt(text: bytes, key: bytes, size: int) -> bytes:
    return hashlib.scrypt(text, salt=key, n=4096, r=8, p=1, dklen=size)


_COMPUTE: Mapping[Algorithm, Callable[[bytes, bytes, int], bytes]] = MappingProxyType(
    {
        Algorithm.ARGON2ID: partial(_argon2id, rounds=3, kibibytes=1 << 12),
        Algorithm.ARGON2ID_SLOW: partial(_argon2id, rounds=4, kibibytes=1 << 15),
        Algorithm.PBKDF2_SHA256: partial(_pbkdf2, rounds=10_000),
        Algorithm.PBKDF2_SHA256_SLOW: partial(_pbkdf2, rounds=100_000),
        Algorithm.SCRYPT: _scrypt,
    }
)


@dataclass(frozen=True, slots=True)
class BlindIndexForm:
    """How blind_index computes the index of a text.

    Args:
        table: by whose name its keys are derived.
        odd, even: the columns, by whose names they are, too.
    """

    table: str
    odd: str
    even: str
    algorithm: Algorithm = Algorithm.ARGON2ID
    size_bytes: int = FULL_BYTES

    @property
    def names_versions(self) -> bool:
        """See `IndexForm.names_versions`."""
        return False

    @property
    def pattern(self) -> str:
        """See `IndexForm.pattern`."""
        padding = -self.size_bytes % 3
        return f"[A-Za-z0-9+/]{{{self.longest_chars - padding}}}{'=' * padding}"

    @property
    def longest_chars(self) -> int:
        """See `IndexForm.longest_chars`."""
        return -(-self.size_bytes // 3) * 4

    def signed(self, quoted: Callable[[str], str]) -> str:
        """See `IndexForm.signed`."""
        odd, even = (quoted(f"{self.table}.{each}") for each in (self.odd, self.even))
        return (
            f"{self.size_bytes} bytes of {self.algorithm} of the text, as blind_index makes it with keys derived from "
            f"the master key by the names {odd} and {even}"
        )

    def is_index(self, text: str) -> bool:
        """See `IndexForm.is_index`."""
        return re.fullmatch(self.pattern, text, re.ASCII) is not None

    def example(self, version: KeyVersion) -> str:  # noqa: ARG002
        """See `IndexForm.example`."""
        return base64.b64encode(bytes(self.size_bytes)).decode()


@dataclass(slots=True)
class BlindIndexer:
    """Computes indexes under the keys of one ring; remembers the keys that it has derived."""

    form: BlindIndexForm
    ring: KeyRing
    _derived: dict[KeyVersion, bytes] = field(default_factory=dict, repr=False)

    def under(self, version: KeyVersion, text: bytes) -> str:
        """See `Indexer.under`."""
        key = self._derived.get(version) or self._derive(version)
        return base64.b64encode(_COMPUTE[self.form.algorithm](text, key, self.form.size_bytes)).decode()

    def _derive(self, version: KeyVersion) -> bytes:
        column = self.form.odd if is_odd(version) else self.form.even
        return self._derived.setdefault(version, index_key(self.ring.material(version), self.form.table, column))


def index_key(master: KeyMaterial, table: str, column: str) -> bytes:
    """Derives the key of an index from a master key, 32 bytes."""
    from cryptography.hazmat.primitives.hashes import SHA384  # noqa: PLC0415  as in `search_index`
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    root = HKDF(SHA384(), _KEY_BYTES, salt=table.encode(), info=_INFO + column.encode()).derive(raw_of(master))
    names = [each.encode() for each in (table, column, column)]
    packed = struct.pack("<I", len(names)) + b"".join(struct.pack("<Q", len(each)) + each for each in names)
    return hmac.digest(root, packed, "sha256")


def takes_turns(version: KeyVersion, material: KeyMaterial, others: Mapping[KeyVersion, KeyMaterial]) -> bool:
    """Returns whether the last digits of keys are odd for the one column and even for the other.

    Either of the two may go with odd numbers, as the application's first key has it.
    """
    return all(_turn(version, material) == _turn(each, other) for each, other in others.items())


def _turn(version: KeyVersion, material: KeyMaterial) -> int:
    return (raw_of(material)[-1] ^ version.number) & 1
