"""Defines `keyrotation.toml` as a whole, with what one section says about another, and the settings that it makes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, model_validator

from keyrotation_pipeline.errors import ConfigurationError, InvalidBindingError
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import require_column
from keyrotation_pipeline.fieldcrypto.codecs.format import notation_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyNotation
from keyrotation_pipeline.fieldcrypto.format_spec import ELEMENTS
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.incidents import Contact
from keyrotation_pipeline.model.progress import AllowedHours
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.settings.backups import BackupSettings, RecoverySettings
from keyrotation_pipeline.settings.key_stores import KeysSettings, is_entry_of_ours
from keyrotation_pipeline.settings.sections import (
    OBJECT_LOCK,
    AlertsSettings,
    ApprovalsSettings,
    AuditSettings,
    ContactSettings,
    DatabaseSettings,
    IncidentsSettings,
    MemberSettings,
    ReencryptionSettings,
    ReportSettings,
    RolloutSettings,
    VerificationSettings,
)
from keyrotation_pipeline.settings.tables import TableSettings
from keyrotation_pipeline.settings.value_formats import FormatSettings, named
from keyrotation_pipeline.settings.values import Section, Text, repeated

FILE_NAME = "keyrotation.toml"
DEMO_MARKER = "demo.json"


def known_time_zone(name: str) -> str:
    """Refuses a name that is not a time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            f'time_zone = "{name}" is not a time zone of the IANA database; write one such as "Europe/Berlin" or "UTC"'
        ) from None
    return name


def by_name(members: tuple[MemberSettings, ...]) -> tuple[MemberSettings, ...]:
    """Sorts them, so that their order in the file changes no signed text."""
    return tuple(sorted(members, key=lambda each: each.name))


class File(Section):
    """The whole file.

    Args:
        time_zone: the clock of hours, of dates without an offset, and of the schedules of backups, recovery tests and
            rehearsals; the other schedules are in UTC.
    """

    database: DatabaseSettings = DatabaseSettings()
    databases: Annotated[tuple[MemberSettings, ...], AfterValidator(by_name)] = ()
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
    def _checkpoints_have_a_bucket(self) -> Self:
        if self.backup.s3 is None and any(each.url == OBJECT_LOCK for each in self.audit.witness):
            raise ConfigurationError(f'[audit] witness = "{OBJECT_LOCK}" needs a bucket; add [backup.s3] with bucket')
        return self

    @model_validator(mode="after")
    def _format_can_be_delivered(self) -> Self:
        if self.format.keys is not None and self.keys.store != "file" and is_entry_of_ours(self.format.keys.env):
            raise ConfigurationError(
                f"[format] keys names {self.format.keys.env}, which the key store uses itself; have the application "
                f"read its list under another name, such as {self.format.spec.variable}"
            )
        return self

    @model_validator(mode="after")
    def _keys_can_be_sealed(self) -> Self:
        if self.keys.seal is None:
            return self
        if self.format.value_format.is_held_by_server:
            raise ConfigurationError(
                f'[format] name = "{self.format.name}" has keys that never leave their server; leave out [keys.seal]'
            )
        return self

    @model_validator(mode="after")
    def _keys_stay_at_their_server(self) -> Self:
        held, mode = self.format.value_format.is_held_by_server, self.rollout.mode
        if held and self.keys.store != "file":
            raise ConfigurationError(
                f'[format] name = "{self.format.name}" has its keys elsewhere, and what versions are known by '
                'is in files alone; write [keys] store = "file"'
            )
        if held is not (mode is RolloutMode.SERVER):
            raise ConfigurationError(
                f'[rollout] mode = "{RolloutMode.SERVER}" is for keys that a server holds and applications '
                f"never have, and they have no other; write {'it' if held else 'another mode'} for [format] name "
                f'= "{self.format.name}"'
            )
        return self

    @model_validator(mode="after")
    def _format_can_be_fenced(self) -> Self:
        declared = self.format.value_format
        for table in self.tables:
            for place in table.places:
                if place.when and not declared.spec.conditional:
                    known = named(each.name for each in SPECS.values() if each.conditional)
                    raise ConfigurationError(
                        f"[[tables]] {table.name}: column {place.column} has when, which this version knows for name = "
                        f"{known} alone; leave that column out"
                    )
            for place in table.places:
                if declared.is_binary and not place.is_column:
                    raise ConfigurationError(
                        f"[[tables]] {table.name}: values of this [format] are bytes, which only columns of bytea "
                        f"hold; leave out {place.name}"
                    )
                if place.elements and ELEMENTS not in declared.spec.places:
                    raise ConfigurationError(
                        f'[[tables]] {table.name}: values of "{declared.name}" in elements of arrays, as in '
                        f"{place.column}, cannot be rotated by this version; leave that column out"
                    )
        return self

    @model_validator(mode="after")
    def _places_are_as_the_layout(self) -> Self:
        declared = self.format.value_format
        is_pair = declared.is_pair
        is_alike_in_rows = declared.spec.takes("aad") and not declared.spec.row_data
        for table in self.declared_tables:
            for place in map(table.place, table.columns):
                if bool(place.iv) != is_pair:
                    raise ConfigurationError(
                        f"[[tables]] {table.name}: column {place.column} has {'an' if place.iv else 'no'} iv, and "
                        f"[format] layout {'has one' if is_pair else 'is of one column'}; "
                        'write layout = "b64(ct tag16); b64(nonce12)" with { column = "…", iv = "…" }, or neither'
                    )
                if is_alike_in_rows and table.bindings and not declared.aad:
                    raise ConfigurationError(
                        f'[[tables]] {table.name}: bindings of name = "{declared.name}" need [format] aad; add what '
                        "the application binds values to, or leave bindings out"
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
    def _keys_of_columns_are_known(self) -> Self:
        if not self.format.value_format.has_keys_of_columns:
            return self
        for table in self.declared_tables:
            if other := next((each for each in table.places if each.iv or not each.is_column), None):
                raise ConfigurationError(
                    f'[[tables]] {table.name}: a value of "{self.format.name}" is a column of its own, with its nonce; '
                    f"leave out {other.name}"
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
                "no officer has an OpenPGP certificate to open backups with; make one, and name it in [backup] "
                "recipients: `gpg --quick-generate-key Recovery default default 5y`, `gpg --armor --export Recovery`"
            )
        return self

    @model_validator(mode="after")
    def _tables_once(self) -> Self:
        if not self.tables:
            raise ConfigurationError(
                f'{FILE_NAME} names no table; add [[tables]] with name = "…" and columns = ["…"], or move it away and '
                "run `keyrotation init`"
            )
        if twice := repeated(str(table.name) for table in self.declared_tables):
            raise ConfigurationError(f"table {twice} is listed in two [[tables]]; put its columns into one")
        return self

    @model_validator(mode="after")
    def _indexes_have_labels(self) -> Self:
        labels: dict[str, str] = {}
        for declared, table in zip(self.tables, self._declared_tables, strict=True):
            for index in declared.indexes:
                place = f"{table.name}.{index.of}"
                of_blind_index = table.format.has_keys_of_columns
                if of_blind_index and index.normalise:
                    raise ConfigurationError(
                        f"the search index of {place}: normalise is for our own format, an `expression` is Ruby; leave "
                        "it out, or index a stored attribute instead"
                    )
                if index.algorithm is not None and not of_blind_index:
                    raise ConfigurationError(
                        f"the search index of {place}: algorithm is of blind_index, with name = "
                        f"{named(each.name for each in SPECS.values() if each.form_of)}; leave it out"
                    )
                if of_blind_index:
                    continue  # its keys are derived by the names of its columns, and the label was looked at
                if not table.format.names_versions:
                    raise ConfigurationError(
                        f'the search index of {place}: indexes of values of "{table.format.name}" cannot be '
                        "rotated yet, only those of our own format; remove it from indexes"
                    )
                if (label := table.label(index.of)) is None:
                    raise ConfigurationError(
                        f"a name in {json.dumps(place)} holds a dot; declare a label for its search index, there and "
                        'in SearchIndex: bindings = { column = "label" }'
                    )
                if (other := labels.get(label, place)) != place:
                    raise ConfigurationError(
                        f"the search indexes of {other} and {place} are bound to the same label "
                        f"{json.dumps(label)}, so equal texts would have equal indexes; give each its own"
                    )
                labels[label] = place
        return self

    @model_validator(mode="after")
    def _columns_have_labels(self) -> Self:
        if self.format.value_format.generation == 1:
            return self
        for table in self.declared_tables:
            if inside := next((each for each in table.places if not each.is_column), None):
                raise ConfigurationError(
                    f"[format] generation = 2 is for whole columns, and {inside.name} of {table.name} is in a "
                    "document or an array; leave generation out"
                )
            for column, label in zip(table.columns, table.labels, strict=True):
                if label is None:
                    raise ConfigurationError(
                        f"a name in {json.dumps(f'{table.name}.{column}')} holds a dot; declare a label for its "
                        'values, there and in EncryptedType: bindings = { column = "label" }'
                    )
        return self

    @model_validator(mode="after")
    def _no_label_is_of_two_columns(self) -> Self:
        # In the first generation, too: values of the second may be there from before.
        labels: dict[str, str] = {}
        for table in self._declared_tables if self.format.name == NATIVE.name else ():
            for column, label in zip(table.columns, table.labels, strict=True):
                if label is None:
                    continue
                place = f"{table.name}.{column}"
                if (other := labels.get(label, place)) != place:
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
                    f'[[tables]] {table.name}: row is for name = "{NATIVE.name}" alone; leave it out, or name '
                    "the column in [format] aad if values are bound to it"
                )
        return self

    @model_validator(mode="after")
    def _only_our_own_format_begins(self) -> Self:
        for table in self.declared_tables:
            if table.begun and self.format.name != NATIVE.name:
                raise ConfigurationError(
                    f'[[tables]] {table.name}: from is for name = "{NATIVE.name}" alone; leave it out, and have the '
                    "application encrypt what is not encrypted yet"
                )
        return self

    @model_validator(mode="after")
    def _old_forms_are_told_apart(self) -> Self:
        """Refuses two old forms under one label, by which applications report the one that they read."""
        forms = dict[str, tuple[str, str]]()
        for table in self._declared_tables:
            for place in (each for each in table.places if each.source):
                label, form = table.label(place.name) or place.name, (place.source, place.source_key)
                if (other := forms.setdefault(label, form)) != form:
                    raise ConfigurationError(
                        f"{label} is from {other[0]} in one database and from {form[0]} in another, and applications "
                        "report by label; give one a label of its own, here and in EncryptedType: "
                        f'bindings = {{ {place.column} = "label" }}'
                    )
        return self

    @model_validator(mode="after")
    def _plaintext_is_reported(self) -> Self:
        for table in self.declared_tables if self.rollout.mode == RolloutMode.KUBERNETES else ():
            if table.begun:
                raise ConfigurationError(
                    f"[[tables]] {table.name} has from, and no Pod shows whether it reads plaintext and values; "
                    'write [rollout] mode = "attest" until the column is encrypted'
                )
        return self

    @model_validator(mode="after")
    def _members_are_known(self) -> Self:
        names = [each.name for each in self.databases]
        if twice := repeated(names):
            raise ConfigurationError(f"two [[databases]] are named {twice}; give each a name of its own")
        named = {each: table.name for table in self.tables for each in self._entries_of(table)}
        if unknown := sorted(set(named).difference(names)):
            raise ConfigurationError(
                f"[[tables]] {named[unknown[0]]} is in {unknown[0]}, which no [[databases]] has as its name; add it "
                "there, or correct databases"
            )
        if unused := sorted(set(names).difference(named)):
            raise ConfigurationError(
                f"[[databases]] {unused[0]} has no table, so nothing would be rotated in it; name it in databases of "
                "[[tables]], or leave it out"
            )
        own = (str(_table_name(each.name)) for each in self.tables if self.databases and each.databases is None)
        if (misread := next((each for each in own if TableName.parse(each).database), None)) is not None:
            raise ConfigurationError(
                f"[[tables]] {misread} reads as a table in a member of [[databases]], but is in [database]; rename it "
                "there, or give it a home of its own"
            )
        return self

    @model_validator(mode="after")
    def _members_have_a_fence(self) -> Self:
        """What works in a single database alone."""
        if self.databases and self.format.value_format.is_held_by_server:
            raise ConfigurationError(
                f'[[databases]] are not for the format "{self.format.name}" in this version, since it is fenced by its '
                "own server; give each database a home of its own"
            )
        return self

    def _entries_of(self, table: TableSettings) -> tuple[str, ...]:
        """The names in `[[databases]]` of those that have a table."""
        return tuple(each.name for each in self.databases) if table.databases == "*" else (table.databases or ())

    def entry_of(self, member: str) -> MemberSettings | None:
        """The entry of `[[databases]]` for a member: its own, else the rule that covers it."""
        own = (each for each in self.databases if each.name == member)
        rules = (each for each in self.databases if each.rule is not None and each.rule.covers(member))
        return next(own, next(rules, None))

    @property
    def named_members(self) -> tuple[str, ...]:
        """The members with an entry of their own."""
        return tuple(each.name for each in self.databases if each.rule is None)

    @property
    def rules(self) -> tuple[MemberSettings, ...]:
        """The entries that are rules."""
        return tuple(each for each in self.databases if each.rule is not None)

    @property
    def declared_tables(self) -> tuple[EncryptedTable, ...]:
        """The declared tables, once for each entry of `[[databases]]` that has them."""
        return self.tables_in([each.name for each in self.databases])

    @property
    def encrypted_tables(self) -> tuple[EncryptedTable, ...]:
        """The declared tables as values of the procedure, without those of members by a rule."""
        return self.tables_in(self.named_members)

    def tables_in(self, members: Iterable[str], *, own: bool = True) -> tuple[EncryptedTable, ...]:
        """The declared tables as values of the procedure, once for each database that has them.

        Args:
            members: the further databases, in any order.
            own: whether those of the home's own database are among them.
        """
        entries = {member: entry.name for member in sorted(members) if (entry := self.entry_of(member)) is not None}
        found = list[EncryptedTable]()
        for table, settings in zip(self._declared_tables, self.tables, strict=True):
            named = self._entries_of(settings)
            found += [table] if own and settings.databases is None else []
            found += [
                replace(table, name=replace(table.name, database=member))
                for member, entry in entries.items()
                if entry in named
            ]
        return tuple(found)

    def tables_of_members(self, members: Sequence[str]) -> tuple[TableSettings, ...]:
        """The tables of the home's own database and of these members, which each names: a rule's by their own names."""
        found = list[TableSettings]()
        for table in self.tables:
            named = self._entries_of(table)
            having = tuple(name for name in members if (entry := self.entry_of(name)) and entry.name in named)
            if table.databases is None or having:
                found.append(table.model_copy(update={"databases": having or None}))
        return tuple(found)

    @property
    def _declared_tables(self) -> tuple[EncryptedTable, ...]:
        """The same, each once, without its databases."""
        return tuple(self._encrypted_table(table) for table in self.tables)

    def _encrypted_table(self, declared: TableSettings) -> EncryptedTable:
        places, bindings = declared.places, tuple(sorted(declared.bindings.items()))
        value_format = self.format.value_format
        if declared.row is not None:
            value_format = replace(value_format, row=declared.row.key, row_from=declared.row.since)
        table = EncryptedTable.of(_table_name(declared.name), places, value_format)
        table = replace(table, bindings=bindings)
        # Without a label the configuration is refused.
        of_blind_index = table.format.has_keys_of_columns
        indexes = tuple(
            each.index(table.label(each.of) or "", of_blind_index=of_blind_index) for each in declared.indexes
        )
        return replace(table, indexes=indexes)


def _table_name(name: str) -> TableName:
    schema, dot, table = name.partition(".")
    return TableName(schema, table) if dot else TableName("public", name)


class Settings(File):
    """The whole configuration, with every path absolute and every secret read.

    Args:
        path: the file it came from.
        home: `KEYROTATION_HOME`, else ``.keyrotation`` next to the file.
        secrets: where each secret is that is sent to a host and that officers sign; see `hosts.secrets_in`.
    """

    path: Path
    home: Path
    secrets: tuple[str, ...] = ()

    @property
    def contact_list(self) -> tuple[Contact, ...]:
        """The emergency contact list, as configured."""
        return tuple(each.contact for each in self.contacts)

    @property
    def key_notation(self) -> KeyNotation:
        """The notation in which the application reads its keys."""
        return notation_of(self.format.value_format, self.format.encoding_of_keys)

    @property
    def key_variable(self) -> str | None:
        """The name under which an application with a library of its own reads its keys; None: it reads ours."""
        return None if self.format.keys is None else self.format.keys.env

    @property
    def delivered_variable(self) -> str | None:
        """The same, where the key store delivers that list; under a seal `keyrotation exec` makes it from the keys."""
        return self.key_variable if self.keys.seal is None else None

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
