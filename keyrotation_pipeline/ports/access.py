"""Who read what, by the logs of others?"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol

from keyrotation_pipeline.model.incidents import RecordReads


class CloudTrail(Protocol):
    """The records of AWS CloudTrail."""

    def records(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        """Every record delivered for this time, and others; in no order, and some twice.

        Raises:
            IncidentError: the logs cannot be read, or one of them is none.
        """


class ApplicationAudit(Protocol):
    """The audit that the application keeps of reads."""

    def reads(self, since: datetime, until: datetime) -> tuple[RecordReads, ...]:
        """Reads in this time, by who, from where and of what.

        Raises:
            IncidentError: the table is not there, or is none that can be asked safely.
        """
