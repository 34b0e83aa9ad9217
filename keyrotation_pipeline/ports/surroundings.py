"""Which database is this, and what about it stops or slows a rotation?"""

from collections.abc import Sequence
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import (
    BlindSpots,
    CheckNames,
    DatabaseIdentity,
    EncryptedTable,
    Problem,
    Surroundings,
)


class DatabaseSurroundings(Protocol):
    """The server around the tables: its identity, the pre-flight checks, disk, standbys and blind spots."""

    def identity(self) -> DatabaseIdentity:
        """Which database this is."""

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        """What stops, or should be known before, a rotation of these tables to `target`."""

    def check_names(self) -> CheckNames:
        """Everything that `preflight` looks at, by names."""

    def measure(self, tables: Sequence[EncryptedTable]) -> Surroundings:
        """Disk, WAL and standbys around these tables.

        Raises:
            PreflightError, BlockedError: a table cannot be read now.
        """

    def blind_spots(self) -> BlindSpots:
        """What neither `TableInventory.discover` nor the look for replicas sees; quick, by the catalogue alone."""
