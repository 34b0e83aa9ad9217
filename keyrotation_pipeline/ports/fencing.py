"""Which old values are left in a table, and does it refuse new ones?"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows


class TableFencing(Protocol):
    """The fence of each table, the rows that keep it from being made, and the sessions that hold its locks."""

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """Rows that hold any value under `versions`, in any declared column."""

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """Make the table refuse exactly these versions on every declared column, and validate that.

        Args:
            wait: False: where somebody else is at the table, leave it as it is.

        Returns:
            Whether it refuses them now; False only without `wait`.

        Raises:
            BlockedError: the lock could not be taken without queueing; names who holds it.
            ProofError: validation found an old value; the fence is dropped again.
        """

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        """Let the table take values under `version` again (a rollback); repeating it changes nothing."""

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        """The versions that the table's validated and intact fence refuses on every declared column; reads no row.

        Raises:
            PreflightError, BlockedError: the table is not there, or locked.
        """

    def all_fences(
        self, tables: Sequence[EncryptedTable]
    ) -> Mapping[EncryptedTable, tuple[KeyVersion, ...] | KeyRotationError]:
        """The same of many tables at once, in their order: of each the versions, or why it was not seen."""

    def sessions(self, table: EncryptedTable) -> tuple[str, ...]:
        """Who holds a lock on `table` now, else every other session of the database: one phrase each."""
