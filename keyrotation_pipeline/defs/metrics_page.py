"""``/metrics`` of the web server: what `keyrotation metrics` prints, by the process that started the server.

The web server itself opens no database. It asks at most once in a while, whoever asks it how often.
"""

import asyncio
import contextlib
import time

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/metrics"
FRESH_SECONDS = 15.0
PATIENCE_SECONDS = 90.0
END = b"# EOF\n"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OLDER = "text/plain; version=0.0.4; charset=utf-8"  # the same text means the same there
UNREADABLE = "the status cannot be read; run `keyrotation metrics`, which says why\n"


def is_metrics(scope: Scope) -> bool:
    """Whether a connection asks for this page."""
    return scope["type"] == "http" and scope["path"] == PATH and scope["method"] in {"GET", "HEAD"}


class MetricsPage:
    """Answers ``/metrics``, and passes everything else on.

    Args:
        app: the rest.
        socket: path of a Unix socket, from which each connection reads the metrics of that moment.
    """

    def __init__(self, app: ASGIApp, socket: str) -> None:
        self._app = app
        self._socket = socket
        self._asking = asyncio.Lock()
        self._text = b""
        self._read_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if is_metrics(scope):
            await (await self._answer(Headers(scope=scope)))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, headers: Headers) -> Response:
        async with self._asking:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                self._text = await self._ask()  # also remembered where it failed
                self._read_at = time.monotonic()
        if not self._text.endswith(END):
            return PlainTextResponse(UNREADABLE, 503, {"cache-control": "no-store"})
        kind = OPEN_METRICS if "openmetrics-text" in headers.get("accept", "") else OLDER
        return Response(self._text, headers={"content-type": kind, "cache-control": "no-store"})

    async def _ask(self) -> bytes:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    return await reader.read()
                finally:
                    writer.close()
        return b""
