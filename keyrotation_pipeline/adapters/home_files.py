"""Stores small records in files of the home: the audit's checkpoint, and the last heartbeats.

Heartbeats are those of sensors and schedules. A record that cannot be read counts as none.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from keyrotation_pipeline.audit.history import Checkpoint
from keyrotation_pipeline.model.status import Heartbeat
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.regular_files import read_bytes, read_text

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
            return Checkpoint.decode(read_bytes(self._path)) if is_recent else None
        except OSError:
            return None

    def keep(self, checkpoint: Checkpoint) -> None:
        """See `Checkpoints.keep`."""
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            unfinished.write_bytes(checkpoint.encode())
            unfinished.replace(self._path)


class FileHeartbeats:
    """`Heartbeats` in a directory; a file that cannot be read counts as none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def record(
        self,
        name: str,
        at: datetime,
        stopped: Iterable[str] = (),
        expected: Iterable[str] = (),
        gone: Iterable[str] = (),
    ) -> None:
        """See `Heartbeats.record`."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for each in gone:
            self._path(each).unlink(missing_ok=True)
        before = _read(self._path(name))
        since = dict(before.stopped) if before is not None else {}
        for each in expected:
            if each in since or _read(self._path(each)) is None:
                self._write(Heartbeat(each, at, {}))
        self._write(Heartbeat(name, at, {each: since.get(each, at) for each in stopped}))

    def forget(self, name: str) -> None:
        """Deletes its heartbeat: once Dagster has been stopped, it proves nothing."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _write(self, tick: Heartbeat) -> None:
        stopped = {each: since.isoformat() for each, since in tick.stopped.items()}
        unfinished = self._directory / f".{tick.name}.{os.getpid()}"
        unfinished.write_text(json.dumps({"at": tick.at.isoformat(), "stopped": stopped}), encoding="utf-8")
        unfinished.replace(self._path(tick.name))

    def last(self) -> tuple[Heartbeat, ...]:
        """See `Heartbeats.last`."""
        found = (_read(path) for path in sorted(self._directory.glob("[!.]*.json")))
        return tuple(tick for tick in found if tick is not None)


def _read(path: Path) -> Heartbeat | None:
    try:
        content = json.loads(read_text(path))
        stopped = {str(name): datetime.fromisoformat(since) for name, since in content["stopped"].items()}
        return Heartbeat(path.stem, datetime.fromisoformat(content["at"]), stopped)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
