"""Who must be told, and did they get it?"""

from typing import Protocol

from keyrotation_pipeline.model.incidents import Alert


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
