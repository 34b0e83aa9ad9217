"""Defines the smaller sections of `keyrotation.toml`, one class each, with checks over several of their values.

These are the database and its re-encryption, approvals, rollout, the audit and its report, alerts and incidents.
"""

import json
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StrictFloat, StrictInt, model_validator

from keyrotation_pipeline.adapters import own_schema
from keyrotation_pipeline.errors import ApprovalError, ConfigurationError
from keyrotation_pipeline.model.approval import require_plain
from keyrotation_pipeline.model.checkpoints import COSIGNATURE, VerifierKey
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.incidents import Contact, ContactRole, IncidentType
from keyrotation_pipeline.model.members import Listing, MemberRule
from keyrotation_pipeline.model.progress import DEFAULT_DUTY_CYCLE, LEAST_DUTY_CYCLE, AllowedHours
from keyrotation_pipeline.model.tables import MEMBER_NAME, NAME_RULE
from keyrotation_pipeline.settings.key_stores import KubernetesName
from keyrotation_pipeline.settings.values import (
    Count,
    Endpoint,
    Positive,
    Secret,
    Section,
    SettingPath,
    Text,
    is_loopback,
    parts_of,
    repeated,
    require_address,
    secret_in,
)

# A witness that is no server: objects in the bucket of backups, which S3 locks.
OBJECT_LOCK = "s3-object-lock"
_LISTING = "SELECT name FROM public.tenants"


def _witness_address(address: str) -> str:
    if address == OBJECT_LOCK:
        return address
    parts = parts_of(address) if address.isascii() else None
    if parts is None or parts.username is not None or parts.query or parts.fragment or ";" in address:
        raise ConfigurationError(
            "[audit] witness has a url that is none to submit checkpoints to; write https://…, without user and query"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ConfigurationError(f"[audit] witness {address} is not encrypted; write https")
    return address


def _witness_key(text: str) -> str:
    key = VerifierKey.parse(text)
    if key is None or key.kind != COSIGNATURE:
        raise ConfigurationError(
            "[audit] witness has a key that is none of a witness; write the verifier key for cosignature/v1 that its "
            "operator publishes, such as witness.example+0a1b2c3d+BASE64"
        )
    return text


class WitnessSettings(Section):
    """One of `[audit] witness`: where it is asked (C2SP tlog-witness), and its key, which officers sign.

    Args:
        url: its submission prefix; ``s3-object-lock``: checkpoints are locked objects beside the backups in S3.
        key: its verifier key; without one only there.
    """

    url: Annotated[str, AfterValidator(_witness_address)]
    key: Annotated[str, AfterValidator(_witness_key)] | None = None

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if (self.key is None) != (self.url == OBJECT_LOCK):
            raise ConfigurationError(
                f'[audit] witness {self.url} needs the key that its operator publishes, and "{OBJECT_LOCK}" has none; '
                "write { url = …, key = … }"
            )
        return self


def _as_witnesses(value: object) -> object:
    """Reads a name as the list with that alone, and a name in a list as its url."""
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, list):
        return several
    return [{"url": each} if isinstance(each, str) else each for each in several]


class AuditSettings(Section):
    """`[audit]`: an RFC 3161 authority, and the certificates that verify its time stamps; and witnesses.

    Args:
        timestamp_url: the authority to ask. Without it none is asked; earlier time stamps are still verified.
        timestamp_certificates: its root, and roots of authorities used before. Never fetched.
        witness: those that sign that the audit only grows, each as ``{ url = "https://…", key = "NAME+ID+BASE64" }``;
            or ``"s3-object-lock"``.
    """

    timestamp_url: Annotated[SecretStr, secret_in("audit")] | None = None
    timestamp_certificates: tuple[SettingPath, ...] = ()
    witness: Annotated[tuple[WitnessSettings, ...], BeforeValidator(_as_witnesses)] = ()

    @model_validator(mode="after")
    def _witnesses_differ(self) -> Self:
        keys = (each.key for each in self.witness if each.key is not None)
        twice = repeated(each.url for each in self.witness) or repeated(keys)
        if twice is not None:
            raise ConfigurationError(f"[audit] witness names {twice} twice; remove one")
        return self

    @model_validator(mode="after")
    def _can_be_asked_and_believed(self) -> Self:
        if self.timestamp_url is None:
            return self
        require_address("[audit] timestamp_url", self.timestamp_url)
        if not self.timestamp_certificates:
            raise ConfigurationError(
                "[audit] timestamp_url needs to know whom to trust; add timestamp_certificates with the file of the "
                "authority's root certificate, which you got from somewhere you trust"
            )
        return self


LONGEST_NAME_CHARS = 120


def plain_name(text: str) -> str:
    """Checks a name that stands on a document."""
    return _plain("[report] organisation", text)


def _plain(setting: str, text: str) -> str:
    try:
        require_plain(setting, text)
    except ApprovalError as error:
        raise ConfigurationError(str(error)) from None
    return text


class ReportSettings(Section):
    """`[report]`: whose the compliance report is.

    Args:
        organisation: the name on the cover; without it the cover says that it is not named.
    """

    organisation: Annotated[Text, Field(max_length=LONGEST_NAME_CHARS), AfterValidator(plain_name)] | None = None


_SCHEMAS_OF_OTHERS = frozenset({"public", "information_schema"})


def home_schema(text: str) -> str:
    """Checks the name of the schema of a home, which the names of its constraints and triggers begin with."""
    if not own_schema.NAME.fullmatch(text) or text.startswith("pg_") or text in _SCHEMAS_OF_OTHERS:
        raise ConfigurationError(
            f"[database] schema = {json.dumps(text)} cannot be the schema of a home; write at most 40 of a-z, 0-9 and "
            "_, beginning with a letter"
        )
    return text


class DatabaseSettings(Section):
    """`[database]`: without a url the embedded PostgreSQL is used.

    Args:
        url: of the database, directly and not through a pooler.
        schema_name: where the records of this home are: a schema of its own for each key of one database.
        standbys: URLs of standbys that the primary cannot see (cascaded ones); they are queried directly.
        gone_replicas: names, as a refusal prints them, of standbys, subscribers and slots that no longer exist.
        delayed_standbys: names, as a pause prints them, of standbys that may lag while rows are re-encrypted.
            Before a key is retired they must have replayed everything, like all others.
    """

    url: Secret | None = None
    schema_name: Annotated[Text, AfterValidator(home_schema)] = Field(default=own_schema.DEFAULT, alias="schema")
    standbys: tuple[Secret, ...] = ()
    gone_replicas: tuple[Text, ...] = ()
    delayed_standbys: tuple[Text, ...] = ()


def in_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Sorts names, each once, so that their order in the file changes no signed text."""
    return tuple(sorted(set(names)))


class MemberSettings(Section):
    """One of `[[databases]]`: a further database under the same key, whose tables are rotated with those here.

    Its role and its server are prepared as those of `[database]`; the schema `keyrotation` in it is made by `init`.

    Args:
        name: how it is named in `[[tables]]`, and shown: small letters, digits and underscores. With ``*``, as in
            ``tenant_*``, it is a rule: every database of one server that `query` lists and that it matches.
        url: of the database, directly and not through a pooler; of a rule, of any database of its server.
        query: of a rule: `SELECT name FROM public.tenants`, with or without `WHERE` and a boolean column: where the
            home's own database lists the names.
        gone: of a rule: names that it does not cover, as of databases that are members no more.
    """

    name: Annotated[str, Field(pattern=f"^({MEMBER_NAME}|{NAME_RULE})$")]
    url: Annotated[SecretStr, secret_in("databases")]
    query: Text | None = None
    gone: Annotated[tuple[Annotated[str, Field(pattern=f"^{MEMBER_NAME}$")], ...], AfterValidator(in_order)] = ()

    @property
    def rule(self) -> MemberRule | None:
        """The names that it covers; None: it is one database."""
        return MemberRule(self.name, self.gone) if "*" in self.name else None

    @model_validator(mode="after")
    def _rule_has_a_query(self) -> Self:
        if (self.rule is None) is (self.query is None):
            return self
        raise ConfigurationError(
            f"[[databases]] {self.name} has {'no query' if self.query is None else 'a query'}, and a name with * goes "
            f'with one: write name = "tenant_*" and query = "{_LISTING}", or neither'
        )

    @property
    def listing(self) -> Listing | None:
        """Where the names of a rule are listed."""
        return None if self.query is None else Listing.parse(self.query)

    @model_validator(mode="after")
    def _query_reads_one_column(self) -> Self:
        if self.query is None or self.listing is not None:
            return self
        raise ConfigurationError(
            f"query of [[databases]] {self.name} is not like `{_LISTING}`, with or without `WHERE` and a boolean "
            "column; write it so"
        )

    @model_validator(mode="after")
    def _gone_is_of_a_rule(self) -> Self:
        if self.gone and (self.rule is None or not all(map(MemberRule(self.name).covers, self.gone))):
            raise ConfigurationError(
                f"[[databases]] {self.name} has gone, which names databases that a name with * matches; correct it"
            )
        return self


def known_hours(text: str) -> str:
    """Checks a span of hours."""
    AllowedHours.parse(text, "UTC")
    return text


class ReencryptionSettings(Section):
    """`[reencryption]`: how many at a time, and how fast.

    An emergency rotation ignores `duty_cycle`, `hours` and `max_rows_per_second`, and runs at least four shards at a
    time.

    Args:
        shards: per table; each is a partition in Dagster, but with `[[databases]]`.
        parallel_shards: runs of Dagster at a time; with `[[databases]]`, of each server.
        run_minutes: with `[[databases]]`, for how long such a run begins further tables of its server.
        workers: processes per shard.
        max_rows_per_second: of a shard; 0: no cap.
        max_replica_lag_seconds: for a standby that is later the rotation pauses.
        duty_cycle: the share of time in which a worker keeps the database busy.
        hours: those in which rows are rewritten, such as ``22:00-06:00``, in `time_zone`; default: always.
    """

    shards: Annotated[StrictInt, Field(ge=1, le=100)] = 4
    parallel_shards: Annotated[StrictInt, Field(ge=1, le=64)] = 2
    run_minutes: Annotated[StrictInt, Field(ge=1, le=10080)] = 60
    workers: Annotated[StrictInt, Field(ge=1, le=64)] = 1
    max_rows_per_second: Count = 0
    max_replica_lag_seconds: Annotated[StrictInt | StrictFloat, Field(ge=0)] = 5
    duty_cycle: Annotated[StrictInt | StrictFloat, Field(ge=LEAST_DUTY_CYCLE, le=1)] = DEFAULT_DUTY_CYCLE
    hours: Annotated[Text, AfterValidator(known_hours)] | None = None


class VerificationSettings(Section):
    """`[verification]`: decrypting every value from time to time, to find damage.

    It runs within `hours` of `[reencryption]`, at its `duty_cycle`, with as many threads as it has `workers`.

    Args:
        every_days: the days within which every value is decrypted once; 1: every day.
    """

    every_days: Annotated[StrictInt, Field(ge=1, le=366)] = 90


def officer_name(text: str) -> str:
    """Checks a name that officers read in what they sign."""
    return _plain("[[approvals.officers]] name", text)


class OfficerSettings(Section):
    """One `[[approvals.officers]]`: a name, and an OpenPGP public certificate, an SSH public key, or both.

    Whichever of the two signs, it is one signature of this officer.

    Args:
        name: as it is shown to people, and named in what officers sign.
        certificate: the file of the OpenPGP certificate.
        ssh_key: the file ``….pub``.
    """

    name: Annotated[Text, AfterValidator(officer_name)]
    certificate: SettingPath | None = None
    ssh_key: SettingPath | None = None

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if self.certificate is None and self.ssh_key is None:
            raise ConfigurationError(
                f"[[approvals.officers]] {self.name} has no key; add certificate (OpenPGP) or ssh_key (SSH), a file "
                "with the public part"
            )
        return self


class ApprovalsSettings(Section):
    """`[approvals]`: how many of the officers must sign.

    Args:
        required: less than 2 only in a demo.
    """

    required: Positive = 2
    officers: tuple[OfficerSettings, ...] = ()


class WorkloadSettings(Section):
    """One `[[rollout.workloads]]`: a Kubernetes workload of the application, and the container that gets the keys.

    Args:
        kind: of the workload.
        name: of the workload, in the namespace of the Secret.
        container: the one that gets the keys.
    """

    kind: Literal["Deployment", "StatefulSet", "DaemonSet"]
    name: KubernetesName
    container: KubernetesName


class RolloutSettings(Section):
    """`[rollout]`: how it is seen that every instance of the application has the keys.

    Args:
        mode: how that is checked; officers sign it with each request.
        instance_ttl_seconds: an instance that does not report for longer is silent.
        timeout_seconds: how long `rotate` waits for instances.
    """

    mode: RolloutMode = RolloutMode.ATTEST
    instance_ttl_seconds: Positive = 60
    timeout_seconds: Positive = 600
    workloads: tuple[WorkloadSettings, ...] = ()

    @model_validator(mode="after")
    def _workloads(self) -> Self:
        if (self.mode is RolloutMode.KUBERNETES) != bool(self.workloads):
            raise ConfigurationError(
                '[rollout] mode = "kubernetes" and [[rollout.workloads]] go together; add the other one, or leave both '
                "out"
            )
        if twice := repeated(f"{each.kind}/{each.name}" for each in self.workloads):
            raise ConfigurationError(f"{twice} is listed in two [[rollout.workloads]]; remove one")
        return self


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


class SmtpSettings(Section):
    """`[alerts.smtp]`: the server that sends mail to contacts.

    Args:
        host: its name.
        sender: the address that mail is from.
        port: its port.
        starttls: false is for a server that asks for no login, or is on this machine.
        user, password: to log in with, if it asks for that.
    """

    host: Text
    sender: Address
    port: Positive = 587
    starttls: bool = True
    user: Text | None = None
    password: Annotated[SecretStr, secret_in("alerts.smtp")] | None = None

    @model_validator(mode="after")
    def _sends_no_readable_password(self) -> Self:
        if self.user is not None and not self.starttls and not is_loopback(self.host):
            raise ConfigurationError(
                "[alerts.smtp] would send the password unencrypted; leave out starttls = false, or user and password"
            )
        return self


class AlertsSettings(Section):
    """`[alerts]`: the common channels, which receive every alert.

    Args:
        sns_topic_arn: a topic of AWS SNS.
        endpoint_url: of SNS, as boto3 takes it.
        webhook_url: gets each alert as JSON by POST.
    """

    sns_topic_arn: Annotated[str, AfterValidator(_topic)] | None = None
    endpoint_url: Endpoint | None = None
    webhook_url: Annotated[SecretStr, secret_in("alerts")] | None = None
    smtp: SmtpSettings | None = None

    @model_validator(mode="after")
    def _can_be_sent_to(self) -> Self:
        if self.webhook_url is not None:
            require_address("[alerts] webhook_url", self.webhook_url)
        return self


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
    endpoint_url: Endpoint | None = None
