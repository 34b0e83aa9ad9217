"""What the procedure needs of the world, as protocols. Each adapter passes the suite of its port in `contract/`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Roster, Signature
from keyrotation_pipeline.model.audit import AuditEvent, AuditHead
from keyrotation_pipeline.model.columns import EncryptedTable, Finding, QuarantinedValue, Shard, TableCount
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.proof import DecryptedCount, ZeroOldRows
from keyrotation_pipeline.model.rotation import Rotation, RotationStatus, Step, StepRecord


class Clock(Protocol):
    """The one source of time."""

    def now(self) -> datetime:
        """The current instant, aware, UTC; it jumps when somebody sets the clock."""

    def monotonic(self) -> float:
        """Seconds that only grow, from anywhere: for how long something takes or is waited for."""


class KeyStore(Protocol):
    """Where keys live: what applications get (`ring`), and the archive that they do not get."""

    @property
    def description(self) -> str:
        """The store in one plain line, as approvals name it; no secret in it."""

    def ring(self) -> KeyRing:
        """Every live key and the primary, read afresh."""

    def versions(self) -> tuple[KeyVersion, ...]:
        """Live versions, in order."""

    def archived(self) -> tuple[KeyVersion, ...]:
        """Archived versions, in order."""

    def primary(self) -> KeyVersion | None:
        """The version that writes use."""

    def get(self, version: KeyVersion) -> KeyMaterial:
        """A live or archived key, read afresh.

        Raises:
            KeyStoreError: there is none, or what is there is not a key.
        """

    def add(self, version: KeyVersion, material: KeyMaterial) -> None:
        """Store a live key. The same key again is no change.

        Raises:
            KeyStoreError: a different key is stored under this version, live or archived.
        """

    def set_primary(self, version: KeyVersion) -> None:
        """Name the version that writes use; it must be live."""

    def archive(self, version: KeyVersion) -> None:
        """Take a key from the applications and keep it in the archive; again is no change; never the primary."""

    def restore(self, version: KeyVersion) -> None:
        """Give an archived key to the applications again; again is no change."""

    def destroy(self, version: KeyVersion) -> None:
        """Remove a key from the archive for good; one that is not in the store is no change.

        Raises:
            KeyStoreError: the version is live or the primary; the key is then still there.
        """


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


class BackupVault(Protocol):
    """Encrypted copies of keys, outside the key store."""

    def store_key(
        self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead, made_at: datetime | None = None
    ) -> KeyBackup:
        """Encrypt the base64 of one key to every recipient, write it durably and check what was written.

        `made_at` names the file where it is one of a set; else it is now.
        """

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        """The newest backup of exactly this key whose file is there with the hash that the manifest gives."""


class Anchors(Protocol):
    """Audit heads that were written down outside the database, by which one that was restored is known."""

    def heads(self) -> tuple[AuditHead, ...]:
        """Every head that can be found, in order of seq."""

    def keep(self, head: AuditHead) -> None:
        """Write down the newest head.

        Raises:
            BackupError: the operating system refuses.
        """


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """A good signature: who (primary-key fingerprint) and when (seconds precision)."""

    officer: str
    signed_at: datetime


class SignatureVerifier(Protocol):
    """Checks OpenPGP signatures against the certificates of the roster, as they stand now."""

    def verify(self, text: bytes, signature: bytes) -> VerifiedSignature:
        """Check one detached signature.

        Raises:
            ApprovalError: bad, over another text, or by an unknown, expired or revoked certificate; each its sentence.
        """

    def roster(self) -> Roster:
        """The roster that the configuration names, read from the certificates.

        Raises:
            ApprovalError: one certificate under two names, an expired or revoked one, fewer officers than required.
        """


@dataclass(frozen=True, slots=True)
class Instance:
    """One application instance as it last reported itself."""

    name: str
    reads: tuple[KeyVersion, ...]
    writes: KeyVersion
    reported_at: datetime


class Rollout(Protocol):
    """How applications come by the keys, and how each is seen to have them."""

    def instances(self) -> tuple[Instance, ...]:
        """Every instance that is alive, terminating ones too."""

    def wait_for(
        self, description: str, settled: Callable[[Sequence[Instance]], Sequence[str]]
    ) -> tuple[Instance, ...]:
        """Wait until `settled` names no instance that lags; give back the instances.

        Raises:
            BlockedError: the time-out passed; names the instances and `description`.
        """


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """The database that is talked to: ``name@host`` without a password, and the cluster's system identifier."""

    name: str
    system_identifier: str

    def __str__(self) -> str:
        return f"{self.name}, system identifier {self.system_identifier}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What the pre-flight found: `fatal` ones stop the rotation, the others warn. One sentence that says what to do."""

    sentence: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a long step is. `total` 0: not known yet."""

    step: Step
    subject: str
    done: int
    total: int
    unit: str = "rows"
    note: str = ""


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What one walk or sweep did. `skipped` rows were moved or locked by others and are left to the next sweep."""

    rows: int = 0
    values: int = 0
    skipped: int = 0
    quarantined: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Rewritten") -> "Rewritten":
        return Rewritten(
            self.rows + other.rows,
            self.values + other.values,
            self.skipped + other.skipped,
            self.quarantined + other.quarantined,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class OldRows:
    """What a sweep still found: rows with old values, and how many of them were written since promotion."""

    rows: int
    written_since_promotion: int


class CiphertextDatabase(Protocol):
    """The application's database: the encrypted columns and everything that could hold their values."""

    def identity(self) -> DatabaseIdentity:
        """Which database this is."""

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        """What stops, or should be known before, a rotation of these tables to `target`."""

    def count(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """Count values per version, unencrypted, near-misses, and quarantined ones, anew."""

    def discover(self, tables: Sequence[EncryptedTable]) -> tuple[Finding, ...]:
        """Scan every undeclared column of every user relation that can hold text for values of our grammar."""

    def rewrite_shard(self, request: str, shard: Shard, ring: KeyRing, target: KeyVersion, report: Report) -> Rewritten:
        """Walk one shard by page ranges from where it was left, and re-encrypt to `target` what is not."""

    def sweep(self, request: str, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, wait: bool) -> Rewritten:
        """Walk a whole table for what was skipped; `wait`: one row a transaction, waiting briefly for its lock."""

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """Rows that hold any value under `versions`, in any declared column."""

    def written_rows(self, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
        """Rows inserted and updated in each table, by its name, since the server's statistics began."""

    def quarantine(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        """Values that would not decrypt and are still as they were (entries mended meanwhile are dropped)."""

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report) -> DecryptedCount:
        """Decrypt every value of a table with `ring`, keeping nothing; failures go to the quarantine."""

    def sample(self, table: EncryptedTable, version: KeyVersion, values: int) -> Mapping[str, tuple[str, ...]]:
        """Up to so many stored values of each declared column under `version`, from all over the table, by column."""

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> None:
        """Make the table refuse exactly these versions on every declared column, and validate that.

        Raises:
            BlockedError: the lock was not to be had without queueing; names who holds it.
            ProofError: validation found an old value; the fence is dropped again.
        """

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        """Let the table take values under `version` again (a rollback); again is no change."""

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        """The versions that the table's validated and intact fence refuses on every declared column."""

    def sessions(self, table: EncryptedTable) -> tuple[str, ...]:
        """Who holds a lock on `table` now, else every other session of the database: one phrase each."""

    def barrier(self) -> str:
        """The current WAL position, as text: everything committed so far lies before it."""

    def holders_of_old_snapshots(self, xid: int, lsn: str) -> tuple[str, ...]:
        """Who could still show a value replaced before `xid` / `lsn`: one sentence each.

        Sessions (backend_xmin), prepared transactions, replication slots, standbys and subscribers.
        """

    def current_xid(self) -> int:
        """A full transaction id later than every committed one (`pg_current_xact_id()`)."""

    def zero_old_rows(
        self, tables: Sequence[EncryptedTable], version: KeyVersion, retired: Sequence[KeyVersion], xid: int, lsn: str
    ) -> ZeroOldRows:
        """Take the evidence of invariant 4 inside the ledger's running transaction, failing closed.

        `retired` are all versions that the fences must name, `version` among them.

        Raises:
            ProofError, BlockedError: a piece is missing; names table, column and count, or the holder.
        """


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """Where one shard's walk is: pages of its relations, rows rewritten."""

    table: str
    shard: int
    done_pages: int
    total_pages: int
    rows: int
    rows_per_second: float


class Ledger(Protocol):
    """Rotations, approvals, key records and the audit chain: the pipeline's own memory, in the same database.

    Every method that changes something appends its audit event in the same transaction.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """Everything recorded and proven inside commits together or not at all."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold a session lock that dies with the process.

        Raises:
            BlockedError: another process holds it.
        """

    # audit
    def head(self) -> AuditHead:
        """The newest event."""

    def append(self, event: str, facts: Mapping[str, Any], request: str | None = None) -> AuditHead:
        """Append one event."""

    def events(self) -> Iterator[AuditEvent]:
        """Every event in order of seq."""

    # roster
    def pinned_roster(self) -> Roster | None:
        """The roster pinned by `init` (or by a later policy action)."""

    def pin_roster(self, roster: Roster) -> None:
        """Pin the first roster; refuses to replace one."""

    # keys
    def keys(self) -> tuple[KeyRecord, ...]:
        """Every version ever registered, in order."""

    def add_key(self, record: KeyRecord, request: str | None) -> None:
        """Register a version; the same again is no change; a different fingerprint is refused."""

    def set_key_state(self, version: KeyVersion, state: KeyState, request: str | None) -> None:
        """Move a version to a state that may follow its present one; the same state again is no change."""

    # rotations
    def open(self, rotation: Rotation, text: bytes) -> None:
        """Store a new request and the exact bytes to sign; refused while another is unfinished.

        One that supersedes another may wait beside that.
        """

    def rotation(self, request: str) -> Rotation:
        """One rotation by its id (or an unambiguous beginning of it).

        Raises:
            RequestError: there is none.
        """

    def current(self) -> Rotation | None:
        """The unfinished rotation or rollback, if any; not one that only waits to supersede another."""

    def waiting(self) -> Rotation | None:
        """The rotation or rollback that waits for its start, to undo another or to take it over, if any."""

    def rotations(self) -> tuple[Rotation, ...]:
        """All, newest first."""

    def approval_text(self, request: str) -> bytes:
        """The exact bytes that officers sign."""

    def signatures(self, request: str) -> tuple[Signature, ...]:
        """The stored signatures."""

    def add_signature(self, request: str, signature: Signature) -> None:
        """Store one officer's signature; a second by the same officer is refused."""

    def finish_step(self, request: str, record: StepRecord) -> None:
        """Record a finished step or shard; again is no change."""

    def set_status(self, request: str, status: RotationStatus, facts: Mapping[str, Any] | None = None) -> None:
        """Change where the rotation stands as a whole."""

    def set_promotion(self, request: str, xid: int) -> None:
        """Record the transaction id of the promotion, once."""

    def block(self, request: str, sentence: str | None) -> None:
        """Record what stopped the last attempt, or that nothing does."""

    def shard_progress(self, request: str) -> tuple[ShardProgress, ...]:
        """Where the walks of a rotation are."""

    # counts
    def save_counts(self, counts: Sequence[TableCount]) -> None:
        """Keep the last counts for `status`."""

    def counts(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """The last counts kept, for those tables that have been counted."""

    # the seed's table
    def write_rotation_audit(self, rotation: Rotation, records_reencrypted: int, completed_at: datetime | None) -> None:
        """Insert or complete the row of `key_rotation_audit` for this rotation."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The opened ports and the rules of the configuration: what every step gets."""

    tables: tuple[EncryptedTable, ...]
    shards: int
    ledger: Ledger
    database: CiphertextDatabase
    keys: KeyStore
    vault: BackupVault
    rollout: Rollout
    signatures: SignatureVerifier
    clock: Clock
    anchors: Anchors
