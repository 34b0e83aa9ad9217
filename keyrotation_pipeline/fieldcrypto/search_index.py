"""Search indexes of encrypted texts (blind indexes): an HMAC of each text, by which equal texts are found.

``v<N>:<base64 of HMAC-SHA-256(K, text)>``, with K = HKDF-SHA-256(key of v<N>, no salt, info = ``_DOMAIN`` and the label
of the encrypted column, 32 bytes). So an index names its key version as a value does, and whoever lacks that key cannot
test guesses. Equal texts have equal indexes, and everybody who reads the table sees which rows are equal.

A table has two columns for each index: one for keys with an odd number, one for those with an even number. While two
keys are in use, a row can have an index under both, so that searches and unique constraints hold at every moment.
"""

import base64
import hmac
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from keyrotation_pipeline.fieldcrypto.grammar import LONGEST_PREFIX_CHARS, PREFIX_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

_DOMAIN = b"keyrotation-search-index-v1\0"
_KEY_BYTES = 32
# Read by Python and by PostgreSQL alike; to be matched as a whole.
INDEX_PATTERN = rf"{PREFIX_PATTERN}[A-Za-z0-9+/]{{3,43}}={{0,2}}"
FULL_BYTES = 32
SHORTEST_BYTES = 2


class Normalisation(StrEnum):
    """What is done to a text before it is indexed, so that spellings of one text are found by each other."""

    STRIP = "strip"
    LOWER = "lower"
    NFC = "nfc"


@dataclass(frozen=True, slots=True)
class IndexForm:
    """How the index of a text is computed; an application and the pipeline must agree on it.

    Args:
        label: of the encrypted column (`binding`), so that equal texts of two columns have different indexes.
        normalise: what is done to a text first, in this order.
        size_bytes: how much of the 32 bytes is kept. With less, other texts are found too, and are to be sorted out
            after decrypting; and whoever sees the index learns less.
    """

    label: str
    normalise: tuple[Normalisation, ...] = ()
    size_bytes: int = FULL_BYTES

    @property
    def names_versions(self) -> bool:
        """Whether each index names the version of its key."""
        return True

    @property
    def pattern(self) -> str:
        """Matches every index; read by Python and by PostgreSQL alike."""
        return INDEX_PATTERN

    @property
    def longest_chars(self) -> int:
        """The length of an index under the highest version."""
        return LONGEST_PREFIX_CHARS + len(base64.b64encode(bytes(self.size_bytes)))

    def signed(self, quoted: Callable[[str], str]) -> str:
        """How it is computed, in a signed text, with names as `quoted` writes them."""
        after = f" after {', '.join(self.normalise)}" if self.normalise else ""
        return (
            f"{self.size_bytes} bytes of HMAC-SHA-256 of the text{after}, under the key of its value, bound as "
            f"{quoted(self.label)}"
        )

    def is_index(self, text: str) -> bool:
        """Returns whether a text has the form of an index, so that nothing is lost where another index replaces it."""
        return re.fullmatch(self.pattern, text, re.ASCII) is not None

    def example(self, version: KeyVersion) -> str:
        """Returns a text as an index under a version has it."""
        return version.prefix + base64.b64encode(bytes(self.size_bytes)).decode()

    def normalised(self, text: str) -> str:
        """Returns the text that is indexed."""
        for each in self.normalise:
            match each:
                case Normalisation.STRIP:
                    text = text.strip()
                case Normalisation.LOWER:
                    text = text.lower()
                case Normalisation.NFC:
                    text = unicodedata.normalize("NFC", text)
        return text


@dataclass(slots=True)
class Indexer:
    """Computes indexes under the keys of one ring; remembers the keys that it has derived."""

    form: IndexForm
    ring: KeyRing
    _derived: dict[KeyVersion, bytes] = field(default_factory=dict, repr=False)

    def under(self, version: KeyVersion, text: bytes) -> str:
        """Returns the index of a text under one version.

        Args:
            text: as it is encrypted. One that is not UTF-8, which no `EncryptedType` writes, is not normalised.

        Raises:
            UnknownKeyVersionError: the ring does not hold the version.
        """
        if self.form.normalise:
            with suppress(UnicodeDecodeError):
                text = self.form.normalised(text.decode()).encode()
        digest = hmac.digest(self.key(version), text, "sha256")[: self.form.size_bytes]
        return version.prefix + base64.b64encode(digest).decode()

    def key(self, version: KeyVersion) -> bytes:
        """Returns the key of the indexes under a version.

        Raises:
            UnknownKeyVersionError: the ring does not hold the version.
        """
        return self._derived.get(version) or self._derive(version)

    def _derive(self, version: KeyVersion) -> bytes:
        # Not above: a pack's `verify.py`, which computes no index, has only Python's standard library.
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        info = _DOMAIN + self.form.label.encode()
        key = HKDF(SHA256(), _KEY_BYTES, salt=None, info=info).derive(raw_of(self.ring.material(version)))
        return self._derived.setdefault(version, key)


def is_odd(version: KeyVersion) -> bool:
    """Returns whether the indexes under a version are in the column for odd numbers."""
    return version.number % 2 == 1


def newest(versions: Sequence[KeyVersion], *, odd: bool) -> KeyVersion | None:
    """Returns the version under which one of the two columns is written; None: it is NULL."""
    return max((version for version in versions if is_odd(version) == odd), default=None)
