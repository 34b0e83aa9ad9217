"""A backup set: encrypted key files and, taken with them, one encrypted dump of each database.

A dump comes with what makes a restored database the same one: how that is created, and which roles its objects
name.
"""

import hashlib
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import count

from keyrotation_pipeline.fieldcrypto.formats.registry import FormatOrigin, origins
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.tables import MEMBER_NAME, EncryptedTable, TableName
from keyrotation_pipeline.model.undumped import Undumped
from keyrotation_pipeline.model.visible_text import visible


@dataclass(frozen=True, slots=True)
class DatabaseDefinition:
    """How a database was created, and what its objects need of the server around it; nothing in it is secret.

    Args:
        encoding: PostgreSQL's name, ``UTF8``.
        provider: of the locale: ``libc``, ``icu`` or ``builtin``.
        collate, ctype: libc's names, which every database has.
        locale: of ICU or built in; None with libc.
        icu_rules: additional rules of ICU.
        collation_version: as the provider named it when the database was created, or last refreshed.
        collations: by name, versions of other collations that its objects use.
        roles: all that own something in it, or that privileges, policies or settings name.
        superusers: those of them that were superusers.
    """

    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str | None = None
    icu_rules: str | None = None
    collation_version: str | None = None
    collations: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    superusers: tuple[str, ...] = ()


# In every file name of a set: when it was made, in UTC; by which pipeline; and a number if it made several then.
STAMP = r"\d{8}-\d{6}-[0-9a-f]{8}(?:-[2-9]|-[1-9]\d{1,3})?"
# A backup is made every night; a recovery test every quarter, which has at most 92 days.
BACKUP_STALE_AFTER = timedelta(hours=26)
TEST_OVERDUE_AFTER = timedelta(days=100)
_STAMP_FORMAT = "%Y%m%d-%H%M%S"
STAMP_LENGTH = len("20261124-030000")  # of the moment alone
_PIPELINE_LENGTH = 8
_MOST_NAMED = 10  # versions
_PIPELINE = slice(STAMP_LENGTH + 1, STAMP_LENGTH + 1 + _PIPELINE_LENGTH)
_MANIFEST = re.compile(rf"backup-({STAMP})\.json", re.ASCII)
_DUMP = re.compile(rf"database-(?:({MEMBER_NAME})-)?({STAMP})\.dump\.gpg", re.ASCII)
_CONFIGURATION = re.compile(rf"configuration-({STAMP})\.tar\.gpg", re.ASCII)
_KEY_FILE = re.compile(rf"encryption-key-({VERSION_PATTERN})-({STAMP})\.bin\.gpg", re.ASCII)


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
class StoredVersion:
    """One version of a file in a place.

    Args:
        superseded: id of a version that is not the current one; None: it is current, or the place has no versions.
        locked_until: until when it cannot be removed; None: not locked.
    """

    name: str
    superseded: str | None = None
    locked_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyCopy:
    """One key version in a file of its own; `fingerprint` is that of the key inside.

    Args:
        sealed_by: kind and name of the wrapping key that opens it, once it is decrypted; empty: none is needed.
    """

    version: KeyVersion
    fingerprint: str
    file: StoredFile
    sealed_by: str = ""


@dataclass(frozen=True, slots=True)
class TableContent:
    """What one declared table held in the snapshot that was dumped.

    Args:
        values: by column and key version.
        old_forms: by column that comes from another library, if there are any: values that are not ours yet.
    """

    table: EncryptedTable
    rows: int
    values: Mapping[str, Mapping[KeyVersion, int]]
    old_forms: Mapping[str, int] = field(default_factory=dict)

    @property
    def versions(self) -> frozenset[KeyVersion]:
        """The key versions of its values."""
        return frozenset(version for column in self.values.values() for version, number in column.items() if number)


class RelationKind(StrEnum):
    """The kind of relation that a dump restores."""

    TABLE = "table"
    PARTITIONED_TABLE = "partitioned table"
    MATERIALIZED_VIEW = "materialized view"
    UNPOPULATED_VIEW = "materialized view without data"
    VIEW = "view"
    SEQUENCE = "sequence"


@dataclass(frozen=True, slots=True)
class RelationContent:
    """One relation of a database; `rows` are its own, without those of partitions and children, and of tables only.

    The rows of a materialized view are computed again when it is restored, and a sequence advances while it is dumped.
    """

    name: TableName
    kind: RelationKind
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class DatabaseContent:
    """Every relation of a database that pg_dump takes, in the order of their names, and how many large objects."""

    relations: tuple[RelationContent, ...]
    large_objects: int


@dataclass(frozen=True, slots=True)
class DatabaseCopy:
    """One encrypted dump in pg_dump's custom format, and what was counted in the same snapshot.

    Args:
        tables: the declared ones.
        server_major: version of the server that was dumped, ``18``.
        content: everything.
        definition: how the database was created, and which roles it names.
        undumped: what belongs to the database beside it; None: it was not recorded, by an earlier version.
        source_keys: the numbers of the keys of other libraries under which it has values.
        member: the member of a fleet that it is of; "": the home's own database.
        place: of a member: name and system identifier of the database.
        anchor: of a member: the audit's head just before it was dumped, after the set's other dumps.
    """

    file: StoredFile
    tables: tuple[TableContent, ...]
    server_major: int
    content: DatabaseContent
    definition: DatabaseDefinition
    undumped: Undumped | None = None
    source_keys: tuple[KeyVersion, ...] = ()
    member: str = ""
    place: str = ""
    anchor: AuditHead | None = None

    @property
    def versions(self) -> tuple[KeyVersion, ...]:
        """The key versions that are needed to read all of it."""
        return tuple(sorted(frozenset(self.source_keys).union(*(content.versions for content in self.tables))))

    @property
    def names_of_sources(self) -> frozenset[str]:
        """The names of the keys of other libraries under which it has values."""
        return frozenset(
            content.table.place(column).source_key
            for content in self.tables
            for column, number in content.old_forms.items()
            if number
        )

    @property
    def undumped_of_server(self) -> tuple[str, ...]:
        """A phrase for each recorded thing of the server, apart from roles."""
        return tuple(map(visible, self.undumped.of_server)) if self.undumped is not None else ()

    @property
    def rows(self) -> dict[str, int]:
        """How many rows it has, by table."""
        return {str(content.table.name): content.rows for content in self.tables}


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """The set whose rows another set holds under other keys.

    Args:
        sha256: of its manifest.
        seq: its position in the audit: the two sets are of the same moment.
    """

    manifest: str
    sha256: str
    seq: int


@dataclass(frozen=True, slots=True)
class BackupSet:
    """Key files and dump of one moment, as their manifest lists them.

    Args:
        stamp: part of the names of all its files.
        database: the database's name and system identifier.
        dump: of the home's own database; None where only keys were backed up, or the dump failed.
        anchor: the audit's head at that moment.
        roster: digest of the roster that was pinned then.
        configuration: `keyrotation.toml` and the public certificates that it names; None in sets of single keys.
        made_from: the set whose dump was restored and re-encrypted for this one; the stamp is of that one's moment.
        home: the id of the home that made it; None: made by an earlier version.
        formats: of other packages that were installed.
        members: the dumps of a fleet's members; that of one which was down is not there.
    """

    stamp: str
    database: str
    keys: tuple[KeyCopy, ...]
    dump: DatabaseCopy | None
    anchor: AuditHead
    roster: str | None = None
    configuration: StoredFile | None = None
    made_from: MadeFrom | None = None
    home: str | None = None
    formats: tuple[FormatOrigin, ...] = field(default_factory=origins)
    members: tuple[DatabaseCopy, ...] = ()

    @property
    def name(self) -> str:
        """File name of the manifest."""
        return manifest_name(self.stamp)

    @property
    def dumps(self) -> tuple[DatabaseCopy, ...]:
        """Every dump, that of the home's own database first."""
        return self.members if self.dump is None else (self.dump, *self.members)

    def dump_of(self, member: str) -> DatabaseCopy | None:
        """The dump of one database; None: it holds none."""
        return next((each for each in self.dumps if each.member == member), None)

    def rows_seq(self, dump: DatabaseCopy) -> int:
        """The position in the audit at the moment that the rows of one of its dumps are of."""
        if dump.anchor is not None:
            return dump.anchor.seq
        return self.anchor.seq if self.made_from is None else self.made_from.seq

    @property
    def made_at(self) -> datetime:
        """When it was made, to the second."""
        return stamped_at(self.stamp)

    @property
    def keyless(self) -> str | None:
        """The versions of values in its dumps whose key it does not hold, in words; None: there is none.

        Whoever can write to a table can use any number of versions, so only the first few are named.
        """
        held = {copy.version for copy in self.keys}
        missing = sorted({version for dump in self.dumps for version in dump.versions} - held)
        more = f" and {len(missing) - _MOST_NAMED:,} more versions" if len(missing) > _MOST_NAMED else ""
        return ", ".join(map(str, missing[:_MOST_NAMED])) + more or None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all that it consists of: its manifest, the signature and its files."""
        return (self.name, signature_name(self.name), *(file.name for file in self.files))

    @property
    def files(self) -> Iterator[StoredFile]:
        """Every encrypted file of the set."""
        yield from (key.file for key in self.keys)
        yield from (dump.file for dump in self.dumps)
        if self.configuration is not None:
            yield self.configuration


@dataclass(frozen=True, slots=True)
class KeyBackup:
    """One OpenPGP file that holds one key version, of any set.

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


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """The newest complete backup: a set of keys and database that every configured place holds completely.

    Args:
        last: when that set was made; None: there is none.
        manifest: its manifest's name.
        problems: one sentence for each reason why newer sets do not count.
        unknown: one sentence for each other pipeline, or forger, whose sets are in a place.
        versions: the key versions that it holds, by its manifest.
        changed: one sentence for each place that held the newest set completely, and does not now.
        unexamined: one sentence for each place whose versions cannot be read.
        places: that were looked at.
    """

    last: datetime | None
    manifest: str | None = None
    problems: tuple[str, ...] = ()
    versions: tuple[KeyVersion, ...] = ()
    unknown: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unexamined: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


def key_backup_in(made: BackupSet, copy: KeyCopy) -> KeyBackup:
    """One key of a set."""
    file = copy.file
    return KeyBackup(file.name, copy.version, file.sha256, copy.fingerprint, file.recipients, made.made_at)


def signer_fingerprint(public: str) -> str:
    """SHA-256, in hex, of a public key: base64 of its SubjectPublicKeyInfo in DER.

    Raises:
        ValueError: it is not base64.
    """
    return hashlib.sha256(b64decode(public, validate=True)).hexdigest()


def pipeline_id(signer: str) -> str:
    """The id of a pipeline: the first digits of the fingerprint of the key that signs its sets."""
    return signer[:_PIPELINE_LENGTH]


def pipeline_in(stamp: str) -> str:
    """The id of the pipeline in a stamp."""
    return stamp[_PIPELINE]


def stamp_of(made_at: datetime, pipeline: str) -> str:
    """``20261124-030000-3fa9c1d2``: the moment in UTC, and the id of a pipeline."""
    return f"{made_at.astimezone(UTC):{_STAMP_FORMAT}}-{pipeline}"


def free_stamps(made_at: datetime, pipeline: str, names: Iterable[str] = ()) -> Iterator[str]:
    """The stamps of a second that are in none of these names; the second one ends with ``-2``."""
    stamp, taken = stamp_of(made_at, pipeline), set(map(stamp_in, names))
    numbered = (stamp if number == 1 else f"{stamp}-{number}" for number in count(1))
    return (each for each in numbered if each not in taken)


def stamped_at(stamp: str) -> datetime:
    """When a set was made.

    Raises:
        ValueError: there is no such day or hour.
    """
    return datetime.strptime(stamp[:STAMP_LENGTH], _STAMP_FORMAT).replace(tzinfo=UTC)


def in_order(stamp: str) -> tuple[str, int]:
    """The sort key of stamps."""
    return stamp[:STAMP_LENGTH], int(stamp[_PIPELINE.stop + 1 :] or 1)


def stamp_in(name: str) -> str | None:
    """The stamp in the name of one of a set's files; None for any other name."""
    for pattern in (_MANIFEST, _DUMP, _CONFIGURATION, _KEY_FILE):
        if found := pattern.fullmatch(name):
            return found.groups()[-1]
    return None


def manifest_name(stamp: str) -> str:
    """``backup-20261124-030000-3fa9c1d2.json``."""
    return f"backup-{stamp}.json"


def signature_name(manifest: str) -> str:
    """``backup-20261124-030000-3fa9c1d2.json.sig``."""
    return f"{manifest}.sig"


def dump_name(stamp: str, member: str = "") -> str:
    """``database-20261124-030000-3fa9c1d2.dump.gpg``; of a fleet's member ``database-north-20261124-…``."""
    return f"database-{member}-{stamp}.dump.gpg" if member else f"database-{stamp}.dump.gpg"


def configuration_name(stamp: str) -> str:
    """``configuration-20261124-030000-3fa9c1d2.tar.gpg``."""
    return f"configuration-{stamp}.tar.gpg"


def key_file_name(version: KeyVersion, stamp: str) -> str:
    """``encryption-key-v2-20261124-030000-3fa9c1d2.bin.gpg``."""
    return f"encryption-key-{version}-{stamp}.bin.gpg"


def is_manifest(name: str) -> bool:
    """Whether a file's name is that of a set's manifest."""
    return _MANIFEST.fullmatch(name) is not None


def is_dump(name: str) -> bool:
    """Whether a file's name is that of an encrypted dump."""
    return _DUMP.fullmatch(name) is not None


def member_in(name: str) -> str | None:
    """The member of a fleet in the name of its dump, "" in that of the home's own; None for any other name."""
    return None if (found := _DUMP.fullmatch(name)) is None else found[1] or ""


def is_key_file(name: str, version: KeyVersion) -> bool:
    """Whether a file's name is that of an encrypted key of this version."""
    return (found := _KEY_FILE.fullmatch(name)) is not None and found[1] == str(version)


ENDS_SOON = timedelta(days=60)


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """Whether a certificate can be used for its purpose, and until when.

    Args:
        label: its name in messages.
        encrypts: it is a recipient of backups; otherwise an officer's.
        ends_at: when it, or its last usable key for this, expires; None: never.
        unusable: why it can no longer be used; None: it can.
        fingerprint: of its primary key; None: it cannot be read.
        content: the file's bytes.
    """

    label: str
    encrypts: bool
    ends_at: datetime | None
    unusable: str | None = None
    fingerprint: str | None = None
    content: bytes = field(default=b"", repr=False)

    def ends_soon(self, now: datetime) -> str | None:
        """The sentence for a certificate that ends within sixty days."""
        if self.unusable is not None or self.ends_at is None or self.ends_at - now > ENDS_SOON:
            return None
        use = (
            "no backup is encrypted to it from then on"
            if self.encrypts
            else "its officer can sign nothing from then on"
        )
        return f"{self.label} ends on {self.ends_at:%Y-%m-%d}, and {use}; have its owner extend it and export it again"
