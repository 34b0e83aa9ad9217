"""Defines the sections of `keyrotation.toml`, one class each, with the checks that need more than one value."""

import json
from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, StrictFloat, StrictInt, model_validator

from keyrotation_pipeline.adapters import own_schema
from keyrotation_pipeline.errors import ApprovalError, ConfigurationError, InvalidBindingError
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import require_column
from keyrotation_pipeline.fieldcrypto.codecs.format import marked_format_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyNotation, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import FERNET, NATIVE, TINK, Derivation
from keyrotation_pipeline.model.approval import require_plain
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.incidents import Contact
from keyrotation_pipeline.model.progress import DEFAULT_DUTY_CYCLE, LEAST_DUTY_CYCLE, AllowedHours
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.settings.alerts import AlertsSettings, ContactSettings, IncidentsSettings
from keyrotation_pipeline.settings.backups import BackupSettings, RecoverySettings, known_time_zone
from keyrotation_pipeline.settings.key_stores import KeysSettings, KubernetesName, is_entry_of_ours
from keyrotation_pipeline.settings.tables import FormatSettings, TableSettings
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
        if self.format.keys is not None and self.keys.store != "file" and is_entry_of_ours(self.format.keys.env):
            raise ConfigurationError(
                f"[format] keys names {self.format.keys.env}, which the key store uses itself; have the application "
                "read its list under another name, such as FERNET_KEYS"
            )
        return self

    @model_validator(mode="after")
    def _keys_stay_at_their_server(self) -> Self:
        held, mode = self.format.value_format.is_held_by_server, self.rollout.mode
        if held and self.keys.store != "file":
            raise ConfigurationError(
                f'[format] name = "{self.format.name}" needs a key store only for what versions are known by, and this '
                'version has that in files alone; write [keys] store = "file"'
            )
        if held is not (mode is RolloutMode.SERVER):
            raise ConfigurationError(
                f'[rollout] mode = "{RolloutMode.SERVER}" is for keys that a server holds, which applications never '
                f"have themselves, and such keys have no other; write {'it' if held else 'another mode'} for [format] "
                f'name = "{self.format.name}"'
            )
        return self

    @model_validator(mode="after")
    def _format_can_be_fenced(self) -> Self:
        declared = self.format.value_format
        marked = marked_format_of(declared) is not None
        for table in self.tables:
            for place in table.places:
                if place.when and declared.name != FERNET.name:
                    raise ConfigurationError(
                        f"[[tables]] {table.name}: column {place.column} has when, which this version knows for name = "
                        f'"{FERNET.name}" alone; leave that column out'
                    )
            for place in table.places:
                if declared.is_binary and not place.is_column:
                    raise ConfigurationError(
                        f"[[tables]] {table.name}: values of this [format] are bytes, which only columns of bytea "
                        f"hold; leave out {place.name}"
                    )
                if marked and place.elements:
                    raise ConfigurationError(
                        f'[[tables]] {table.name}: values of "{declared.name}" in elements of arrays, as in '
                        f"{place.column}, cannot be rotated by this version; leave that column out"
                    )
        return self

    @model_validator(mode="after")
    def _places_are_as_the_layout(self) -> Self:
        declared = self.format.value_format
        is_pair = declared.is_pair
        for table in self.encrypted_tables:
            for place in map(table.place, table.columns):
                if bool(place.iv) != is_pair:
                    raise ConfigurationError(
                        f"[[tables]] {table.name}: column {place.column} has {'an' if place.iv else 'no'} iv, the "
                        f"column of its nonces, and [format] layout {'has one' if is_pair else 'is of one column'}; "
                        'write layout = "b64(ct tag16); b64(nonce12)" with { column = "…", iv = "…" }, or neither'
                    )
                if declared.name == TINK.name and table.bindings and not declared.aad:
                    raise ConfigurationError(
                        f'[[tables]] {table.name}: bindings of name = "{TINK.name}" say what values are bound to, '
                        'next to [format] aad; add aad = "{table}.{column}", or what the application binds them to, '
                        "or leave bindings out"
                    )
                if declared.aad and place.elements:
                    raise ConfigurationError(
                        f"[[tables]] {table.name}: elements of arrays, as in {place.column}, that are bound to "
                        "associated data cannot be rotated by this version; leave that column out"
                    )
            if both := sorted(set(table.stored_columns) & set(table.bound_to)):
                raise ConfigurationError(
                    f"[format] aad names {both[0]}, an encrypted column of [[tables]] {table.name}, which changes with "
                    "the key; no value can be bound to it, so correct aad"
                )
        return self

    @model_validator(mode="after")
    def _lockbox_knows_columns(self) -> Self:
        if self.format.value_format.derivation is not Derivation.LOCKBOX:
            return self
        for table in self.encrypted_tables:
            if other := next((each for each in table.places if each.iv or not each.is_column), None):
                raise ConfigurationError(
                    f"[[tables]] {table.name}: a value of Lockbox is a column of its own, with its nonce; leave out "
                    f"{other.name}"
                )
            for column, label in zip(table.columns, table.labels, strict=True):
                try:
                    require_column(label)
                except InvalidBindingError as error:
                    raise ConfigurationError(
                        f"[[tables]] {table.name}: {error}; declare it of column {json.dumps(column)}: "
                        'bindings = { column = "table.column" }'
                    ) from None
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
    def _indexes_have_labels(self) -> Self:
        labels: dict[str, str] = {}
        for declared, table in zip(self.tables, self.encrypted_tables, strict=True):
            for index in declared.indexes:
                place = f"{table.name}.{index.of}"
                of_lockbox = table.format.derivation is Derivation.LOCKBOX
                if of_lockbox and index.normalise:
                    raise ConfigurationError(
                        f"the search index of {place}: what an `expression` of blind_index does to a text is Ruby's, "
                        "so normalise is for our own format alone; leave it out, or index an attribute that is stored "
                        "as the expression makes it"
                    )
                if index.algorithm is not None and not of_lockbox:
                    raise ConfigurationError(
                        f'the search index of {place}: algorithm is of blind_index, with name = "lockbox"; leave it out'
                    )
                if of_lockbox:
                    continue  # its keys are derived by the names of its columns, and the label was looked at
                if not table.format.names_versions:
                    raise ConfigurationError(
                        f'the search index of {place}: indexes of values of "{table.format.name}" cannot be rotated by '
                        "this version, only those of our own format; remove it from indexes"
                    )
                if (label := table.label(index.of)) is None:
                    raise ConfigurationError(
                        f"a name in {json.dumps(place)} holds a dot, so its search index has nothing unambiguous to be "
                        'bound to; declare a label, there and in SearchIndex: bindings = { column = "label" }'
                    )
                if other := labels.get(label):
                    raise ConfigurationError(
                        f"the search indexes of {other} and {place} are bound to the same label {json.dumps(label)}, "
                        "so that equal texts would have equal indexes; give each its own"
                    )
                labels[label] = place
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

    @model_validator(mode="after")
    def _rows_are_of_our_own_format(self) -> Self:
        for table in self.tables:
            if table.row is not None and self.format.name != NATIVE.name:
                raise ConfigurationError(
                    f'[[tables]] {table.name}: row is for name = "{NATIVE.name}" alone; leave it out, or name the '
                    "column in [format] aad, where the application binds values to it"
                )
        return self

    @property
    def encrypted_tables(self) -> tuple[EncryptedTable, ...]:
        """The declared tables as values of the procedure."""
        return tuple(self._encrypted_table(table) for table in self.tables)

    def _encrypted_table(self, declared: TableSettings) -> EncryptedTable:
        places, bindings = declared.places, tuple(sorted(declared.bindings.items()))
        value_format = self.format.value_format
        if declared.row is not None:
            value_format = replace(value_format, row=declared.row.key, row_from=declared.row.since)
        table = EncryptedTable.of(TableName.parse(declared.name), places, value_format)
        table = replace(table, bindings=bindings)
        # Without a label the configuration is refused.
        of_lockbox = table.format.derivation is Derivation.LOCKBOX
        indexes = tuple(each.index(table.label(each.of) or "", of_lockbox=of_lockbox) for each in declared.indexes)
        return replace(table, indexes=indexes)


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
