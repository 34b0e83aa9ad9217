"""Sends alerts to a webhook, one JSON object per POST."""

from urllib.parse import urlsplit

import requests

from keyrotation_pipeline.adapters.alerts import in_time
from keyrotation_pipeline.adapters.http_post import post
from keyrotation_pipeline.errors import AlertError
from keyrotation_pipeline.model.incidents import Alert


class Webhook:
    """`AlertChannel` over HTTP.

    The JSON has `text` (subject and sentences, which chat services show) and `key`, `severity`, `subject`, `database`
    and `at` for programs.

    Args:
        url: ``https://…``. Whoever knows it can post there, so only its host is ever shown.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def name(self) -> str:
        """``webhook at <host>``."""
        return f"webhook at {urlsplit(self._url).hostname}"

    def deliver(self, alert: Alert) -> None:
        """See `AlertChannel.deliver`; a redirect counts as a refusal, since it would send the alert elsewhere."""
        in_time(lambda: self._post(alert), f"the {self.name}")

    def _post(self, alert: Alert) -> None:
        content = {
            "text": f"{alert.subject}\n{alert.text}",
            "key": alert.key,
            "severity": str(alert.severity),
            "subject": alert.subject,
            "database": alert.database,
            "at": alert.at.isoformat(),
        }
        try:
            with post(self._url, json=content) as answer:
                status = answer.status_code
        except (requests.RequestException, ValueError) as error:  # ValueError: urllib3, for a host like a..b
            raise AlertError(
                f"the {self.name} does not answer ({type(error).__name__}); check [alerts] webhook_url"
            ) from None
        if not requests.codes.ok <= status < requests.codes.multiple_choices:
            raise AlertError(f"the {self.name} answers with HTTP status {status}; check [alerts] webhook_url")
