"""Opens alert channels and flag sources from settings."""

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.adapters.postgres.inventory.audit_events import AuditEvents
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.assembly.home import database_url
from keyrotation_pipeline.errors import AlertError, IncidentError
from keyrotation_pipeline.incidents.access import AccessAudit, key_reads, span_of
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.incidents import Alert, ContactRole, Incident
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline.ports.incidents import AlertChannel, ApplicationAudit, FlagSource
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.policy import signed_hosts
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.hosts import may_log_in, secrets_of
from keyrotation_pipeline.settings.sections import SmtpSettings


@dataclass(frozen=True, slots=True)
class UnsignedChannel:
    """A channel whose address is in a place that officers have not signed.

    Args:
        name: of the channel.
        place: as officers sign it.
    """

    name: str
    place: str

    def deliver(self, _alert: Alert) -> None:
        """Sends nothing.

        Raises:
            AlertError: always.
        """
        raise AlertError(
            f"the {self.name} gets nothing until officers have signed {self.place}; have that signed with "
            "`keyrotation policy --reason TEXT`"
        )


def alert_channels(settings: Settings, pipeline: Pipeline) -> Channels:
    """Returns every alert channel; connects to nothing yet.

    Mail goes without its password to a server that officers have not signed, or if they have not signed the place of
    the password.
    """
    asked = settings.secrets or settings.alerts.smtp is not None
    signed = (signed_hosts(pipeline) or ()) if asked else ()
    by_role: dict[ContactRole, tuple[AlertChannel, ...]] = {}
    for contact in settings.contacts:
        if contact.email is not None and settings.alerts.smtp is not None:
            mail = _mail(settings.alerts.smtp, contact.email, with_login=may_log_in(settings, signed))
            by_role[contact.role] = (*by_role.get(contact.role, ()), mail)
    return Channels(tuple(_common(settings, signed)), by_role, settings.contact_list, settings.time_zone)


def flag_sources(settings: Settings) -> tuple[FlagSource, ...]:
    """Returns the sources of flags besides `keyrotation.incident_flag`."""
    declared = settings.incidents
    if not declared.alarms:
        return ()
    from keyrotation_pipeline.adapters.aws_incidents import CloudWatchAlarms  # noqa: PLC0415  boto3 takes a second to import

    types = {each.name: str(each.type) for each in declared.alarms}
    return (CloudWatchAlarms(types, declared.region_name, declared.endpoint_url),)


def access_audit(settings: Settings, incident: Incident, pipeline: Pipeline) -> AccessAudit:
    """Returns who read the key and the records during an incident, as far as `[incidents]` names logs.

    Raises:
        IncidentError: one of the logs cannot be read.
    """
    return accesses(settings, *span_of(incident, pipeline.ledger.requests(), pipeline.clock.now()))


def accesses(settings: Settings, since: datetime, until: datetime) -> AccessAudit:
    """Returns who read the key and the records in a span of time; raises as `access_audit`."""
    declared, keys, records = settings.incidents, None, None
    if declared.cloudtrail_bucket is not None:
        from keyrotation_pipeline.adapters.aws_incidents import CloudTrailFiles  # noqa: PLC0415  as above

        trail = CloudTrailFiles(
            declared.cloudtrail_bucket, declared.cloudtrail_prefix, declared.region_name, declared.endpoint_url
        )
        keys = key_reads(trail.records(since, until), _secrets(settings), since, until)
    with application_audit(settings) as audit:
        records = None if audit is None else audit.reads(since, until)
    return AccessAudit(since, until, keys, records)


@contextmanager
def application_audit(settings: Settings) -> Iterator[ApplicationAudit | None]:
    """Yields the application's audit, on a connection of its own; None: `[incidents]` names none."""
    if settings.incidents.audit_events_table is None:
        yield None
        return
    with database_url(settings) as url, closing(connect(url)) as connection:
        yield AuditEvents(connection, TableName.parse(settings.incidents.audit_events_table))


def _secrets(settings: Settings) -> list[str]:
    """Lists the live secret, and all secrets named like an archived one."""
    if settings.keys.aws is None:
        raise IncidentError(
            "[incidents] cloudtrail_bucket is for keys in AWS; name the secret in [keys.aws-secrets-manager]"
        )
    secret = settings.keys.aws.secret_id
    prefix = settings.keys.aws.archive_prefix or f"{secret}-"
    return [secret, prefix if prefix.endswith("-") else f"{prefix}-"]


def _common(settings: Settings, signed: Collection[str]) -> Iterator[AlertChannel]:
    alerts = settings.alerts
    if alerts.sns_topic_arn is not None:
        from keyrotation_pipeline.adapters.alerts.sns import SnsTopic  # noqa: PLC0415  as above

        yield SnsTopic(alerts.sns_topic_arn, alerts.endpoint_url)
    if alerts.webhook_url is not None:
        from keyrotation_pipeline.adapters.alerts.webhook import Webhook  # noqa: PLC0415  requests, likewise

        hook = Webhook(alerts.webhook_url.get_secret_value())
        unsigned = [each for each in secrets_of(settings, "alerts.webhook_url ") if each not in signed]
        yield UnsignedChannel(hook.name, unsigned[0]) if unsigned else hook


def _mail(smtp: SmtpSettings, address: str, *, with_login: bool) -> AlertChannel:
    from keyrotation_pipeline.adapters.alerts.mail import Mail, SmtpServer  # noqa: PLC0415  only where there is mail

    password = smtp.password.get_secret_value() if smtp.password is not None else None
    user, password = (smtp.user, password) if with_login else (None, None)
    return Mail(SmtpServer(smtp.host, smtp.port, smtp.starttls, user, password), smtp.sender, [address])
