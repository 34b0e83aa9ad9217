"""Requests that officers sign: how to sign, whether enough have, and reading a given signature."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keyrotation_pipeline.cli import output
from keyrotation_pipeline.errors import ApprovalError, BlockedError
from keyrotation_pipeline.model.approval import how_to_sign
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.ports.pipeline import Pipeline

Reason = Annotated[
    str | None,
    typer.Option("--reason", help="Why, in one plain line; the officers sign it.", show_default=False),
]
TextToSign = Annotated[
    bool, typer.Option("--text", help="Print the exact text to sign, and nothing else.", show_default=False)
]
SignatureFile = Annotated[
    str | None, typer.Option("--signature", metavar="FILE", help="Add a detached OpenPGP signature; - is stdin.")
]


def propose(
    pipeline: Pipeline,
    request: Request,
    value: Mapping[str, Any],
    lines: Iterable[str],
    then: str | None = None,
    *,
    as_json: bool,
) -> None:
    """Print an opened request: what it is and how to sign it on stderr, its id alone on stdout.

    Args:
        value: what `--json` prints instead.
        then: what to do when enough officers have signed.
    """
    if as_json:
        output.document(value)
        return
    for line in lines:
        output.note(line)
    sign = f"{_required(pipeline, request)} officers approve it with: {how_to_sign('approve', request.id)}"
    output.note(f"{sign}; then {then}" if then else sign)
    sys.stdout.write(f"{request.id}\n")


def require_signed(pipeline: Pipeline, request: Request) -> None:
    """Refuse to execute a request that not enough officers have signed.

    Raises:
        BlockedError: signatures are missing.
    """
    if (missing := _required(pipeline, request) - len(request.approvals)) > 0:
        raise BlockedError(
            f"request {request.id} needs {missing} more approval(s); sign with `keyrotation approve {request.id} "
            f"--text`, or withdraw it with `keyrotation cancel {request.id}`"
        )


def _required(pipeline: Pipeline, request: Request) -> int:
    return pipeline.actions[request.action].authority(pipeline).required


def given_signature(*, text: bool, signature: str | None) -> bytes:
    """The detached signature in a file, or on standard input where it is named ``-``; empty where `text` is asked for.

    Read it before opening a database: the signing program may wait for its user for a while.

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
