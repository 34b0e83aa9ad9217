"""Sends alerts by mail, over SMTP."""

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

from keyrotation_pipeline.adapters.alerts import TIMEOUT_SECONDS, in_time
from keyrotation_pipeline.errors import AlertError
from keyrotation_pipeline.model.incidents import Alert, Severity


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The server that accepts our mail.

    Args:
        starttls: whether the connection is encrypted first; off only for a server on this machine.
        password: of `user`; None: the server needs none.
    """

    host: str
    port: int = 587
    starttls: bool = True
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"SmtpServer({self.host}:{self.port})"


class Mail:
    """`AlertChannel` over SMTP.

    Args:
        sender: the pipeline's address.
        recipients: addresses of the people to alert.
    """

    def __init__(self, server: SmtpServer, sender: str, recipients: Sequence[str]) -> None:
        self._server = server
        self._sender = sender
        self._recipients = tuple(recipients)

    @property
    def name(self) -> str:
        """``mail by <host> to <addresses>``."""
        return f"mail by {self._server.host} to {', '.join(self._recipients)}"

    def deliver(self, alert: Alert) -> None:
        """See `AlertChannel.deliver`; one mail to all recipients."""
        try:
            in_time(lambda: self._send(self._message(alert)), self.name)
        except (smtplib.SMTPException, OSError, ValueError) as error:  # ValueError: a host like a..b
            raise AlertError(
                f"{self.name} is not accepted ({type(error).__name__}); check [alerts.smtp] and the mail server"
            ) from None

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = ", ".join(self._recipients)
        message["Subject"] = f"[keyrotation] {alert.subject}"
        message["Date"] = format_datetime(alert.at)
        message["Message-ID"] = make_msgid(domain="keyrotation")
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: suppresses vacation replies
        if alert.severity is Severity.CRITICAL:
            message["Importance"] = "high"
        message.set_content(f"{alert.text}\n\n{alert.database}, {alert.at:%Y-%m-%d %H:%M:%S} UTC\n")
        return message

    def _send(self, message: EmailMessage) -> None:
        server = self._server
        with smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_SECONDS) as connection:
            if server.starttls:
                connection.starttls(context=ssl.create_default_context())
            if server.user is not None:
                connection.login(server.user, server.password or "")
            refused = connection.send_message(message, self._sender, list(self._recipients))
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)
