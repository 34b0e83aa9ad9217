"""The command as users type it, in a fork of a process that has imported every command already.

A command imports for a second before it does anything, and the tests type hundreds of them. What a test says of the
start itself (imports, signals, a closed output) it types again, by `command.KEYROTATION`.
"""

import atexit
import gc
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

KEYROTATION = Path(sys.executable).parent / "keyrotation"
DAGSTER = ("keyrotation_pipeline.defs", "keyrotation_pipeline.definitions")  # which no command imports
_LONGEST_REQUEST = 1 << 17  # bytes: arguments and environment
_DESCRIPTORS = 4  # standard input, output, error; the socket for process number and exit status


def run(
    arguments: tuple[str, ...], *, cwd: Path, env: dict[str, str], text: str | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, as `subprocess.run` would; `timeout` in seconds."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complained:
        given.write((text or "").encode())
        given.seek(0)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                request = json.dumps([[str(KEYROTATION), *arguments], str(cwd), env]).encode()
                files = [given.fileno(), printed.fileno(), complained.fileno(), theirs.fileno()]
                socket.send_fds(_forker(), [request], files)
            ours.settimeout(timeout)
            command = int(ours.recv(16))
            try:
                status = int(ours.recv(16))
            except TimeoutError:
                os.kill(command, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, timeout, _whole(printed), _whole(complained)) from None
        return subprocess.CompletedProcess(arguments, status, _whole(printed), _whole(complained))


# A program named `keyrotation` for shells: it asks the forker by the descriptor that it has from the test.
_ASKS = """#!{python} -IS
import json, os, socket, sys
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
request = json.dumps([["{command}", *sys.argv[1:]], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(socket.socket(fileno={descriptor}), [request], [0, 1, 2, theirs.fileno()])
theirs.close()
ours.recv(16)
sys.exit(int(ours.recv(16)))
"""


def for_shells(directory: Path) -> int:
    """Put the command into a directory, which is to be on the PATH of a shell that gets this descriptor, too."""
    descriptor = _forker().fileno()
    script = directory / "keyrotation"
    script.write_text(_ASKS.format(python=sys.executable, command=KEYROTATION, descriptor=descriptor))
    script.chmod(0o755)
    return descriptor


def _whole(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


@cache
def _forker() -> socket.socket:
    """A connection to this process's forker; it ends with the connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen([sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()])

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _import_all() -> None:
    # The forker alone imports the product here.
    import keyrotation_pipeline  # noqa: PLC0415
    from keyrotation_pipeline.adapters.postgres.ledger.chain import AuditChain  # noqa: PLC0415
    from keyrotation_pipeline.reporting.bundle import bundle  # noqa: PLC0415
    from keyrotation_pipeline_tests.protocol.traces_recorder import install  # noqa: PLC0415

    for module in pkgutil.walk_packages(keyrotation_pipeline.__path__, "keyrotation_pipeline."):
        if not module.name.startswith(DAGSTER):
            import_module(module.name)
    bundle()  # the program of packs, which takes a second to put together
    install(AuditChain)  # each command adds what it appends to the audit to the file that its test names
    gc.freeze()  # a child that looks through all of this when it ends takes longer for that than for its start


def _fork_for_each(requests: socket.socket) -> bool:
    """True in a child that is to be the command, False where nobody can ask any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, files, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, _DESCRIPTORS)
        if not request:
            return False
        if os.fork() == 0:
            requests.close()
            return _become(request, files)
        for each in files:
            os.close(each)


def _become(request: bytes, files: list[int]) -> bool:
    """Be the command in a child, and report on it from here."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, reported = files
    if command := os.fork():
        with socket.socket(fileno=reported) as caller:
            caller.send(str(command).encode())
            _, status = os.waitpid(command, 0)
            with suppress(BrokenPipeError):  # whoever waited has killed it
                caller.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    for number, each in enumerate(standard):
        os.dup2(each, number)
    for each in files:
        os.close(each)
    sys.argv, directory, environment = json.loads(request)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    main = sys.modules["__main__"]  # what a child of the command's imports again
    main.__spec__, main.__package__, main.__file__ = None, None, sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    return True


if __name__ == "__main__":
    _import_all()
    if _fork_for_each(socket.socket(fileno=int(sys.argv[1]))):
        from keyrotation_pipeline.cli import main

        main()
