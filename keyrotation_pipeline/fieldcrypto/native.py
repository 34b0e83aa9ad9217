"""Wraps the native batch codec (`codec.c`), where it was built. `batch.Rewriter` is its reference."""

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
    """Arrays in PostgreSQL's binary form: first those passed through, then one array of new values per column.

    Args:
        changed: how many new values all columns hold; every other element is NULL.
    """

    arrays: Sequence[bytes]
    changed: int


class NativeCodec:
    """Rewrites a batch in which every value is good, as `Rewriter` does, in one call, and packs the result.

    Not thread-safe. The interpreter's lock is released during the call.

    Args:
        ring: holds `target` and every version to read.
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
        """Re-encrypts a batch; returns None if any value of it is not good.

        NULLs, empty strings and values under the target are not rewritten: their element is NULL. Each new value was
        parsed and decrypted again from the packed bytes.

        Args:
            rows: as read, values as bytes.
            first: position of the first value in a row; the columns are consecutive.
            passed: positions in a row, and type OIDs, of bytes that are packed unchanged.

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
        """Decrypts every value and counts what each column holds; returns None if a value does not decrypt."""
        counts: tuple[int, ...] | None = self._codec.check(rows, first, columns)
        if counts is None:
            return None
        size = len(self._kinds)
        return [
            +Counter(dict(zip(self._kinds, counts[start : start + size], strict=True)))
            for start in range(0, len(counts), size)
        ]


def native_codec(ring: KeyRing, target: KeyVersion) -> NativeCodec | None:
    """Returns the native codec, or None where it was not built.

    Raises:
        UnknownKeyVersionError: the ring does not hold the target.
    """
    ring.material(target)
    return None if compiled.MODULE is None else NativeCodec(ring, target)
