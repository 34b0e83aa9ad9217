"""What each member of a fleet answered when it was last asked, as it is recorded in the home's own database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import Unsearched


@dataclass(frozen=True, slots=True)
class MemberAnswer:
    """One answer, for people to see: whatever decides or is signed asks the member itself.

    Args:
        audit_seq: the audit's newest event when it was asked.
        answered_at: when it last answered; None: never.
        problem: why it did not answer now, or cannot be used; None: it answered.
        fences: by declared table, the versions that it refuses; `index_fences`: of its search indexes.
        unseen: by declared table, why its fence was not seen.
        undeclared: tables that are there, in which keys were retired, and that are no longer declared.
        unread_since: see `TableInventory.unread_since`; `unsearched_since` likewise.
        unsearched: see `BlindSpots`.
    """

    member: str
    asked_at: datetime
    audit_seq: int
    answered_at: datetime | None = None
    problem: str | None = None
    fences: Mapping[str, tuple[KeyVersion, ...]] = field(default_factory=dict)
    index_fences: Mapping[str, tuple[KeyVersion, ...]] = field(default_factory=dict)
    unseen: Mapping[str, str] = field(default_factory=dict)
    undeclared: tuple[str, ...] = ()
    unread_since: Mapping[str, datetime] = field(default_factory=dict)
    unsearched_since: datetime | None = None
    unsearched: tuple[Unsearched, ...] = ()
