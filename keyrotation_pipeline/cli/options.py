"""What commands have in common: their options, and who types them."""

import os
import pwd
import socket
from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file; else KEYROTATION_CONFIG, else ./keyrotation.toml.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.", show_default=False)]
RequestId = Annotated[str, typer.Argument(metavar="ID", help="Id of the rotation, or its first six digits or more.")]


def actor() -> str:
    """Who acts, as the audit names them: ``user@host`` by the operating system, not by an environment variable."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
