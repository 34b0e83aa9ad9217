"""What do the columns of the database hold?"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.key_trial import KeyTrial
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, QuarantinedValue, TableCount, TableName


class TableInventory(Protocol):
    """What the declared columns hold, what was found in others, and when each page was read."""

    def count(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """Count values per version, unencrypted, near-misses, and quarantined ones, anew."""

    def discover(self, tables: Sequence[EncryptedTable]) -> tuple[FoundColumn, ...]:
        """Scan every undeclared column of every user relation that can hold text for values of our grammar."""

    def definitions_found(self) -> tuple[FoundColumn, ...]:
        """What `discover` finds in the definitions that the catalogue keeps; reads no row."""

    def undeclared_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """All pages that `discover` searches as they are now, when each was, and what was found; notes down new ones.

        Raises:
            PreflightError, BlockedError: a declared table is not there, or one is locked.
        """

    def search_spans(
        self, tables: Sequence[EncryptedTable], spans: Sequence[PageSpan], go_on: Callable[[], bool]
    ) -> int:
        """Search these pages as `discover` does, and note down when and what was found; returns the number of pages.

        Args:
            go_on: asked before each span.
        """

    def unsearched_since(self) -> datetime | None:
        """Since when something of what `discover` searches may not have been; None: nothing is noted; quick."""

    def rows_seen(self, table: EncryptedTable, version: KeyVersion, seconds: float) -> int | None:
        """Rows that hold any value under a version; None if they were not counted in so many seconds."""

    def written_rows(self, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
        """Rows inserted and updated in each table, by its name, since the server's statistics began."""

    def quarantine(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        """Values that would not decrypt and are still as they were (entries mended meanwhile are dropped)."""

    def page_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """All pages of these tables as they are now, and when each was read; notes down new ones.

        Raises:
            PreflightError, BlockedError: a table is not there, or locked.
        """

    def unread_since(self, tables: Sequence[EncryptedTable]) -> Mapping[str, datetime]:
        """Since when something in a table may not have been read, by its name; quick, and of noted tables alone."""

    def decrypt_sample(
        self, table: EncryptedTable, ring: KeyRing, values: int, wanted: Mapping[str, Collection[KeyVersion]]
    ) -> KeyTrial:
        """Decrypt up to so many stored values of each column under each version, from all over the table.

        Nothing is kept or recorded. What the key of its own version does not open is tried with the other keys.

        Args:
            wanted: versions by column of which there are values; those that the sample misses are looked for.
        """

    def has_table(self, name: TableName) -> bool:
        """Whether there is such a table, of whatever kind and columns."""
