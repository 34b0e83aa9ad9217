"""`up`: Dagster's UI and daemon in the foreground, with the embedded PostgreSQL if none is configured."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe
from types import FrameType
from typing import Annotated

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.services import DagsterServices, UiAccess, dagster_services
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, NoToken, Port, ProxyHosts
from keyrotation_pipeline.errors import HomeError


def up(
    *,
    port: Port = 3000,
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Show everything, but let nobody start or stop anything.", show_default=False),
    ] = False,
    no_token: NoToken = False,
    host: ProxyHosts = None,
    config: Config = None,
) -> None:
    """Serve Dagster's UI and execute approved rotations.

    With Dagster's daemon, and the embedded PostgreSQL if none is configured, until Ctrl-C.
    """
    path = settings.config_path(config)
    declared = _declared(config)
    token = None if no_token else token_urlsafe(32)
    door = UiAccess(port, token, read_only=read_only, hosts=tuple(host or ()))
    with stop_signals() as stopped, dagster_services(path, declared, door) as (services, database):
        if database is not None:
            output.heading(database)
        services.start()
        if services.wait_until_served(stopped, output.note):
            _announce(door, services, configured=declared is not None)
            services.wait_while_running(stopped, output.note)


def _declared(config: Path | None) -> settings.Settings | None:
    try:
        return settings.load(config)
    except HomeError:
        return None


def _announce(door: UiAccess, services: DagsterServices, *, configured: bool) -> None:
    if not configured:
        output.line(
            "no keyrotation.toml yet: the tables in the UI are the demo's; run `keyrotation init` or `keyrotation demo`"
        )
    output.line(f"Console: {door.address}  (Ctrl-C stops it; its log is {services.log})")
    if configured:
        bearer = "" if door.token is None else f"  (with the bearer token in {services.metrics_token_file})"
        output.line(f"Metrics: {door.url}/metrics{bearer}")
    sys.stdout.flush()


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM has arrived; neither interrupts anything by itself."""
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
