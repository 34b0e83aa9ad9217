"""A server that ends with us, even when we are killed: its data are thrown away in any case."""

import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

from keyrotation_pipeline.adapters.child_process import ending_with_us
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.adapters.postgres.server.installation import Installation

# Immediate shutdown: the server ends its children at once and writes nothing more.
_SIGNAL = "QUIT"
_NOTHING_IS_KEPT = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
_END_SECONDS = 30
_STATUS_LINE = 7


class ShortLivedServer(EmbeddedServer):
    """An `EmbeddedServer` of one process of ours. `pg_ctl` would detach it; so it is started directly.

    Args:
        durable: it waits for its disk, though nothing of it is kept: what takes time there takes it here too.
    """

    INITDB = ("--no-sync",)

    def __init__(self, directory: Path, installation: Installation, *, durable: bool = False) -> None:
        super().__init__(directory, installation)
        self._options = () if durable else _NOTHING_IS_KEPT
        self._process: subprocess.Popen[bytes] | None = None

    def _launch(self) -> bool:
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        with ExitStack() as stack:
            directory, descriptors = stack.enter_context(self._account.reaching(self.directory))
            log = stack.enter_context((self.directory / "log").open("ab"))
            self._configure(directory)
            command = [str(self._installation.binaries / "postgres"), "-D", str(directory / "data"), *self._options]
            self._process = subprocess.Popen(  # noqa: S603  arguments of our own
                ending_with_us(command, _SIGNAL),
                cwd="/",
                pass_fds=descriptors,
                env=self._installation.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._account.as_arguments(),
            )
        return True

    def _postmaster_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        # The server writes this file line by line while it starts; the last line says how far it is.
        try:
            told = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return [line.strip() for line in told[_STATUS_LINE:]] == ["ready"] and super()._answers()

    def end(self) -> None:
        """Have it end at once, with all its sessions; leaving it later is as always."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)

    def _stop(self) -> None:
        if self._process is None:
            return
        self.end()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not self._has_short_path():
            with suppress(OSError):
                self._account.short_directory(self.directory).rmdir()
