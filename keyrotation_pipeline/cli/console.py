"""`console`: the page where people look, alone."""

from secrets import token_urlsafe
from typing import Annotated

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly import console as assembly
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config


def console(
    *,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the page, on 127.0.0.1.")] = 3001,
    no_token: Annotated[
        bool,
        typer.Option(
            "--no-token",
            help="Ask for no token: only behind a proxy that authenticates its users (`keyrotation docs ui`).",
            show_default=False,
        ),
    ] = False,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="A name under which a proxy serves the page.", show_default=False),
    ] = None,
    config: Config = None,
) -> None:
    """Serve the page where people look, read-only.

    With the state, the walk, who has signed, instances, rows, backups and the newest events, until Ctrl-C. `keyrotation
    up` serves the same page next to Dagster.
    """
    path = settings.load(config).path
    token = None if no_token else token_urlsafe(32)
    address = f"http://127.0.0.1:{port}/"
    output.line(f"Console: {address}{'' if token is None else f'?token={token}'}  (Ctrl-C stops it)")
    assembly.serve(path, token, port, tuple(host or ()))
