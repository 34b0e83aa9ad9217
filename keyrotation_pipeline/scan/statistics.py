"""Tells encrypted bytes from other bytes by their distribution alone. Every test is one-sided: it finds order."""

from collections import Counter
from collections.abc import Sequence
from math import log, sqrt

# Of truly random bytes, one column in a hundred thousand is rejected by a test.
_IMPROBABLE = log(100_000)
# Columns have more; these decide.
MOST_VALUES = 200
_MOST_BYTES = 1 << 14
_HEAD_BYTES = 16
_FEWEST_FOR_POSITIONS = 3
_SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
# One in 32 characters is no letter and no digit: that none is among so many happens once in some thousand times.
_CHARS_WITH_SYMBOL = 250
# That capitals, small letters, or all others are missing is as improbable here.
_CHARS_OF_ALL_KINDS = 60
_URL_TO_STANDARD = str.maketrans("-_", "+/")


def looks_random(raws: Sequence[bytes]) -> bool:
    """Returns whether distinct values show no order: neither in all their bytes, nor at one position."""
    pooled = _pooled(raws)
    return _is_uniform(pooled) and not has_fixed_positions(raws)


def uses_whole_alphabet(texts: Sequence[str]) -> bool:
    """Returns whether base64 texts use all 64 symbols evenly, unlike base62, base58, words and numbers.

    The last group is left out: its bits are not all free.
    """
    pooled = "".join([text[: (len(text.rstrip("=")) - 1) // 4 * 4] for text in texts])[:_MOST_BYTES]
    seen = Counter(pooled.translate(_URL_TO_STANDARD))
    counts = [seen[symbol] for symbol in _SYMBOLS]
    if len(pooled) >= _CHARS_WITH_SYMBOL and sum(counts[62:]) == 0:
        return False
    kinds = [sum(counts[:26]), sum(counts[26:52]), sum(counts[52:])]
    if len(pooled) >= _CHARS_OF_ALL_KINDS and not all(kinds):
        return False
    return _is_even(kinds, len(pooled), (26, 26, 12)) and (
        len(pooled) < 5 * len(_SYMBOLS) or _is_even(counts, len(pooled))
    )


def has_fixed_positions(raws: Sequence[bytes]) -> bool:
    """Returns whether bytes at one of the first positions, or the last byte, agree more often than chance."""
    if len(raws) < _FEWEST_FOR_POSITIONS:
        return False
    shortest = min(map(len, raws))
    columns = [[raw[at] for raw in raws] for at in range(min(_HEAD_BYTES, shortest))] + [[raw[-1] for raw in raws]]
    pairs = len(raws) * (len(raws) - 1) / 2
    expected = pairs / 256
    # Simulated for 3 to 200 values: random ones exceed it at one position once in some hundred thousand times.
    allowed = min(expected + 7 * sqrt(expected) + 4, pairs - 0.5)
    return any(sum(n * (n - 1) // 2 for n in Counter(column).values()) > allowed for column in columns)


def _pooled(raws: Sequence[bytes]) -> bytes:
    """Returns the first bytes of all values, as many of each."""
    share = max(_MOST_BYTES // max(len(raws), 1), 64)
    return b"".join([raw[:share] for raw in raws])


def _is_uniform(pooled: bytes) -> bool:
    counts = Counter(pooled)
    high, low = [0] * 16, [0] * 16
    for byte, n in counts.items():
        high[byte >> 4] += n
        low[byte & 15] += n
    size = len(pooled)
    if not (_is_even(high, size) and _is_even(low, size)):
        return False
    return size < 5 * 256 or _is_even([counts[byte] for byte in range(256)], size)


def _is_even(counts: Sequence[int], total: int, weights: Sequence[int] = ()) -> bool:
    bins, unit = len(counts), total / (sum(weights) or len(counts))
    expected = [unit * weight for weight in weights or (1,) * len(counts)]
    chi_square = sum((n - mean) ** 2 / mean for n, mean in zip(counts, expected, strict=True))
    # The upper bound of Laurent and Massart (2000) for the tail of a chi-square distribution.
    return chi_square < bins - 1 + 2 * sqrt((bins - 1) * _IMPROBABLE) + 2 * _IMPROBABLE
