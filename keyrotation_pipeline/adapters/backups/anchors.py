"""Audit heads outside the database: what the home keeps after each step, and what the manifests of backups name."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.audit.chain import read_anchor
from keyrotation_pipeline.errors import AuditError, BackupError
from keyrotation_pipeline.model.audit import AuditHead

NAME = "audit-head.json"


class KeptAnchors:
    """`Anchors` in files.

    Args:
        directory: of our own; holds the newest head that this home has seen.
        backups: the local directory of backups, whose manifests each name the head of their moment.
    """

    def __init__(self, directory: Path, backups: Path) -> None:
        self._own = BackupDirectory(directory)
        self._backups = BackupDirectory(backups)

    def heads(self) -> tuple[AuditHead, ...]:
        """See `Anchors.heads`; a damaged file vouches for nothing."""
        found = {*_heads_in(self._own), *_heads_in(self._backups)}
        return tuple(sorted(found, key=lambda head: (head.seq, head.hash)))

    def keep(self, head: AuditHead) -> None:
        """See `Anchors.keep`."""
        content = json.dumps({"audit": {"seq": head.seq, "head": head.hash}})
        self._own.write(NAME, f"{content}\n".encode())


def _heads_in(place: BackupDirectory) -> Iterator[AuditHead]:
    for name in place.names():
        if name.endswith(".json"):
            with suppress(AuditError, BackupError, UnicodeDecodeError):
                yield read_anchor(place.read(name).decode())
