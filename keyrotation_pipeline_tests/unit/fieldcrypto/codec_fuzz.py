"""Mutated values through both codecs: what one accepts the other accepts, and both give the same bytes.

As a program, `python -m … COUNT SEED`: for a run under AddressSanitizer.
"""

import os
import random
import sys
from collections.abc import Callable

import pytest

from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import TextArray
from keyrotation_pipeline.fieldcrypto.batch import Rewriter, Value
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.native import NativeCodec
from keyrotation_pipeline_tests.integration.encrypted_rows import V2, ring_of, sealed

VERSIONS = (1, 1, 1, 3, 11, 999_999, 2)
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
STRANGE = b"Av:=+/ -_\n\r\t\x00\x80\xff:=v12"


def mutations(chance: random.Random) -> tuple[Callable[[bytearray], None], ...]:
    """What can befall a value; each changes it in place."""

    def anywhere(value: bytearray) -> int:
        return chance.randrange(len(value)) if value else 0

    def another_byte(value: bytearray) -> None:
        if value:
            value[anywhere(value)] = chance.choice(STRANGE if chance.random() < 0.6 else bytes(range(256)))

    def cut(value: bytearray) -> None:
        del value[anywhere(value) :]

    def inserted(value: bytearray) -> None:
        value.insert(anywhere(value), chance.choice(STRANGE + ALPHABET))

    def removed(value: bytearray) -> None:
        del value[anywhere(value) : anywhere(value) + 1]

    def stray_bits(value: bytearray) -> None:
        last = len(value.rstrip(b"=")) - 1
        if last >= 0 and value[last] in ALPHABET:
            value[last] = ALPHABET[(ALPHABET.index(value[last]) + chance.choice((1, 2, 4, 16))) % 64]

    def padded(value: bytearray) -> None:
        value += b"=" * chance.randrange(1, 4)

    def swapped(value: bytearray) -> None:
        one, other = anywhere(value), anywhere(value)
        if value:
            value[one], value[other] = value[other], value[one]

    def another_version(value: bytearray) -> None:
        value[: value.find(b":")] = chance.choice((b"v1", b"v2", b"v7", b"v01", b"V1", b"v999999", b"v1000000", b""))

    return another_byte, another_byte, cut, inserted, removed, stray_bits, padded, swapped, another_version


def values(chance: random.Random, ring: KeyRing) -> Callable[[], Value]:
    """A source of values: half of them good, the others mutated once or more."""
    good = [sealed(ring, version, "é" * (size % 3) + "x" * size).encode() for size in range(40) for version in VERSIONS]
    befalls = mutations(chance)

    def value() -> Value:
        kind = chance.random()
        if kind < 0.04:
            return None if kind < 0.02 else b""
        mutated = bytearray(chance.choice(good))
        while chance.random() < 0.55:
            chance.choice(befalls)(mutated)
        return bytes(mutated)

    return value


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """Compare the codecs on `count` values; returns how many batches both rewrote, and how many both refused."""
    chance = random.Random(seed)
    ring = ring_of(1, 2, 3, 11, 999_999)
    native, python, value = NativeCodec(ring, V2), Rewriter(ring, V2), values(chance, ring)
    rewritten = refused = compared = 0
    nonces = b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", lambda size: nonces[:size])
        while compared < count:
            columns, rows = chance.choice(((1, 1), (1, 1), (1, 1), (2, 1), (1, 3)))
            nonces = chance.randbytes(12 * columns * rows)
            batch = [tuple(value() for _ in range(columns)) for _ in range(rows)]
            compared += columns * rows
            packed = native.rewrite(batch, 0, columns)
            expected = python.rewrite(list(zip(*batch, strict=True)))
            if packed is None:
                assert expected.failures, batch
                refused += 1
            else:
                assert not expected.failures, batch
                assert [TextArray(each).packed for each in expected.columns] == list(packed.arrays), batch
                assert packed.changed == sum(new is not None for each in expected.columns for new in each)
                rewritten += 1
            checked = native.check(batch, 0, columns)
            held, failures = python.check(list(zip(*batch, strict=True)))
            assert checked == (None if failures else held), batch
    return rewritten, refused


if __name__ == "__main__":
    sys.stdout.write("{} {}\n".format(*fuzz(int(sys.argv[1]), int(sys.argv[2]))))
