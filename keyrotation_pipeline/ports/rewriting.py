"""How are the rows of a table re-encrypted and decrypted?"""

from collections.abc import Callable, Sequence
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.tables import EncryptedTable, Shard, Speed


class TableRewriting(Protocol):
    """The engine: it goes through the rows of a table, to re-encrypt or to decrypt them."""

    def speed(self, tables: Sequence[EncryptedTable], ring: KeyRing, target: KeyVersion) -> tuple[Speed, ...]:
        """How fast one worker would re-encrypt each table, by a sample that is rolled back.

        Args:
            ring: reads every value, and holds a key under `target` that is used for nothing else.

        Raises:
            PreflightError, BlockedError: it cannot be measured now.
        """

    def rewrite_shard(self, request: str, shard: Shard, ring: KeyRing, target: KeyVersion, report: Report) -> Rewritten:
        """Go through one shard by page ranges, from where it was left, and re-encrypt to `target` what is not under it.

        Raises:
            PreflightError: the table has changed since it was checked, and can no longer be rewritten harmlessly.
        """

    def is_one_shard(self, request: str, table: EncryptedTable) -> bool:
        """Whether a table's first shard is all of it: as it was begun, else if the table is small enough for that."""

    def sweep(self, request: str, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, wait: bool) -> Rewritten:
        """Re-encrypt what was skipped anywhere in a table; `wait`: each row in its own transaction, waiting briefly.

        Raises:
            PreflightError: as `rewrite_shard`.
        """

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report, request: str = "") -> DecryptedCount:
        """Decrypt every value of a table with `ring`, keeping nothing; failures go to the quarantine.

        Args:
            request: id of the rotation whose proof this is; its pausing is then obeyed.

        Raises:
            BlockedError: the rotation was paused or cancelled.
        """

    def decrypt_spans(
        self,
        table: EncryptedTable,
        spans: Sequence[PageSpan],
        ring: KeyRing,
        report: Report,
        go_on: Callable[[], bool],
    ) -> int:
        """Decrypt what these pages of one table hold, one span after the other; returns the number of values.

        Failures go to the quarantine, from which those are dropped that are mended. Each span is noted down as read
        when it was.

        Args:
            go_on: asked before each span.
        """
