"""Dagster's web server behind access control, and the console: ``python -m keyrotation_pipeline.defs.webserver``.

Dagster has no login and trusts every page; `web_access` stands in front, and `ui_permissions` says what people may do.
The token comes as one line on standard input, and in the next one that of `/metrics`, if any: other users can read
arguments and environments of processes, and runs inherit the environment. The console and ``/metrics`` are answered by
a process of their own: the web server opens no database.
"""

import argparse
import sys

import dagster as dg
import uvicorn
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.version import __version__
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from keyrotation_pipeline.adapters.web_access import LOOPBACK, Tokens, guarded
from keyrotation_pipeline.adapters.web_console import ConsoleInFront
from keyrotation_pipeline.defs.ui_permissions import ProcessContext, Webserver

STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_MAX_OVERFLOW = 15_000, 3600, 20  # those of dagster-webserver
HOW_TO_OPEN = (
    "These pages are served by keyrotation up. Open the address that it printed in its terminal: the whole line, "
    "with ?token= and what follows. It is also in the file dagster/address in the home, readable by its user only."
)
NO_CONSOLE = (
    "The console does not answer, and is started again within a minute; until then, Dagster is at /overview, and "
    "`keyrotation status` says why.\n"
)


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


def _is_posted_json(scope: Scope) -> bool:
    kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    return scope["method"] == "POST" and kind == "application/json"


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
            app = PostedGraphQL(app)
            if options.console is not None:
                app = ConsoleInFront(app, options.console, NO_CONSOLE)
            app = guarded(app, tokens, HOW_TO_OPEN, port=options.port, hosts=options.host)
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
    parser.add_argument("--console", metavar="SOCKET", help="where the console is served; else there is none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
