"""Access control in front of a page on the loopback interface: an ASGI layer for Dagster's UI and for the console.

Any page in a browser and any user of the machine can reach a port of the loopback interface. So this layer requires
the token that the command printed (then a cookie, as Jupyter does), a host name of ours, and that requests come from
our own pages, which no other page may show in a frame.
"""

import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from keyrotation_pipeline.errors import HomeError

METRICS_PATH = "/metrics"
LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1
SAFE_METHODS = {"GET", "HEAD"}
TRUSTED_SITES = {"same-origin", "none"}  # "none": typed, or opened from a bookmark


def require_free_port(port: int) -> None:
    """Refuse a port of the loopback interface on which something listens.

    Raises:
        HomeError: names the port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            raise HomeError(
                f"port {port} of {LOOPBACK} is taken; stop what listens there, or choose another with --port"
            ) from None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a request must show: `ui` for everything, or `metrics`, which opens that page alone."""

    ui: str
    metrics: str = ""


def guarded(app: ASGIApp, tokens: Tokens | None, how_to_open: str, *, port: int, hosts: Sequence[str] = ()) -> ASGIApp:
    """Puts the application behind every access check.

    Args:
        tokens: None asks for none: a proxy in front authenticates people.
        how_to_open: what somebody without the token is told.
        port: of the address that browsers see; part of the cookie's name, since all ports of a host share cookies.
        hosts: names in addition to those of the loopback interface under which a proxy serves the UI.
    """
    behind = app if tokens is None else TokenOrCookie(app, tokens, f"keyrotation-{port}", how_to_open)
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

    def __init__(self, app: ASGIApp, tokens: Tokens, cookie_name: str, how_to_open: str) -> None:
        self._app, self._how_to_open = app, how_to_open
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
            await _refuse(scope, receive, send, _page(Headers(scope=scope), self._how_to_open))

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


def _same(shown: str, expected: str) -> bool:
    return secrets.compare_digest(shown.encode(), expected.encode())


def _page(headers: Headers, how_to_open: str) -> Response:
    if "text/html" not in headers.get("accept", ""):
        return PlainTextResponse(f"{how_to_open}\n", 403)
    body = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>keyrotation</title>"
        "<body style='font:16px/1.5 sans-serif;max-width:40em;margin:10vh auto;padding:0 1em'>"
        f"<h1>The token is missing</h1><p>{escape(how_to_open)}</p>"
    )
    return HTMLResponse(body, 403, {"cache-control": "no-store"})


async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
    if scope["type"] == "websocket":
        await WebSocketClose(POLICY_VIOLATION)(scope, receive, send)
    else:
        await answer(scope, receive, send)


def is_metrics(scope: Scope) -> bool:
    """Whether a connection asks for this page."""
    return scope["type"] == "http" and scope["path"] == METRICS_PATH and scope["method"] in {"GET", "HEAD"}
