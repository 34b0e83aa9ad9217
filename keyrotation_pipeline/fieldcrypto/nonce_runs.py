"""The nonces of a batch: random ones, in the second generation in runs that share a derived key.

The key of a value of the second generation depends on the first 96 bits of its nonce alone, and to derive it takes
longer than to encrypt a short text. So one nonce is drawn for 256 values of a batch: they share its first half, and
their second halves count on from its own. Within a run no nonce can repeat. Two runs of n and m values have one in
common if their first halves are equal and their second ones overlap: with a chance of (n + m - 1) / 2^192, which is at
most nm / 2^192, the bound for as many values with random nonces. docs/adr/0030 has what follows.
"""

import os

from keyrotation_pipeline.fieldcrypto.grammar import SECOND, Generation

RUN_VALUES = 256
_HALF_BYTES = SECOND.nonce_bytes // 2
_MODULUS = 1 << 8 * _HALF_BYTES


def run_values(generation: Generation) -> int:
    """Returns how many values of a batch take their nonces from one that was drawn."""
    return RUN_VALUES if generation == SECOND else 1


def drawn(generation: Generation, values: int) -> bytes:
    """Returns new nonces for the values of one batch, joined; to be used once, whether the batch succeeds or not."""
    run, size = run_values(generation), generation.nonce_bytes
    starts = os.urandom(-(-values // run) * size)
    if run == 1:
        return starts
    each_start = (starts[at : at + size] for at in range(0, len(starts), size))
    return b"".join(
        _counted(start, min(run, values - before))
        for start, before in zip(each_start, range(0, values, run), strict=True)
    )


def _counted(start: bytes, values: int) -> bytes:
    half, number = start[:_HALF_BYTES], int.from_bytes(start[_HALF_BYTES:])
    return b"".join(half + ((number + further) % _MODULUS).to_bytes(_HALF_BYTES) for further in range(values))
