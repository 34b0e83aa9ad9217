"""Key states of NIST SP 800-57 Part 1, and which may follow which."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.facts import Version


class KeyState(StrEnum):
    """State of one key version."""

    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    ARCHIVED = "archived"
    DESTROYED = "destroyed"
    COMPROMISED = "compromised"


# To deactivated also from pre-activation and archived: where a database was restored to an earlier state, its rows may
# be under a version that is neither primary nor, in the key store, still live.
ALLOWED_TRANSITIONS: dict[KeyState, frozenset[KeyState]] = {
    KeyState.PRE_ACTIVATION: frozenset(
        {KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.ARCHIVED, KeyState.COMPROMISED}
    ),
    KeyState.ACTIVE: frozenset({KeyState.DEACTIVATED, KeyState.COMPROMISED}),
    # A rollback makes an earlier version primary again.
    KeyState.DEACTIVATED: frozenset({KeyState.ARCHIVED, KeyState.ACTIVE, KeyState.COMPROMISED}),
    KeyState.ARCHIVED: frozenset({KeyState.DESTROYED, KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.COMPROMISED}),
    KeyState.COMPROMISED: frozenset({KeyState.DESTROYED}),
    KeyState.DESTROYED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class KeyMade:
    """What the step `key_version` leaves behind: a key that reads back, and its backup.

    Args:
        from_archive: it was used before, and came back from the archive of the key store.
    """

    version: Version
    fingerprint: str
    backup: str
    backup_sha256: str
    recipients: tuple[str, ...]
    from_archive: bool = False


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the pipeline knows of a key version: never the key.

    Args:
        fingerprint: 64 hex digits, SHA-256 over a fixed label and the key; shown as its first 16.
    """

    version: KeyVersion
    state: KeyState
    fingerprint: str
    created_at: datetime
