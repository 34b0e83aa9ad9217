"""Finds what many values begin or end with (a version, a key's number), so that the rest can be judged."""

from collections import Counter
from collections.abc import Sequence

_LONGEST_HEAD_BYTES = 64
# Versions and keys are few, and each is in several values.
_MOST_KINDS, _FEWEST_OF_A_KIND, _LEAST_SHARE = 4, 3, 0.05
_LONGEST_KIND_BYTES = 16


def shared_head(raws: Sequence[bytes]) -> int:
    """Returns how many bytes all values begin with, or all but few kinds of them."""
    length = _common(raws)
    while length < _LONGEST_KIND_BYTES and _are_few([raw[: length + 1] for raw in raws]):
        length += 1
    return length if length <= _LONGEST_HEAD_BYTES else 0


def shared_tail(raws: Sequence[bytes]) -> int:
    """Returns how many bytes all values end with."""
    length = _common([raw[::-1] for raw in raws])
    return length if length <= _LONGEST_HEAD_BYTES else 0


def _common(raws: Sequence[bytes]) -> int:
    first, last = min(raws), max(raws)
    return next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def _are_few(starts: Sequence[bytes]) -> bool:
    kinds = Counter(starts)
    fewest = max(_FEWEST_OF_A_KIND, _LEAST_SHARE * len(starts))
    return len(kinds) <= _MOST_KINDS and min(kinds.values()) >= fewest
