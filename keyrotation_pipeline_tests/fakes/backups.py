"""Backups, anchors and trusted manifests in memory."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import AuditError, BackupError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
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
    configuration_name,
    key_file_name,
)
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.backup_places import LocalPlace
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline_tests.fakes.clock import FakeClock
from keyrotation_pipeline_tests.fakes.journal import START, Journal

PIPELINE = "efa1f375"
DEFINITION = DatabaseDefinition("UTF8", "builtin", "C", "C", "C.UTF-8")


@dataclass
class FakeVault:
    """`BackupVault` that keeps manifests only."""

    backups: dict[KeyVersion, KeyBackup] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    stands: BackupStatus = field(
        default_factory=lambda: BackupStatus(START, "backup-20260105-090000-efa1f375.json", places=("here", "s3"))
    )

    def store_key(self, version: KeyVersion, material: KeyMaterial, anchor: AuditHead) -> KeyBackup:
        self.journal.note(f"vault.store_key {version}")
        backup = KeyBackup(f"{version}.key.pgp", version, "ab" * 32, material.fingerprint, ("F" * 40,), START)
        self.backups[version] = backup
        return backup

    def key_backup(self, version: KeyVersion, fingerprint: str) -> KeyBackup | None:
        backup = self.backups.get(version)
        return backup if backup is not None and backup.fingerprint == fingerprint else None

    def status(self, records: Sequence[KeyRecord]) -> BackupStatus:
        return self.stands


@dataclass
class FakeFiles:
    """`KeyFiles`, `DatabaseDumps` and `ConfigurationFiles` whose files are what they are called.

    Args:
        failures: sentences of why the next dumps fail.
    """

    place: LocalPlace
    failures: list[str] = field(default_factory=list)

    def key(self, version: KeyVersion, material: KeyMaterial, stamp: str) -> KeyCopy:
        return KeyCopy(version, material.fingerprint, self.file(key_file_name(version, stamp)))

    def dump(self, name: str, tables: Sequence[EncryptedTable]) -> DatabaseCopy:
        if self.failures:
            raise BackupError(self.failures[0])
        return DatabaseCopy(self.file(name), (), 18, DatabaseContent((), 0), DEFINITION)

    def configuration(self, stamp: str) -> StoredFile:
        return self.file(configuration_name(stamp))

    def file(self, name: str) -> StoredFile:
        content = f"encrypted {name}".encode()
        self.place.write(name, content)
        return StoredFile(name, hashlib.sha256(content).hexdigest(), len(content), ("F" * 40,))


@dataclass
class Making:
    """One of the three ports of `FakeFiles`, each of which calls it `make`."""

    make: Callable[..., Any]


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

    def advance(self, head: AuditHead, replaces: Callable[[AuditHead], bool]) -> None:
        if self.kept is None or replaces(self.kept):
            self.kept = head

    def roster(self) -> PinnedRoster | None:
        if self.is_damaged:
            raise AuditError("the roster that was stored is damaged; restore it from a backup")
        return self.kept_roster

    def keep_roster(self, pinned: PinnedRoster) -> None:
        self.kept_roster = pinned

    def roster_digests(self) -> frozenset[str]:
        return self.digests


@dataclass
class FakeSigner:
    """`ManifestSigner` whose signature names key and text."""

    public: str = "cHVibGlj"  # base64, as a real one is; its fingerprint begins with `PIPELINE`

    def sign(self, manifest: bytes) -> bytes:
        return f"{self.public} signed ".encode() + manifest

    def verifies(self, public: str, manifest: bytes, signature: bytes) -> bool:
        return signature == f"{public} signed ".encode() + manifest


def fake_manifest_trust(ledger: Ledger, signatures: SignatureVerifier, clock: Clock | None = None) -> ManifestTrust:
    """ManifestTrust of a pipeline that has pinned its key; without a clock no set is of the future."""
    trust = ManifestTrust(FakeSigner(), ledger, signatures, clock or FakeClock(START.replace(year=2100)))
    trust.pin()
    return trust
