"""`console`: the page where people look, alone."""

import sys
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly import console as assembly
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, NoToken, Port, ProxyHosts
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.regular_files import read_text

_LEAST_TOKEN = 16


def console(
    *,
    port: Port = 3001,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Take the token from this file, such as a mounted Secret, and do not show it; default: a new one.",
            show_default=False,
        ),
    ] = None,
    no_token: NoToken = False,
    host: ProxyHosts = None,
    config: Config = None,
) -> None:
    """Serve the page where people look, read-only.

    With the state, the walk, who has signed, instances, rows, backups and the newest events, until Ctrl-C. `keyrotation
    up` serves the same page next to Dagster.
    """
    path = settings.load(config).path
    token = None if no_token else token_urlsafe(32) if token_file is None else token_in(token_file)

    def announce(address: str) -> None:
        shown = address if token is None or token_file is None else address.replace(token, "…")
        output.line(f"Console: {shown}  (Ctrl-C stops it)")
        sys.stdout.flush()

    assembly.serve(path, token, port, host or (), announce)


def token_in(file: Path) -> str:
    """The token in a file; raises KeyRotationError where it has none."""
    try:
        token = read_text(file).strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    if not (token.isascii() and token.isprintable() and len(token) >= _LEAST_TOKEN):
        raise KeyRotationError(
            f"{file} holds no token of at least {_LEAST_TOKEN} characters that can be read; make one with "
            f"`openssl rand -hex 32 > {file}`"
        )
    return token
