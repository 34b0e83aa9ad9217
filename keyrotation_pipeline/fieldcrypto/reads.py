"""Counts of failed reads and of reads under older key versions, by version and minute; and why a read failed."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion, version_named

MINUTE_SECONDS = 60
# Bounded: somebody who can store values must not be able to fill the application's memory or its report.
MINUTES_KEPT = 60
VERSIONS_KEPT = 16
NO_VERSION = "none"


@dataclass(frozen=True, slots=True)
class FailedRead:
    """Counts what could not be decrypted under one version.

    Args:
        version: such as v1; `NO_VERSION`: the value names none, or too many versions were seen.
        values: since this process began.
        last_at: seconds since the epoch, by the clock of this machine.
        by_minute: how many in each of the last minutes that had any, by the seconds since the epoch at its beginning.
    """

    version: str
    values: int
    last_at: float
    by_minute: Mapping[int, int]


@dataclass
class _Count:
    values: int = 0
    last_at: float = 0.0
    by_minute: Counter[int] = field(default_factory=Counter)


class FailedReads:
    """Counts failed reads of one process; safe between threads."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}
        self._counting = threading.Lock()

    def note(self, stored: str) -> None:
        """Counts one stored value that could not be decrypted; only the version that it names is stored."""
        now, version = time.time(), str(version_named(stored) or NO_VERSION)
        with self._counting:
            if version not in self._counts and len(self._counts) >= VERSIONS_KEPT:
                version = NO_VERSION
            count = self._counts.setdefault(version, _Count())
            count.values, count.last_at = count.values + 1, now
            count.by_minute[int(now) // MINUTE_SECONDS * MINUTE_SECONDS] += 1
            while len(count.by_minute) > MINUTES_KEPT:
                del count.by_minute[min(count.by_minute)]

    def by_version(self) -> tuple[FailedRead, ...]:
        """Returns the counts by version, in order."""
        with self._counting:
            return tuple(
                FailedRead(version, count.values, count.last_at, dict(count.by_minute))
                for version, count in sorted(self._counts.items())
            )


@dataclass(frozen=True, slots=True)
class OldRead:
    """Counts what was decrypted under one version while another was the primary.

    Args:
        values: since this process began.
        last_at: seconds since the epoch, by the clock of this machine.
    """

    version: KeyVersion
    values: int
    last_at: float


class OldReads:
    """Counts reads under older versions in one process; safe between threads."""

    def __init__(self) -> None:
        self._counts: dict[KeyVersion, tuple[int, float]] = {}
        self._counting = threading.Lock()

    def note(self, version: KeyVersion) -> None:
        """Counts one decrypted value."""
        now = time.time()
        with self._counting:
            values, _ = self._counts.get(version, (0, now))
            self._counts[version] = values + 1, now

    def by_version(self) -> tuple[OldRead, ...]:
        """Returns the counts by version, in order."""
        with self._counting:
            counts = dict(self._counts)
        return tuple(OldRead(version, *counts[version]) for version in sorted(counts))


class DefectKind(StrEnum):
    """What is wrong with a value; the quarantine stores these names."""

    NOT_A_VALUE = "not-a-value"
    UNKNOWN_VERSION = "unknown-version"
    NOT_AUTHENTIC = "not-authentic"
    UNKNOWN_KEY = "unknown-key"
    ENCRYPTED_TWICE = "encrypted-twice"
    SEVERAL_KEYS = "several-keys"
    CLOSED = "closed"
    NO_OLD_FORM = "no-old-form"


_MESSAGES = {
    DefectKind.NOT_A_VALUE: "not encrypted, or damaged: not of the form of an encrypted value",
    DefectKind.UNKNOWN_VERSION: "under key version {version}, which is not in the key ring",
    DefectKind.NOT_AUTHENTIC: "fails authentication under key version {version}",
    DefectKind.UNKNOWN_KEY: "damaged, under a key that is not in the key ring, or opened by several keys of it",
    DefectKind.ENCRYPTED_TWICE: (
        "encrypted twice: under key version {version} it decrypts to another encrypted value, which is what an "
        "application stores that could not decrypt; decrypt it once, and store that"
    ),
    DefectKind.SEVERAL_KEYS: (
        "opened by more than one key, which nobody stores by chance: it does not say which of its plaintexts is meant; "
        "find out who wrote it"
    ),
    DefectKind.CLOSED: (
        "neither encrypted under a key version nor opened by the key of the library that wrote it: damaged, under "
        "another key, or encrypted twice"
    ),
    DefectKind.NO_OLD_FORM: (
        "under key version {version} it decrypts to what its former form cannot hold: another encrypted value, or "
        "characters that are never stored in that form; store another text"
    ),
}


@dataclass(frozen=True, order=True, slots=True)
class Defect:
    """What is wrong with a value; `str()` gives the reason in words.

    Args:
        version: the key version that the value names, or is known to be under; None: there is none.
    """

    kind: DefectKind
    version: KeyVersion | None = None

    def __str__(self) -> str:
        return _MESSAGES[self.kind].format(version=self.version)


NOT_A_VALUE = Defect(DefectKind.NOT_A_VALUE)
CLOSED = Defect(DefectKind.CLOSED)
UNDER_NO_KEY = Defect(DefectKind.UNKNOWN_KEY)
