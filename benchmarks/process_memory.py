"""Peak memory and CPU time of a command and of every process that it starts."""

import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LOOK_SECONDS = 0.25


@dataclass(slots=True)
class Peaks:
    """What was seen while a command ran.

    Args:
        resident_kib: highest resident set of one process, by the program's name; shared pages count.
        together_kib: highest sum of all its processes, shared pages divided among those that share them (PSS).
        used_bytes: most that was in use on the disk besides what was before.
        cpu_seconds: user and system time of all its processes.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    resident_kib: dict[str, int] = field(default_factory=dict)
    together_kib: int = 0
    used_bytes: int = 0


def watched(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Peaks:
    """Run a command to its end.

    Args:
        directory: on the disk that is watched, and where the command runs.

    Raises:
        CalledProcessError: it ends badly.
    """
    peaks, free, begun, cpu = Peaks(), _free_bytes(directory), time.monotonic(), _cpu_seconds()
    with subprocess.Popen(command, env=environment, cwd=directory) as process:  # noqa: S603  arguments of our own
        while process.poll() is None:
            _look(process.pid, peaks)
            peaks.used_bytes = max(peaks.used_bytes, free - _free_bytes(directory))
            time.sleep(_LOOK_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    peaks.seconds, peaks.cpu_seconds = time.monotonic() - begun, _cpu_seconds() - cpu
    return peaks


def _cpu_seconds() -> float:
    """Of all children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _look(root: int, peaks: Peaks) -> None:
    together = 0
    for pid in _family(root):
        name, peak = _peak(pid)
        peaks.resident_kib[name] = max(peaks.resident_kib.get(name, 0), peak)
        together += _proportional(pid)
    peaks.together_kib = max(peaks.together_kib, together)


def _family(root: int) -> list[int]:
    """The process and all below it."""
    parents = {int(path.name): _parent(path) for path in Path("/proc").glob("[0-9]*")}
    found, new = [root], [root]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return 0


def _peak(pid: int) -> tuple[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return "", 0
    found = dict(line.partition(":")[::2] for line in lines)
    return found["Name"].strip(), int(found.get("VmHWM", "0 kB").split()[0])


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
