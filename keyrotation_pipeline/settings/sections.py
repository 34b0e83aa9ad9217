"""Defines the sections of `keyrotation.toml`, one class each, with the checks that need more than one value."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StrictBool,
    StrictFloat,
    StrictInt,
    model_validator,
)

from keyrotation_pipeline.adapters import own_schema
from keyrotation_pipeline.errors import (
    ApprovalError,
    ConfigurationError,
    InvalidBindingError,
    InvalidKeyError,
    InvalidLayoutError,
)
from keyrotation_pipeline.fieldcrypto.binding import checked_label
from keyrotation_pipeline.fieldcrypto.codecs.fernet_keys import KeyEncoding
from keyrotation_pipeline.fieldcrypto.codecs.format import marked_format_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyNotation, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.value_format import (
    AES_GCM,
    CLOAK_47NG,
    FERNET,
    FORMATS,
    NATIVE,
    RAILS,
    Derivation,
    ValueFormat,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import require_plain
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.incidents import Contact
from keyrotation_pipeline.model.progress import DEFAULT_DUTY_CYCLE, LEAST_DUTY_CYCLE, AllowedHours
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline.model.visible_text import is_hidden
from keyrotation_pipeline.settings.alerts import AlertsSettings, ContactSettings, IncidentsSettings
from keyrotation_pipeline.settings.backups import BackupSettings, RecoverySettings, known_time_zone
from keyrotation_pipeline.settings.values import (
    Count,
    Positive,
    Secret,
    Section,
    SettingPath,
    Text,
    repeated,
    secret_in,
)

TimestampUrl = Annotated[SecretStr, secret_in("audit")]


class AuditSettings(Section):
    """`[audit]`: an RFC 3161 authority, and the certificates that verify its time stamps.

    Args:
        timestamp_url: the authority to ask. Without it none is asked; earlier time stamps are still verified.
        timestamp_certificates: its root, and roots of authorities used before. Never fetched from anywhere.
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
            raise ConfigurationError(
                "[audit] timestamp_url is not the address of an authority; write http://… or https://…"
            )
        if not self.timestamp_certificates:
            raise ConfigurationError(
                "[audit] timestamp_url needs to know whom to trust; add timestamp_certificates with the file of the "
                "authority's root certificate, which you got from somewhere you trust"
            )
        return self


LONGEST_NAME_CHARS = 120


def plain_name(text: str) -> str:
    """Checks a name that stands on a document."""
    try:
        require_plain("[report] organisation", text)
    except ApprovalError as error:
        raise ConfigurationError(str(error)) from None
    return text


class ReportSettings(Section):
    """`[report]`: whose the compliance report is.

    Args:
        organisation: the name on the cover; without it the cover says that it is not named.
    """

    organisation: Annotated[Text, Field(max_length=LONGEST_NAME_CHARS), AfterValidator(plain_name)] | None = None


FILE_NAME = "keyrotation.toml"
DEMO_MARKER = "demo.json"
_SCHEMAS_OF_OTHERS = frozenset({"public", "information_schema"})
_KUBERNETES_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def home_schema(text: str) -> str:
    """Checks the name of the schema of a home, which the names of its constraints and triggers begin with."""
    if not own_schema.NAME.fullmatch(text) or text.startswith("pg_") or text in _SCHEMAS_OF_OTHERS:
        raise ConfigurationError(
            f"[database] schema = {json.dumps(text)} cannot be the schema of a home; write a name of its own, at most "
            "40 of a-z, 0-9 and _, which begins with a letter"
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


class FileStoreSettings(Section):
    """`[keys.file]`: a directory with one file per version.

    Args:
        directory: default ``keys`` in the home.
    """

    directory: SettingPath | None = None


class AwsStoreSettings(Section):
    """`[keys.aws-secrets-manager]`: the secret, and how archived ones are named.

    Args:
        secret_id: the secret that applications read.
        archive_prefix: of the names of archived keys; default: `secret_id` and a hyphen.
        region_name, endpoint_url: as boto3 takes them.
    """

    secret_id: Text
    archive_prefix: Text | None = None
    region_name: Text | None = None
    endpoint_url: Text | None = None


def kubernetes_name(text: str) -> str:
    """Checks the name of an object or a namespace."""
    if not _KUBERNETES_NAME.fullmatch(text):
        raise ConfigurationError(f"{text!r} cannot be a name in Kubernetes; write lower-case letters, digits, - and .")
    return text


KubernetesName = Annotated[Text, AfterValidator(kubernetes_name)]


class AwsArchiveSettings(Section):
    """`[keys.kubernetes-secret.aws-archive]`: archives keys in AWS, instead of in a second Secret.

    Args:
        prefix: of the names of archived keys.
        region_name, endpoint_url: as boto3 takes them.
    """

    prefix: Text
    region_name: Text | None = None
    endpoint_url: Text | None = None


class KubernetesStoreSettings(Section):
    """`[keys.kubernetes-secret]`: the Secret, and the one for archived keys, which may be in another namespace.

    With `[keys.kubernetes-secret.aws-archive]` there is no second Secret: archived keys are in AWS Secrets Manager.

    Args:
        namespace: of the Secret that Pods get.
        name: of that Secret.
        archive_name: of the Secret for archived keys; default: `name` and ``-archive``.
        archive_namespace: of that one; default: `namespace`.
        kubeconfig, context: as kubectl takes them; without both: in the cluster, else as KUBECONFIG says.
    """

    namespace: KubernetesName
    name: KubernetesName
    archive_name: KubernetesName | None = None
    archive_namespace: KubernetesName | None = None
    aws_archive: AwsArchiveSettings | None = Field(default=None, alias="aws-archive")
    kubeconfig: SettingPath | None = None
    context: Text | None = None

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.archive == (self.namespace, self.name):
            raise ConfigurationError(
                "[keys.kubernetes-secret] archive_name is that of the Secret which applications get; name another"
            )
        if self.aws_archive is not None and (self.archive_name or self.archive_namespace):
            raise ConfigurationError(
                "[keys.kubernetes-secret] names two archives; leave out archive_name and archive_namespace, or "
                "[keys.kubernetes-secret.aws-archive]"
            )
        return self

    @property
    def archive(self) -> tuple[str, str]:
        """Namespace and name of the archive."""
        return self.archive_namespace or self.namespace, self.archive_name or f"{self.name}-archive"


class KeysSettings(Section):
    """`[keys]`: the key store of the applications.

    Args:
        store: which one.
        activated_at: the day since which the key that `init` imports has been in use; else its age is unknown.
    """

    store: Literal["file", "aws-secrets-manager", "kubernetes-secret"] = "file"
    activated_at: date | None = None
    file: FileStoreSettings = FileStoreSettings()
    aws: AwsStoreSettings | None = Field(default=None, alias="aws-secrets-manager")
    kubernetes: KubernetesStoreSettings | None = Field(default=None, alias="kubernetes-secret")

    @model_validator(mode="after")
    def _available(self) -> Self:
        if self.store == "aws-secrets-manager" and self.aws is None:
            raise ConfigurationError(
                '[keys] store = "aws-secrets-manager" needs to know which secret; add [keys.aws-secrets-manager] '
                'with secret_id = "…"'
            )
        if self.store == "kubernetes-secret" and self.kubernetes is None:
            raise ConfigurationError(
                '[keys] store = "kubernetes-secret" needs to know which Secret; add [keys.kubernetes-secret] with '
                'namespace = "…" and name = "…"'
            )
        return self


class KeyVariable(Section):
    """`[format.keys]`: where the application has its keys; only `init` reads it.

    Args:
        env: the name of an environment variable.
    """

    env: Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


_USUAL_VARIABLES = {
    FERNET.name: "FERNET_KEYS",
    AES_GCM.name: "FIELD_KEYS",
    RAILS.name: "ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY",
    CLOAK_47NG.name: "FIELD_ENCRYPTION_KEYS",
}


class FormatSettings(Section):
    """`[format]`: the format of the values in all `[[tables]]`.

    Args:
        name: `native` (our own), `fernet`, `aes-gcm`, `rails-ar-encryption` or `cloak-47ng`.
        keys: of all but `native`, and needed there: the application's own list, in its library's notation. `init`
            imports it, and the key store delivers keys under the same name.
        keep_time: of `fernet` only: a re-encrypted token keeps its time, as readers with a TTL need it.
        layout: of `aes-gcm` only, and needed there: how a value is put together, as in `b64(nonce12 ct tag16)` or
            `hex(nonce12):hex(tag16):hex(ct)`.
        key_encoding: of `aes-gcm` only: how each key of the list is written, `b64`, `b64url` or `hex`.
        logins: of `aes-gcm` only, and needed there: by version, the login (or a list of them) that applications use
            while they encrypt with it.
        derivation: of `rails-ar-encryption` only: `pbkdf2-sha256` (default; `load_defaults` of Rails 7.1 and later) or
            `pbkdf2-sha1`.
        salt: of `rails-ar-encryption` only, and needed there: its `key_derivation_salt`, which is no secret here.
        generation: of `native` only: of the keys that rotations make from now on. 2: KC-XAES-256-GCM, with values bound
            to their columns; every application must read it first.
        deterministic: of `rails-ar-encryption` only: the list is of `deterministic_key`, and queries find the values.
    """

    name: Text = NATIVE.name
    keys: KeyVariable | None = None
    keep_time: StrictBool = False
    layout: Text | None = None
    key_encoding: KeyEncoding = KeyEncoding.B64URL
    logins: dict[Text, Text | tuple[Text, ...]] = Field(default_factory=dict)
    derivation: Derivation | None = None
    salt: Text | None = None
    generation: Literal[1, 2] = 1
    deterministic: StrictBool = False

    @model_validator(mode="before")
    @classmethod
    def _keys_as_they_are(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("name") != RAILS.name and given.keys() & {"derivation", "salt"}:
            raise ConfigurationError(
                "[format] derivation and salt: a key that a package makes of a passphrase cannot be replaced by a new "
                "one; give the application the keys themselves, as `keyrotation docs fernet` shows, and leave both out"
            )
        return given

    @model_validator(mode="after")
    def _is_known_and_complete(self) -> Self:
        names = ", ".join(f'"{name}"' for name in FORMATS)
        if self.name not in FORMATS:
            raise ConfigurationError(
                f"[format] name = {json.dumps(self.name)} cannot be rotated by this version, which rotates {names}; "
                "leave out tables with other values"
            )
        taken = _OPTIONS[self.name]
        for option in _ALL_OPTIONS:
            if option in self.model_fields_set and option not in taken:
                others = " and ".join(f'"{name}"' for name, options in _OPTIONS.items() if option in options)
                raise ConfigurationError(f"[format] {option} is for name = {others} alone; leave it out")
        if self.name != NATIVE.name and self.keys is None:
            raise ConfigurationError(
                f'[format] name = "{self.name}" needs to know where the application has its keys; add '
                f'keys = {{ env = "{_USUAL_VARIABLES[self.name]}" }}, or the name that it uses'
            )
        if self.name == RAILS.name and self.salt is None:
            raise ConfigurationError(
                f'[format] name = "{RAILS.name}" needs the salt that the application derives its keys with; add '
                'salt = "…" with its key_derivation_salt'
            )
        if self.name == AES_GCM.name:
            self._require_layout()
            self._require_logins()
        return self

    def _require_layout(self) -> None:
        if self.layout is None:
            raise ConfigurationError(
                f'[format] name = "{AES_GCM.name}" needs to know how values are put together; add '
                'layout = "b64(nonce12 ct tag16)", or as the application does it'
            )
        try:
            layout = Layout(self.layout)
        except InvalidLayoutError as error:
            raise ConfigurationError(f"[format] {error}") from None
        if layout.is_binary:
            raise ConfigurationError(
                f"[format] layout = {json.dumps(self.layout)} is of bytes, which this version does not read yet; "
                "leave out tables with such values"
            )

    def _require_logins(self) -> None:
        if not self._logins():
            raise ConfigurationError(
                f'[format] name = "{AES_GCM.name}" needs a login of the application for each version of the key, since '
                "nothing else tells who writes an old one; add "
                'logins = { v1 = "app_g1", v2 = "app_g2" }, v1 being the present one of a single key'
            )
        if twice := repeated(login for _, login in self._logins()):
            raise ConfigurationError(
                f"[format] logins has {twice} twice; an old login loses the right to write, so each version needs one "
                "of its own"
            )

    def _logins(self) -> tuple[tuple[KeyVersion, str], ...]:
        pairs = []
        for name, logins in self.logins.items():
            try:
                version = KeyVersion.parse(name)
            except InvalidKeyError:
                raise ConfigurationError(
                    f"[format] logins names {json.dumps(name)}, which is no version; write v1, v2, …"
                ) from None
            pairs += [(version, login) for login in ([logins] if isinstance(logins, str) else logins)]
        return tuple(sorted(pairs))

    @property
    def value_format(self) -> ValueFormat:
        """The same as a value of the procedure."""
        known = FORMATS[self.name]
        return replace(
            known,
            keep_time=self.keep_time,
            layout=self.layout or "",
            logins=self._logins(),
            derivation=self.derivation or known.derivation,
            salt=self.salt or "",
            generation=self.generation,
            deterministic=self.deterministic,
        )


_OPTIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        NATIVE.name: frozenset({"generation"}),
        FERNET.name: frozenset({"keys", "keep_time"}),
        AES_GCM.name: frozenset({"keys", "layout", "key_encoding", "logins"}),
        RAILS.name: frozenset({"keys", "derivation", "salt", "deterministic"}),
        CLOAK_47NG.name: frozenset({"keys"}),
    }
)
_ALL_OPTIONS = (
    "keys",
    "keep_time",
    "layout",
    "key_encoding",
    "logins",
    "derivation",
    "salt",
    "generation",
    "deterministic",
)


class PlaceSettings(Section):
    """An entry of `columns`: ``"email"``, ``{ column = "payload", path = ["token"] }`` and the like.

    Args:
        column: the column that the values are in.
        path: of a jsonb column: the keys that lead to the value.
        elements: of an array: each element is a value.
        iv: of a value whose nonce is in a column of its own; not there yet.
    """

    column: Text
    path: tuple[str, ...] = ()
    elements: StrictBool = False
    iv: Text | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.iv is not None:
            raise ConfigurationError(
                f"[[tables]] column {self.column} has its nonce in column {self.iv}, and two columns that are written "
                "together cannot be rotated yet; remove it from [[tables]]"
            )
        if self.path and self.elements:
            raise ConfigurationError(
                f"[[tables]] column {self.column} has a path and elements, and arrays inside documents cannot be "
                'rotated yet; name each element by its path, such as ["tokens", "0"]'
            )
        if any(is_hidden(key) for key in self.path):
            raise ConfigurationError(
                f"[[tables]] column {self.column} has a path with characters that cannot be seen, which nobody could "
                "sign; rename that key"
            )
        return self

    @property
    def place(self) -> Place:
        """The same as a value of the procedure."""
        return Place(self.column, self.path, self.elements)


def _as_place(entry: object) -> object:
    if isinstance(entry, str):
        return {"column": entry}
    if not isinstance(entry, dict):
        raise ConfigurationError(
            f'[[tables]] columns has the entry {entry!r}; write "name", or {{ column = "name", path = ["key"] }}'
        )
    return entry


# Entries of a key store in a service: `live_secret` in AWS, `keyring` in Kubernetes.
_OURS = re.compile(
    r"primary|compromised|v[0-9]+x?|ENCRYPTION_(MASTER_KEY|PRIMARY_VERSION|COMPROMISED_VERSIONS).*", re.IGNORECASE
)


def _is_entry_of_ours(name: str) -> bool:
    return _OURS.fullmatch(name) is not None


class TableSettings(Section):
    """One `[[tables]]`: a table with encrypted columns.

    Args:
        name: ``name`` or ``schema.name``, without quoting.
        columns: the encrypted ones, each by its name; a value in documents of a jsonb column as ``{ column =
            "payload", path = ["secrets", "token"] }``, the elements of a text[] column as ``{ column = "tags",
            elements = true }``.
        bindings: of columns whose values of the second generation are bound to another label than ``table.column``, as
            after a renaming: these labels.
    """

    name: Text
    columns: Annotated[tuple[Annotated[PlaceSettings, BeforeValidator(_as_place)], ...], Field(min_length=1)]
    bindings: dict[Text, Text] = Field(default_factory=dict)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the values are."""
        return tuple(each.place for each in self.columns)

    @model_validator(mode="after")
    def _name_and_columns(self) -> Self:
        if not all(self.name.split(".")) or self.name.count(".") > 1:
            raise ConfigurationError(f'[[tables]] {self.name} is not a table\'s name; write "name" or "schema.name"')
        if twice := repeated(each.name for each in self.places):
            raise ConfigurationError(f"column {twice} is listed twice in [[tables]] {self.name}; remove one")
        paths = sorted((each.column, each.path) for each in self.places)
        for (column, outer), (same, inner) in pairwise(paths):
            if column == same and inner[: len(outer)] == outer:
                raise ConfigurationError(
                    f"[[tables]] {self.name} lists a place within another one of column {column}; remove one"
                )
        if other := sorted(set(self.bindings).difference(each.name for each in self.places)):
            raise ConfigurationError(
                f"[[tables]] {self.name} has a binding of {other[0]}, which is not among its columns; correct its name"
            )
        for label in self.bindings.values():
            try:
                checked_label(label)
            except InvalidBindingError as error:
                raise ConfigurationError(f"[[tables]] {self.name}, bindings: {error}") from None
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
        shards: per table; each is a partition in Dagster.
        parallel_shards: runs of Dagster at a time.
        workers: processes per shard.
        max_rows_per_second: of a shard; 0: no cap.
        max_replica_lag_seconds: for a standby that is later the rotation pauses.
        duty_cycle: the share of time in which a worker keeps the database busy.
        hours: those in which rows are rewritten, such as ``22:00-06:00``, in `time_zone`; default: always.
    """

    shards: Annotated[StrictInt, Field(ge=1, le=100)] = 4
    parallel_shards: Annotated[StrictInt, Field(ge=1, le=64)] = 2
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


class OfficerSettings(Section):
    """One `[[approvals.officers]]`: a name, and an OpenPGP public certificate, an SSH public key, or both.

    Whichever of the two signs, it is one signature of this officer.

    Args:
        name: as it is shown to people, and named in what officers sign.
        certificate: the file of the OpenPGP certificate.
        ssh_key: the file ``….pub``.
    """

    name: Text
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


class File(Section):
    """The whole file.

    Args:
        time_zone: the clock of schedules, hours, and dates without an offset.
    """

    database: DatabaseSettings = DatabaseSettings()
    keys: KeysSettings = KeysSettings()
    format: FormatSettings = FormatSettings()
    tables: tuple[TableSettings, ...] = ()
    reencryption: ReencryptionSettings = ReencryptionSettings()
    verification: VerificationSettings = VerificationSettings()
    approvals: ApprovalsSettings = ApprovalsSettings()
    rollout: RolloutSettings = RolloutSettings()
    backup: BackupSettings = BackupSettings()
    recovery: RecoverySettings = RecoverySettings()
    alerts: AlertsSettings = AlertsSettings()
    contacts: tuple[ContactSettings, ...] = ()
    incidents: IncidentsSettings = IncidentsSettings()
    audit: AuditSettings = AuditSettings()
    report: ReportSettings = ReportSettings()
    time_zone: Annotated[Text, AfterValidator(known_time_zone)] = "UTC"

    @model_validator(mode="after")
    def _rollout_of_a_secret(self) -> Self:
        if self.rollout.workloads and self.keys.store != "kubernetes-secret":
            raise ConfigurationError(
                '[rollout] mode = "kubernetes" gives Pods the keys of a Kubernetes Secret; write [keys] store = '
                '"kubernetes-secret", or [rollout] mode = "attest"'
            )
        return self

    @model_validator(mode="after")
    def _format_can_be_delivered(self) -> Self:
        if self.format.keys is not None and self.keys.store != "file" and _is_entry_of_ours(self.format.keys.env):
            raise ConfigurationError(
                f"[format] keys names {self.format.keys.env}, which the key store uses itself; have the application "
                "read its list under another name, such as FERNET_KEYS"
            )
        return self

    @model_validator(mode="after")
    def _format_can_be_fenced(self) -> Self:
        declared = self.format.value_format
        for table in () if marked_format_of(declared) is None else self.tables:
            for place in table.places:
                if place.elements:
                    raise ConfigurationError(
                        f'[[tables]] {table.name}: values of "{declared.name}" in elements of arrays, as in '
                        f"{place.column}, cannot be rotated by this version; leave that column out"
                    )
        return self

    @model_validator(mode="after")
    def _somebody_opens_backups(self) -> Self:
        officers = self.approvals.officers
        if officers and not self.backup.recipients and not any(each.certificate for each in officers):
            raise ConfigurationError(
                "no officer has an OpenPGP certificate, so that nobody could open a backup; name a certificate under "
                "[backup] recipients"
            )
        return self

    @model_validator(mode="after")
    def _tables_once(self) -> Self:
        if not self.tables:
            raise ConfigurationError(
                f'{FILE_NAME} names no table; add [[tables]] with name = "…" and columns = ["…"], '
                "or move it away and let `keyrotation init` write one from the database"
            )
        if twice := repeated(str(TableName.parse(table.name)) for table in self.tables):
            raise ConfigurationError(f"table {twice} is listed in two [[tables]]; put its columns into one")
        return self

    @model_validator(mode="after")
    def _columns_have_labels(self) -> Self:
        if self.format.generation == 1:
            return self
        labels: dict[str, str] = {}
        for table in self.encrypted_tables:
            if table.places:
                raise ConfigurationError(
                    f"[format] generation = 2 is for values in columns of their own, and {table.places[0].name} of "
                    f"{table.name} is in a document or an array; leave generation out"
                )
            for column, label in zip(table.columns, table.labels, strict=True):
                place = f"{table.name}.{column}"
                if label is None:
                    raise ConfigurationError(
                        f"a name in {json.dumps(place)} holds a dot, so its values have nothing unambiguous to be "
                        'bound to; declare a label, there and in EncryptedType: bindings = { column = "label" }'
                    )
                if other := labels.get(label):
                    raise ConfigurationError(
                        f"{other} and {place} are bound to the same label {json.dumps(label)}, so that a value of one "
                        "would open in the other; give each its own"
                    )
                labels[label] = place
        return self

    @property
    def encrypted_tables(self) -> tuple[EncryptedTable, ...]:
        """The declared tables as values of the procedure."""
        return tuple(
            replace(
                EncryptedTable.of(TableName.parse(table.name), table.places, self.format.value_format),
                bindings=tuple(sorted(table.bindings.items())),
            )
            for table in self.tables
        )


class Settings(File):
    """The whole configuration, with every path absolute and every secret read.

    Args:
        path: the file it came from.
        home: `KEYROTATION_HOME`, else ``.keyrotation`` next to the file.
    """

    path: Path
    home: Path

    @property
    def contact_list(self) -> tuple[Contact, ...]:
        """The emergency contact list, as configured."""
        return tuple(each.contact for each in self.contacts)

    @property
    def key_notation(self) -> KeyNotation:
        """The notation in which the application reads its keys."""
        return notation_of(self.format.value_format, self.format.key_encoding)

    @property
    def key_variable(self) -> str | None:
        """The name under which an application with a library of its own reads its keys; None: it reads ours."""
        return None if self.format.keys is None else self.format.keys.env

    @property
    def allowed_hours(self) -> AllowedHours | None:
        """When rows may be rewritten; None: always."""
        hours = self.reencryption.hours
        return None if hours is None else AllowedHours.parse(hours, self.time_zone)

    @property
    def activated_at(self) -> datetime | None:
        """The start of the day since which the imported primary has been in use."""
        day = self.keys.activated_at
        return None if day is None else datetime.combine(day, time(), tzinfo=ZoneInfo(self.time_zone)).astimezone(UTC)

    @property
    def keys_directory(self) -> Path:
        """The directory of the file key store."""
        return self.keys.file.directory or self.home / "keys"

    @property
    def backup_directory(self) -> Path:
        """The local directory of backups."""
        return self.backup.directory or self.home / "backups"

    @property
    def recipients(self) -> tuple[Path, ...]:
        """The certificates that backups are encrypted to."""
        return self.backup.recipients or self.officers_certificates

    @property
    def officers_certificates(self) -> tuple[Path, ...]:
        """The OpenPGP certificates of those officers who have one."""
        return tuple(each.certificate for each in self.approvals.officers if each.certificate is not None)

    @property
    def is_demo(self) -> bool:
        """Whether `keyrotation demo` created the home."""
        return (self.home / DEMO_MARKER).is_file()
