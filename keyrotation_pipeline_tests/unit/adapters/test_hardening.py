"""Each process that holds keys dumps no core, is not dumpable and is not swapped out: seen in real processes."""

import re
import shutil
import subprocess
import sys
from functools import cache

import pytest

_PROGRAM = """
import ctypes, os, resource, sys
class Noting(ctypes.CDLL):
    def __getattr__(self, name):
        print("asks for", name)
        return super().__getattr__(name)
ctypes.CDLL = Noting
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
try:
    {}
except (EOFError, SystemExit):
    pass
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) if sys.platform == "linux" else 0
print(resource.getrlimit(resource.RLIMIT_CORE), dumpable, flush=True)
memory = bytearray(64 * 1024 * 1024)
print(open("/proc/self/status").read() if sys.platform == "linux" else "", flush=True)
os._exit(0)
"""

_EACH = pytest.mark.parametrize(
    "begins",
    [
        pytest.param(
            "sys.argv[1:] = ['--version']; from keyrotation_pipeline.cli import main; main()", id="the command"
        ),
        pytest.param("from keyrotation_pipeline.adapters.postgres.engine.worker import main; main()", id="a worker"),
        pytest.param("import keyrotation_pipeline.definitions", id="what loads the code for Dagster"),
    ],
)


@cache
def _reported(begins: str, *wrapped: str) -> str:
    """What one process says: it begins in a directory without a configuration."""
    return subprocess.run(
        [*wrapped, sys.executable, "-c", _PROGRAM.format(begins)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, cwd="/",
    ).stdout  # fmt: skip


def _kilobytes(name: str, reported: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", reported, re.MULTILINE)
    assert found, reported
    return int(found[1])


_NO_LIMIT = ("prlimit", "--memlock=unlimited:unlimited")
_LARGE_LIMIT = ("prlimit", "--memlock=1073741824:1073741824")


def _can(*command: str) -> bool:
    return (
        bool(shutil.which(command[0]))
        and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    )


@cache
def _unlimited() -> tuple[str, ...]:
    return _NO_LIMIT if _can(*_NO_LIMIT) else ()


@_EACH
def test_a_process_that_holds_keys_is_hardened_as_it_begins(begins: str) -> None:
    assert "(0, 0) 0" in _reported(begins, *_unlimited()).splitlines()


@_EACH
def test_a_process_that_holds_keys_is_not_swapped_out(begins: str) -> None:
    if not _unlimited() and not _can("setpriv", "--inh-caps=+ipc_lock"):
        pytest.skip("this user may not lock memory")
    reported = _reported(begins, *_unlimited())
    # VmLck also counts address space that was never touched.
    assert _kilobytes("VmLck", reported) >= _kilobytes("VmRSS", reported) > 64 * 1024


@_EACH
@pytest.mark.parametrize(
    "limited",
    [
        pytest.param(("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-all"), id="no capability"),
        pytest.param(("unshare", "--user", "--map-root-user"), id="root of a user namespace"),
    ],
)
def test_where_locked_memory_is_limited_nothing_is_locked_and_nothing_is_refused(
    begins: str, limited: tuple[str, ...]
) -> None:
    wrapped = (*(_LARGE_LIMIT if _can(*_LARGE_LIMIT) else ()), *limited)
    if not _can(*wrapped):
        pytest.skip("cannot be set up by this user")
    reported = _reported(begins, *wrapped)
    assert _kilobytes("VmLck", reported) == 0
    # Under a limit that the process does not fit into, the kernel itself refuses to lock it.
    assert "asks for prctl" in reported
    assert "asks for mlockall" not in reported
