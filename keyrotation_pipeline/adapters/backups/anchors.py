"""Stores outside the database the newest audit head and the roster, in the home, and reads what manifests name."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.audit.verify import read_anchor
from keyrotation_pipeline.backups.catalog import sets_of
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import AuditError, BackupError
from keyrotation_pipeline.model.approval import PinnedRoster
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.records import as_json, read

NAME = "audit-head.json"
ROSTER = "roster.json"


class FileAnchors:
    """`Anchors` in files.

    Args:
        directory: our own; holds the newest head and the newest roster that this home has seen.
        backups: the local directory of backups, whose manifests each name the head and the roster at the time of the
            backup.
    """

    def __init__(self, directory: Path, backups: Path, trust: ManifestTrust) -> None:
        self._directory = directory
        self._seals = trust
        self._own = BackupDirectory(directory)
        self._backups = BackupDirectory(backups)

    def heads(self) -> tuple[AuditHead, ...]:
        """See `Anchors.heads`; a damaged file yields none."""
        return kept_heads(self._own, self._backups)

    def roster(self) -> PinnedRoster | None:
        """See `Anchors.roster`."""
        if ROSTER not in self._own.names():
            return None
        try:
            return read(PinnedRoster, json.loads(self._own.read(ROSTER)))
        except (AuditError, ValueError, RecursionError):
            raise AuditError(
                f"{self._directory / ROSTER}, which says who may approve, is damaged; restore it from a backup, "
                "or remove it if the database's roster is right"
            ) from None

    def keep_roster(self, pinned: PinnedRoster) -> None:
        """See `Anchors.keep_roster`."""
        self._own.write(ROSTER, f"{json.dumps(as_json(pinned), indent=2)}\n".encode())

    def roster_digests(self) -> frozenset[str]:
        """See `Anchors.roster_digests`; a damaged manifest yields none."""
        return frozenset(made.roster for made in sets_of(self._backups, self._seals) if made.roster is not None)


def kept_heads(*places: BackupDirectory) -> tuple[AuditHead, ...]:
    """Returns every head that the files of these places name, in order of seq; a damaged file names none."""
    found = {head for place in places for head in _heads_in(place)}
    return tuple(sorted(found, key=lambda head: (head.seq, head.hash)))


def stored_head(directory: Path) -> AuditHead | None:
    """Returns the newest head that is stored in a home; None: there is none, or it is damaged."""
    return _head_in(BackupDirectory(directory), NAME)


def advance_head(directory: Path, head: AuditHead, replaces: Callable[[AuditHead], bool]) -> None:
    """Stores a head in the home, unless it does not replace the stored one: that is newer, or the audit lost it.

    Raises:
        BackupError: the operating system refuses.
    """
    with _alone(directory):
        known = _head_in(BackupDirectory(directory), NAME)
        if known is None or replaces(known):
            content = json.dumps({"audit": {"seq": head.seq, "head": head.hash}})
            BackupDirectory(directory).write(NAME, f"{content}\n".encode())


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BackupError(f"{directory} cannot be written ({error.strerror}); fix that and run it again") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _heads_in(place: BackupDirectory) -> Iterator[AuditHead]:
    for name in place.names():
        if name.endswith(".json") and (head := _head_in(place, name)) is not None:
            yield head


def _head_in(place: BackupDirectory, name: str) -> AuditHead | None:
    with suppress(AuditError, BackupError, UnicodeDecodeError):
        return read_anchor(place.read(name).decode())
    return None
