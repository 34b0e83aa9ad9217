"""Where do incidents show, and how are people alerted: flags raised elsewhere, access logs, alert channels."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.model.incidents import Alert, Flag, RecordReads


class ApplicationAudit(Protocol):
    """Reads the application's own audit."""

    @property
    def name(self) -> str:
        """The table's name."""

    def names_rows(self) -> bool:
        """Returns whether it names the row of each event; raises as `reads`."""

    def writes(self, rows: Collection[str], since: datetime) -> Mapping[str, str]:
        """Returns what it has of writes to each of these rows since a moment, in words; nothing of rows without any.

        Args:
            rows: the text of the only column of each row's key.

        Raises:
            IncidentError: as `reads`.
        """

    def reads(self, since: datetime, until: datetime) -> tuple[RecordReads, ...]:
        """Returns reads in this time: by whom, from where and of what.

        Raises:
            IncidentError: the table does not exist, or cannot be queried safely.
        """


class AlertChannel(Protocol):
    """Alerts people in one way: a topic, a webhook, mail."""

    @property
    def name(self) -> str:
        """The channel in one plain line, without secrets."""

    def deliver(self, alert: Alert) -> None:
        """Delivers one alert.

        Raises:
            AlertError: it was not accepted, or there was no answer within twenty seconds; shows no secret address.
        """


class FlagSource(Protocol):
    """Reads flags that something outside raises."""

    def raised(self) -> tuple[Flag, ...]:
        """Returns every flag that is raised now; the same key each time, until it is cleared there.

        Raises:
            IncidentError: the source does not answer.
        """
