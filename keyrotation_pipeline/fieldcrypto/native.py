"""The native batch codec (`codec.c`), where it was built. `batch.Rewriter` is its reference."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto import compiled
from keyrotation_pipeline.fieldcrypto.batch import FAULTY_MACHINE, Held
from keyrotation_pipeline.fieldcrypto.grammar import NONCE_BYTES, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing


@dataclass(frozen=True, slots=True)
class Packed:
    """Arrays in PostgreSQL's binary form: those that were passed on, then one of new values a column.

    Args:
        changed: new values in all columns together; every other element is NULL.
    """

    arrays: Sequence[bytes]
    changed: int


class NativeCodec:
    """Does what `Rewriter` does for a batch in which every value is good, in one call, and packs it.

    Not for several threads at once. The interpreter's lock is released meanwhile.

    Args:
        ring: holds `target` and every version that is to be read.
    """

    def __init__(self, ring: KeyRing, target: KeyVersion) -> None:
        module = compiled.MODULE
        assert module is not None  # noqa: S101  `native_codec` asks
        keys = tuple((str(version).encode(), raw_of(ring.material(version))) for version in ring.versions)
        self._codec = module.Codec(keys, str(target).encode())
        self._kinds = (None, *ring.versions)
        self._unverified: type[Exception] = module.VerificationError

    def rewrite(
        self, rows: Sequence[tuple[Any, ...]], first: int, columns: int, passed: Sequence[tuple[int, int]] = ()
    ) -> Packed | None:
        """Re-encrypt a batch; None if a value of it is not good, and nothing is given.

        NULLs, empty strings and values under the target stay as they are, and become NULL. Each new value was parsed
        and decrypted again from the packed bytes.

        Args:
            rows: as they were read, values as bytes.
            first: place of the first value in a row; `columns` follow each other.
            passed: places in a row, and the type's oid, of bytes that are packed as they are.

        Raises:
            KeyRotationError: a packed value does not decrypt to what was encrypted.
        """
        nonces = os.urandom(len(rows) * columns * NONCE_BYTES)
        try:
            packed = self._codec.rewrite(rows, first, columns, tuple(passed), nonces)
        except self._unverified:
            packed = False
        if packed is False:  # raised here, so that it has no context
            raise KeyRotationError(FAULTY_MACHINE)
        return None if packed is None else Packed(*packed)

    def check(self, rows: Sequence[tuple[Any, ...]], first: int, columns: int) -> list[Held] | None:
        """Decrypt every value, keeping nothing: what each column holds; None if a value does not decrypt."""
        counts: tuple[int, ...] | None = self._codec.check(rows, first, columns)
        if counts is None:
            return None
        size = len(self._kinds)
        return [
            +Counter(dict(zip(self._kinds, counts[start : start + size], strict=True)))
            for start in range(0, len(counts), size)
        ]


def native_codec(ring: KeyRing, target: KeyVersion) -> NativeCodec | None:
    """The native codec; None where it was not built.

    Raises:
        UnknownKeyVersionError: the ring does not hold the target.
    """
    ring.material(target)
    return None if compiled.MODULE is None else NativeCodec(ring, target)
