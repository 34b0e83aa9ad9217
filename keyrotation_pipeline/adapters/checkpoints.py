"""Stores the checkpoint of the audit in a file of the home."""

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from keyrotation_pipeline.audit.checkpoint import Checkpoint
from keyrotation_pipeline.ports.clock import Clock

# After this the audit is replayed from its first event again: only a full replay notices that an old event without
# effect was replaced.
_KEPT_FOR = timedelta(days=1)


class FileCheckpoints:
    """`Checkpoints` in a file; an unreadable one counts as none, and a failed write is ignored."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def load(self) -> Checkpoint | None:
        """See `Checkpoints.load`."""
        try:
            kept_at = datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
            is_recent = timedelta(0) <= self._clock.now() - kept_at < _KEPT_FOR
            return Checkpoint.decode(self._path.read_bytes()) if is_recent else None
        except OSError:
            return None

    def keep(self, checkpoint: Checkpoint) -> None:
        """See `Checkpoints.keep`."""
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            unfinished.write_bytes(checkpoint.encode())
            unfinished.replace(self._path)
