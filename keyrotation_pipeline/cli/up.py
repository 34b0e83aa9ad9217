"""`up`: Dagster's UI and daemon in the foreground, with the embedded PostgreSQL if none is configured."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.dagster_services import DagsterServices
from keyrotation_pipeline.adapters.postgres.server.connection import display_name
from keyrotation_pipeline.adapters.postgres.server.embedded import DAGSTER_DATABASE, EmbeddedServer
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline.settings.environment import child_environment, dagster_storage_url

SECONDS_BETWEEN_LOOKS = 0.2


def up(
    *,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the UI, on 127.0.0.1.")] = 3000,
    config: Config = None,
) -> None:
    """Serve Dagster's UI and run its daemon, which carries approved rotations through, until Ctrl-C."""
    path = settings.config_path(config)
    declared = _declared(config)
    home = settings.home_of(path)
    assembly.create_home(home)
    with stop_signals() as stopped, ExitStack() as stack:
        storage = dagster_storage_url() or _embedded_storage(stack, home)
        if declared is not None:
            output.heading(display_name(stack.enter_context(assembly.database_url(declared))))
        variables = {"KEYROTATION_HOME": str(home), "DAGSTER_PG_URL": storage}
        if declared is not None:
            variables["KEYROTATION_CONFIG"] = str(path)
        services = DagsterServices(home / "dagster", path.parent, port, child_environment(**variables))
        stack.callback(services.stop)
        services.start()
        if services.wait_until_served(stopped):
            _announce(services, configured=declared is not None)
            _wait(services, stopped)


def _declared(config: Path | None) -> settings.Settings | None:
    try:
        return settings.load(config)
    except HomeError:
        return None


def _embedded_storage(stack: ExitStack, home: Path) -> str:
    """SQLAlchemy URL of the database `dagster` on the home's server; dagster-postgres speaks psycopg2."""
    server = stack.enter_context(EmbeddedServer(home / "postgres"))
    return server.url(DAGSTER_DATABASE).replace("postgresql://", "postgresql+psycopg2://", 1)


def _announce(services: DagsterServices, *, configured: bool) -> None:
    if not configured:
        output.line(
            "no keyrotation.toml yet, so there is no table to rotate; run `keyrotation init` or `keyrotation demo`"
        )
    output.line(f"Dagster: {services.url}/asset-groups  (Ctrl-C stops it; its log is {services.log})")
    sys.stdout.flush()


def _wait(services: DagsterServices, stopped: Callable[[], bool]) -> None:
    for _ in attempts(SystemClock(), pause_seconds=SECONDS_BETWEEN_LOOKS):
        if stopped():
            return
        if not services.running():
            raise HomeError(f"Dagster ended by itself; read {services.log}, then run `keyrotation up` again")


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM has come; neither interrupts anything by itself."""
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
