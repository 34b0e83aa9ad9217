"""Could anything still show an old value?"""

from collections.abc import Sequence
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import Moment, Searched, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable


class RetirementEvidence(Protocol):
    """What a retirement rests on, taken from the database and not believed."""

    def barrier(self) -> str:
        """The current WAL position, as text: everything committed so far lies before it."""

    def snapshot_blockers(self, moment: Moment) -> tuple[str, ...]:
        """Who could still show a value replaced before `moment`: one sentence each.

        Sessions (backend_xmin), prepared transactions, replication slots, standbys and subscribers.
        """

    def current_xid(self) -> int:
        """A full transaction id later than every committed one (`pg_current_xact_id()`)."""

    def search(
        self, tables: Sequence[EncryptedTable], version: KeyVersion, retired: Sequence[KeyVersion], report: Report
    ) -> Searched:
        """Read everything that `zero_old_rows` counts and searches, outside of a transaction and holding no lock.

        Raises:
            ProofError, BlockedError: an old or unencrypted value is left; names table, column and count.
        """

    def zero_old_rows(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        moment: Moment,
        searched: Searched | None = None,
    ) -> ZeroOldRows:
        """Take the evidence of invariant 4 inside the ledger's running transaction, failing closed.

        `retired` are all versions that the fences must name, `version` among them; `moment` was taken after they were
        validated; `searched` was read after that, and what has not changed since is not read again, unless it is small.

        Raises:
            ProofError, BlockedError: a piece is missing; names table, column and count, or the holder.
        """
