"""Where does a recovery write what it brings back, and where can a whole rotation be rehearsed on that?"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.ports.backup_places import LocalPlace
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class RestoredSet:
    """A set whose database was restored and read completely.

    Args:
        manifest: its manifest's name.
        database: name of the new database.
        rows: by table.
        values: how many decrypted, by table.
        undecryptable: a phrase per column and version with values that do not decrypt.
        unencrypted: how many values are not encrypted, by table; none that has none.
        failures: what could not be restored, or differs from the dump's catalogue; no row is missing.
        left_out: what only a superuser can restore.
        for_superuser: name of the file with SQL that does; None: there is nothing.
        undumped: what the lost database had and the dump does not.
    """

    manifest: str
    database: str
    rows: Mapping[str, int]
    values: Mapping[str, int]
    undecryptable: tuple[str, ...] = ()
    unencrypted: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    for_superuser: str | None = None
    undumped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WrittenFiles:
    """What became of the configuration.

    Args:
        written: names of files that are new.
        kept: a phrase for each file that was there and differs from the backup's; it stays as it is.
        to_provide: a phrase for each variable and file that the configuration names and that is not here.
    """

    written: tuple[str, ...]
    kept: tuple[str, ...]
    to_provide: tuple[str, ...]


class RecoveredHome(Protocol):
    """The directory that a recovery fills: configuration, home and key store. What is there stays."""

    @property
    def is_new(self) -> bool:
        """Whether this recovery makes the home; otherwise there is one that has not been lost, which stays."""

    @property
    def holds_keys(self) -> bool:
        """Whether the key store is in files here, so that the recovery fills it. Only after `read_configuration`."""

    def workspace(self) -> AbstractContextManager[LocalPlace]:
        """Yields an empty private place, wiped at the end; what a killed process left is wiped first.

        Raises:
            HomeError: the operating system refuses, or another recovery is under way here.
        """

    def read_configuration(self, name: str, packed: bytes, *, sealed: bool) -> None:
        """Checks the configuration that is here, or else that of the backup, without writing anything.

        Args:
            name: of the backup's file, for the sentence.
            packed: its decrypted content.
            sealed: whether the backup's keys are; if not, a seal that cannot be used is left out.

        Raises:
            DamagedBackupError: it holds something else than a configuration.
            ConfigurationError: the configuration that is used here is wrong.
        """

    @property
    def restored(self) -> RestoredSet | None:
        """The set that an earlier, unfinished recovery restored here."""

    def note_restored(self, done: RestoredSet, for_superuser: str) -> None:
        """Stores durably that a set is restored, until `finish`, and the SQL in the file for a superuser."""

    def write_configuration(self) -> WrittenFiles:
        """Writes the configuration that was read, and its certificates; never over another file."""

    def opened(self, anchor: AuditHead) -> AbstractContextManager[Pipeline]:
        """Makes home, signing key and key store, and opens every port on the new database.

        Args:
            anchor: the audit's head that the manifest names, which the home stores as known.

        Raises:
            As `open_pipeline`.
        """

    def finish(self, shown: Mapping[str, Any]) -> None:
        """Stores what was shown at the end in place of what `note_restored` stored."""


@dataclass(frozen=True, slots=True)
class RehearsalStage:
    """A separate pipeline over a restored database, and officers who sign whatever is rehearsed.

    Args:
        sign: returns as many detached signatures over a text as a request needs.
    """

    pipeline: Pipeline
    sign: Callable[[bytes], tuple[bytes, ...]]


class Stages(Protocol):
    """Opens rehearsal stages."""

    def opened(self, urls: Mapping[str, str], ring: KeyRing) -> AbstractContextManager[RehearsalStage]:
        """Yields a stage over restored databases; nothing of it remains when the context ends.

        Their own requests and keys are dropped: the stage starts with `ring` and an empty ledger. Keys are held in
        memory only.

        Args:
            urls: by member of a fleet, "" for the home's own; other members are no part of the stage.

        Raises:
            HomeError: this machine has no in-memory file system.
        """

    def plainly(self) -> AbstractContextManager[None]:
        """Converts whatever the database refuses inside to a RehearsalError that names the error, without content."""
