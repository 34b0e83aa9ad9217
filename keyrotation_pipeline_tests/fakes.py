"""In-memory ports for tests of the procedure: small, honest about transactions, and able to die at any change.

`fake_pipeline()` wires them together: v1 is live and primary in a key store that has also v2, one table of two
encrypted columns, one application instance. Every change is noted in one shared `Journal`, which can be told to die
before its n-th entry, as a killed process would.
"""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
import copy
import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from keyrotation_pipeline.adapters.keystores import changes
from keyrotation_pipeline.assembly.actions import ACTIONS
from keyrotation_pipeline.assurance.seals import Seals
from keyrotation_pipeline.audit.events import require_indexed
from keyrotation_pipeline.errors import (
    ApprovalError,
    AuditError,
    BlockedError,
    FenceError,
    InvalidKeyError,
    KeyStoreDamagedError,
    KeyStoreError,
    KeyStoreUnavailableError,
    OutOfOrderError,
    PreflightError,
    ProofError,
    RequestError,
)
from keyrotation_pipeline.fieldcrypto.defect import NOT_A_VALUE, Defect, DefectKind
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion, looks_encrypted
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Officer, PinnedRoster, Roster, Signature, VerifiedSignature
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, body_of, hash_of
from keyrotation_pipeline.model.backups import BackupStanding, KeyBackup
from keyrotation_pipeline.model.blind_spots import NEVER_SEARCHED, BlindSpots
from keyrotation_pipeline.model.certificates import CertificateStanding
from keyrotation_pipeline.model.columns import (
    EncryptedTable,
    Finding,
    OldRows,
    QuarantinedValue,
    Shard,
    TableCount,
    TableName,
)
from keyrotation_pipeline.model.database import DatabaseIdentity, Problem
from keyrotation_pipeline.model.events import EventKind, Fact, Note
from keyrotation_pipeline.model.incident import Flag
from keyrotation_pipeline.model.instances import Instance
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyStateChanged
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, KeyRecord, KeyState
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten, ShardProgress, Wait
from keyrotation_pipeline.model.proof import AccountedReplica, DecryptedCount, Moment, ZeroOldRows
from keyrotation_pipeline.model.request import (
    MAY_FOLLOW,
    Request,
    RequestAction,
    RequestStatus,
    RotationType,
    StepRecord,
    Walk,
)
from keyrotation_pipeline.model.request_events import (
    Blocked,
    PromotionRecorded,
    RequestOpened,
    RosterPinned,
    RotationAuditWritten,
    SignatureAdded,
    StatusChanged,
    StepFinished,
    Unblocked,
)
from keyrotation_pipeline.model.rollout import Goal, RolloutMode
from keyrotation_pipeline.model.stored_keys import DamagedKey, StoredKeys
from keyrotation_pipeline.model.ticks import Tick
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.clock import Clock, attempts
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.rollout import Lacking, Told
from keyrotation_pipeline.requests.approvals import approval_text

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)
CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name", "email"))


class ProcessKilled(BaseException):
    """What a fake raises where a test lets the process die: no `except Exception` catches it, as none stops SIGKILL."""


@dataclass
class Journal:
    """Every change that any fake made, in order; dies before change number `die_at` (counted from 0)."""

    entries: list[str] = field(default_factory=list)
    die_at: int | None = None

    def note(self, entry: str) -> None:
        if self.die_at is not None and len(self.entries) >= self.die_at:
            raise ProcessKilled(entry)
        self.entries.append(entry)


@dataclass
class FakeClock:
    """`Clock` that stands still until it is told to move."""

    at: datetime = START

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass
class FakeKeyStore:
    """`KeyStore` in two dictionaries. Each move of a key is two changes, between which it can die.

    A test may leave the revision out, and then means the present one.

    Args:
        unavailable, damaged: what every call then says.
        broken: live versions whose entry is not a key.
        sent: what a writer that died had sent.
        reads: how often the store was read.
    """

    live: dict[KeyVersion, KeyMaterial]
    primary_version: KeyVersion | None
    journal: Journal = field(default_factory=Journal)
    shelf: dict[KeyVersion, KeyMaterial] = field(default_factory=dict)
    description: str = "fake key store"
    keeps: str | None = None
    unavailable: str | None = None
    damaged: str | None = None
    broken: set[KeyVersion] = field(default_factory=set)
    sent: dict[KeyVersion, KeyMaterial] = field(default_factory=dict)
    reads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> StoredKeys:
        self.reads += 1
        return self._stored()

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_adding(stored, version, material, decided):
                self.journal.note(f"keys.add {version}")
                self.live[version] = material
        return self._stored()

    def set_primary(self, version: KeyVersion, revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_promoting(stored, version, decided):
                self.journal.note(f"keys.set_primary {version}")
                self.primary_version = version
        return self._stored()

    def archive(self, version: KeyVersion, revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_archiving(stored, version, decided):
                self.journal.note(f"keys.archive {version}")
                self._move(version, self.live, self.shelf)
        return self._stored()

    def restore(self, version: KeyVersion, revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_restoring(stored, version, decided) or version in self.shelf:
                self.journal.note(f"keys.restore {version}")
                self._move(version, self.shelf, self.live)
        return self._stored()

    def destroy(self, version: KeyVersion, revision: str | None = None) -> StoredKeys:
        with self._changing(revision) as (stored, decided):
            if changes.needs_destroying(stored, version, decided):
                self.journal.note(f"keys.destroy {version}")
                del self.shelf[version]
        return self._stored()

    @contextmanager
    def _changing(self, revision: str | None) -> Iterator[tuple[StoredKeys, str]]:
        with self.lock:
            stored = self._stored()
            yield stored, revision or stored.revision

    def _move(
        self, version: KeyVersion, source: dict[KeyVersion, KeyMaterial], target: dict[KeyVersion, KeyMaterial]
    ) -> None:
        target[version] = source[version]
        self.journal.note(f"keys.move {version}")
        del source[version]

    def _stored(self) -> StoredKeys:
        if self.unavailable is not None:
            raise KeyStoreUnavailableError(self.unavailable)
        if self.damaged is not None:
            raise KeyStoreDamagedError(self.damaged)
        broken = {version: DamagedKey(f"{version} is not a key; restore it") for version in self.broken}
        return StoredKeys.of({**self.live, **broken}, self.shelf, self.primary_version, pending=self.sent)

    def __reduce__(self) -> tuple[Callable[[int], "FakeKeyStore"], tuple[int]]:
        # What travels is how to find it: this process keeps every fake that was pickled.
        _PICKLED[id(self)] = self
        return _pickled, (id(self),)

    # For tests: what is in it, without a read that would count.
    def versions(self) -> tuple[KeyVersion, ...]:
        return tuple(self._stored().live)

    def archived(self) -> tuple[KeyVersion, ...]:
        return tuple(self._stored().archived)

    def primary(self) -> KeyVersion | None:
        return self.primary_version

    def get(self, version: KeyVersion) -> KeyMaterial:
        return self._stored().material(version)


_PICKLED: dict[int, FakeKeyStore] = {}


def _pickled(number: int) -> FakeKeyStore:
    return _PICKLED[number]


@dataclass
class FakeVault:
    """`BackupVault` that keeps manifests only."""

    backups: dict[KeyVersion, KeyBackup] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    stands: BackupStanding = field(default_factory=lambda: BackupStanding(START, "backup-20260105-090000.json"))

    def store_key(self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead) -> KeyBackup:
        self.journal.note(f"vault.store_key {version}")
        backup = KeyBackup(f"{version}.key.pgp", version, "ab" * 32, material.fingerprint, ("F" * 40,), START)
        self.backups[version] = backup
        return backup

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        backup = self.backups.get(version)
        return backup if backup is not None and backup.fingerprint == fingerprint else None

    def standing(self, records: Sequence[KeyRecord]) -> BackupStanding:
        return self.stands


@dataclass
class FakeAnchors:
    """`Anchors`: the newest one kept, and others that a test writes down."""

    written: list[AuditHead] = field(default_factory=list)
    kept: AuditHead | None = None
    kept_roster: PinnedRoster | None = None
    digests: frozenset[str] = frozenset()
    is_damaged: bool = False

    def heads(self) -> tuple[AuditHead, ...]:
        found = {*self.written, *([self.kept] if self.kept else [])}
        return tuple(sorted(found, key=lambda head: (head.seq, head.hash)))

    def keep(self, head: AuditHead) -> None:
        self.kept = head

    def roster(self) -> PinnedRoster | None:
        if self.is_damaged:
            raise AuditError("the roster that was kept is damaged; put it back from a backup")
        return self.kept_roster

    def keep_roster(self, pinned: PinnedRoster) -> None:
        self.kept_roster = pinned

    def roster_digests(self) -> frozenset[str]:
        return self.digests


@dataclass
class FakeSignatures:
    """`SignatureVerifier` that takes ``b"signed by <fingerprint>: " + text`` for a signature.

    Args:
        revoked: fingerprints of revoked certificates.
        expired: since when certificates are, by fingerprint.
        lone_officer_allowed: a roster may ask for one signature only.
    """

    configured: Roster
    signed_at: datetime = START
    revoked: set[str] = field(default_factory=set)
    expired: dict[str, datetime] = field(default_factory=dict)
    lone_officer_allowed: bool = True
    standings: tuple[CertificateStanding, ...] = ()

    def verify(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime | None = None
    ) -> VerifiedSignature:
        for officer in officers:
            if signature == self.sign(officer.fingerprint, text):
                self._require_valid(officer, at)
                return VerifiedSignature(officer.fingerprint, self.signed_at)
        raise ApprovalError("the signature is not over this text; sign what `keyrotation approve --text` prints")

    @staticmethod
    def sign(fingerprint: str, text: bytes) -> bytes:
        return f"signed by {fingerprint}: ".encode() + text

    def roster(self) -> Roster:
        officers, required = self.configured.officers, self.configured.required
        for officer in officers:
            self._require_valid(officer, None)
        if len({officer.fingerprint for officer in officers}) < len(officers):
            raise ApprovalError("two officers have the same certificate; give each one of their own")
        if required < (1 if self.lone_officer_allowed else 2):
            raise ApprovalError(f"[approvals] required is {required}; two people must agree, so set it to 2 or more")
        if len(officers) < required:
            raise ApprovalError(f"{required} approvals are required of {len(officers)} officer(s); name more")
        return self.configured

    def _require_valid(self, officer: Officer, at: datetime | None) -> None:
        if officer.fingerprint in self.revoked:
            raise ApprovalError(f"the certificate of {officer.name} is revoked; name a new one")
        since = self.expired.get(officer.fingerprint)
        if since is not None and (at is None or at >= since):
            raise ApprovalError(f"the certificate of {officer.name} has expired; extend it")

    def certificates(self) -> tuple[CertificateStanding, ...]:
        return self.standings


@dataclass
class FakeSigner:
    """`ManifestSigner` whose signature names key and text."""

    public: str = "public"

    def sign(self, manifest: bytes) -> bytes:
        return f"{self.public} signed ".encode() + manifest

    def verifies(self, public: str, manifest: bytes, signature: bytes) -> bool:
        return signature == f"{public} signed ".encode() + manifest


def fake_seals(ledger: Ledger, signatures: SignatureVerifier, clock: Clock | None = None) -> Seals:
    """Seals of a pipeline that has pinned its key; without a clock no set is of the future."""
    seals = Seals(FakeSigner(), ledger, signatures, clock or FakeClock(START.replace(year=2100)))
    seals.pin()
    return seals


@dataclass
class FakeRollout:
    """`Rollout` whose instances a test sets; with none set, one instance that uses what the key store gives it.

    Args:
        running: what is reported, instead of following the key store.
        meanwhile: what happens at each pause of a wait.
    """

    keys: FakeKeyStore
    clock: FakeClock
    running: tuple[Instance, ...] | None = None
    mode: RolloutMode = RolloutMode.ATTEST
    timeout_seconds: float = 0.0
    problems: tuple[Problem, ...] = ()
    workloads: tuple[str, ...] = ()
    meanwhile: Callable[[], None] = lambda: None

    def preflight(self, target: KeyVersion) -> tuple[Problem, ...]:
        return self.problems

    def waiting(self) -> Mapping[str, str]:
        return {}

    def instances(self) -> tuple[Instance, ...]:
        if self.running is not None:
            return self.running
        primary, reads = self.keys.primary_version, tuple(sorted(self.keys.live))
        return () if primary is None else (Instance("web-1", reads, primary, self.clock.at),)

    def bring(self, goal: Goal, lacking: Lacking, report: Told) -> tuple[Instance, ...]:
        patience = 0.0 if self.mode is RolloutMode.CONFIRM else self.timeout_seconds
        for waited in attempts(self.clock, pause_seconds=1, patience_seconds=patience):
            if waited:
                self.meanwhile()
            instances = self.instances()
            sentence = lacking(instances)
            there = sum(goal.met_by(each) for each in instances if not each.silent)
            report(there, len(instances), sentence or "")
            if sentence is None:
                return instances
        raise BlockedError(sentence)


@dataclass
class FakeDatabase:
    """`CiphertextDatabase` over lists of rows. A cell is ``"v1:text"``, ``""``, None, or anything else (unencrypted).

    It passes the same contract suite as PostgreSQL. What is unencrypted or `unreadable` is in quarantine at once.

    Args:
        locked: (table, row number) of rows that no sweep gets hold of.
        unreadable: (table, row number, column) of values that do not decrypt.
        fence_state: what each table's validated fence names.
        fence_made: the transaction id that made each fence.
        stale: rows counted as written since promotion.
        writes: rows that each table's statistics name as written.
    """

    rows: dict[str, list[dict[str, str | None]]]
    journal: Journal = field(default_factory=Journal)
    locked: set[tuple[str, int]] = field(default_factory=set)
    unreadable: set[tuple[str, int, str]] = field(default_factory=set)
    fence_state: dict[str, tuple[KeyVersion, ...]] = field(default_factory=dict)
    fence_made: dict[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    problems: tuple[Problem, ...] = ()
    holders: list[tuple[str, ...]] = field(default_factory=list)
    connected: tuple[str, ...] = ()
    stale: int = 0
    writes: int = 0
    xid: int = 1000
    decrypted: list[str] = field(default_factory=list)
    unseen: BlindSpots = field(default_factory=lambda: BlindSpots(NEVER_SEARCHED))
    replicas: tuple[AccountedReplica, ...] = ()
    proven_with: list[Moment] = field(default_factory=list)

    def identity(self) -> DatabaseIdentity:
        return DatabaseIdentity("clinic@localhost", "7000000000000000001")

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        return self.problems

    def count(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        return tuple(self._count(table) for table in tables)

    def _count(self, table: EncryptedTable) -> TableCount:
        by_column: dict[str, dict[KeyVersion, int]] = {column: {} for column in table.columns}
        totals: dict[KeyVersion, int] = {}
        for _, column, value in self._cells(table):
            version = version_of(value)
            if version is not None:
                by_column[column][version] = by_column[column].get(version, 0) + 1
                totals[version] = totals.get(version, 0) + 1
        unencrypted = Counter(column for _, column, value in self._cells(table) if is_unencrypted(value))
        near_misses = sum(is_unencrypted(value) and looks_encrypted(value or "") for _, _, value in self._cells(table))
        empty = sum(value == "" for _, _, value in self._cells(table))
        return TableCount(
            table, len(self.rows[str(table.name)]), totals, empty, unencrypted.total(), near_misses,
            len(self.quarantine([table])), self.fences(table), START, by_column, dict(unencrypted),
        )  # fmt: skip

    def _cells(self, table: EncryptedTable) -> Iterator[tuple[int, str, str | None]]:
        for number, row in enumerate(self.rows[str(table.name)]):
            for column in table.columns:
                yield number, column, row.get(column)

    def discover(self, tables: Sequence[EncryptedTable]) -> tuple[Finding, ...]:
        return self.findings

    def blind_spots(self) -> BlindSpots:
        return self.unseen

    def rewrite_shard(self, request: str, shard: Shard, ring: KeyRing, target: KeyVersion, report: Report) -> Rewritten:
        total = len(self.rows[str(shard.table.name)])
        share = range(total * shard.index // shard.of, total * (shard.index + 1) // shard.of)
        return self._rewrite(shard.table, target, share, f"shard {shard.index} of {shard.of}, {shard.table.name}")

    def sweep(self, request: str, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, wait: bool) -> Rewritten:
        every = range(len(self.rows[str(table.name)]))
        return self._rewrite(table, target, every, f"sweep {table.name}{' waiting' if wait else ''}")

    def _rewrite(self, table: EncryptedTable, target: KeyVersion, share: range, entry: str) -> Rewritten:
        for problem in self.problems:
            if problem.fatal:
                raise PreflightError(problem.sentence)
        self.journal.note(entry)
        name = str(table.name)
        done, skipped, quarantined = list[int](), set[int](), 0
        for number, column, value in self._cells(table):
            if number not in share or value in {None, ""} or version_of(value) == target:
                continue
            if (name, number) in self.locked:
                skipped.add(number)
            elif (name, number, column) in self.unreadable or is_unencrypted(value):
                quarantined += 1
            else:
                self.rows[name][number][column] = target.prefix + str(value).partition(":")[2]
                done.append(number)
        return Rewritten(len(set(done)), len(done), len(skipped), quarantined)

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        rows = {number for number, _, value in self._cells(table) if version_of(value) in versions}
        return OldRows(len(rows), min(self.stale, len(rows)))

    def written_rows(self, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
        return {str(table.name): self.writes for table in tables}

    def quarantine(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        return tuple(
            QuarantinedValue(
                table.name,
                f"id={number}",
                column,
                NOT_A_VALUE if is_unencrypted(value) else Defect(DefectKind.NOT_AUTHENTIC, version_of(value)),
            )
            for table in tables
            for number, column, value in self._cells(table)
            if (str(table.name), number, column) in self.unreadable or is_unencrypted(value)
        )

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report) -> DecryptedCount:
        name = str(table.name)
        self.decrypted.append(name)
        values = sum(bool(value) for _, _, value in self._cells(table))
        return DecryptedCount(name, len(self.rows[name]), values, len(self.quarantine([table])))

    def sample(self, table: EncryptedTable, version: KeyVersion, values: int) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for _, column, value in self._cells(table):
            if value is not None and version_of(value) == version and len(found.get(column, ())) < values:
                found[column] = (*found.get(column, ()), value)
        return found

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> None:
        if self.fences(table) == tuple(sorted(versions)):
            return
        if self.old_rows(table, versions, None).rows:
            raise ProofError(f"table {table.name} still holds old values; run it again")
        self.journal.note(f"fence {table.name} {', '.join(map(str, versions))}")
        self._make_fence(table, versions)

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        before = self.fences(table)
        if version in before:
            self.journal.note(f"unfence {table.name} {version}")
            self._make_fence(table, [each for each in before if each != version])

    def _make_fence(self, table: EncryptedTable, versions: Sequence[KeyVersion]) -> None:
        self.fence_state[str(table.name)] = tuple(sorted(versions))
        self.fence_made[str(table.name)] = self.xid

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        return self.fence_state.get(str(table.name), ())

    def sessions(self, table: EncryptedTable) -> tuple[str, ...]:
        return self.connected

    def barrier(self) -> str:
        return f"0/{self.xid:X}"

    def holders_of_old_snapshots(self, moment: Moment) -> tuple[str, ...]:
        """The next of the prepared answers, the last one for ever; none prepared: nobody."""
        if not self.holders:
            return ()
        return self.holders.pop(0) if len(self.holders) > 1 else self.holders[0]

    def current_xid(self) -> int:
        self.xid += 1
        return self.xid

    def zero_old_rows(
        self, tables: Sequence[EncryptedTable], version: KeyVersion, retired: Sequence[KeyVersion], moment: Moment
    ) -> ZeroOldRows:
        self.proven_with.append(moment)
        versions = {*retired, version}
        for table in tables:
            for _, column, value in self._cells(table):
                if version_of(value) in versions:
                    raise FenceError(f"table {table.name}, column {column}: a value is still under {version_of(value)}")
                if is_unencrypted(value):
                    raise ProofError(f"table {table.name}, column {column}: 1 value(s) are not encrypted; look again")
        for table in tables:
            if missing := sorted(versions - set(self.fences(table))):
                raise FenceError(f"table {table.name} is not fenced against {missing[0]}; run it again")
            if self.fence_made.get(str(table.name), 0) >= moment.xid:
                raise FenceError(f"the fence of table {table.name} was made anew after the proof; run it again")
        for entry in self.quarantine(tables):
            raise ProofError(f"table {entry.table}, column {entry.column}: 1 value(s) are in quarantine; mend them")
        if any(finding.blocks(retired) for finding in self.findings):
            raise ProofError("something is left; look at `keyrotation inventory`")
        if found := self.holders_of_old_snapshots(moment):
            raise BlockedError("; ".join(found))
        values = sum(sum(count.values_by_version.values()) for count in self.count(tables))
        names = tuple(str(table.name) for table in tables)
        return ZeroOldRows(version, names, 0, values, moment.lsn, START, self.replicas)


def version_of(value: str | None) -> KeyVersion | None:
    """The version that a fake cell names, None for NULL, empty and unencrypted ones, near-misses among them."""
    head, colon, _ = (value or "").partition(":")
    try:
        return KeyVersion.parse(head) if colon else None
    except InvalidKeyError:
        return None


def is_unencrypted(value: str | None) -> bool:
    """Whether a fake cell holds something that is not encrypted."""
    return bool(value) and version_of(value) is None


@dataclass
class LedgerState:
    """What a transaction of the fake ledger rolls back."""

    events: list[AuditEvent] = field(default_factory=list)
    keys: dict[KeyVersion, KeyRecord] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, list[Signature]] = field(default_factory=dict)
    counts: dict[str, TableCount] = field(default_factory=dict)
    roster: Roster | None = None
    seed_rows: dict[str, tuple[int, datetime | None]] = field(default_factory=dict)
    audit_rows: dict[str | None, RotationAuditWritten] = field(default_factory=dict)


@dataclass
class FakeLedger:
    """`Ledger` in memory, with real transactions (a failure or a death inside undoes all) and a real hash chain."""

    clock: FakeClock = field(default_factory=FakeClock)
    journal: Journal = field(default_factory=Journal)
    state: LedgerState = field(default_factory=LedgerState)
    depth: int = 0
    locks: set[str] = field(default_factory=set)
    flags: list[Flag] = field(default_factory=list)
    noted_waits: dict[tuple[str, str], Wait] = field(default_factory=dict)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.depth += 1
        try:
            with self._at_once():
                yield
                if self.depth == 1:
                    self.journal.note("commit")
        finally:
            self.depth -= 1

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        before = copy.copy(self.state)
        for name in ("events", "keys", "requests", "texts", "signatures", "counts", "seed_rows", "audit_rows"):
            setattr(before, name, copy.copy(getattr(self.state, name)))
        try:
            yield
        except BaseException:
            self.state = before
            raise

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        if name in self.locks:
            raise BlockedError(f"{name} is locked by another process; wait for it")
        self.locks.add(name)
        try:
            yield
        finally:
            self.locks.discard(name)

    def head(self) -> AuditHead:
        return (
            AuditHead(self.state.events[-1].seq, self.state.events[-1].hash)
            if self.state.events
            else AuditHead(0, GENESIS)
        )

    def append(self, fact: Fact | Note, request: str | None = None) -> AuditHead:
        self.journal.note(f"event {fact.kind}")
        head = self.head()
        body = body_of(
            seq=head.seq + 1, at=self.clock.now(), actor="test", database="clinic@localhost",
            request=request, event=fact.kind, facts=fact.as_json(),
        )  # fmt: skip
        event = AuditEvent(head.seq + 1, body, head.hash, hash_of(head.hash, body), fact.kind, request)
        self.state.events.append(event)
        return self.head()

    def events(self, *kinds: EventKind, request: str | None = None, after_seq: int = 0) -> Iterator[AuditEvent]:
        for event in list(self.state.events):
            if event.seq > after_seq and (not kinds or event.kind in kinds) and request in {None, event.request}:
                if kinds or request is not None:
                    require_indexed(event)
                yield event

    def begin_with(self, roster: Roster | None, *keys: KeyRecord) -> None:
        """For arrangements: forget all, then pin a roster and register keys, as `init` does; nothing is noted."""
        noted, self.journal = self.journal, Journal()
        self.state = LedgerState()
        if roster is not None:
            self.pin_roster(roster)
        for record in keys:
            self.add_key(record, None)
        self.journal = noted

    def event_names(self) -> list[str]:
        """For assertions: the names of the events, in order."""
        return [json.loads(event.body)["event"] for event in self.state.events]

    def facts_of(self, name: str) -> dict[str, Any]:
        """For assertions: the facts of the newest event of that name."""
        found = [json.loads(event.body) for event in self.state.events]
        return dict(next(each["facts"] for each in reversed(found) if each["event"] == name))

    def pinned_roster(self) -> Roster | None:
        return self.state.roster

    def pin_roster(self, roster: Roster, request: str | None = None) -> None:
        if self.state.roster == roster:
            return
        if self.state.roster is not None and request is None:
            raise ApprovalError("another roster is pinned; run `keyrotation policy`")
        self.append(RosterPinned.of(roster), request)
        self.state.roster = roster

    def keys(self) -> tuple[KeyRecord, ...]:
        return tuple(self.state.keys[version] for version in sorted(self.state.keys))

    def add_key(self, record: KeyRecord, request: str | None) -> None:
        known = self.state.keys.get(record.version)
        if known is not None:
            if known.fingerprint != record.fingerprint:
                raise KeyStoreError(f"{record.version} is registered with another fingerprint; use the next version")
            return
        self.append(KeyRegistered.of(record), request)
        self.state.keys[record.version] = record

    def set_key_state(self, version: KeyVersion, state: KeyState, request: str | None) -> None:
        if (record := self.state.keys.get(version)) is None:
            raise RequestError(f"{version} is not registered; run `keyrotation init`")
        if record.state is state:
            return
        if state not in ALLOWED_TRANSITIONS[record.state]:
            raise OutOfOrderError(f"{version} is {record.state} and cannot become {state}; see `keyrotation status`")
        if state is KeyState.ACTIVE and any(each.state is state for each in self.keys()):
            raise OutOfOrderError("another version is still active; deactivate it first")
        self.append(KeyStateChanged(version, record.state, state, record.fingerprint), request)
        self.state.keys[version] = replace(record, state=state)

    def open(self, request: Request, text: bytes) -> None:
        if any(self._excludes(each, request) for each in self.state.requests.values()):
            raise RequestError("another rotation is unfinished; finish or cancel it")
        self.append(RequestOpened.of(request, text), request.id)
        self.state.requests[request.id] = request
        self.state.texts[request.id] = text

    def _excludes(self, other: Request, request: Request) -> bool:
        """Whether both cannot be unfinished at once."""
        if other.is_over or other.action.walks != request.action.walks:
            return False
        if request.action.walks:
            both_wait = other.waits_to_supersede and request.waits_to_supersede
            return other.waits_to_supersede == request.waits_to_supersede and (
                not both_wait or other.type is request.type
            )
        return other.action is request.action and request.action is not RequestAction.DESTROY

    def request(self, request: str) -> Request:
        found = [stored for each, stored in self.state.requests.items() if each.startswith(request)]
        if len(found) != 1:
            raise RequestError(f"there is no rotation {request}; look at `keyrotation status`")
        return found[0]

    def walk(self, request: str) -> Walk:
        found = self.request(request)
        if not isinstance(found, Walk):
            raise RequestError(f"request {request} is no rotation; run `keyrotation {found.action}`")
        return found

    def current(self) -> Walk | None:
        return next((each for each in self._unfinished() if not each.waits_to_supersede), None)

    def waiting(self) -> Walk | None:
        waiting = [each for each in self._unfinished() if each.waits_to_supersede]
        return min(waiting, key=lambda each: each.type is not RotationType.EMERGENCY, default=None)

    def _unfinished(self) -> list[Walk]:
        return [each for each in self.state.requests.values() if isinstance(each, Walk) and not each.is_over]

    def requests(self) -> tuple[Request, ...]:
        return tuple(reversed(self.state.requests.values()))

    def signed_heads(self) -> tuple[AuditHead, ...]:
        return tuple(AuditHead(*each.audit_head) for each in self.state.requests.values())

    def approval_text(self, request: str) -> bytes:
        if request not in self.state.texts:
            raise RequestError(f"there is no rotation {request}; look at `keyrotation status`")
        return self.state.texts[request]

    def signatures(self, request: str) -> tuple[Signature, ...]:
        return tuple(self.state.signatures.get(request, ()))

    def add_signature(self, request: str, signature: Signature) -> None:
        stored = self.signatures(self.request(request).id)
        if any(each.officer == signature.officer for each in stored):
            raise ApprovalError("this officer has signed already; another officer must")
        self.append(SignatureAdded.of(signature), request)
        self.state.signatures[request] = [*stored, signature]
        self._change(request, approvals=tuple(each.officer for each in [*stored, signature]))

    def finish_step(self, request: str, record: StepRecord) -> None:
        rotation = self.walk(request)
        if rotation.done(record.step, record.table, record.shard) is None:
            with self._at_once():
                self.block(request, None)
                self.append(StepFinished.of(record), request)
                self._change(request, steps=(*rotation.steps, record))

    def set_status(self, request: str, status: RequestStatus, by: str | None = None) -> None:
        stored, now = self.request(request), self.clock.now()
        if status is stored.status:
            return
        if status not in MAY_FOLLOW[stored.status]:
            raise OutOfOrderError(f"request {request} is {stored.status} and cannot become {status}; see its status")
        self.append(StatusChanged(stored.status, status, now, by), request)
        self._change(
            request,
            status=status,
            started_at=stored.started_at or (now if status is RequestStatus.RUNNING else None),
            finished_at=now if status in {RequestStatus.FINISHED, RequestStatus.CANCELLED} else None,
        )

    def set_promotion(self, request: str, xid: int) -> None:
        if self.walk(request).promotion_xid is None:
            self.append(PromotionRecorded(xid), request)
            self._change(request, promotion_xid=xid)

    def block(self, request: str, sentence: str | None) -> None:
        if self.request(request).blocked_by != sentence:
            self.append(Unblocked() if sentence is None else Blocked(sentence), request)
            self._change(request, blocked_by=sentence)

    def _change(self, request: str, **changes: Any) -> None:  # noqa: ANN401 - fields of a request
        stored = self.request(request)
        self.state.requests[stored.id] = replace(stored, **changes)

    def shard_progress(self, request: str) -> tuple[ShardProgress, ...]:
        return ()

    def raised_flags(self, taken: Collection[str]) -> tuple[Flag, ...]:
        return tuple(flag for flag in self.flags if flag.key not in taken)

    def note_wait(self, request: str, place: str, waiting_for: str) -> None:
        before = self.noted_waits.get((request, place))
        self.noted_waits[request, place] = Wait(place, waiting_for, before.since if before else self.clock.now())

    def end_wait(self, request: str, place: str) -> None:
        self.noted_waits.pop((request, place), None)

    def waits(self, request: str) -> tuple[Wait, ...]:
        return tuple(wait for (each, _), wait in self.noted_waits.items() if each == request)

    def save_counts(self, counts: Sequence[TableCount]) -> None:
        before = {name: replace(count, counted_at=START) for name, count in self.state.counts.items()}
        changed = [
            str(each.table.name)
            for each in counts
            if before.get(str(each.table.name)) != replace(each, counted_at=START)
        ]
        if changed:
            self.append(Note(EventKind.COUNTED, {"tables": changed}))
        self.state.counts.update({str(count.table.name): count for count in counts})

    def counts(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        kept = (self.state.counts.get(str(table.name)) for table in tables)
        return tuple(count for count in kept if count is not None and count.table in tables)

    def rotation_audit(self) -> tuple[tuple[str | None, RotationAuditWritten], ...]:
        return tuple(self.state.audit_rows.items())

    def write_rotation_audit(self, rotation: Walk, records_reencrypted: int, completed_at: datetime | None) -> None:
        if self.state.seed_rows.get(rotation.id, (0, None))[1] is not None:
            return
        written = RotationAuditWritten(
            rotation.id, rotation.started_at or self.clock.now(), str(rotation.source), str(rotation.target),
            str(rotation.action if rotation.action == "rollback" else rotation.type), rotation.requested_by,
            completed_at, records_reencrypted, rotation.reason,
        )  # fmt: skip
        self.append(written, rotation.id)
        self.state.audit_rows[rotation.id] = written
        self.state.seed_rows[rotation.id] = (records_reencrypted, completed_at)


@dataclass
class FakeWorld:
    """The fakes behind one `Pipeline`, each by its own type, for a test to arrange and to look at."""

    pipeline: Pipeline
    journal: Journal
    clock: FakeClock
    ledger: FakeLedger
    database: FakeDatabase
    keys: FakeKeyStore
    vault: FakeVault
    rollout: FakeRollout
    signatures: FakeSignatures
    anchors: FakeAnchors
    reported: list[Progress]

    def report(self, progress: Progress) -> None:
        self.reported.append(progress)

    def keys_are(self, states: Mapping[KeyVersion, KeyState]) -> None:
        """Before anything was requested: the ledger knows these versions, with the keys of the key store."""
        records = (KeyRecord(each, state, self.keys.get(each).fingerprint, START) for each, state in states.items())
        self.ledger.begin_with(self.ledger.pinned_roster(), *records)


ROSTER = Roster(2, (Officer("Ada", "A" * 40), Officer("Ben", "B" * 40)), ("F" * 40,))


def rotation_of(world: FakeWorld, source: KeyVersion = V1, target: KeyVersion = V2, *, promoted: bool = True) -> Walk:
    """The running rotation of a world, signed by both officers and promoted already, as its ledger holds it."""
    if (running := world.ledger.current()) is not None:
        return running
    head = world.ledger.head()
    opened = Walk(
        id="0f" * 16, type=RotationType.ROUTINE, action=RequestAction.ROTATE, source=source,
        source_fingerprint=world.ledger.state.keys[source].fingerprint, target=target, reason="yearly", incident=None,
        requested_by="test", requested_at=START, start_by=START + timedelta(days=7),
        finish_by=START + timedelta(days=60), audit_head=(head.seq, head.hash), status=RequestStatus.REQUESTED,
        approvals=(),
    )  # fmt: skip
    noted, world.ledger.journal = world.ledger.journal, Journal()
    text = approval_text(world.pipeline, opened)
    world.ledger.open(opened, text)
    for officer in ROSTER.officers:
        signature = FakeSignatures.sign(officer.fingerprint, text)
        world.ledger.add_signature(opened.id, Signature(officer.fingerprint, signature, START))
    world.ledger.set_status(opened.id, RequestStatus.RUNNING)
    if promoted:
        world.ledger.set_promotion(opened.id, 900)
    world.ledger.journal = noted
    return world.ledger.walk(opened.id)


class FakeTicks:
    """`Ticks` in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Tick] = {}

    def record(self, sensor: str, at: datetime, stopped: Iterable[str]) -> None:
        before = self.kept[sensor].stopped if sensor in self.kept else {}
        self.kept[sensor] = Tick(sensor, at, {name: before.get(name, at) for name in stopped})

    def last(self) -> tuple[Tick, ...]:
        return tuple(self.kept[sensor] for sensor in sorted(self.kept))


def fake_pipeline(rows: Mapping[str, Sequence[Mapping[str, str | None]]] | None = None) -> FakeWorld:
    """A world in which v1 is deactivated, v2 active and primary, both registered and backed up, rows as given."""
    journal, clock = Journal(), FakeClock()
    keys = FakeKeyStore({V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}, V2, journal)
    ledger = FakeLedger(clock, journal)
    vault = FakeVault()
    for version in keys.live:
        vault.store_key(version, keys.get(version), ledger.head())
    vault.journal = journal
    stored = {name: [dict(row) for row in table] for name, table in (rows or {"clients": []}).items()}
    database = FakeDatabase(stored, journal)
    rollout = FakeRollout(keys, clock)
    signatures, anchors = FakeSignatures(ROSTER), FakeAnchors()
    tables = tuple(EncryptedTable(TableName.parse(name), CLIENTS.columns) for name in stored)
    pipeline = Pipeline(
        tables, 2, ledger, database, keys, vault, rollout, signatures, clock, anchors, ACTIONS, FakeTicks()
    )
    world = FakeWorld(pipeline, journal, clock, ledger, database, keys, vault, rollout, signatures, anchors, [])
    ledger.state.roster = ROSTER
    world.keys_are({V1: KeyState.DEACTIVATED, V2: KeyState.ACTIVE})
    return world
