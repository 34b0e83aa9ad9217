"""Measures how long the server waits for a processor, where it runs on this machine."""

from collections import deque
from pathlib import Path
from statistics import median

# How many samples decide: a single one does not count.
_LOOKS = 3
_MOST_OF_ITS_TIME = 0.5
# With less to do than that between two samples, a share says nothing.
_LEAST_SECONDS = 0.02
_NANOSECONDS = 1e9


class ProcessorWaits:
    """Judges how busy the processors are by a process of the server that works for us.

    The application's sessions have its priority, so they wait as long; our own processes have a lower one. Where Linux
    does not say so, or the server is elsewhere, nothing is ever busy.

    Args:
        process: its id.

    Attributes:
        reason: one phrase while it waits most of its time; else empty.

    Source: proc(5), ``/proc/PID/schedstat``: nanoseconds on a processor, and on a run queue.
    """

    def __init__(self, process: int, proc: Path = Path("/proc")) -> None:
        self._file = proc / str(process) / "schedstat"
        self._recent: deque[float] = deque(maxlen=_LOOKS)
        self.reason = ""
        try:
            is_here = (proc / str(process) / "comm").read_text() == "postgres\n"
        except OSError:
            is_here = False
        self._before = self._read() if is_here else None

    def measure(self) -> None:
        """Takes one sample of what it did since the last one."""
        now = self._read() if self._before else None
        if self._before is None or now is None:
            return
        worked, waited = (after - before for before, after in zip(self._before, now, strict=True))
        if worked + waited < _LEAST_SECONDS:
            return
        self._before = now
        self._recent.append(waited / (worked + waited))
        share = median(self._recent)
        is_busy = len(self._recent) == _LOOKS and share > _MOST_OF_ITS_TIME
        # Rounded, so that what `status` says seldom changes.
        self.reason = f"the server waits for a processor {round(10 * share)}0% of its time" if is_busy else ""

    def _read(self) -> tuple[float, float] | None:
        """Returns the seconds in which it has worked, and waited for a processor; None: nobody knows."""
        try:
            worked, waited, *_ = self._file.read_text().split()
            return int(worked) / _NANOSECONDS, int(waited) / _NANOSECONDS
        except (OSError, ValueError):
            return None
