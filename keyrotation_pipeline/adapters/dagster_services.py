"""Dagster's code server, web server and daemon as child processes that never outlive us."""

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from keyrotation_pipeline.adapters.child_process import cpu_ticks
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.ports.clock import attempts

LOOPBACK = "127.0.0.1"
IDLE_SECONDS = 180  # without any work of theirs, services that do not answer are given up
TELL_SECONDS = 30
STOP_SECONDS = 20
LOOK_SECONDS = 0.2
PR_SET_PDEATHSIG = 1
INSTANCE_FILES = Path(__file__).parent / "dagster_instance"
SOCKET_VARIABLE = "KEYROTATION_CODE_SERVER"  # as our workspace.yaml has it
# `sun_path` holds 104 bytes on macOS and 108 on Linux, the final zero among them.
MAX_SOCKET_PATH_BYTES = 103
LOCATION = ("--module-name", "keyrotation_pipeline.definitions", "--location-name", "keyrotation_pipeline")
LIBC = ctypes.CDLL(None, use_errno=True)


def random_token() -> str:
    """256 bits, as text that an address can hold."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class UiAccess:
    """Who may use the UI, and how.

    Args:
        port: of the loopback interface.
        token: asked of every request; None: a proxy in front knows who somebody is.
        read_only: nobody can start, stop or record anything in the UI.
        hosts: further host names under which a proxy serves the UI.
    """

    port: int
    token: str | None = field(repr=False)
    read_only: bool = False
    hosts: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Without the token."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def address(self) -> str:
        """What a browser is to open."""
        page = f"{self.url}/asset-groups"
        return page if self.token is None else f"{page}?token={self.token}"


class DagsterServices:
    """Dagster's code server, its daemon, and its UI on loopback behind a door.

    Args:
        home: Dagster's home; it gets our `dagster.yaml` and `workspace.yaml`, the services' log, and the address.
        folder: where the services look for a `keyrotation.toml` that is not there yet.
        environment: of the code server and its runs, with what `dagster.yaml` refers to; it must hold no key.
        bare: of web server and daemon, which open nothing that the configuration names: without its secrets, too.
        keep_storage: starts the server of Dagster's storage again if it has ended; asked several times a second.
    """

    def __init__(
        self,
        home: Path,
        folder: Path,
        door: UiAccess,
        environment: Mapping[str, str],
        bare: Mapping[str, str],
        keep_storage: Callable[[], None],
    ) -> None:
        self.log = home / "services.log"
        self._home = home
        self._folder = folder
        self._door = door
        self._environment = {**environment, "DAGSTER_HOME": str(home)}
        self._bare = {**bare, "DAGSTER_HOME": str(home)}
        self._keep_storage = keep_storage
        self._cleanup = contextlib.ExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._code_server: subprocess.Popen[bytes] | None = None
        self._code_was_loaded = False
        self._socket = home / "code.sock"

    def start(self) -> None:
        """Start the code server; `wait_until_served` starts the others, which are its clients, when it answers.

        Raises:
            HomeError: the port is taken.
        """
        self._refuse_taken_port()
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home.chmod(0o700)  # whoever reaches the socket runs code as us
        for name in ("dagster.yaml", "workspace.yaml"):
            shutil.copyfile(INSTANCE_FILES / name, self._home / name)
        self._keep_address()
        self._choose_socket()
        self.log.write_bytes(b"")
        self._start_code_server()

    def wait_until_served(self, stopped: Callable[[], bool], tell: Callable[[str], None]) -> bool:
        """Start what is left, and wait for the web server; False when `stopped` came first.

        Args:
            tell: gets a sentence now and then of what is waited for.

        Raises:
            HomeError: the services ended, or do nothing and do not answer.
        """
        if not self._wait_for("the code server", self._code_is_served, stopped, tell):
            return False
        workspace = ["--workspace", str(self._home / "workspace.yaml")]
        self._start(["dagster._daemon", "run", "--log-level", "warning", *workspace], self._bare)
        webserver = ["keyrotation_pipeline.defs.webserver", *self._door_options(), *workspace]
        self._start(webserver, self._bare, line=self._door.token)
        return self._wait_for("the web server", self._page_is_served, stopped, tell)

    def wait_while_running(self, stopped: Callable[[], bool], tell: Callable[[str], None]) -> None:
        """Wait until `stopped`; a code server or a storage that ends meanwhile is started again.

        Raises:
            HomeError: another service ended by itself, or one of these does not come back.
        """
        for _ in attempts(SystemClock(), pause_seconds=LOOK_SECONDS):
            if stopped():
                return
            self._keep_storage()
            if self._code_server_is_lost():
                self._start_code_server()
                self._wait_for("the code server", self._code_is_served, stopped, tell)
            elif not self._run():
                raise HomeError(f"Dagster ended by itself; read {self.log}, then run `keyrotation up` again")

    def _code_server_is_lost(self) -> bool:
        """Whether it has ended, or is alone: it hands on to a child, the one that has the code loaded.

        It never had one where the code does not load, which the UI tells; and none is seen where there is no /proc.
        """
        if self._code_server is None or self._code_server.poll() is not None:
            return self._code_server is not None
        children = _has_children(self._code_server.pid)
        lost, self._code_was_loaded = self._code_was_loaded and not children, children
        return lost

    def _wait_for(
        self, what: str, served: Callable[[], bool], stopped: Callable[[], bool], tell: Callable[[str], None]
    ) -> bool:
        """As long as the services live and work: on a busy machine that takes minutes."""
        looked_at = worked_at = 0.0
        spent = self._spent()
        for waited in attempts(SystemClock(), pause_seconds=LOOK_SECONDS):
            if stopped():
                return False
            if not self._run() or waited - worked_at > IDLE_SECONDS:
                break
            if served():
                return True
            if waited - looked_at > TELL_SECONDS:
                looked_at, before, spent = waited, spent, self._spent()
                worked_at = waited if spent != before else worked_at
                tell(f"waiting for {what} of Dagster for {waited:.0f} s; its log is {self.log}")
        raise HomeError(f"Dagster does not start; read {self.log} and mend what it says")

    def _code_is_served(self) -> bool:
        """Whether the code is loaded: the code server listens only then."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def _page_is_served(self) -> bool:
        headers = {} if self._door.token is None else {"Authorization": f"Bearer {self._door.token}"}
        question = urllib.request.Request(f"{self._door.url}/server_info", headers=headers)  # noqa: S310  loopback
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(question, timeout=5).close()  # noqa: S310  loopback
            return True
        return False

    def _spent(self) -> int:
        return cpu_ticks({process.pid for process in self._processes})

    def _run(self) -> bool:
        return all(process.poll() is None for process in self._processes)

    def stop(self) -> None:
        """Stop the services and whatever runs they have started; a run that is cut off goes on at the next start."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        for process in self._processes:
            _end_group(process)
        self._address_file.unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)
        self._cleanup.close()

    def _start_code_server(self) -> None:
        """As `dagster dev` does: one that loads the code anew when the UI asks for it."""
        if self._code_server is not None:
            self._processes.remove(self._code_server)
            _end_group(self._code_server)
        self._code_was_loaded = False
        self._socket.unlink(missing_ok=True)
        options = ["--socket", str(self._socket), "--use-python-environment-entry-point", "--log-level", "warning"]
        self._code_server = self._start(["dagster", "code-server", "start", *LOCATION, *options], self._environment)

    def _start(
        self, module_and_arguments: Sequence[str], environment: Mapping[str, str], line: str | None = None
    ) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            started = subprocess.Popen(  # noqa: S603  arguments of our own
                [sys.executable, "-m", *module_and_arguments],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_stop_with_parent,  # noqa: PLW1509  there is one thread
            )
        self._processes.append(started)
        # By a pipe: arguments and environments of processes can be read by others, and go on to runs. If it has ended
        # already, `wait_until_served` says so.
        with contextlib.suppress(BrokenPipeError), cast("IO[bytes]", started.stdin) as stdin:
            stdin.write(f"{line or ''}\n".encode())
        return started

    def _choose_socket(self) -> None:
        """In the home, which nobody else can enter; where its path is too long, in a directory made for it."""
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH_BYTES:
            made = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="keyrotation-"))
            self._socket = Path(made) / self._socket.name
        self._environment[SOCKET_VARIABLE] = self._bare[SOCKET_VARIABLE] = str(self._socket)

    def _door_options(self) -> list[str]:
        hosts = [option for host in self._door.hosts for option in ("--host", host)]
        flags = [("--read-only", self._door.read_only), ("--no-token", self._door.token is None)]
        return ["--port", str(self._door.port), *hosts, *(flag for flag, wanted in flags if wanted)]

    @property
    def _address_file(self) -> Path:
        return self._home / "address"

    def _keep_address(self) -> None:
        """For a person whose terminal is gone: readable by the user alone, and removed at the end."""
        self._address_file.unlink(missing_ok=True)
        descriptor = os.open(self._address_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{self._door.address}\n")

    def _refuse_taken_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, self._door.port))
            except OSError:
                raise HomeError(
                    f"port {self._door.port} of {LOOPBACK} is taken; stop what listens there, or choose another with "
                    "--port"
                ) from None


def _has_children(pid: int) -> bool:
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            if file.read_text().strip():
                return True
    return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever a process has started, and wait for it itself."""
    for force in (signal.SIGTERM, signal.SIGKILL):
        if _group_ends(process.pid, force):
            break
    process.wait()


def _group_ends(group: int, force: signal.Signals, seconds: float = 5) -> bool:
    try:
        os.killpg(group, force)
        for _ in attempts(SystemClock(), pause_seconds=LOOK_SECONDS, patience_seconds=seconds):
            os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _stop_with_parent() -> None:
    """In the child: end when the parent dies, however it dies, and listen to SIGINT even if the parent ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The sockets that Dagster itself makes take orders from whoever may write to them.
    os.umask(os.umask(0o077) | 0o022)
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
