"""What a backup holds: the manifest of a set of key files and, made at the same time, one encrypted database dump."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.columns import EncryptedTable, TableName

SCHEMA = 1
MANIFEST_PREFIX = "backup-"
MANIFEST_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One encrypted file.

    Args:
        sha256: of the encrypted file, hex.
        recipients: primary-key fingerprints of who can decrypt it.
    """

    name: str
    sha256: str
    size_bytes: int
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyCopy:
    """One key version in a file of its own; `fingerprint` is that of the key inside."""

    version: KeyVersion
    fingerprint: str
    file: StoredFile


@dataclass(frozen=True, slots=True)
class TableContent:
    """What one declared table held in the snapshot that was dumped: `values` per column and key version."""

    table: EncryptedTable
    rows: int
    values: Mapping[str, Mapping[KeyVersion, int]]

    @property
    def versions(self) -> frozenset[KeyVersion]:
        """The key versions that its values are under."""
        return frozenset(version for column in self.values.values() for version, number in column.items() if number)


@dataclass(frozen=True, slots=True)
class DatabaseCopy:
    """One encrypted dump in pg_dump's custom format, and what was counted in the very snapshot that it shows."""

    file: StoredFile
    tables: tuple[TableContent, ...]

    @property
    def versions(self) -> tuple[KeyVersion, ...]:
        """The key versions without which not all of it can be read."""
        return tuple(sorted(frozenset().union(*(content.versions for content in self.tables))))


@dataclass(frozen=True, slots=True)
class BackupSet:
    """Key files and dump of one moment, as their manifest lists them.

    Args:
        database: the database's name and system identifier.
        dump: None where only keys were backed up, or the dump failed.
        anchor: the audit's head at that moment.
    """

    made_at: datetime
    database: str
    keys: tuple[KeyCopy, ...]
    dump: DatabaseCopy | None
    anchor: AuditHead

    @property
    def name(self) -> str:
        """File name of the manifest."""
        return manifest_name(self.made_at)

    @property
    def files(self) -> Iterator[StoredFile]:
        """Every encrypted file of the set."""
        yield from (key.file for key in self.keys)
        if self.dump is not None:
            yield self.dump.file

    def to_json(self) -> bytes:
        """The manifest."""
        content = {
            "schema": SCHEMA,
            "made_at": self.made_at.astimezone(UTC).isoformat(),
            "database": self.database,
            "keys": [
                {"version": str(key.version), "fingerprint": key.fingerprint, **_file_document(key.file)}
                for key in self.keys
            ],
            "dump": None if self.dump is None else _dump_document(self.dump),
            "audit": {"seq": self.anchor.seq, "head": self.anchor.hash},
        }
        return f"{json.dumps(content, indent=2)}\n".encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a manifest.

        Raises:
            ValueError, KeyError, TypeError, InvalidKeyError: it is not one, or is damaged.
        """
        content = json.loads(text)
        if content["schema"] != SCHEMA:
            raise ValueError("unknown schema")
        return cls(
            made_at=datetime.fromisoformat(content["made_at"]),
            database=str(content["database"]),
            keys=tuple(
                KeyCopy(KeyVersion.parse(key["version"]), str(key["fingerprint"]), _file(key))
                for key in content["keys"]
            ),
            dump=None if content["dump"] is None else _dump(content["dump"]),
            anchor=AuditHead(int(content["audit"]["seq"]), str(content["audit"]["head"])),
        )


def stamp(made_at: datetime) -> str:
    """``20261124-030000``, in UTC: the same in the name of every file of a set."""
    return f"{made_at.astimezone(UTC):%Y%m%d-%H%M%S}"


def manifest_name(made_at: datetime) -> str:
    """``backup-20261124-030000.json``."""
    return f"{MANIFEST_PREFIX}{stamp(made_at)}{MANIFEST_SUFFIX}"


def dump_name(made_at: datetime) -> str:
    """``database-20261124-030000.dump.gpg``."""
    return f"database-{stamp(made_at)}.dump.gpg"


def is_dump(name: str) -> bool:
    """Whether a file's name is that of an encrypted dump."""
    return name.startswith("database-") and name.endswith(".dump.gpg")


def is_manifest(name: str) -> bool:
    """Whether a file's name is that of a set's manifest."""
    return name.startswith(MANIFEST_PREFIX) and name.endswith(MANIFEST_SUFFIX)


def _file_document(file: StoredFile) -> dict[str, Any]:
    return {
        "file": file.name,
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "recipients": list(file.recipients),
    }


def _file(content: Mapping[str, Any]) -> StoredFile:
    recipients = tuple(str(each) for each in content["recipients"])
    return StoredFile(str(content["file"]), str(content["sha256"]), int(content["size_bytes"]), recipients)


def _dump_document(dump: DatabaseCopy) -> dict[str, Any]:
    tables = [
        {
            "schema": content.table.name.schema,
            "table": content.table.name.table,
            "columns": list(content.table.columns),
            "rows": content.rows,
            "values": {
                column: {str(version): number for version, number in sorted(values.items())}
                for column, values in content.values.items()
            },
        }
        for content in dump.tables
    ]
    return {**_file_document(dump.file), "versions": [str(version) for version in dump.versions], "tables": tables}


def _dump(content: Mapping[str, Any]) -> DatabaseCopy:
    return DatabaseCopy(_file(content), tuple(_table(each) for each in content["tables"]))


def _table(content: Mapping[str, Any]) -> TableContent:
    name = TableName(str(content["schema"]), str(content["table"]))
    values = {
        str(column): {KeyVersion.parse(version): int(number) for version, number in counted.items()}
        for column, counted in content["values"].items()
    }
    return TableContent(EncryptedTable(name, tuple(map(str, content["columns"]))), int(content["rows"]), values)


@dataclass(frozen=True, slots=True)
class KeyBackup:
    """One OpenPGP file that holds one key version.

    Args:
        name: file name, in the vault.
        sha256: of the encrypted file, hex.
        fingerprint: of the key inside.
        recipients: primary-key fingerprints of who can decrypt it.
    """

    name: str
    version: KeyVersion
    sha256: str
    fingerprint: str
    recipients: tuple[str, ...]
    made_at: datetime
