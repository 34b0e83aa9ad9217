"""How often values of older key versions are still decrypted: counts and times by version, never content."""

import threading
import time
from dataclasses import dataclass

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion


@dataclass(frozen=True, slots=True)
class OldRead:
    """What was decrypted under one version while another was the primary.

    Args:
        values: since this process began.
        last_at: seconds since the epoch, by the clock of this machine.
    """

    version: KeyVersion
    values: int
    last_at: float


class OldReads:
    """The counts of one process; safe between threads."""

    def __init__(self) -> None:
        self._counts: dict[KeyVersion, tuple[int, float]] = {}
        self._counting = threading.Lock()

    def note(self, version: KeyVersion) -> None:
        """One value was decrypted."""
        now = time.time()
        with self._counting:
            values, _ = self._counts.get(version, (0, now))
            self._counts[version] = values + 1, now

    def so_far(self) -> tuple[OldRead, ...]:
        """The counts by version, in order."""
        with self._counting:
            counts = dict(self._counts)
        return tuple(OldRead(version, *counts[version]) for version in sorted(counts))
