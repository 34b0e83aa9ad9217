"""What the audit says of backups, where it is read back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

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


@dataclass(frozen=True, slots=True)
class BackupIncomplete(Fact):
    """A backup ended without some of what belongs into it; `failures` has a sentence for each.

    Args:
        manifest: of what was made all the same; None: nothing was.
        files: what was made, by name, with the SHA-256.
    """

    kind: ClassVar = EventKind.BACKUP_INCOMPLETE
    manifest: Annotated[str | None, Field(alias="set")]
    failures: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    places: tuple[str, ...] = ()
