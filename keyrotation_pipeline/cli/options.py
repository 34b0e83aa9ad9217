"""What commands have in common: their options, and who types them."""

import os
import pwd
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from keyrotation_pipeline.errors import ApprovalError

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


def signature_in(name: str) -> bytes:
    """The detached signature in a file, or on standard input where it is named ``-``.

    Raises:
        ApprovalError: the file cannot be read.
    """
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError:
        raise ApprovalError(
            f"signature file {name} cannot be read; write it with `gpg -ab`, or use --signature -"
        ) from None
