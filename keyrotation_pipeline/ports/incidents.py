"""Ports for incidents: flags raised elsewhere, access logs, and alert channels."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol

from keyrotation_pipeline.model.incidents import Alert, Flag, RecordReads


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


class AlertChannel(Protocol):
    """One way to tell people: a topic, a webhook, mail."""

    @property
    def name(self) -> str:
        """The channel in one plain line; no secret in it."""

    def deliver(self, alert: Alert) -> None:
        """Hand one alert over.

        Raises:
            AlertError: it was not accepted, or nobody answered within ten seconds; never shows an address that is
                a secret.
        """


class FlagSource(Protocol):
    """Something outside that raises flags."""

    def raised(self) -> tuple[Flag, ...]:
        """Every flag that is up now; the same one each time, by its key, until it is taken down there.

        Raises:
            IncidentError: the source does not answer.
        """
