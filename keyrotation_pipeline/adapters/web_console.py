"""Serves the console over HTTP: a Starlette application, alone on a port, or on a Unix socket behind Dagster's server.

Everything is read: there is no form, and no method but GET and HEAD. ``/metrics`` is what `keyrotation metrics` prints.
"""

from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from importlib import resources
from socket import AF_UNIX, socket
from typing import Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from keyrotation_pipeline.adapters.web_access import METRICS_PATH, SAFE_METHODS

PREFIX = "/console/"
PATIENCE_SECONDS = 60.0
# Nothing from elsewhere, nothing inline, no form, and in no frame.
SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": SECURITY_POLICY,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OLDER_METRICS = "text/plain; version=0.0.4; charset=utf-8"  # the same text means the same there
UNREADABLE = "the status cannot be read; run `keyrotation metrics`, which says why\n"


class Pages(Protocol):
    """Makes the pages. Called from several threads; each page is complete HTML."""

    def front(self) -> bytes:
        """The first page."""

    def request(self, request_id: str) -> bytes | None:
        """The page of one request; None: there is none."""

    def incident(self, incident_id: str) -> bytes | None:
        """The page of one incident; None: there is none."""

    def databases(self) -> bytes | None:
        """The page of a fleet's databases; None: there is only one."""

    def metrics(self) -> str | None:
        """OpenMetrics text; None: the status cannot be read."""


def console_app(pages: Pages) -> Starlette:
    """The application."""

    async def front(request: Request) -> Response:
        del request
        return _page(await run_in_threadpool(pages.front))

    async def one_request(request: Request) -> Response:
        return _page(await run_in_threadpool(pages.request, request.path_params["id"]))

    async def one_incident(request: Request) -> Response:
        return _page(await run_in_threadpool(pages.incident, request.path_params["id"]))

    async def databases(request: Request) -> Response:
        del request
        return _page(await run_in_threadpool(pages.databases))

    async def metrics(request: Request) -> Response:
        text = await run_in_threadpool(pages.metrics)
        if text is None:
            return PlainTextResponse(UNREADABLE, 503, HEADERS)
        kind = OPEN_METRICS if "openmetrics-text" in request.headers.get("accept", "") else OLDER_METRICS
        return Response(text, headers={**HEADERS, "content-type": kind})

    return Starlette(
        routes=[
            Route("/", front),
            Route(f"{PREFIX}requests/{{id}}", one_request),
            Route(f"{PREFIX}incidents/{{id}}", one_incident),
            Route(f"{PREFIX}databases", databases),
            Route(f"{PREFIX}console.css", _file("console.css", "text/css")),
            Route(f"{PREFIX}console.js", _file("console.js", "text/javascript")),
            Route(METRICS_PATH, metrics),
        ]
    )


def _page(content: bytes | None) -> Response:
    if content is None:
        return PlainTextResponse("There is no such page; go back to /.\n", 404, HEADERS)
    return Response(content, headers={**HEADERS, "content-type": "text/html; charset=utf-8"})


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    content = (resources.files("keyrotation_pipeline") / "templates" / "console" / name).read_bytes()

    def answer(request: Request) -> Response:
        del request
        return Response(content, headers={**HEADERS, "content-type": f"{kind}; charset=utf-8"})

    return answer


def is_console(scope: Scope) -> bool:
    """Whether a connection asks for a page of the console, or for the metrics."""
    path = scope.get("path", "")
    shown = path in {"/", METRICS_PATH} or path.startswith(PREFIX)
    return scope["type"] == "http" and shown and scope["method"] in SAFE_METHODS


class ConsoleInFront:
    """Answers the console's paths from the process that serves it, and passes everything else on.

    Args:
        app: the rest: Dagster.
        socket_path: of the Unix socket on which the console is served.
        otherwise: what is shown at ``/`` while the console does not answer.
    """

    def __init__(self, app: ASGIApp, socket_path: str, otherwise: str) -> None:
        self._app, self._socket_path, self._otherwise = app, socket_path, otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if is_console(scope):
            answer = await run_in_threadpool(self._ask, scope["path"], Headers(scope=scope).get("accept", ""))
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _ask(self, path: str, accept: str) -> Response:
        connection = HTTPConnection("console", timeout=PATIENCE_SECONDS)
        try:
            connection.sock = socket(AF_UNIX)
            connection.sock.settimeout(PATIENCE_SECONDS)
            connection.sock.connect(self._socket_path)
            connection.request("GET", path, headers={"accept": accept})
            answer = connection.getresponse()
            kept = {name: value for name in (*HEADERS, "content-type") if (value := answer.getheader(name))}
            return Response(answer.read(), answer.status, kept)
        except (OSError, HTTPException):
            return PlainTextResponse(self._otherwise, 503, HEADERS)
        finally:
            connection.close()
