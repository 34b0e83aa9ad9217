"""What the audit says of backups, where it is read back."""

from dataclasses import dataclass
from typing import ClassVar

from keyrotation_pipeline.model.events import EventKind, Fact


@dataclass(frozen=True, slots=True)
class BackupKeyPinned(Fact):
    """Manifests that verify by this public key are ours: base64 of its SubjectPublicKeyInfo (RFC 8410)."""

    kind: ClassVar = EventKind.BACKUP_KEY_PINNED
    public: str


@dataclass(frozen=True, slots=True)
class BackupSealed(Fact):
    """A manifest was signed and written: its name, the SHA-256 of its bytes, and whether its set has a dump."""

    kind: ClassVar = EventKind.BACKUP_SEALED
    manifest: str
    sha256: str
    has_dump: bool
