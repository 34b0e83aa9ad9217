"""CPU time of a server, from /proc."""

import os
import platform
from pathlib import Path

import psycopg

_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat after the name: the parent, and user and system time of its own and of ended children.
_PARENT, _OWN, _WITH_CHILDREN = 1, slice(11, 13), slice(11, 15)


def server_cpu_seconds(postmaster: int) -> float:
    """CPU seconds of a server so far: all its processes, those that have ended too."""
    ticks = sum(map(int, _stat(postmaster)[_WITH_CHILDREN]))
    for path in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(path.name))
        if fields and int(fields[_PARENT]) == postmaster:
            ticks += sum(map(int, fields[_OWN]))
    return ticks / _TICKS


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return []


def postmaster_of(url: str) -> int:
    """The process id of the server behind a Unix socket on this machine."""
    with psycopg.connect(url) as connection:
        (backend,) = connection.execute("SELECT pg_backend_pid()").fetchall()[0]
        return int(_stat(backend)[_PARENT])


def machine() -> str:
    """Processor, cores and memory in one line."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = names[0].partition(":")[2].strip() if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}"


def family_cpu_seconds(root: int) -> float:
    """CPU seconds so far of a process and of all below it, those that have ended too."""
    stats = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found, new = [root], [root]
    while new:
        new = [pid for pid, fields in stats.items() if fields and int(fields[_PARENT]) in new]
        found += new
    return sum(sum(map(int, fields[_WITH_CHILDREN])) for pid in found if (fields := stats.get(pid))) / _TICKS
