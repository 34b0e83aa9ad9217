"""Dagster's web server behind `access`: ``python -m keyrotation_pipeline.defs.webserver``, which `up` starts.

The token comes as one line on standard input: arguments and environments of processes can be read by others, and the
environment is handed on to runs.
"""

import argparse
import sys

import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__

from keyrotation_pipeline.defs.access import guarded

LOOPBACK = "127.0.0.1"
STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_MAX_OVERFLOW = 15_000, 3600, 20  # as dagster-webserver's own


def main() -> None:
    """Serve until interrupted."""
    options = _options()
    token = None if options.no_token else _token()
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_MAX_OVERFLOW)
        with WorkspaceProcessContext(
            instance,
            version=__version__,
            read_only=options.read_only,
            workspace_load_target=WorkspaceFileTarget([options.workspace]),
            code_server_log_level="warning",
        ) as context:
            app = guarded(
                create_app_from_workspace_process_context(context), token, port=options.port, hosts=options.host
            )
            # An access log would hold the address with the token.
            uvicorn.run(
                app, host=LOOPBACK, port=options.port, log_level="warning", access_log=False, proxy_headers=False
            )


def _token() -> str:
    token = sys.stdin.readline().strip()
    if not token:
        raise SystemExit("no token came on standard input; start the UI by `keyrotation up`")
    return token


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Dagster's UI on 127.0.0.1; the token is read from standard input.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--host", action="append", default=[], help="name under which a proxy serves the UI")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--no-token", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
