"""Wraps the native batch codec (`codec.c`), where it was built. The reencryptor of each format is its reference."""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto import compiled
from keyrotation_pipeline.fieldcrypto.batch import FAULTY_MACHINE, Held
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.search_index import Normalisation


class CompiledEncoding(IntEnum):
    """How `codec.c` writes a group of a layout; of the first two, each value may have its padding or not."""

    B64 = 0
    B64URL = 1
    HEX = 2
    RAW = 3
    PADDED_B64 = 4
    PADDED_B64URL = 5
    B64LINES = 6


class Nonces(IntEnum):
    """How the nonces of a layout are made, as `codec.c` takes it."""

    RANDOM = 0
    NOT_OF_THE_TEXT = 1
    OF_THE_TEXT = 2


# The text before; the bytes of a nonce; of each group the encoding, the initials of its parts, and the text after it;
# whether associated data comes with each value.
CompiledLayout = tuple[bytes, int, tuple[tuple[CompiledEncoding, bytes, bytes], ...], bool, Nonces]


def _raw_key(material: KeyMaterial) -> tuple[bytes, ...]:
    return (raw_of(material),)


@dataclass(frozen=True, slots=True)
class CompiledFormat:
    """A format that `codec.c` knows.

    Args:
        stamp_bytes: of the present time, in seconds, that each new value gets; 0: it keeps its own, or has none.
        layout: None: the format has none.
        key: returns the key of a key material, and the text by which values name it, if they do.
    """

    name: str
    stamp_bytes: int = 0
    layout: CompiledLayout | None = None
    key: Callable[[KeyMaterial], tuple[bytes, ...]] = _raw_key


OWN_VALUES = CompiledFormat("native")


@dataclass(frozen=True, slots=True)
class CompiledIndex:
    """A search index under the target.

    Args:
        column: of the texts, its number in a batch.
        size_bytes: how many of the MAC are kept.
        normalise: what is done to a text first, in an order that makes no difference to ASCII.
    """

    column: int
    key: bytes = field(repr=False)
    size_bytes: int
    normalise: Collection[Normalisation]


_NORMALISATIONS = {Normalisation.STRIP: 1, Normalisation.LOWER: 2, Normalisation.NFC: 4}


@dataclass(frozen=True, slots=True)
class Packed:
    """Arrays in PostgreSQL's binary form: first those passed through, then one array of new values per column.

    Args:
        rows: how many rows have a new value; the others are left out of the arrays.
        changed: how many new values, or arrays of them, all columns hold; every other element is NULL.
        indexes: of each index, what each row gets: its text, None, or the number of a row whose text is to be indexed
            in Python.
    """

    arrays: Sequence[bytes]
    rows: int
    changed: int
    indexes: Sequence[list[bytes | int | None]] = ()


class NativeCodec:
    """Re-encrypts a batch in which every value is good, as the reencryptor does, in one call, and packs the result.

    Not thread-safe. The interpreter's lock is released during the call.

    Args:
        ring: holds `target` and every version to read.
        values: the format of the values, as `codec.c` knows it.
        bound: for each column of a batch, what its values of the second generation are authenticated with.
        own: for each column of a batch, its keys under the versions of `ring`, where columns have keys of their own.
        since: of our own values, see `batch.Reencryptor`.
    """

    def __init__(
        self,
        ring: KeyRing,
        target: KeyVersion,
        values: CompiledFormat = OWN_VALUES,
        bound: Sequence[bytes] = (),
        own: Sequence[KeyRing] = (),
        since: int = 0,
    ) -> None:
        module = compiled.MODULE
        assert module is not None  # noqa: S101  `native_codec` asks
        keys = tuple(
            (str(version).encode(), *values.key(each.material(version)))
            for each in own or (ring,)
            for version in ring.versions
        )
        self._format = values
        self._codec = module.Codec(
            keys, str(target).encode(), self._format.name, values.layout, tuple(bound), len(own), since
        )
        self._kinds = (None, *ring.versions)
        self._unverified: type[Exception] = module.VerificationError

    def index(self, indexes: Sequence[CompiledIndex]) -> bool:
        """Has new values indexed; said once. Returns False for those that only Python computes."""
        columns = {each.column for each in indexes}
        if not indexes:
            return True
        if self._format is not OWN_VALUES or len(columns) < len(indexes):
            return False
        self._codec.index(
            tuple(
                (each.column, each.key, each.size_bytes, sum(_NORMALISATIONS[one] for one in set(each.normalise)))
                for each in indexes
            )
        )
        return True

    def reencrypt(
        self,
        rows: Sequence[tuple[Any, ...]],
        first: int,
        columns: int,
        passed: Sequence[tuple[int, int]] = (),
        arrays: Collection[int] = (),
        plaintext: Collection[int] = (),
    ) -> Packed | None:
        """Re-encrypts a batch; returns None if any value of it is not good.

        NULLs, empty strings and values under the target are not rewritten: their element is NULL, and a row of
        which none is rewritten is left out; where such a value under the target is to be indexed, the answer is None.
        Each new value was parsed and decrypted again from the packed bytes.

        Args:
            rows: as read, values as bytes.
            first: position of the first value in a row; the columns are consecutive.
            passed: positions in a row, and type OIDs, of bytes that are packed unchanged.
            arrays: the columns, counted from the first, that hold texts of arrays of values, and get such texts.
            plaintext: those that were never encrypted: what is no value of ours in full is encrypted, too.

        Raises:
            KeyRotationError: a packed value does not decrypt to what was encrypted.
        """
        stamp = int(time.time()).to_bytes(self._format.stamp_bytes, "big") if self._format.stamp_bytes else b""
        try:
            packed = self._codec.rewrite(
                rows,
                first,
                columns,
                _marks(columns, arrays),
                _marks(columns, plaintext),
                tuple(passed),
                os.urandom,
                stamp,
            )
        except self._unverified:
            packed = False
        if packed is False:  # raised here, so that it has no context
            raise KeyRotationError(FAULTY_MACHINE)
        return None if packed is None else Packed(*packed)

    def check(
        self, rows: Sequence[tuple[Any, ...]], first: int, columns: int, arrays: Collection[int] = ()
    ) -> list[Held] | None:
        """Decrypts every value and counts what each column holds; returns None if a value does not decrypt."""
        counts: tuple[int, ...] | None = self._codec.check(rows, first, columns, _marks(columns, arrays))
        if counts is None:
            return None
        size = len(self._kinds)
        return [
            +Counter(dict(zip(self._kinds, counts[start : start + size], strict=True)))
            for start in range(0, len(counts), size)
        ]


def _marks(columns: int, marked: Collection[int]) -> bytes:
    return bytes(number in marked for number in range(columns)) if marked else b""


def native_codec(
    ring: KeyRing,
    target: KeyVersion,
    values: CompiledFormat = OWN_VALUES,
    bound: Sequence[bytes] = (),
    own: Sequence[KeyRing] = (),
    since: int = 0,
) -> NativeCodec | None:
    """Returns the native codec, or None where it was not built, or OpenSSL lacks what the format needs.

    Raises:
        UnknownKeyVersionError: the ring does not hold the target.
    """
    ring.material(target)
    if compiled.MODULE is None:
        return None
    try:
        return NativeCodec(ring, target, values, bound, own, since)
    except compiled.MODULE.UnavailableError:
        return None
