"""Where are the backups of keys and database, and do they restore?"""

from collections.abc import Sequence
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
    BackupStanding,
    DatabaseContent,
    DatabaseCopy,
    KeyBackup,
    KeyCopy,
    StoredFile,
    TableContent,
)
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.inventory import TableInventory
from keyrotation_pipeline.ports.rewriting import TableRewriting


class BackupVault(Protocol):
    """Encrypted copies of keys, outside the key store."""

    def store_key(self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead) -> KeyBackup:
        """Back up one key: a set of its own, in every place, whose manifest names the audit's head.

        Raises:
            BackupError, OpenPGPError: it is not safe in every place.
        """

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        """The newest backup of exactly this key that is, in every place, there with the hash that its manifest gives.

        Raises:
            BackupError: a place does not answer.
        """

    def standing(self, records: Sequence[KeyRecord]) -> BackupStanding:
        """The newest set of all these keys and the database that every place holds.

        Raises:
            BackupError: a place does not answer.
        """


class KeyFiles(Protocol):
    """Encrypted files of keys, in the local place."""

    def make(self, version: KeyVersion, material: KeyMaterial, stamp: str) -> KeyCopy:
        """Encrypt the base64 of one key to every recipient, write it durably and check what was written.

        Raises:
            BackupError, OpenPGPError: it cannot be encrypted or written; no file is left.
        """


class ConfigurationFiles(Protocol):
    """What an empty machine needs besides keys and database, in encrypted files in the local place."""

    def make(self, stamp: str) -> StoredFile:
        """Encrypt the configuration, which holds no secret, and the public certificates that it names.

        Raises:
            BackupError, OpenPGPError: one of them cannot be read, or it cannot be encrypted; no file is left.
        """


class Encryptor(Protocol):
    """Encryption to the recipients of backups, and to nobody else."""

    def recipients(self) -> tuple[str, ...]:
        """Primary-key fingerprints.

        Raises:
            ApprovalError: they are not those that the pinned roster names.
            OpenPGPError: a certificate cannot be read, or nothing can be encrypted to it.
        """

    def encrypt(self, plaintext: bytes) -> bytes:
        """The encrypted form of a few bytes.

        Raises:
            ApprovalError, OpenPGPError: as `recipients`, or gpg refuses.
        """

    def encrypting(self, plaintext: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
        """The encrypted form of a pipe or file, as a stream; complete only if the context ends well.

        Raises:
            ApprovalError, OpenPGPError: as `encrypt`.
        """

    def require_addressed(self, name: str, message: bytes) -> None:
        """Refuse a message that a recipient cannot read, or that somebody else can.

        Args:
            name: of its file, for the sentence.
            message: all of it, or its first 64 KiB.

        Raises:
            BackupError: names the file and the key.
        """


class ManifestSigner(Protocol):
    """The pipeline's own key, by which a backup is known to be ours."""

    @property
    def public(self) -> str:
        """Its public half: base64 of the SubjectPublicKeyInfo.

        Raises:
            BackupError: there is no key here.
        """

    def sign(self, manifest: bytes) -> bytes:
        """A detached signature; raises as `public`."""

    def verifies(self, public: str, manifest: bytes, signature: bytes) -> bool:
        """Whether a signature is over exactly this, by this key; needs no key here."""


class Anchors(Protocol):
    """What was written down outside the database: audit heads, by which one that was restored is known, and the roster.

    Whoever owns the database can write all of it anew, but not what is here.
    """

    def heads(self) -> tuple[AuditHead, ...]:
        """Every head that can be found, in order of seq."""

    def keep(self, head: AuditHead) -> None:
        """Write down the newest head.

        Raises:
            BackupError: the operating system refuses.
        """

    def roster(self) -> PinnedRoster | None:
        """The newest roster that was written down here; None: none was.

        Raises:
            AuditError: what is here is damaged.
        """

    def keep_roster(self, pinned: PinnedRoster) -> None:
        """Write down the newest roster, whole, in place of the one before.

        Raises:
            BackupError: the operating system refuses.
        """

    def roster_digests(self) -> frozenset[str]:
        """Digests of rosters that backups name."""


@dataclass(frozen=True, slots=True)
class DumpUnderWay:
    """A dump's stream in pg_dump's custom format, what was counted in its snapshot, and the server's major version."""

    stream: IO[bytes]
    tables: tuple[TableContent, ...]
    server_major: int
    content: DatabaseContent


class DumpSource(Protocol):
    """The application's database, dumped."""

    def dumping(self, tables: Sequence[EncryptedTable]) -> AbstractContextManager[DumpUnderWay]:
        """Dump the whole database, and count `tables` in the same snapshot; complete only if the context ends well.

        Raises:
            BackupError: pg_dump is missing, too old, or ends badly.
        """


class DatabaseDumps(Protocol):
    """Dumps of the application's database that never touch a disk unencrypted."""

    def make(self, name: str, tables: Sequence[EncryptedTable], source: DumpSource | None = None) -> DatabaseCopy:
        """Dump the whole database into an encrypted file in the local place, and count `tables` in the same snapshot.

        Args:
            source: another database than the application's.

        Raises:
            BackupError, OpenPGPError: pg_dump or gpg ended badly; nothing is left under `name`.
        """


class RecoveryKey(Protocol):
    """The private key that opens backups."""

    @property
    def label(self) -> str:
        """The key's fingerprint, shortened, or what stands in for it."""

    def decrypt(self, name: str, message: bytes) -> bytes:
        """What a small message says.

        Raises:
            WrongRecipientError, DamagedBackupError, RecoveryKeyError: each naming the file.
        """

    def decrypting(self, name: str, path: Path) -> AbstractContextManager[IO[bytes]]:
        """What a file of any size says, as a stream; only after the context ended well is it known to be authentic."""


@dataclass(frozen=True, slots=True)
class ReadRows:
    """What all rows of a table say, decrypted, in one number that no order of theirs changes.

    Args:
        values: decrypted.
        failures: values of our grammar that do not decrypt.
        digest: equal, within one restored dump, for equal rows only; it tells nothing of them.
    """

    rows: int
    values: int
    failures: int
    digest: str


class RekeyableDump(Protocol):
    """A dump restored for its rows to be brought under another key and dumped again."""

    @property
    def source(self) -> DumpSource:
        """What dumps it again."""

    def prepare(self) -> None:
        """Bring the schema `keyrotation` that the dump holds up to date, as the engine needs it.

        Raises:
            PreflightError: it is of a newer version of this program.
        """

    def read(self, table: EncryptedTable, ring: KeyRing) -> ReadRows:
        """Read every row whole and decrypt every value of the declared columns."""


@dataclass(frozen=True, slots=True)
class RestoredDump:
    """A dump restored into a database of its own.

    Args:
        url: of the role without power that restored it.
        content: everything in it, counted.
        failures: what pg_restore could not restore: a phrase each, without content.
        left_out: what it was told to leave out: a phrase each.
        server: into which it was restored, in one plain phrase.
        warning: what is to be said of that server; None: nothing.
        rekeyable: None where nothing but looking is meant.
    """

    inventory: TableInventory
    rewriting: TableRewriting
    content: DatabaseContent
    failures: tuple[str, ...]
    left_out: tuple[str, ...]
    server: str
    warning: str | None = None
    rekeyable: RekeyableDump | None = None
    url: str = field(default="", repr=False)


class DumpRestorer(Protocol):
    """Throw-away servers and directories."""

    def workspace(self) -> AbstractContextManager[Path]:
        """An empty private directory, wiped when the context ends, and those that a killed process left, before."""

    def restored(
        self, dump: DatabaseCopy, file: Path, key: RecoveryKey, *, durable: bool = False
    ) -> AbstractContextManager[RestoredDump]:
        """The dump, which lies in `file`, in a scratch server, which is wiped when the context ends.

        What the dump says runs there as a role without power.

        Args:
            durable: the server waits for its disk as one in use does, so that times can be taken there.

        Raises:
            DamagedBackupError, WrongRecipientError: the dump cannot be decrypted or restored.
            IncompleteRestoreError: no server on this host can take all of it; names what to install.
        """


class NewDatabases(Protocol):
    """New databases beside the application's own."""

    def restored(self, database: str, name: str, dump: Path, key: RecoveryKey) -> AbstractContextManager[RestoredDump]:
        """Create `database` and restore the dump into it; it stays when the context ends.

        Raises:
            RequestError: there is one of that name, or the name cannot be one.
            PreflightError: the role may not create databases.
            DamagedBackupError, WrongRecipientError: the dump cannot be decrypted or restored.
        """
