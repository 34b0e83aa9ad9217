"""`exec`: a program whose library reads keys from its environment, started with opened ones."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from keyrotation_pipeline.assembly.opened_keys import environment_with, key_ring
from keyrotation_pipeline.cli.options import Config
from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.settings.application import load_format

# Python ignores these, and a program inherits what is ignored.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


def exec_command(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="Program, and its arguments.")],
    *,
    mounted: Annotated[
        Path | None,
        typer.Option(
            "--mounted", metavar="PATH", help="Directory or file with the sealed keys; else the environment has them."
        ),
    ] = None,
    secret: Annotated[
        str | None, typer.Option("--secret", metavar="ID", help="Secret in AWS that has the sealed keys.")
    ] = None,
    config: Config = None,
) -> None:
    """Start a program with opened keys in its environment.

    Opens the keys that applications get, writes them as the list that [format] declares into the environment of the
    program alone, and becomes it: signals, input and exit code are the program's. Needs no database and no home.
    """
    declared = load_format(config)
    environment = environment_with(key_ring(mounted, secret), declared)
    for each in _IGNORED:
        signal.signal(each, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606  what was asked for, without a shell
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it holds a zero byte"
    raise ConfigurationError(f"{command[0]!r} cannot be started ({why}); name a program that is there")
