"""Evidence that nothing under an old key version is left."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion


@dataclass(frozen=True, slots=True)
class DecryptedCount:
    """Outcome of decrypting every value of one table: `failures` counts values that did not decrypt."""

    table: str
    rows: int
    values: int
    failures: int


@dataclass(frozen=True, slots=True)
class ZeroOldRows:
    """Evidence gathered in one transaction for one key version over every declared table.

    It exists only if every piece holds: whoever makes one has seen validated fences, a count of zero that the planner
    could not take from them, discovery without findings, an empty quarantine and no holder of an old snapshot.
    """

    version: KeyVersion
    tables: tuple[str, ...]
    old_values: int
    values: int
    fence_lsn: str
    proven_at: datetime

    def as_facts(self) -> Mapping[str, Any]:
        """The evidence as audit facts."""
        return {
            "version": str(self.version),
            "tables": list(self.tables),
            "old_values": self.old_values,
            "values": self.values,
            "fence_lsn": self.fence_lsn,
            "proven_at": self.proven_at.isoformat(),
        }
