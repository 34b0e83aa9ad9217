"""Serves the console: alone on a port, or on a Unix socket for the server of `keyrotation up`."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from socket import AF_UNIX, socket
from threading import Lock
from typing import TypeVar

import uvicorn

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.web_access import LOOPBACK, Tokens, guarded, require_free_port
from keyrotation_pipeline.adapters.web_console import console_app
from keyrotation_pipeline.assembly.failures import message_of
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.console.gathering import console
from keyrotation_pipeline.console.kept import Kept
from keyrotation_pipeline.console.pages import (
    databases_page,
    error_page,
    front_page,
    incident_page,
    request_page,
)
from keyrotation_pipeline.monitoring.metrics import in_open_metrics
from keyrotation_pipeline.ports.pipeline import Pipeline

KEPT_PAGES = 50
ACTOR = "console"
HOW_TO_OPEN = (
    "This is the console of keyrotation. Open the address that `keyrotation console` printed in its terminal: the "
    "whole line, with ?token= and what follows."
)
Made = TypeVar("Made")


class LivePages:
    """Pages from a pipeline that stays open, of which one at a time is made, however many people watch.

    After an error, and when the configuration has changed, the pipeline is opened anew.

    Args:
        path: of the configuration; None: as the command finds it.
        overview_path: of Dagster's first page on the same server; None: it is not served there.
    """

    def __init__(self, path: Path | None, overview_path: str | None) -> None:
        self._path, self._overview_path = path, overview_path
        self._using = Lock()
        self._stack = ExitStack()
        self._pipeline: Pipeline | None = None
        self._opened_for: tuple[float, int] | None = None
        self._front = Kept(self._look)
        self._others: dict[str, Kept[bytes | None]] = {}

    def front(self) -> bytes:
        """The first page: at most so old as it says itself."""
        return self._front.get()[0]

    def metrics(self) -> str | None:
        """The metrics of the same look as the first page."""
        return self._front.get()[1]

    def request(self, request_id: str) -> bytes | None:
        """The page of one request."""
        return self._other(f"requests/{request_id}", partial(request_page, request_id=request_id))

    def incident(self, incident_id: str) -> bytes | None:
        """The page of one incident."""
        return self._other(f"incidents/{incident_id}", partial(incident_page, incident_id=incident_id))

    def databases(self) -> bytes | None:
        """The page of a fleet's databases."""
        return self._other("databases", databases_page)

    def close(self) -> None:
        """Closes the pipeline."""
        with self._using:
            self._close()

    def _other(self, name: str, make: Callable[..., bytes | None]) -> bytes | None:
        if len(self._others) > KEPT_PAGES:
            self._others.clear()
        of_it = partial(make, overview_path=self._overview_path)
        return self._others.setdefault(name, Kept(lambda: self._made(of_it, self._failed))).get()

    def _look(self) -> tuple[bytes, str | None]:
        return self._made(self._first, lambda error: (self._failed(error), None))

    def _first(self, pipeline: Pipeline) -> tuple[bytes, str | None]:
        shown = console(pipeline)
        return front_page(shown, self._overview_path), in_open_metrics(shown.status)

    def _made(self, make: Callable[[Pipeline], Made], failed: Callable[[Exception], Made]) -> Made:
        with self._using:
            try:
                return make(self._open())
            except Exception as error:  # noqa: BLE001  a page that says it; the next look opens everything anew
                self._close()
                return failed(error)

    def _failed(self, error: Exception) -> bytes:
        return error_page(_sentence(error), SystemClock().now(), self._overview_path)

    def _open(self) -> Pipeline:
        declared = settings.load(self._path)
        changed = declared.path.stat()
        version = (changed.st_mtime, changed.st_size)
        if self._pipeline is None or version != self._opened_for:
            self._close()
            self._pipeline = self._stack.enter_context(open_pipeline(declared, actor=ACTOR))
            self._opened_for = version
        return self._pipeline

    def _close(self) -> None:
        self._pipeline = None
        self._stack.close()


def _sentence(error: Exception) -> str:
    """What is shown of an error: never its text, unless it is a sentence of our own."""
    defect = f"a defect of this program ({type(error).__name__}); run `keyrotation status`, which says more"
    return message_of(error) or defect


@contextmanager
def live_pages(path: Path | None, overview_path: str | None = None) -> Iterator[LivePages]:
    """Yields the pages, and closes what they opened."""
    pages = LivePages(path, overview_path)
    try:
        yield pages
    finally:
        pages.close()


def serve(path: Path, token: str | None, port: int, hosts: Sequence[str], announce: Callable[[str], None]) -> None:
    """Serves the console on a port of the loopback interface until interrupted.

    Args:
        announce: called with the address, which holds the token, before it is served.

    Raises:
        HomeError: the port is taken.
    """
    require_free_port(port)
    announce(f"http://{LOOPBACK}:{port}/{'' if token is None else f'?token={token}'}")
    tokens = None if token is None else Tokens(token)
    with live_pages(path) as pages:
        app = guarded(console_app(pages), tokens, HOW_TO_OPEN, port=port, hosts=hosts)
        # An access log would hold the address with the token.
        uvicorn.run(app, host=LOOPBACK, port=port, log_level="warning", access_log=False, proxy_headers=False)


def main() -> None:
    """Serves the console on a Unix socket, for the server of `keyrotation up`; its owner alone may connect."""
    socket_path, overview_path = sys.argv[1:3]
    with live_pages(None, overview_path) as pages, private_socket(Path(socket_path)) as listening:
        configured = uvicorn.Config(console_app(pages), log_level="warning", access_log=False)
        uvicorn.Server(configured).run(sockets=[listening])


@contextmanager
def private_socket(path: Path) -> Iterator[socket]:
    """Yields a bound Unix socket to which only its owner may connect; uvicorn would open it to everybody."""
    path.unlink(missing_ok=True)
    with socket(AF_UNIX) as made:
        before = os.umask(0o177)
        try:
            made.bind(os.fspath(path))
        finally:
            os.umask(before)
        yield made
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
