"""Who may talk to the UI: an ASGI layer in front of Dagster's web server, which has no login and trusts any page.

Any page in a browser, and any user of the machine, reaches a port of the loopback interface. So the layer asks for the
token that `keyrotation up` printed (then for a cookie, as Jupyter does), for a host name of ours, and for requests that
come from the UI's own pages.
"""

import secrets
from collections.abc import Sequence
from html import escape
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1
READING = {"GET", "HEAD"}
FROM_OURSELVES = {"same-origin", "none"}  # "none": typed, or opened from a bookmark
WHERE_IT_IS = (
    "This is Dagster, started by keyrotation up. Open the address that it printed in its terminal: the whole line, "
    "with ?token= and what follows. It also stands in the file dagster/address in the home, for its user alone."
)


def guarded(app: ASGIApp, token: str | None, *, port: int, hosts: Sequence[str] = ()) -> ASGIApp:
    """The application behind every check.

    Args:
        app: Dagster's.
        token: None asks for none: a proxy in front knows who somebody is.
        port: of the address that browsers see; names the cookie, since cookies are shared by all ports of a host.
        hosts: names besides those of the loopback interface under which a proxy serves the UI.
    """
    behind: ASGIApp = PostedGraphQL(app)
    if token is not None:
        behind = TokenOrCookie(behind, token, f"keyrotation-{port}")
    return TrustedHostMiddleware(SameOrigin(behind), allowed_hosts=[*LOOPBACK_NAMES, *hosts], www_redirect=False)


class SameOrigin:
    """Passes what our own pages send, and what no browser sends.

    A page of another origin, be it another port of this machine, may link to the UI and do nothing else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        if scope["type"] == "lifespan" or _is_ours(scope):
            await self._app(scope, receive, send)
        else:
            await _refuse(scope, receive, send, PlainTextResponse("This request comes from another page.\n", 403))


class TokenOrCookie:
    """Passes who shows the token: in the address once, then by the cookie it is exchanged for, or as a bearer."""

    def __init__(self, app: ASGIApp, token: str, cookie_name: str) -> None:
        self._app = app
        self._token = token
        self._cookie_name = cookie_name
        # Not the token, so that a stolen cookie is worth nothing in an address.
        self._cookie = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        if scope["type"] == "lifespan" or self._knows(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] in READING and self._is_shown(scope):
            await self._exchange(scope)(scope, receive, send)
        else:
            await _refuse(scope, receive, send, _page(Headers(scope=scope)))

    def _knows(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(bearer.strip(), self._token):
            return True
        cookies = SimpleCookie()
        cookies.load(headers.get("cookie", ""))
        shown = cookies.get(self._cookie_name)
        return shown is not None and _same(shown.value, self._cookie)

    def _is_shown(self, scope: Scope) -> bool:
        return _same(QueryParams(scope["query_string"]).get("token", ""), self._token)

    def _exchange(self, scope: Scope) -> Response:
        """To the same page under an address without the token, which would stand in the browser's history."""
        rest = [(name, value) for name, value in QueryParams(scope["query_string"]).multi_items() if name != "token"]
        path = f"/{scope['path'].lstrip('/')}"
        answer = RedirectResponse(f"{path}?{urlencode(rest)}" if rest else path, status_code=303)
        answer.set_cookie(self._cookie_name, self._cookie, path="/", httponly=True, samesite="strict")
        answer.headers["cache-control"] = "no-store"
        answer.headers["referrer-policy"] = "no-referrer"
        return answer


class PostedGraphQL:
    """GraphQL only as POST of JSON, which a form of another page cannot send; no answer in a frame."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/graphql") and not _is_posted_json(scope):
            answer = PlainTextResponse("Send GraphQL as POST with content-type application/json.\n", 405)
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_ours(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if scope["type"] == "http" and scope["method"] in READING and headers.get("sec-fetch-mode") in {None, "navigate"}:
        return True
    same_host = origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    return same_host and (site is None or site in FROM_OURSELVES)


def _is_posted_json(scope: Scope) -> bool:
    kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    return scope["method"] == "POST" and kind == "application/json"


def _same(shown: str, expected: str) -> bool:
    return secrets.compare_digest(shown.encode(), expected.encode())


def _page(headers: Headers) -> Response:
    if "text/html" not in headers.get("accept", ""):
        return PlainTextResponse(f"{WHERE_IT_IS}\n", 403)
    body = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>keyrotation</title>"
        "<body style='font:16px/1.5 sans-serif;max-width:40em;margin:10vh auto;padding:0 1em'>"
        f"<h1>The token is missing</h1><p>{escape(WHERE_IT_IS)}</p>"
    )
    return HTMLResponse(body, 403, {"cache-control": "no-store", "x-frame-options": "DENY"})


async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
    if scope["type"] == "websocket":
        await WebSocketClose(POLICY_VIOLATION)(scope, receive, send)
    else:
        await answer(scope, receive, send)
