"""Options that commands share, and the user who runs them."""

import os
import pwd
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.model.requests import Walk

if TYPE_CHECKING:  # all of the model, which `scan` starts without
    from keyrotation_pipeline.ports.ledger import Ledger


def offered_requests(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """For the completion of a shell."""
    from keyrotation_pipeline.assembly import home  # noqa: PLC0415  no command needs it

    return home.offered_requests(context.params.get("config"), incomplete)


def offered_incidents(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """For the completion of a shell."""
    from keyrotation_pipeline.assembly import home  # noqa: PLC0415  as above

    return home.offered_incidents(context.params.get("config"), incomplete)


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
Verbose = Annotated[bool, typer.Option("--verbose", help="Print the details, too.", show_default=False)]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the page, on 127.0.0.1.")]
NoToken = Annotated[
    bool,
    typer.Option(
        "--no-token",
        help="Ask for no token: only behind a proxy that authenticates its users (`keyrotation docs ui`).",
        show_default=False,
    ),
]
ProxyHosts = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="NAME", help="A name under which a proxy serves the page.", show_default=False),
]
RequestId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Id of the rotation, or its first six digits or more.", autocompletion=offered_requests
    ),
]
OpenRequestId = Annotated[
    str | None,
    typer.Argument(
        metavar="[ID]",
        help="Id of the rotation, or its first six digits or more; default: the one that is under way.",
        show_default=False,
        autocompletion=offered_requests,
    ),
]
IncidentId = Annotated[
    str, typer.Argument(metavar="ID", help="Such as INC-2026-001.", autocompletion=offered_incidents)
]


def open_walk(ledger: "Ledger", request_id: str | None) -> Walk:
    """The rotation or rollback of that id; without an id the one that is under way.

    Raises:
        RequestError: there is none.
    """
    found = ledger.current() if request_id is None else ledger.walk(request_id)
    if found is None:
        raise RequestError("no rotation or rollback is open; see `keyrotation requests`")
    return found


def chosen_walk(ledger: "Ledger", request_id: str | None) -> Walk:
    """The same, but one of several is never chosen for the operator.

    Raises:
        RequestError: there is none, or several are open and none is named.
    """
    if request_id is not None:
        return ledger.walk(request_id)
    walks = [each for each in ledger.requests() if isinstance(each, Walk) and not each.is_over]
    if len(walks) > 1:
        each = ", ".join(f"{walk.id} ({walk.kind}, {walk.source} to {walk.target}, {walk.status})" for walk in walks)
        raise RequestError(f"several are open; give the id of one: {each}")
    return walks[0] if walks else open_walk(ledger, None)


def actor() -> str:
    """The user as the audit names them: ``user@host`` from the operating system, not from an environment variable."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
