"""The last look of every sensor: a small file each, in the home."""

import json
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from keyrotation_pipeline.model.ticks import Tick


class FileTicks:
    """`Ticks` in a directory; a file that cannot be read counts as none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def record(self, sensor: str, at: datetime, stopped: Iterable[str]) -> None:
        """See `Ticks.record`."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._directory / f"{sensor}.json"
        before = _read(path)
        since = dict(before.stopped) if before is not None else {}
        content = {"at": at.isoformat(), "stopped": {name: since.get(name, at).isoformat() for name in stopped}}
        unfinished = path.with_name(f".{sensor}.{os.getpid()}")
        unfinished.write_text(json.dumps(content), encoding="utf-8")
        unfinished.replace(path)

    def last(self) -> tuple[Tick, ...]:
        """See `Ticks.last`."""
        found = (_read(path) for path in sorted(self._directory.glob("[!.]*.json")))
        return tuple(tick for tick in found if tick is not None)


def _read(path: Path) -> Tick | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stopped = {str(name): datetime.fromisoformat(since) for name, since in content["stopped"].items()}
        return Tick(path.stem, datetime.fromisoformat(content["at"]), stopped)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
