"""What commands have in common: their options, and who types them."""

import os
import pwd
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from keyrotation_pipeline.assembly import completing
from keyrotation_pipeline.errors import ApprovalError


def offered_requests(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """For the completion of a shell."""
    return completing.offered_requests(context.params.get("config"), incomplete)


def offered_incidents(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """For the completion of a shell."""
    return completing.offered_incidents(context.params.get("config"), incomplete)


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
RequestId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Id of the rotation, or its first six digits or more.", autocompletion=offered_requests
    ),
]
IncidentId = Annotated[
    str, typer.Argument(metavar="ID", help="Such as INC-2026-001.", autocompletion=offered_incidents)
]
TextToSign = Annotated[
    bool, typer.Option("--text", help="Print the exact text to sign, and nothing else.", show_default=False)
]
SignatureFile = Annotated[
    str | None, typer.Option("--signature", metavar="FILE", help="Add a detached OpenPGP signature; - is stdin.")
]


def actor() -> str:
    """Who acts, as the audit names them: ``user@host`` by the operating system, not by an environment variable."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def given_signature(*, text: bool, signature: str | None) -> bytes:
    """The detached signature in a file, or on standard input where it is named ``-``; empty where `text` is asked for.

    To be read before a database is opened: the program that signs may need its user for a while.

    Raises:
        BadParameter: both are given, or neither.
        ApprovalError: the file cannot be read.
    """
    if text == (signature is not None):
        raise typer.BadParameter("give either --text or --signature FILE", param_hint="--text / --signature")
    return b"" if signature is None else _signature_in(signature)


def _signature_in(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError:
        raise ApprovalError(
            f"signature file {name} cannot be read; write it with `gpg -ab`, or use --signature -"
        ) from None
