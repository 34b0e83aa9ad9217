"""The Merkle tree over the events of an audit (RFC 6962, section 2.1), in which a longer audit is seen to continue one.

A leaf is an event's own hash, its 32 bytes: that covers the event and every one before it.
"""

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256

from keyrotation_pipeline.model.audit import HASH_BYTES


class EventTree:
    """The tree of the first events of an audit, as many as are asked about.

    Args:
        hashes: 32 bytes of each event, in order.
    """

    def __init__(self, hashes: bytes | bytearray) -> None:
        self._hashes = bytes(hashes)

    @cached_property
    def _leaves(self) -> list[bytes]:
        starts = range(0, len(self._hashes), HASH_BYTES)
        return [sha256(b"\0" + self._hashes[start : start + HASH_BYTES]).digest() for start in starts]

    @property
    def size(self) -> int:
        """The number of events."""
        return len(self._hashes) // HASH_BYTES

    def root(self, size: int) -> bytes:
        """Returns the root over the first events, 32 bytes."""
        return _root(self._leaves[:size])

    def consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        """Returns the proof that the tree of `size` events continues that of `old` ones (section 2.1.2)."""
        return tuple(_proof(old, self._leaves[:size], is_known=True)) if 0 < old < size else ()


def _root(nodes: Sequence[bytes]) -> bytes:
    if not nodes:
        return sha256().digest()
    while len(nodes) > 1:
        pairs = zip(nodes[::2], nodes[1::2], strict=False)
        odd = nodes[-1:] if len(nodes) % 2 else []
        nodes = [*(sha256(b"\1" + left + right).digest() for left, right in pairs), *odd]
    return nodes[0]


def _proof(old: int, leaves: Sequence[bytes], *, is_known: bool) -> list[bytes]:
    """SUBPROOF of the RFC; `is_known`: whoever asked has the root of exactly these."""
    if old == len(leaves):
        return [] if is_known else [_root(leaves)]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= split:
        return [*_proof(old, leaves[:split], is_known=is_known), _root(leaves[split:])]
    return [*_proof(old - split, leaves[split:], is_known=False), _root(leaves[:split])]
