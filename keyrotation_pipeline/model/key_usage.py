"""How often a key may encrypt: with random 96-bit nonces, 2^32 times at most."""

from dataclasses import dataclass

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

GCM_LIMIT_ENCRYPTIONS = 2**32


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """An upper bound on the encryptions under one key.

    Args:
        by_applications: rows inserted or updated, times the encrypted columns of their table: as if every write
            had encrypted every column.
        by_rotations: values that the pipeline itself re-encrypted to this version.

    Source: NIST SP 800-38D, section 8.3: at most 2^32 invocations per key with random 96-bit IVs.
    """

    version: KeyVersion
    by_applications: int
    by_rotations: int

    @property
    def encryptions(self) -> int:
        """The bound."""
        return self.by_applications + self.by_rotations

    @property
    def share(self) -> float:
        """The bound as a part of the limit; 1.0 is the limit."""
        return self.encryptions / GCM_LIMIT_ENCRYPTIONS

    @property
    def exhausted(self) -> bool:
        """Whether the key may have encrypted as often as it ever may."""
        return self.encryptions >= GCM_LIMIT_ENCRYPTIONS

    @property
    def half_used(self) -> bool:
        """Whether it is time to plan a rotation for this reason."""
        return 2 * self.encryptions >= GCM_LIMIT_ENCRYPTIONS
