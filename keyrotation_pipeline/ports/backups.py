"""Where are the backups of keys and database, and do they restore?"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import PinnedRoster
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.backups import (
    BackupStatus,
    DatabaseContent,
    DatabaseCopy,
    DatabaseDefinition,
    KeyBackup,
    KeyCopy,
    StoredFile,
    TableContent,
)
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.model.undumped import Undumped
from keyrotation_pipeline.ports.database import TableInventory, TableRewriting


class BackupVault(Protocol):
    """Stores encrypted copies of keys, outside the key store."""

    def store_key(self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead) -> KeyBackup:
        """Backs up one key as a set of its own, in every place, whose manifest names the audit's head.

        Raises:
            BackupError, OpenPGPError: it is not safe in every place.
        """

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        """Returns the newest backup of exactly this key that every place holds with the hash that its manifest gives.

        Raises:
            BackupError: a place does not answer.
        """

    def status(self, records: Sequence[KeyRecord]) -> BackupStatus:
        """Returns the newest set of all these keys and the database that every place holds.

        Raises:
            BackupError: a place does not answer.
        """


class KeyFiles(Protocol):
    """Makes encrypted files of keys, in the local place."""

    def make(self, version: KeyVersion, material: KeyMaterial, stamp: str) -> KeyCopy:
        """Encrypts the base64 of one key to every recipient, writes it durably and checks what was written.

        Raises:
            BackupError, OpenPGPError: it cannot be encrypted or written; no file is left.
        """


class ConfigurationFiles(Protocol):
    """Makes encrypted files of what an empty machine needs besides keys and database, in the local place."""

    def make(self, stamp: str) -> StoredFile:
        """Encrypts the configuration, which holds no secret, and the public certificates that it names.

        Raises:
            BackupError, OpenPGPError: one of them cannot be read, or it cannot be encrypted; no file is left.
        """


class Encryptor(Protocol):
    """Encrypts to the recipients of backups, and to nobody else."""

    def recipients(self) -> tuple[str, ...]:
        """Returns primary-key fingerprints.

        Raises:
            ApprovalError: they are not those that the pinned roster names.
            OpenPGPError: a certificate cannot be read, or nothing can be encrypted to it.
        """

    def encrypt(self, plaintext: bytes) -> bytes:
        """Encrypts a few bytes.

        Raises:
            ApprovalError, OpenPGPError: as `recipients`, or gpg refuses.
        """

    def encrypting(self, plaintext: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
        """Encrypts a pipe or file as a stream; complete only if the context ends without an error.

        Raises:
            ApprovalError, OpenPGPError: as `encrypt`.
        """

    def require_addressed(self, name: str, message: bytes) -> None:
        """Refuses a message that a recipient cannot read, or that somebody else can.

        Args:
            name: of its file, for the sentence.
            message: all of it, or its first 64 KiB.

        Raises:
            BackupError: names the file and the key.
        """


class ManifestSigner(Protocol):
    """The pipeline's own key, which identifies a backup as ours."""

    @property
    def public(self) -> str:
        """Its public half: base64 of the SubjectPublicKeyInfo.

        Raises:
            BackupError: there is no key here.
        """

    def sign(self, manifest: bytes) -> bytes:
        """Returns a detached signature; raises as `public`."""

    def verifies(self, public: str, manifest: bytes, signature: bytes) -> bool:
        """Returns whether a signature is over exactly this, by this key; needs no private key."""


class Anchors(Protocol):
    """Stores outside the database what reveals a restored or rewritten one: audit heads, and the roster.

    The owner of the database can rewrite all of it, but not what is stored here. The ledger itself stores its newest
    head, after each commit that leads somewhere.
    """

    def heads(self) -> tuple[AuditHead, ...]:
        """Returns every head that can be found, in order of seq."""

    def roster(self) -> PinnedRoster | None:
        """Returns the newest roster that was stored here; None: none was.

        Raises:
            AuditError: what is here is damaged.
        """

    def keep_roster(self, pinned: PinnedRoster) -> None:
        """Stores the newest roster as a whole, replacing the previous one.

        Raises:
            BackupError: the operating system refuses.
        """

    def roster_digests(self) -> frozenset[str]:
        """Returns digests of rosters that backups name."""


@dataclass(frozen=True, slots=True)
class DumpContent:
    """What a dump's snapshot and its server say: see `DatabaseCopy`."""

    definition: DatabaseDefinition
    server_major: int
    tables: tuple[TableContent, ...]
    content: DatabaseContent
    undumped: Undumped | None


@dataclass(frozen=True, slots=True)
class DumpUnderWay:
    """A dump's stream in pg_dump's custom format.

    Args:
        counted: waits for what is counted in its snapshot while the stream is read; only in the context of the dump.
            Raises PreflightError, BlockedError: a table cannot be read.
    """

    stream: IO[bytes]
    counted: Callable[[], DumpContent]


class DumpSource(Protocol):
    """Dumps the application's database."""

    def dumping(self, tables: Sequence[EncryptedTable]) -> AbstractContextManager[DumpUnderWay]:
        """Dumps the whole database, and counts `tables` in the same snapshot; complete only if the context ends well.

        Raises:
            BackupError: pg_dump is missing, too old, or ends badly.
        """


@dataclass(frozen=True, slots=True)
class MemberSource:
    """A fleet's member to be dumped, where officers have signed it to be; errors of `source` name it.

    Args:
        place: name and system identifier of the database.
    """

    place: str
    source: DumpSource


class DatabaseDumps(Protocol):
    """Makes dumps of the application's databases that never touch a disk unencrypted."""

    def make(self, name: str, tables: Sequence[EncryptedTable], source: DumpSource | None = None) -> DatabaseCopy:
        """Dumps the whole database into an encrypted file in the local place, and counts `tables` in the same snapshot.

        Args:
            source: another database than the home's own.

        Raises:
            BackupError, OpenPGPError: pg_dump or gpg ended badly; nothing is left under `name`.
        """


class RecoveryKey(Protocol):
    """The private key that decrypts backups."""

    @property
    def label(self) -> str:
        """The key's fingerprint, shortened, or a substitute."""

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of its primary key; None: an agent or a card has it, which shows by decrypting."""

    def decrypt(self, name: str, message: bytes) -> bytes:
        """Decrypts a small message.

        Raises:
            WrongRecipientError, DamagedBackupError, RecoveryKeyError: each naming the file.
        """

    def decrypting(self, name: str, path: Path) -> AbstractContextManager[IO[bytes]]:
        """Decrypts a file of any size as a stream; authenticated only after the context ended without an error."""


@dataclass(frozen=True, slots=True)
class ReadRows:
    """One digest over all decrypted rows of a table, independent of their order.

    Args:
        values: decrypted.
        failures: values of our grammar that do not decrypt.
        digest: equal, within one restored dump, only for equal rows; it reveals nothing about them.
    """

    rows: int
    values: int
    failures: int
    digest: str


class RekeyableDump(Protocol):
    """A restored dump, to be re-encrypted under another key and dumped again."""

    def source(self, ring: KeyRing) -> DumpSource:
        """Returns what dumps it again; `ring` has every key that its values may be under."""

    def prepare(self) -> None:
        """Upgrades the schema `keyrotation` that the dump holds, as the engine needs it.

        Raises:
            PreflightError: it is of a newer version of this program.
        """

    def clean_up(self) -> None:
        """Removes what only the re-encryption needed, once nothing is searched any more."""

    def read(self, table: EncryptedTable, ring: KeyRing) -> ReadRows:
        """Reads every row whole and decrypts every value of the declared columns."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What became of a restored database with the owners, privileges and settings that the dump gives it.

    Args:
        differences: from the dump's catalogue, one phrase each, apart from what is left to a superuser.
        left_out: what only a superuser can restore, one phrase each.
        for_superuser: SQL that restores it, to be read before it is executed; empty if there is nothing.
        undumped: what the source had and the dump does not, one phrase each.
    """

    differences: tuple[str, ...]
    left_out: tuple[str, ...]
    for_superuser: str = field(repr=False)
    undumped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RestoredDump:
    """A dump restored into a separate database, which nobody else can use yet.

    Args:
        url: of the unprivileged role that restored it.
        content: everything in it, counted.
        failures: what pg_restore could not restore, one phrase each, without content.
        left_out: what was excluded from the restore, one phrase each.
        missing: the relations among these; they hold no rows.
        hand_over: finishes it, once, after everything was read: gives it owners, privileges and settings, compares its
            catalogue with the dump's, and lets in whom the source let in, unless something failed or differs. Its
            argument is called before the database stops being an unfinished one.
        server: the server it was restored into, in one plain phrase.
        warning: a warning about that server; None: nothing.
        rekeyable: None if the restore is read-only.
        system_identifier: of a scratch server, which no other cluster has; None: it is no scratch server.
    """

    inventory: TableInventory
    rewriting: TableRewriting
    content: DatabaseContent
    failures: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: frozenset[TableName]
    server: str
    warning: str | None
    rekeyable: RekeyableDump | None
    url: str = field(repr=False)
    hand_over: Callable[[Callable[[HandedOver], None]], HandedOver] = field(repr=False)
    system_identifier: str | None = None


class DumpRestorer(Protocol):
    """Restores dumps into throw-away servers and directories."""

    def workspace(self) -> AbstractContextManager[Path]:
        """Yields an empty private directory, wiped at the end; first wipes those that killed processes left."""

    def restored(
        self, dump: DatabaseCopy, file: Path, key: RecoveryKey, *, durable: bool = False
    ) -> AbstractContextManager[RestoredDump]:
        """Restores the dump in `file` into a scratch server, which is wiped when the context ends.

        SQL in the dump runs there as an unprivileged role.

        Args:
            durable: the server syncs to disk like a production one, so that durations can be measured there.

        Raises:
            DamagedBackupError, WrongRecipientError: the dump cannot be decrypted or restored.
            IncompleteRestoreError: no server on this host can take all of it; names what to install.
        """


class NewDatabases(Protocol):
    """Creates new databases on a server, such as the application's own."""

    def restored(
        self, database: str, dump: DatabaseCopy, file: Path, key: RecoveryKey
    ) -> AbstractContextManager[RestoredDump]:
        """Creates `database` and restores the dump in `file` into it; it stays if it was handed over.

        Else it is dropped, except after `LostRowsError`: then it stays closed to everybody but superusers until the
        next restore into the same name.

        Raises:
            RequestError: the name is taken or not valid.
            PreflightError: the role may not create databases or roles.
            DamagedBackupError, WrongRecipientError: the dump cannot be decrypted or restored.
            IncompleteRestoreError: the server cannot have such a database; says why.
            RestoreTimeoutError, RestoredQueryTimeoutError: SQL of the dump took too long.
        """
