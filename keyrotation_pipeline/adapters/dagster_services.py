"""Runs the console and Dagster's code server, web server and daemon as child processes that never outlive this one."""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from keyrotation_pipeline.adapters.child_processes import LOOK_SECONDS, ChildService
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.process import cpu_ticks
from keyrotation_pipeline.adapters.web_access import LOOPBACK, require_free_port
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.ports.clock import attempts

IDLE_SECONDS = 180  # services that use no CPU for so long and do not answer have failed
TELL_SECONDS = 30
INSTANCE_FILES = Path(__file__).parent / "dagster_instance"
SOCKET_VARIABLE = "KEYROTATION_CODE_SERVER"  # as in our workspace.yaml
# `sun_path` holds 104 bytes on macOS and 108 on Linux, the final zero among them.
MAX_SOCKET_PATH_BYTES = 103
OVERVIEW = "/overview"  # Dagster's first page, since ours is at /
LOCATION = ("--module-name", "keyrotation_pipeline.definitions", "--location-name", "keyrotation_pipeline")


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
        page = f"{self.url}/"
        return page if self.token is None else f"{page}?token={self.token}"


@contextlib.contextmanager
def sole_services(home: Path, access: UiAccess) -> Iterator[None]:
    """Lets only one process at a time serve a home: two would take code server, address and heartbeats from each other.

    The lock ends with its process in any case; no child inherits it.

    Raises:
        HomeError: another process serves it; names that and its port.
    """
    with os.fdopen(os.open(home / "up.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, port = lock.read().partition(" ")
            raise HomeError(
                f"`keyrotation up` already serves this home on port {port} (process {pid}); its address is in "
                f"{home / 'dagster' / 'address'}, and `kill {pid}` stops it"
            ) from None
        lock.truncate()
        lock.write(f"{os.getpid()} {access.port}")
        lock.flush()
        yield


class DagsterServices:
    """Dagster's code server, its daemon, and its UI on loopback behind access control.

    Args:
        home: Dagster's home; it gets our `dagster.yaml` and `workspace.yaml`, the services' log, address and token.
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
        self._service = partial(ChildService, folder=folder, log=self.log)
        self._home = home
        self._folder = folder
        self._access = access
        self._environment = {**environment, "DAGSTER_HOME": str(home)}
        self._bare = {**bare, "DAGSTER_HOME": str(home)}
        self._keep_storage = keep_storage
        self._cleanup = contextlib.ExitStack()
        self._served: dict[ChildService, Callable[[], bool]] = {}
        self._socket = home / "code.sock"
        self._metrics_token = None if access.token is None else secrets.token_urlsafe(32)

    def start(self) -> None:
        """Starts the code server; `wait_until_served` starts the others, its clients, when it answers.

        Raises:
            HomeError: the port is taken.
        """
        require_free_port(self._access.port)
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home.chmod(0o700)  # whoever reaches the socket runs code as us
        for name in ("dagster.yaml", "workspace.yaml"):
            shutil.copyfile(INSTANCE_FILES / name, self._home / name)
        self._write_private(self._address_file, self._access.address)
        if self._metrics_token is not None:
            self._write_private(self.metrics_token_file, self._metrics_token)
        self._choose_socket()
        self.log.write_bytes(b"")
        arguments = ["keyrotation_pipeline.assembly.console", str(self._console_socket), OVERVIEW]
        console = self._service("the console", arguments, environment=self._environment)
        self._served[console] = lambda: listens(self._console_socket)
        # As `dagster dev` starts it: it reloads the code when the UI asks for that.
        options = ["--socket", str(self._socket), "--use-python-environment-entry-point", "--log-level", "warning"]
        command = ["dagster", "code-server", "start", *LOCATION, *options]
        code_server = self._service(
            "the code server of Dagster", command, environment=self._environment, works_in_child=True
        )
        self._served[code_server] = self._code_is_served

    def wait_until_served(self, stopped: Callable[[], bool], announce: Callable[[str], None]) -> bool:
        """Starts the others, and waits for the web server; returns False if `stopped` came first.

        Args:
            announce: called now and then with a sentence on what is waited for.

        Raises:
            HomeError: the services ended, or hang.
        """
        if not all(self.wait_for(each, stopped, announce) for each in self._served):
            return False
        workspace = ["--workspace", str(self._home / "workspace.yaml")]
        daemon = ["dagster._daemon", "run", "--log-level", "warning", *workspace]
        self._served[self._service("the daemon of Dagster", daemon, environment=self._bare)] = lambda: True
        console = ["--console", str(self._console_socket)]
        command = ["keyrotation_pipeline.defs.webserver", *self._ui_options(), *console, *workspace]
        tokens = f"{self._access.token or ''}\n{self._metrics_token or ''}"
        webserver = self._service("the web server of Dagster", command, environment=self._bare, line=tokens)
        self._served[webserver] = self._page_is_served
        return self.wait_for(webserver, stopped, announce)

    def wait_while_running(self, stopped: Callable[[], bool], announce: Callable[[str], None]) -> None:
        """Waits until `stopped`; restarts a service or a storage that ends meanwhile.

        Raises:
            HomeError: one of these cannot be restarted, or ends again at once.
        """
        for _ in attempts(SystemClock(), pause_seconds=LOOK_SECONDS):
            if stopped():
                return
            self._keep_storage()
            for service in filter(ChildService.is_lost, self._served):
                self._restart(service, announce)
                self.wait_for(service, stopped, announce)

    def _restart(self, service: ChildService, announce: Callable[[str], None]) -> None:
        announce(f"{service.name} ended by itself, and is started again; its log is {self.log}")
        if self._served[service] == self._code_is_served:
            self._socket.unlink(missing_ok=True)
        if not service.restart():
            raise self._failure(service)

    def wait_for(self, service: ChildService, stopped: Callable[[], bool], announce: Callable[[str], None]) -> bool:
        """Waits as long as it is alive and the services use CPU: on a busy machine that takes minutes."""
        looked_at = worked_at = 0.0
        spent = self._cpu_ticks()
        for waited in attempts(SystemClock(), pause_seconds=LOOK_SECONDS):
            if stopped():
                return False
            self._keep_storage()
            if service.has_ended or waited - worked_at > IDLE_SECONDS:
                break
            if self._served[service]():
                return True
            if waited - looked_at > TELL_SECONDS:
                looked_at, before, spent = waited, spent, self._cpu_ticks()
                worked_at = waited if spent != before else worked_at
                announce(f"waiting for {service.name} for {waited:.0f} s; its log is {self.log}")
        raise self._failure(service)

    def _failure(self, service: ChildService) -> HomeError:
        return HomeError(f"{service.name} does not start; read {self.log} and fix the error in it")

    def _code_is_served(self) -> bool:
        """Returns whether the code is loaded: the code server listens only then."""
        return listens(self._socket)

    def _page_is_served(self) -> bool:
        headers = {} if self._access.token is None else {"Authorization": f"Bearer {self._access.token}"}
        question = urllib.request.Request(f"{self._access.url}/server_info", headers=headers)  # noqa: S310  loopback
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(question, timeout=5).close()  # noqa: S310  loopback
            return True
        return False

    def _cpu_ticks(self) -> int:
        return cpu_ticks({service.session for service in self._served})

    def stop(self) -> None:
        """Stops the services and the runs that they started; an interrupted run continues at the next start."""
        for service in self._served:
            service.interrupt()
        for service in self._served:
            service.end()
        for file in (self._address_file, self.metrics_token_file, self._socket, self._console_socket):
            file.unlink(missing_ok=True)
        self._cleanup.close()

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
    def _console_socket(self) -> Path:
        return self._socket.with_name("console.sock")

    @property
    def _address_file(self) -> Path:
        return self._home / "address"

    @property
    def metrics_token_file(self) -> Path:
        """Holds the token of ``/metrics``, which whoever scrapes it reads each time."""
        return self._home / "metrics-token"

    def _write_private(self, path: Path, line: str) -> None:
        """Writes what only this user may read, such as one who lost the terminal; it is removed at the end."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{line}\n")


def listens(path: Path) -> bool:
    """Whether a process accepts connections on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
