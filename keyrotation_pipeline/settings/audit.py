"""The section about the audit: who outside puts a time stamp on it."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import SecretStr, model_validator

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.settings.values import Section, SettingPath, secret_in

TimestampUrl = Annotated[SecretStr, secret_in("audit")]


class AuditSettings(Section):
    """`[audit]`: an RFC 3161 authority, and the certificates by which its time stamps are believed.

    Args:
        timestamp_url: who is asked. Without it nobody is, and earlier time stamps are still verified.
        timestamp_certificates: its root, and roots of authorities that were asked before. Never fetched from anywhere.
    """

    timestamp_url: TimestampUrl | None = None
    timestamp_certificates: tuple[SettingPath, ...] = ()

    @model_validator(mode="after")
    def _can_be_asked_and_believed(self) -> Self:
        if self.timestamp_url is None:
            return self
        try:
            url = urlsplit(self.timestamp_url.get_secret_value())
        except ValueError:
            url = urlsplit("")
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ConfigurationError("[audit] timestamp_url is no address of an authority; write http://… or https://…")
        if not self.timestamp_certificates:
            raise ConfigurationError(
                "[audit] timestamp_url needs to know whom to believe; add timestamp_certificates with the file of the "
                "authority's root certificate, which you got from somewhere you trust"
            )
        return self
