"""Writes and reads the manifest of a backup set; reads it as untrusted text."""

import re
from dataclasses import asdict, replace
from typing import Any

from pydantic import ValidationError

from keyrotation_pipeline.errors import ManifestError, ManifestSchemaError, MissingFormatError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.registry import DERIVATIONS, FORMATS, FormatOrigin
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model import manifest_documents as documents
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
from keyrotation_pipeline.model.undumped import DatabaseRole, Membership, Roles, Undumped

# A thousand tables of a hundred columns under ten versions need a fifth of this, as do fifty thousand partitions.
LARGEST_BYTES = 32 << 20
# Read before anything is known of a manifest, so that nothing is parsed of one that somebody else has signed.
_BEGINNING = re.compile(
    rf'\{{\n  "schema": \d{{1,9}},\n  "signed_by": "({documents.PUBLIC_KEY})",\n'.encode(), re.ASCII
)


def render(made: BackupSet, signed_by: str) -> bytes:
    """The manifest of a set.

    Args:
        signed_by: the public key that signs it, base64 of its SubjectPublicKeyInfo, whose fingerprint is in the stamp.
    """
    content = documents.Manifest(
        schema=1,
        signed_by=signed_by,
        made_at=made.made_at.isoformat(),
        database=made.database,
        keys=tuple(
            documents.Key(
                version=str(key.version),
                fingerprint=key.fingerprint,
                sealed_by=key.sealed_by,
                **_file_fields(key.file),
            )
            for key in made.keys
        ),
        dump=None if made.dump is None else _dump_document(made.dump),
        audit=documents.Audit(seq=made.anchor.seq, head=made.anchor.hash),
        roster=made.roster,
        configuration=None if made.configuration is None else documents.File(**_file_fields(made.configuration)),
        made_from=None if made.made_from is None else documents.MadeFrom(**asdict(made.made_from)),
        home=made.home,
        formats=tuple(documents.FormatOrigin(**asdict(each)) for each in made.formats),
        members=tuple(map(_member_document, made.members)),
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
        ManifestSchemaError: another version has written it, or it names a format of a package that is not here.
        ManifestError: it is damaged, or not in this program's form; the message shows nothing of it.
    """
    stamp = stamp_in(name)
    if stamp is None or name != manifest_name(stamp):
        raise ManifestError(name, "its name is not that of a manifest")
    if len(text) > LARGEST_BYTES:
        raise ManifestError(name, f"it has {len(text):,} bytes")
    try:
        content = documents.Manifest.model_validate_json(text)
    except ValidationError as error:
        raise _missing_format(name, text, error) or _refusal(name, error) from None
    made = _set_of(stamp, content)
    _require_consistent(name, made, content)
    return made


def _missing_format(name: str, text: bytes, error: ValidationError) -> MissingFormatError | None:
    """The error for a format that is not known here, if the manifest says which package brought it."""
    if documents.UNKNOWN not in {each["type"] for each in error.errors(include_input=False, include_context=False)}:
        return None
    try:
        recorded = documents.FormatOrigins.model_validate_json(text).formats
    except ValidationError:
        return None
    missing = next((each for each in recorded if each.name not in FORMATS), None)
    return None if missing is None else MissingFormatError(name, missing.name, f"{missing.package} {missing.version}")


def _refusal(name: str, error: ValidationError) -> ManifestError:
    """The error for the first wrong field, which is named if it is one of ours."""
    wrong = error.errors(include_input=False, include_context=False)[0]
    first, *_ = [*wrong["loc"], ""]
    if first == "schema" and wrong["type"] == "literal_error":
        return ManifestSchemaError(name)
    known = {field.alias or key for key, field in documents.Manifest.model_fields.items()}
    return ManifestError(name, f"its field {first} is wrong" if first in known else "it is not a JSON object of ours")


def _set_of(stamp: str, content: documents.Manifest) -> BackupSet:
    keys = tuple(
        KeyCopy(KeyVersion.parse(key.version), key.fingerprint, _stored(key), key.sealed_by) for key in content.keys
    )
    dump = None if content.dump is None else _database_copy(content.dump)
    members = tuple(
        replace(_database_copy(each.dump, each.member), place=each.place, anchor=_head(each.audit))
        for each in content.members
    )
    configuration = None if content.configuration is None else _stored(content.configuration)
    source = content.made_from
    made_from = None if source is None else MadeFrom(source.manifest, source.sha256, source.seq)
    formats = tuple(FormatOrigin(**each.model_dump()) for each in content.formats)
    return BackupSet(
        stamp, content.database, keys, dump, _head(content.audit), content.roster, configuration, made_from,
        content.home, formats, members,
    )  # fmt: skip


def _head(document: documents.Audit) -> AuditHead:
    return AuditHead(document.seq, document.head)


def _database_copy(document: documents.Dump, member: str = "") -> DatabaseCopy:
    return DatabaseCopy(
        _stored(document),
        tuple(_table_content(each, member) for each in document.tables),
        document.server_major,
        _database_content(document.content),
        DatabaseDefinition(**document.definition.model_dump()),
        None if document.undumped is None else _undumped(document.undumped),
        tuple(map(KeyVersion.parse, document.source_keys)),
        member,
    )


def _require_consistent(name: str, made: BackupSet, content: documents.Manifest) -> None:
    if pipeline_in(made.stamp) != _pipeline(content):
        raise ManifestError(name, "it has the name of another pipeline's")
    _require_own_names(name, made)
    try:
        made_at = made.made_at.isoformat()
    except ValueError:
        raise ManifestError(name, "its time is impossible") from None
    if content.made_at != made_at:
        raise ManifestError(name, "it was made at another time than its name says")
    written = [*([] if content.dump is None else [content.dump]), *(each.dump for each in content.members)]
    if any(each.versions != tuple(map(str, dump.versions)) for each, dump in zip(written, made.dumps, strict=True)):
        raise ManifestError(name, "its key versions are not those of its tables")
    if made.made_from is not None and _snapshot_stamp(made.made_from.manifest) != made.stamp[:STAMP_LENGTH]:
        raise ManifestError(name, "it is not of the moment of the set that it was made from")


def _require_own_names(name: str, made: BackupSet) -> None:
    """Refuses files whose names do not follow from the set's own, so that none can stand for another."""
    if any(key.file.name != key_file_name(key.version, made.stamp) for key in made.keys):
        raise ManifestError(name, "a key's file does not have the name that it should have")
    if len({key.version for key in made.keys}) != len(made.keys):
        raise ManifestError(name, "it names a key version twice")
    if any(dump.file.name != dump_name(made.stamp, dump.member) for dump in made.dumps):
        raise ManifestError(name, "the dump's file does not have the name that it should have")
    if len({dump.member for dump in made.members}) != len(made.members):
        raise ManifestError(name, "it names a database twice")
    if made.configuration is not None and made.configuration.name != configuration_name(made.stamp):
        raise ManifestError(name, "the configuration's file does not have the name that it should have")


def _pipeline(content: documents.Manifest) -> str | None:
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


def _stored(document: documents.File) -> StoredFile:
    return StoredFile(document.file, document.sha256, document.size_bytes, document.recipients)


def _dump_document(dump: DatabaseCopy) -> documents.Dump:
    tables = tuple(
        documents.Table(
            schema=content.table.name.schema,
            table=content.table.name.table,
            columns=content.table.columns,
            places=tuple(
                documents.Place(
                    column=each.column,
                    path=each.path,
                    elements=each.elements,
                    when=each.when,
                    iv=each.iv,
                    source=each.source,
                    source_key=each.source_key,
                )
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
            old_forms=dict(content.old_forms),
        )
        for content in dump.tables
    )
    return documents.Dump(
        server_major=dump.server_major,
        definition=documents.Definition(**asdict(dump.definition)),
        versions=tuple(map(str, dump.versions)),
        tables=tables,
        content=_content_document(dump.content),
        undumped=None if dump.undumped is None else documents.Undumped.model_validate(asdict(dump.undumped)),
        source_keys=tuple(map(str, dump.source_keys)),
        **_file_fields(dump.file),
    )


def _member_document(dump: DatabaseCopy) -> documents.MemberDump:
    if dump.anchor is None:
        raise ValueError(f"{dump.file.name} has no anchor")
    audit = documents.Audit(seq=dump.anchor.seq, head=dump.anchor.hash)
    return documents.MemberDump(member=dump.member, place=dump.place, dump=_dump_document(dump), audit=audit)


def _format_document(
    declared: ValueFormat,
) -> documents.FormatDocument:
    if declared.transit:
        return documents.HeldFormat(name=declared.name, transit=declared.transit)
    named = f"{declared.name} {declared.layout}".rstrip()
    if declared.derivation is None:
        return documents.BoundFormat(name=named, aad=declared.aad) if declared.aad else named
    return documents.DerivedFormat(
        name=named,
        derivation=declared.derivation.name,
        salt=declared.salt,
        deterministic=declared.deterministic,
        aad=declared.aad,
    )


def _row_document(declared: ValueFormat) -> documents.Row | None:
    return documents.Row.model_validate({"key": declared.row, "from": declared.row_from}) if declared.row else None


def _value_format(
    document: documents.FormatDocument,
) -> ValueFormat:
    if isinstance(document, documents.HeldFormat):
        return replace(FORMATS[document.name], transit=document.transit)
    if isinstance(document, documents.BoundFormat):
        return replace(_value_format(document.name), aad=document.aad)
    if isinstance(document, str):
        name, _, layout = document.partition(" ")
        return replace(FORMATS[name], layout=layout)
    return replace(
        _value_format(document.name),
        derivation=DERIVATIONS[document.derivation],
        salt=document.salt,
        deterministic=document.deterministic,
        aad=document.aad,
    )


def _content_document(content: DatabaseContent) -> documents.Content:
    relations = tuple(
        documents.Relation(schema=each.name.schema, relation=each.name.table, kind=each.kind, rows=each.rows)
        for each in content.relations
    )
    return documents.Content(relations=relations, large_objects=content.large_objects)


def _database_content(document: documents.Content) -> DatabaseContent:
    relations = tuple(
        RelationContent(TableName(each.in_schema, each.relation), each.kind, each.rows) for each in document.relations
    )
    return DatabaseContent(relations, document.large_objects)


def _undumped(document: documents.Undumped) -> Undumped:
    roles = tuple(DatabaseRole(**each.model_dump()) for each in document.roles.roles)
    memberships = tuple(Membership(**each.model_dump()) for each in document.roles.memberships)
    return Undumped(Roles(roles, memberships), document.lost, document.of_server, document.extension_owners)


def _table_content(document: documents.Table, member: str) -> TableContent:
    values = {
        column: {KeyVersion.parse(version): number for version, number in counted.items()}
        for column, counted in document.values.items()
    }
    places = tuple(
        Place(each.column, each.path, each.elements, each.when, each.iv, each.source, each.source_key)
        for each in document.places
    )
    value_format = _value_format(document.format)
    if document.row is not None:
        value_format = replace(value_format, row=document.row.key, row_from=document.row.since)
    table = EncryptedTable(
        TableName(document.in_schema, document.table, member),
        document.columns,
        value_format,
        places,
        tuple(sorted(document.bindings.items())),
    )
    return TableContent(table, document.rows, values, document.old_forms)
