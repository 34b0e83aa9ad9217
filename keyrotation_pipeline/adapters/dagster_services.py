"""Runs Dagster's code server, web server and daemon as child processes that never outlive this one."""

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

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.process import cpu_ticks
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.ports.clock import attempts

LOOPBACK = "127.0.0.1"
IDLE_SECONDS = 180  # services that use no CPU for so long and do not answer have failed
TELL_SECONDS = 30
STOP_SECONDS = 20
LOOK_SECONDS = 0.2
PR_SET_PDEATHSIG = 1
INSTANCE_FILES = Path(__file__).parent / "dagster_instance"
SOCKET_VARIABLE = "KEYROTATION_CODE_SERVER"  # as in our workspace.yaml
# `sun_path` holds 104 bytes on macOS and 108 on Linux, the final zero among them.
MAX_SOCKET_PATH_BYTES = 103
LOCATION = ("--module-name", "keyrotation_pipeline.definitions", "--location-name", "keyrotation_pipeline")
LIBC = ctypes.CDLL(None, use_errno=True)


def random_token() -> str:
    """Returns 256 random bits as text that is valid in a URL."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class UiAccess:
    """Who may use the UI, and how.

    Args:
        port: of the loopback interface.
        token: required of every request; None: a proxy in front authenticates users.
        read_only: nobody can start, stop or record anything in the UI.
        hosts: further host names under which a proxy serves the UI.
    """

    port: int
    token: str | None = field(repr=False)
    read_only: bool = False
    hosts: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The UI's address without the token."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def address(self) -> str:
        """The address to open in a browser."""
        page = f"{self.url}/asset-groups"
        return page if self.token is None else f"{page}?token={self.token}"


class DagsterServices:
    """Dagster's code server, its daemon, and its UI on loopback behind access control.

    Args:
        home: Dagster's home; it gets our `dagster.yaml` and `workspace.yaml`, the services' log, and the address.
        folder: where the services look for a `keyrotation.toml` that is not there yet.
        environment: of the code server and its runs, with the variables that `dagster.yaml` refers to; it must hold no
            key.
        bare: of web server and daemon, which open nothing that the configuration names: also without its secrets.
        keep_storage: restarts the server of Dagster's storage if it has ended; called several times a second.
    """

    def __init__(
        self,
        home: Path,
        folder: Path,
        access: UiAccess,
        environment: Mapping[str, str],
        bare: Mapping[str, str],
        keep_storage: Callable[[], None],
    ) -> None:
        self.log = home / "services.log"
        self._home = home
        self._folder = folder
        self._access = access
        self._environment = {**environment, "DAGSTER_HOME": str(home)}
        self._bare = {**bare, "DAGSTER_HOME": str(home)}
        self._keep_storage = keep_storage
        self._cleanup = contextlib.ExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._code_server: subprocess.Popen[bytes] | None = None
        self._code_was_loaded = False
        self._socket = home / "code.sock"

    def start(self) -> None:
        """Starts the code server; `wait_until_served` starts the others, its clients, when it answers.

        Raises:
            HomeError: the port is taken.
        """
        self._refuse_taken_port()
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home.chmod(0o700)  # whoever reaches the socket runs code as us
        for name in ("dagster.yaml", "workspace.yaml"):
            shutil.copyfile(INSTANCE_FILES / name, self._home / name)
        self._write_address()
        self._choose_socket()
        self.log.write_bytes(b"")
        self._start_code_server()

    def wait_until_served(self, stopped: Callable[[], bool], announce: Callable[[str], None]) -> bool:
        """Starts the others, and waits for the web server; returns False if `stopped` came first.

        Args:
            announce: called now and then with a sentence on what is waited for.

        Raises:
            HomeError: the services ended, or hang.
        """
        if not self._wait_for("the code server", self._code_is_served, stopped, announce):
            return False
        workspace = ["--workspace", str(self._home / "workspace.yaml")]
        self._start(["dagster._daemon", "run", "--log-level", "warning", *workspace], self._bare)
        webserver = ["keyrotation_pipeline.defs.webserver", *self._ui_options(), *workspace]
        self._start(webserver, self._bare, line=self._access.token)
        return self._wait_for("the web server", self._page_is_served, stopped, announce)

    def wait_while_running(self, stopped: Callable[[], bool], announce: Callable[[str], None]) -> None:
        """Waits until `stopped`; restarts a code server or a storage that ends meanwhile.

        Raises:
            HomeError: another service ended by itself, or one of these cannot be restarted.
        """
        for _ in attempts(SystemClock(), pause_seconds=LOOK_SECONDS):
            if stopped():
                return
            self._keep_storage()
            if self._code_server_is_lost():
                self._start_code_server()
                self._wait_for("the code server", self._code_is_served, stopped, announce)
            elif not self._run():
                raise HomeError(f"Dagster ended by itself; read {self.log}, then run `keyrotation up` again")

    def _code_server_is_lost(self) -> bool:
        """Returns whether it has ended, or lost its child, which has loaded the code and serves it.

        It never had one if the code does not load, which the UI shows; and none is visible without /proc.
        """
        if self._code_server is None or self._code_server.poll() is not None:
            return self._code_server is not None
        children = _has_children(self._code_server.pid)
        lost, self._code_was_loaded = self._code_was_loaded and not children, children
        return lost

    def _wait_for(
        self, what: str, served: Callable[[], bool], stopped: Callable[[], bool], announce: Callable[[str], None]
    ) -> bool:
        """Waits as long as the services are alive and use CPU: on a busy machine that takes minutes."""
        looked_at = worked_at = 0.0
        spent = self._cpu_ticks()
        for waited in attempts(SystemClock(), pause_seconds=LOOK_SECONDS):
            if stopped():
                return False
            if not self._run() or waited - worked_at > IDLE_SECONDS:
                break
            if served():
                return True
            if waited - looked_at > TELL_SECONDS:
                looked_at, before, spent = waited, spent, self._cpu_ticks()
                worked_at = waited if spent != before else worked_at
                announce(f"waiting for {what} of Dagster for {waited:.0f} s; its log is {self.log}")
        raise HomeError(f"Dagster does not start; read {self.log} and fix the error in it")

    def _code_is_served(self) -> bool:
        """Returns whether the code is loaded: the code server listens only then."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def _page_is_served(self) -> bool:
        headers = {} if self._access.token is None else {"Authorization": f"Bearer {self._access.token}"}
        question = urllib.request.Request(f"{self._access.url}/server_info", headers=headers)  # noqa: S310  loopback
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(question, timeout=5).close()  # noqa: S310  loopback
            return True
        return False

    def _cpu_ticks(self) -> int:
        return cpu_ticks({process.pid for process in self._processes})

    def _run(self) -> bool:
        return all(process.poll() is None for process in self._processes)

    def stop(self) -> None:
        """Stops the services and the runs that they started; an interrupted run continues at the next start."""
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
        """Starts it as `dagster dev` does: it reloads the code when the UI asks for that."""
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
        # Through a pipe: arguments and environments of processes are visible to others, and are inherited by runs. If
        # it has already ended, `wait_until_served` says so.
        with contextlib.suppress(BrokenPipeError), cast("IO[bytes]", started.stdin) as stdin:
            stdin.write(f"{line or ''}\n".encode())
        return started

    def _choose_socket(self) -> None:
        """Chooses a socket in the home, which only its owner can enter; else, if its path is too long, elsewhere."""
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH_BYTES:
            made = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="keyrotation-"))
            self._socket = Path(made) / self._socket.name
        self._environment[SOCKET_VARIABLE] = self._bare[SOCKET_VARIABLE] = str(self._socket)

    def _ui_options(self) -> list[str]:
        hosts = [option for host in self._access.hosts for option in ("--host", host)]
        flags = [("--read-only", self._access.read_only), ("--no-token", self._access.token is None)]
        return ["--port", str(self._access.port), *hosts, *(flag for flag, wanted in flags if wanted)]

    @property
    def _address_file(self) -> Path:
        return self._home / "address"

    def _write_address(self) -> None:
        """Writes the address for a user who lost the terminal: readable only by that user, and removed at the end."""
        self._address_file.unlink(missing_ok=True)
        descriptor = os.open(self._address_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{self._access.address}\n")

    def _refuse_taken_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, self._access.port))
            except OSError:
                raise HomeError(
                    f"port {self._access.port} of {LOOPBACK} is taken; stop what listens there, or choose another with "
                    "--port"
                ) from None


def _has_children(pid: int) -> bool:
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            if file.read_text().strip():
                return True
    return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends whatever a process has started, and waits for the process itself."""
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
    """Runs in the child: makes it end when the parent dies, and handle SIGINT even if the parent ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The sockets that Dagster creates accept commands from whoever may write to them.
    os.umask(os.umask(0o077) | 0o022)
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
