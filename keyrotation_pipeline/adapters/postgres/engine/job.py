"""What a worker process is told through its standard input: all but the keys, which it reads from the key store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.page_ranges import Slice
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.ports.keys import KeyStore


@dataclass(frozen=True, slots=True)
class Job:
    """The slices of one shard, and all that is needed to re-encrypt any of them.

    Args:
        keys: the store, which is pickled as how to open it.
        fingerprints: of the keys that the worker must find there, by version.
        in_hot_order: the relations that are rewritten in HOT order.
    """

    connect: Callable[[], Connection] = field(repr=False)  # it holds the password
    keys: KeyStore
    request: str
    slices: Sequence[Slice]
    fingerprints: Mapping[str, str]
    target: KeyVersion
    limits: Limits
    in_hot_order: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        connect: Callable[[], Connection],
        keys: KeyStore,
        request: str,
        slices: Sequence[Slice],
        ring: KeyRing,
        target: KeyVersion,
        limits: Limits,
    ) -> Self:
        """The job of rewriting with the keys of `ring`; it holds their fingerprints only."""
        return cls(connect, keys, request, slices, _fingerprints(ring), target, limits)

    def ring(self) -> KeyRing:
        """The key ring, read from the key store.

        Raises:
            KeyStoreError: the key store holds other keys than when the job was made.
        """
        ring = self.keys.read().ring()
        if _fingerprints(ring) != self.fingerprints:
            raise KeyStoreError(
                "the keys in the key store have changed while rows were re-encrypted; see what `keyrotation status` "
                "says of them, then run `keyrotation rotate` again"
            )
        return ring


def _fingerprints(ring: KeyRing) -> dict[str, str]:
    return {str(version): ring.material(version).fingerprint for version in ring.versions}
