"""An alert: what people are told, by whatever channel. Never content of a row, never a key."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from keyrotation_pipeline.model.approval import require_plain

SUBJECT_CHARS = 100


class Severity(StrEnum):
    """How soon somebody must look."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Alert:
    """One message.

    Args:
        key: the same for what is the same news, ``incident/INC-2026-001/opened`` say; it is told once.
        subject: one plain line of at most 100 characters.
        text: sentences that say what happened and what to do.
        at: aware.
    """

    key: str
    severity: Severity
    subject: str
    text: str
    database: str
    at: datetime

    def __post_init__(self) -> None:
        """Refuse a subject that could become a second mail header or hide something.

        Raises:
            ApprovalError: it has a line break, a control or a bidi character, or spaces around it.
            ValueError: it is longer than 100 characters.
        """
        require_plain("Subject", self.subject)
        if len(self.subject) > SUBJECT_CHARS:
            raise ValueError(f"an alert's subject has {len(self.subject)} characters; {SUBJECT_CHARS} are allowed")
