"""Writes and reads the manifest of a backup set; reads it as untrusted text."""

import re
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from keyrotation_pipeline.errors import ConfigurationError, InvalidLayoutError, ManifestError, ManifestSchemaError
from keyrotation_pipeline.fieldcrypto.binding import parsed_template
from keyrotation_pipeline.fieldcrypto.codecs.format import layout_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import FORMATS, NATIVE, Derivation, ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import MAX_VERSION_NUMBER, VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.transit import server_at
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import (
    STAMP_LENGTH,
    BackupSet,
    DatabaseContent,
    DatabaseCopy,
    DatabaseDefinition,
    KeyCopy,
    MadeFrom,
    RelationContent,
    RelationKind,
    StoredFile,
    TableContent,
    configuration_name,
    dump_name,
    key_file_name,
    manifest_name,
    pipeline_id,
    pipeline_in,
    signer_fingerprint,
    stamp_in,
)
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline.model.undumped import Undumped

# A thousand tables of a hundred columns under ten versions need a fifth of this, as do fifty thousand partitions.
LARGEST_BYTES = 32 << 20
_PUBLIC_KEY = r"[A-Za-z0-9+/]{1,200}={0,2}"
# Read before anything is known of a manifest, so that nothing is parsed of one that somebody else has signed.
_BEGINNING = re.compile(rf'\{{\n  "schema": \d{{1,9}},\n  "signed_by": "({_PUBLIC_KEY})",\n'.encode(), re.ASCII)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9A-F]{40}([0-9A-F]{24})?$")]
Version = Annotated[str, Field(pattern=rf"^{VERSION_PATTERN}$")]
# PostgreSQL's names have 63 bytes at most, and a build of it may allow more.
Identifier = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]+$")]
# A place is named by its column and the keys that lead to it; a manifest is not read beyond its own limit.
PathKey = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
PlaceName = Annotated[str, Field(min_length=1, max_length=65536, pattern=r"^[^\x00]+$")]
Number = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    left_out_if_empty: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialised: SerializerFunctionWrapHandler) -> dict[str, object]:
        content: dict[str, object] = serialised(self)
        return {name: value for name, value in content.items() if value or name not in self.left_out_if_empty}


class _File(_Document):
    file: Annotated[str, Field(max_length=100)]
    sha256: Sha256
    size_bytes: Number
    recipients: Annotated[tuple[Fingerprint, ...], Field(min_length=1)]


class _Key(_File):
    version: Version
    fingerprint: Sha256


def _known_format(text: str) -> str:
    name, _, layout = text.partition(" ")
    try:
        known = name in FORMATS and (not layout or layout_of(layout).text == layout)
    except InvalidLayoutError:
        known = False
    if not known:
        raise ValueError("a format that this version does not know")
    return text


def _known_template(text: str) -> str:
    try:
        parsed_template(text)
    except InvalidLayoutError:
        raise ValueError("a template of associated data that is not one") from None
    return text


KnownFormat = Annotated[str, AfterValidator(_known_format)]


class _Place(_Document):
    left_out_if_empty: ClassVar = frozenset({"when", "iv"})
    column: Identifier
    path: tuple[PathKey, ...]
    elements: bool
    when: Identifier | Literal[""] = ""
    iv: Identifier | Literal[""] = ""


class _DerivedFormat(_Document):
    """A format of which reading a value takes more than its name and the keys."""

    left_out_if_empty: ClassVar = frozenset({"aad"})
    name: KnownFormat
    derivation: Derivation = Field(strict=False)
    salt: str
    deterministic: bool
    aad: Annotated[str, AfterValidator(_known_template)] | Literal[""] = ""


class _BoundFormat(_Document):
    """A format whose values are authenticated with associated data by this template."""

    name: KnownFormat
    aad: Annotated[str, AfterValidator(_known_template)]


class _Row(_Document):
    """What values of the table are bound to their row by, and the number of the first version of which they are."""

    key: Identifier
    since: Annotated[int, Field(alias="from", ge=1, le=MAX_VERSION_NUMBER)]


def _known_address(text: str) -> str:
    try:
        server_at(text)
    except ConfigurationError:
        raise ValueError("an address of a key that is not one") from None
    return text


class _HeldFormat(_Document):
    """A format whose keys a server holds."""

    name: KnownFormat
    transit: Annotated[str, Field(max_length=500), AfterValidator(_known_address)]


class _Table(_Document):
    left_out_if_empty: ClassVar = frozenset({"bindings", "row"})
    in_schema: Identifier = Field(alias="schema")
    table: Identifier
    columns: tuple[PlaceName, ...]
    places: tuple[_Place, ...] = ()
    format: KnownFormat | _DerivedFormat | _BoundFormat | _HeldFormat = NATIVE.name
    bindings: dict[PlaceName, str] = Field(default_factory=dict)
    row: _Row | None = None
    rows: Number
    values: dict[PlaceName, dict[Version, Number]]


class _Relation(_Document):
    in_schema: Identifier = Field(alias="schema")
    relation: Identifier
    kind: Annotated[RelationKind, Field(strict=False)]
    rows: Number | None


class _Content(_Document):
    relations: tuple[_Relation, ...]
    large_objects: Number


class _Definition(_Document):
    encoding: Identifier
    provider: Literal["libc", "icu", "builtin"]
    collate: Identifier
    ctype: Identifier
    locale: Identifier | None
    icu_rules: Annotated[str, Field(max_length=100_000)] | None
    collation_version: Identifier | None
    collations: dict[Annotated[str, Field(max_length=600)], Identifier]
    roles: tuple[Identifier, ...]
    superusers: tuple[Identifier, ...]


class _Dump(_File):
    left_out_if_empty: ClassVar = frozenset({"undumped"})
    server_major: Annotated[int, Field(ge=1, lt=1000)]
    definition: _Definition
    versions: tuple[Version, ...]
    tables: tuple[_Table, ...]
    content: _Content
    undumped: Undumped | None = None


class _Audit(_Document):
    seq: Number
    head: Sha256


class _MadeFrom(_Document):
    manifest: Annotated[str, Field(max_length=100)]
    sha256: Sha256
    seq: Number


class _Manifest(_Document):
    left_out_if_empty: ClassVar = frozenset({"home"})
    format: Literal[1] = Field(alias="schema")
    signed_by: Annotated[str, Field(pattern=rf"^{_PUBLIC_KEY}$")]
    made_at: Annotated[str, Field(max_length=40)]
    database: Annotated[str, Field(min_length=1, max_length=500)]
    keys: tuple[_Key, ...]
    dump: _Dump | None
    audit: _Audit
    roster: Sha256 | None
    configuration: _File | None
    made_from: _MadeFrom | None
    home: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None


def render(made: BackupSet, signed_by: str) -> bytes:
    """The manifest of a set.

    Args:
        signed_by: the public key that signs it, base64 of its SubjectPublicKeyInfo, whose fingerprint is in the stamp.
    """
    content = _Manifest(
        schema=1,
        signed_by=signed_by,
        made_at=made.made_at.isoformat(),
        database=made.database,
        keys=tuple(
            _Key(version=str(key.version), fingerprint=key.fingerprint, **_file_fields(key.file)) for key in made.keys
        ),
        dump=None if made.dump is None else _dump_document(made.dump),
        audit=_Audit(seq=made.anchor.seq, head=made.anchor.hash),
        roster=made.roster,
        configuration=None if made.configuration is None else _File(**_file_fields(made.configuration)),
        made_from=None if made.made_from is None else _MadeFrom(**asdict(made.made_from)),
        home=made.home,
    )
    return f"{content.model_dump_json(indent=2, by_alias=True)}\n".encode()


def signer_of(text: bytes) -> str | None:
    """The public key that a manifest names as its signer's, without reading more; None: it is not in our form."""
    found = _BEGINNING.match(text)
    return None if found is None else found[1].decode()


def require_whole(name: str, text: bytes) -> None:
    """Refuse what begins as a manifest and has no end, as after a write or a download that broke off.

    Raises:
        ManifestError: it is.
    """
    if signer_of(text) is not None and not text.rstrip().endswith(b"}"):
        raise ManifestError(name, "it is cut off")


def parse(name: str, text: bytes) -> BackupSet:
    """Read the manifest `name` without trusting it: names of files follow from the manifest's own name.

    Raises:
        ManifestSchemaError: another version has written it.
        ManifestError: it is damaged, or not in this program's form; the message shows nothing of it.
    """
    stamp = stamp_in(name)
    if stamp is None or name != manifest_name(stamp):
        raise ManifestError(name, "its name is not that of a manifest")
    if len(text) > LARGEST_BYTES:
        raise ManifestError(name, f"it has {len(text):,} bytes")
    try:
        content = _Manifest.model_validate_json(text)
    except ValidationError as error:
        raise _refusal(name, error) from None
    made = _set_of(stamp, content)
    _require_consistent(name, made, content)
    return made


def _refusal(name: str, error: ValidationError) -> ManifestError:
    """The error for the first wrong field, which is named if it is one of ours."""
    wrong = error.errors(include_input=False, include_context=False)[0]
    first, *_ = [*wrong["loc"], ""]
    if first == "schema" and wrong["type"] == "literal_error":
        return ManifestSchemaError(name)
    known = {field.alias or key for key, field in _Manifest.model_fields.items()}
    return ManifestError(name, f"its field {first} is wrong" if first in known else "it is not a JSON object of ours")


def _set_of(stamp: str, content: _Manifest) -> BackupSet:
    keys = tuple(KeyCopy(KeyVersion.parse(key.version), key.fingerprint, _stored(key)) for key in content.keys)
    dump = None
    if content.dump is not None:
        dump = DatabaseCopy(
            _stored(content.dump),
            tuple(map(_table_content, content.dump.tables)),
            content.dump.server_major,
            _database_content(content.dump.content),
            DatabaseDefinition(**content.dump.definition.model_dump()),
            content.dump.undumped,
        )
    anchor = AuditHead(content.audit.seq, content.audit.head)
    configuration = None if content.configuration is None else _stored(content.configuration)
    source = content.made_from
    made_from = None if source is None else MadeFrom(source.manifest, source.sha256, source.seq)
    return BackupSet(
        stamp, content.database, keys, dump, anchor, content.roster, configuration, made_from, content.home
    )


def _require_consistent(name: str, made: BackupSet, content: _Manifest) -> None:
    if pipeline_in(made.stamp) != _pipeline(content):
        raise ManifestError(name, "it has the name of another pipeline's")
    if any(key.file.name != key_file_name(key.version, made.stamp) for key in made.keys):
        raise ManifestError(name, "a key's file does not have the name that it should have")
    if len({key.version for key in made.keys}) != len(made.keys):
        raise ManifestError(name, "it names a key version twice")
    if made.dump is not None and made.dump.file.name != dump_name(made.stamp):
        raise ManifestError(name, "the dump's file does not have the name that it should have")
    if made.configuration is not None and made.configuration.name != configuration_name(made.stamp):
        raise ManifestError(name, "the configuration's file does not have the name that it should have")
    try:
        made_at = made.made_at.isoformat()
    except ValueError:
        raise ManifestError(name, "its time is impossible") from None
    if content.made_at != made_at:
        raise ManifestError(name, "it was made at another time than its name says")
    if content.dump and made.dump and content.dump.versions != tuple(map(str, made.dump.versions)):
        raise ManifestError(name, "its key versions are not those of its tables")
    if made.made_from is not None and _snapshot_stamp(made.made_from.manifest) != made.stamp[:STAMP_LENGTH]:
        raise ManifestError(name, "it is not of the moment of the set that it was made from")


def _pipeline(content: _Manifest) -> str | None:
    try:
        return pipeline_id(signer_fingerprint(content.signed_by))
    except ValueError:
        return None


def _snapshot_stamp(manifest: str) -> str | None:
    stamp = stamp_in(manifest)
    return stamp[:STAMP_LENGTH] if stamp is not None and manifest == manifest_name(stamp) else None


def _file_fields(file: StoredFile) -> dict[str, Any]:
    return {
        "file": file.name,
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "recipients": file.recipients,
    }


def _stored(document: _File) -> StoredFile:
    return StoredFile(document.file, document.sha256, document.size_bytes, document.recipients)


def _dump_document(dump: DatabaseCopy) -> _Dump:
    tables = tuple(
        _Table(
            schema=content.table.name.schema,
            table=content.table.name.table,
            columns=content.table.columns,
            places=tuple(
                _Place(column=each.column, path=each.path, elements=each.elements, when=each.when, iv=each.iv)
                for each in content.table.places
            ),
            format=_format_document(content.table.format),
            bindings=dict(content.table.bindings),
            row=_row_document(content.table.format),
            rows=content.rows,
            values={
                column: {str(version): number for version, number in sorted(values.items())}
                for column, values in content.values.items()
            },
        )
        for content in dump.tables
    )
    return _Dump(
        server_major=dump.server_major,
        definition=_Definition(**asdict(dump.definition)),
        versions=tuple(map(str, dump.versions)),
        tables=tables,
        content=_content_document(dump.content),
        undumped=dump.undumped,
        **_file_fields(dump.file),
    )


def _format_document(declared: ValueFormat) -> str | _DerivedFormat | _BoundFormat | _HeldFormat:
    if declared.transit:
        return _HeldFormat(name=declared.name, transit=declared.transit)
    named = f"{declared.name} {declared.layout}".rstrip()
    if declared.derivation is None:
        return _BoundFormat(name=named, aad=declared.aad) if declared.aad else named
    return _DerivedFormat(
        name=named,
        derivation=declared.derivation,
        salt=declared.salt,
        deterministic=declared.deterministic,
        aad=declared.aad,
    )


def _row_document(declared: ValueFormat) -> _Row | None:
    return _Row.model_validate({"key": declared.row, "from": declared.row_from}) if declared.row else None


def _value_format(document: str | _DerivedFormat | _BoundFormat | _HeldFormat) -> ValueFormat:
    if isinstance(document, _HeldFormat):
        return replace(FORMATS[document.name], transit=document.transit)
    if isinstance(document, _BoundFormat):
        return replace(_value_format(document.name), aad=document.aad)
    if isinstance(document, str):
        name, _, layout = document.partition(" ")
        return replace(FORMATS[name], layout=layout)
    return replace(
        _value_format(document.name),
        derivation=document.derivation,
        salt=document.salt,
        deterministic=document.deterministic,
        aad=document.aad,
    )


def _content_document(content: DatabaseContent) -> _Content:
    relations = tuple(
        _Relation(schema=each.name.schema, relation=each.name.table, kind=each.kind, rows=each.rows)
        for each in content.relations
    )
    return _Content(relations=relations, large_objects=content.large_objects)


def _database_content(document: _Content) -> DatabaseContent:
    relations = tuple(
        RelationContent(TableName(each.in_schema, each.relation), each.kind, each.rows) for each in document.relations
    )
    return DatabaseContent(relations, document.large_objects)


def _table_content(document: _Table) -> TableContent:
    values = {
        column: {KeyVersion.parse(version): number for version, number in counted.items()}
        for column, counted in document.values.items()
    }
    places = tuple(Place(each.column, each.path, each.elements, each.when, each.iv) for each in document.places)
    value_format = _value_format(document.format)
    if document.row is not None:
        value_format = replace(value_format, row=document.row.key, row_from=document.row.since)
    table = EncryptedTable(
        TableName(document.in_schema, document.table),
        document.columns,
        value_format,
        places,
        tuple(sorted(document.bindings.items())),
    )
    return TableContent(table, document.rows, values)
