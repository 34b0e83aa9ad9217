"""Opens alert channels and flag sources from settings, and prepares Dagster's services."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path

from keyrotation_pipeline.adapters.dagster_services import DagsterServices, UiAccess, random_token, sole_services
from keyrotation_pipeline.adapters.home_files import FileHeartbeats
from keyrotation_pipeline.adapters.postgres.inventory.audit_events import AuditEvents
from keyrotation_pipeline.adapters.postgres.server.connection import connect, display_name
from keyrotation_pipeline.adapters.postgres.server.embedded import DAGSTER_DATABASE, EmbeddedServer
from keyrotation_pipeline.assembly.home import create_home, database_url
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.access import AccessAudit, key_reads, span_of
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.incidents import ContactRole, Incident
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline.monitoring.scheduler_health import CONDUCTOR
from keyrotation_pipeline.ports.incidents import AlertChannel, ApplicationAudit, FlagSource
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.settings import Settings, home_of
from keyrotation_pipeline.settings.loading import bare_environment, child_environment, dagster_storage_url
from keyrotation_pipeline.settings.sections import SmtpSettings


def alert_channels(settings: Settings) -> Channels:
    """Returns every alert channel; connects to nothing yet."""
    by_role: dict[ContactRole, tuple[AlertChannel, ...]] = {}
    for contact in settings.contacts:
        if contact.email is not None and settings.alerts.smtp is not None:
            mail = _mail(settings.alerts.smtp, contact.email)
            by_role[contact.role] = (*by_role.get(contact.role, ()), mail)
    return Channels(tuple(_common(settings)), by_role, settings.contact_list, settings.time_zone)


def flag_sources(settings: Settings) -> tuple[FlagSource, ...]:
    """Returns the sources of flags besides `keyrotation.incident_flag`."""
    declared = settings.incidents
    if not declared.alarms:
        return ()
    from keyrotation_pipeline.adapters.aws_incidents import CloudWatchAlarms, WatchedAlarm  # noqa: PLC0415  boto3 takes a second to import

    alarms = [WatchedAlarm(each.name, str(each.type)) for each in declared.alarms]
    return (CloudWatchAlarms(alarms, declared.region_name, declared.endpoint_url),)


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


def _common(settings: Settings) -> Iterator[AlertChannel]:
    alerts = settings.alerts
    if alerts.sns_topic_arn is not None:
        from keyrotation_pipeline.adapters.alerts.sns import SnsTopic  # noqa: PLC0415  as above

        yield SnsTopic(alerts.sns_topic_arn, alerts.endpoint_url)
    if alerts.webhook_url is not None:
        from keyrotation_pipeline.adapters.alerts.webhook import Webhook  # noqa: PLC0415  requests, likewise

        yield Webhook(alerts.webhook_url.get_secret_value())


def _mail(smtp: SmtpSettings, address: str) -> AlertChannel:
    from keyrotation_pipeline.adapters.alerts.mail import Mail, SmtpServer  # noqa: PLC0415  only where there is mail

    password = smtp.password.get_secret_value() if smtp.password is not None else None
    return Mail(SmtpServer(smtp.host, smtp.port, smtp.starttls, smtp.user, password), smtp.sender, [address])


__all__ = ["DagsterServices", "UiAccess", "dagster_services", "random_token"]


@contextmanager
def dagster_services(
    path: Path, declared: Settings | None, access: UiAccess
) -> Iterator[tuple[DagsterServices, str | None]]:
    """Yields the services, not yet started, with their servers and the name of the database; stops them at the end.

    Args:
        path: of the configuration, whether it exists or not.
        declared: None if there is no configuration yet.

    Raises:
        HomeError: the home cannot be created or is served already, or the embedded server cannot run.
    """
    home = home_of(path)
    create_home(home)
    with ExitStack() as stack:
        stack.enter_context(sole_services(home, access))  # before anything that the end of this would remove
        storage, keep_storage = _storage(stack, home)
        variables = {"KEYROTATION_HOME": str(home), "DAGSTER_PG_URL": storage}
        if declared is not None:
            url = stack.enter_context(database_url(declared))  # an embedded server must run as long as the runs do
            variables["KEYROTATION_CONFIG"] = str(path)
        bare = bare_environment(None if declared is None else path, variables)
        ours = child_environment(None if declared is None else declared.key_variable, **variables)
        services = DagsterServices(home / "dagster", path.parent, access, ours, bare, keep_storage)
        stack.callback(FileHeartbeats(home / "heartbeats").forget, CONDUCTOR)  # after they have stopped
        stack.callback(services.stop)
        yield services, None if declared is None else display_name(url)


def _storage(stack: ExitStack, home: Path) -> tuple[str, Callable[[], None]]:
    """Returns the SQLAlchemy URL of Dagster's storage, and a function that restarts its server if needed.

    The default is the database `dagster` on the home's server; dagster-postgres uses psycopg2.
    """
    if (url := dagster_storage_url()) is not None:
        return url, lambda: None
    server = stack.enter_context(EmbeddedServer(home / "postgres"))
    return server.url(DAGSTER_DATABASE).replace("postgresql://", "postgresql+psycopg2://", 1), server.keep_running
