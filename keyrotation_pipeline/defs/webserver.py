"""Dagster's web server behind access control, with ``/metrics``: ``python -m keyrotation_pipeline.defs.webserver``.

Dagster has no login and trusts every page, while any page in a browser and any user of the machine can reach a port
of the loopback interface. So an ASGI layer in front requires the token that `keyrotation up` printed (then a cookie,
as Jupyter does), a host name of ours, and that requests come from the UI's own pages, which no other page may show in a
frame. `ui_permissions` says what people may do there.

The token comes as one line on standard input, and in the next one that of `/metrics`, if any: other users can read
arguments and environments of processes, and runs inherit the environment. ``/metrics`` is what `keyrotation metrics`
prints, by the process that started the server: the web server itself opens no database, and asks at most once in a
while, whoever asks it how often.
"""

import argparse
import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urlsplit

import dagster as dg
import uvicorn
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.version import __version__
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from keyrotation_pipeline.defs.ui_permissions import ProcessContext, Webserver

METRICS_PATH = "/metrics"
FRESH_SECONDS = 15.0
PATIENCE_SECONDS = 90.0
END_OF_METRICS = b"# EOF\n"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OLDER = "text/plain; version=0.0.4; charset=utf-8"  # the same text means the same there
UNREADABLE = "the status cannot be read; run `keyrotation metrics`, which says why\n"


def is_metrics(scope: Scope) -> bool:
    """Whether a connection asks for this page."""
    return scope["type"] == "http" and scope["path"] == METRICS_PATH and scope["method"] in {"GET", "HEAD"}


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
        if not self._text.endswith(END_OF_METRICS):
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


LOOPBACK = "127.0.0.1"
STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_MAX_OVERFLOW = 15_000, 3600, 20  # those of dagster-webserver
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1
SAFE_METHODS = {"GET", "HEAD"}
TRUSTED_SITES = {"same-origin", "none"}  # "none": typed, or opened from a bookmark
HOW_TO_OPEN = (
    "This is Dagster, started by keyrotation up. Open the address that it printed in its terminal: the whole line, "
    "with ?token= and what follows. It is also in the file dagster/address in the home, readable by its user only."
)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a request must show: `ui` for everything, or `metrics`, which opens that page alone."""

    ui: str
    metrics: str = ""


def guarded(app: ASGIApp, tokens: Tokens | None, *, port: int, hosts: Sequence[str] = ()) -> ASGIApp:
    """Puts the application behind every access check.

    Args:
        app: Dagster's.
        tokens: None asks for none: a proxy in front authenticates people.
        port: of the address that browsers see; part of the cookie's name, since all ports of a host share cookies.
        hosts: names in addition to those of the loopback interface under which a proxy serves the UI.
    """
    behind: ASGIApp = PostedGraphQL(app)
    if tokens is not None:
        behind = TokenOrCookie(behind, tokens, f"keyrotation-{port}")
    known = TrustedHostMiddleware(SameOrigin(behind), allowed_hosts=[*LOOPBACK_NAMES, *hosts], www_redirect=False)
    return Unframed(known)


class Unframed:
    """Has browsers show no response inside a page of another origin, not even another port of this machine.

    The policy is one more: a browser enforces Dagster's own next to it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""

        async def unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.append("content-security-policy", "frame-ancestors 'none'")
                headers["x-frame-options"] = "DENY"
            await send(message)

        await self._app(scope, receive, unframed)


class SameOrigin:
    """Accepts requests of our own pages, and requests that no browser sends.

    A page of another origin, even another port of this machine, may link to the UI and do nothing else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "lifespan" or _from_our_pages(scope):
            await self._app(scope, receive, send)
        else:
            await _refuse(scope, receive, send, PlainTextResponse("This request comes from another page.\n", 403))


class TokenOrCookie:
    """Accepts the token in the address once, then the cookie it is exchanged for, or the token as a bearer."""

    def __init__(self, app: ASGIApp, tokens: Tokens, cookie_name: str) -> None:
        self._app = app
        self._token, self._metrics_token = tokens.ui, tokens.metrics
        self._cookie_name = cookie_name
        # Not the token, so that a stolen cookie does not work in an address.
        self._cookie = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "lifespan" or self._is_authenticated(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] in SAFE_METHODS and self._has_token(scope):
            await self._exchange(scope)(scope, receive, send)
        else:
            await _refuse(scope, receive, send, _page(Headers(scope=scope)))

    def _is_authenticated(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            scraper = bool(self._metrics_token) and is_metrics(scope) and _same(bearer.strip(), self._metrics_token)
            if scraper or _same(bearer.strip(), self._token):
                return True
        cookies = SimpleCookie(headers.get("cookie", ""))
        shown = cookies.get(self._cookie_name)
        return shown is not None and _same(shown.value, self._cookie)

    def _has_token(self, scope: Scope) -> bool:
        return _same(QueryParams(scope["query_string"]).get("token", ""), self._token)

    def _exchange(self, scope: Scope) -> Response:
        """Redirect to the same page without the token, so that it does not stay in the browser's history."""
        rest = [(name, value) for name, value in QueryParams(scope["query_string"]).multi_items() if name != "token"]
        path = f"/{scope['path'].lstrip('/')}"
        answer = RedirectResponse(f"{path}?{urlencode(rest)}" if rest else path, status_code=303)
        answer.set_cookie(self._cookie_name, self._cookie, path="/", httponly=True, samesite="strict")
        answer.headers["cache-control"] = "no-store"
        answer.headers["referrer-policy"] = "no-referrer"
        return answer


class PostedGraphQL:
    """Accepts GraphQL only as POST of JSON, which a form of another page cannot send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/graphql") and not _is_posted_json(scope):
            answer = PlainTextResponse("Send GraphQL as POST with content-type application/json.\n", 405)
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _from_our_pages(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if (
        scope["type"] == "http"
        and scope["method"] in SAFE_METHODS
        and headers.get("sec-fetch-mode") in {None, "navigate"}
    ):
        return True
    same_host = origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    return same_host and (site is None or site in TRUSTED_SITES)


def _is_posted_json(scope: Scope) -> bool:
    kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    return scope["method"] == "POST" and kind == "application/json"


def _same(shown: str, expected: str) -> bool:
    return secrets.compare_digest(shown.encode(), expected.encode())


def _page(headers: Headers) -> Response:
    if "text/html" not in headers.get("accept", ""):
        return PlainTextResponse(f"{HOW_TO_OPEN}\n", 403)
    body = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>keyrotation</title>"
        "<body style='font:16px/1.5 sans-serif;max-width:40em;margin:10vh auto;padding:0 1em'>"
        f"<h1>The token is missing</h1><p>{escape(HOW_TO_OPEN)}</p>"
    )
    return HTMLResponse(body, 403, {"cache-control": "no-store"})


async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
    if scope["type"] == "websocket":
        await WebSocketClose(POLICY_VIOLATION)(scope, receive, send)
    else:
        await answer(scope, receive, send)


def main() -> None:
    """Serves until interrupted."""
    options = _options()
    tokens = None if options.no_token else _tokens()
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_MAX_OVERFLOW)
        with ProcessContext(
            instance,
            version=__version__,
            read_only=options.read_only,
            workspace_load_target=WorkspaceFileTarget([options.workspace]),
            code_server_log_level="warning",
        ) as context:
            app: ASGIApp = Webserver(context).create_asgi_app()
            if options.metrics is not None:
                app = MetricsPage(app, options.metrics)
            app = guarded(app, tokens, port=options.port, hosts=options.host)
            # An access log would hold the address with the token.
            uvicorn.run(
                app, host=LOOPBACK, port=options.port, log_level="warning", access_log=False, proxy_headers=False
            )


def _tokens() -> Tokens:
    ui, metrics = (sys.stdin.readline().strip() for _ in range(2))
    if not ui:
        raise SystemExit("no token came on standard input; start the UI with `keyrotation up`")
    return Tokens(ui, metrics)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Dagster's UI on 127.0.0.1; the token is read from standard input.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--host", action="append", default=[], help="name under which a proxy serves the UI")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--no-token", action="store_true")
    parser.add_argument("--metrics", metavar="SOCKET", help="where the metrics come from; else there is no such page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
