"""Rows compared with what the audit makes of them: a row that nobody's event explains is believed by nobody."""

from collections.abc import Callable
from typing import TypeVar

from keyrotation_pipeline.adapters.postgres.ledger.chain import AuditChain
from keyrotation_pipeline.audit.replay import LedgerState
from keyrotation_pipeline.audit.replay_cache import ledger_state
from keyrotation_pipeline.errors import AuditError

Value = TypeVar("Value")
# Others change rows and events together, but one may do so between our two looks.
_LOOKS = 5


class BelievedRows(AuditChain):
    """The part of the ledger that replays the audit."""

    def belief(self) -> LedgerState:
        """What the audit makes one believe now.

        Raises:
            AuditError: its events do not follow each other.
        """
        return ledger_state(self.database, lambda seq: self.events(after_seq=seq))

    def believed(self, read: Callable[[], Value], told: Callable[[LedgerState], Value], where: str) -> Value:
        """What rows say, if the audit tells the same.

        Args:
            where: the table and the row, for the sentence.

        Raises:
            AuditError: it does not.
        """
        for _ in range(_LOOKS):
            if (rows := read()) == told(self.belief()):
                return rows
        raise AuditError(
            f"{where} is not what the audit says, so somebody has written to it from outside; keep this database as it "
            "is, and run `keyrotation audit verify`"
        )
