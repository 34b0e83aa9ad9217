"""Defines the sections about incidents: who is alerted, and which sources raise flags besides our own table."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SecretStr

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.model.incidents import Contact, ContactRole, IncidentType
from keyrotation_pipeline.settings.values import Positive, Section, Text, secret_in

_ARN = re.compile(r"arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]{1,256}", re.ASCII)
_ADDRESS = re.compile(r"[^\s@,;<>\"]{1,64}@[^\s@,;<>\"]{1,255}")


def _topic(arn: str) -> str:
    if not _ARN.fullmatch(arn):
        raise ConfigurationError(
            '[alerts] sns_topic_arn is not the ARN of a topic; write "arn:aws:sns:<region>:<account>:<name>"'
        )
    return arn


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ConfigurationError(f'"{text}" is not a mail address; write one plain address')
    return text


def _role(name: object) -> object:
    """Parses a role, also as the source procedure writes it: ``HIPAA Compliance Officer``, ``On-Call Engineer``."""
    if not isinstance(name, str):
        return name
    plain = name.strip().lower().replace(" ", "-").replace("_", "-")
    plain = plain.removeprefix("hipaa-").removesuffix("-engineer")
    if plain not in set(ContactRole):
        raise ConfigurationError(f'[[contacts]] role = "{name}" is not known; write one of {", ".join(ContactRole)}')
    return ContactRole(plain)


Address = Annotated[str, AfterValidator(_address)]
AlertSecret = Annotated[SecretStr, secret_in("alerts")]
SmtpSecret = Annotated[SecretStr, secret_in("alerts.smtp")]


class SmtpSettings(Section):
    """`[alerts.smtp]`: the server that sends mail to contacts.

    Args:
        host: its name.
        sender: the address that mail is from.
        port: its port.
        starttls: false is for a server on this machine.
        user, password: to log in with, if it asks for that.
    """

    host: Text
    sender: Address
    port: Positive = 587
    starttls: bool = True
    user: Text | None = None
    password: SmtpSecret | None = None


class AlertsSettings(Section):
    """`[alerts]`: the common channels, which receive every alert.

    Args:
        sns_topic_arn: a topic of AWS SNS.
        endpoint_url: of SNS, as boto3 takes it.
        webhook_url: gets each alert as JSON by POST.
    """

    sns_topic_arn: Annotated[str, AfterValidator(_topic)] | None = None
    endpoint_url: Text | None = None
    webhook_url: AlertSecret | None = None
    smtp: SmtpSettings | None = None


class ContactSettings(Section):
    """One `[[contacts]]` of the emergency contact list.

    Args:
        role: which alerts are for them.
        name: of the person.
        email: with `[alerts.smtp]` it gets mail; else people write to it.
        phone: shown in the alert.
    """

    role: Annotated[ContactRole, BeforeValidator(_role)]
    name: Text
    email: Address | None = None
    phone: Text | None = None

    @property
    def contact(self) -> Contact:
        """Returns the contact as a value."""
        return Contact(self.role, self.name, self.email, self.phone)


class AlarmSettings(Section):
    """One `[[incidents.alarms]]`: a CloudWatch alarm that is a flag while it is in the state ALARM.

    Args:
        name: of the alarm.
        type: of the incident that it reports.
    """

    name: Text
    type: IncidentType


class IncidentsSettings(Section):
    """`[incidents]`: sources that raise flags besides our own table, and logs of who read what.

    Args:
        audit_events_table: the application's audit of reads, with the source procedure's columns.
        cloudtrail_bucket: with the log of who read the key.
        cloudtrail_prefix: what comes before ``AWSLogs/`` in that bucket, with its ``/``.
        region_name, endpoint_url: as boto3 takes them.
    """

    alarms: tuple[AlarmSettings, ...] = ()
    audit_events_table: Text | None = None
    cloudtrail_bucket: Text | None = None
    cloudtrail_prefix: str = ""
    region_name: Text | None = None
    endpoint_url: Text | None = None
