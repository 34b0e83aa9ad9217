"""`console`: the page where people look, alone."""

import sys
from secrets import token_urlsafe

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly import console as assembly
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, NoToken, Port, ProxyHosts


def console(
    *,
    port: Port = 3001,
    no_token: NoToken = False,
    host: ProxyHosts = None,
    config: Config = None,
) -> None:
    """Serve the page where people look, read-only.

    With the state, the walk, who has signed, instances, rows, backups and the newest events, until Ctrl-C. `keyrotation
    up` serves the same page next to Dagster.
    """
    path = settings.load(config).path
    token = None if no_token else token_urlsafe(32)
    assembly.serve(path, token, port, host or (), _announce)


def _announce(address: str) -> None:
    output.line(f"Console: {address}  (Ctrl-C stops it)")
    sys.stdout.flush()
