"""Dagster's services over a configuration, or over none yet."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keyrotation_pipeline.adapters.dagster_services import DagsterServices, UiAccess, random_token
from keyrotation_pipeline.adapters.heartbeats import FileHeartbeats
from keyrotation_pipeline.adapters.postgres.server.connection import display_name
from keyrotation_pipeline.adapters.postgres.server.embedded import DAGSTER_DATABASE, EmbeddedServer
from keyrotation_pipeline.assembly.home import create_home, database_url
from keyrotation_pipeline.monitoring.scheduler_health import CONDUCTOR
from keyrotation_pipeline.settings import Settings, home_of
from keyrotation_pipeline.settings.loading import bare_environment, child_environment, dagster_storage_url

__all__ = ["UiAccess", "dagster_services", "random_token"]


@contextmanager
def dagster_services(
    path: Path, declared: Settings | None, door: UiAccess
) -> Iterator[tuple[DagsterServices, str | None]]:
    """The services, not started yet, on the servers that they need, and the name of the database; stopped with it.

    Args:
        path: of the configuration, be it there or not.
        declared: None while there is no configuration.

    Raises:
        HomeError: the home cannot be made, or the embedded server cannot run.
    """
    home = home_of(path)
    create_home(home)
    with ExitStack() as stack:
        storage, keep_storage = _storage(stack, home)
        variables = {"KEYROTATION_HOME": str(home), "DAGSTER_PG_URL": storage}
        if declared is not None:
            url = stack.enter_context(database_url(declared))  # an embedded server stays up for the runs
            variables["KEYROTATION_CONFIG"] = str(path)
        bare = bare_environment(None if declared is None else path, variables)
        services = DagsterServices(
            home / "dagster", path.parent, door, child_environment(**variables), bare, keep_storage
        )
        stack.callback(FileHeartbeats(home / "heartbeats").forget, CONDUCTOR)  # when they have stopped
        stack.callback(services.stop)
        yield services, None if declared is None else display_name(url)


def _storage(stack: ExitStack, home: Path) -> tuple[str, Callable[[], None]]:
    """SQLAlchemy URL of Dagster's storage, and what keeps its server running.

    Without another one it is the database `dagster` on the home's server; dagster-postgres speaks psycopg2.
    """
    if (url := dagster_storage_url()) is not None:
        return url, lambda: None
    server = stack.enter_context(EmbeddedServer(home / "postgres"))
    return server.url(DAGSTER_DATABASE).replace("postgresql://", "postgresql+psycopg2://", 1), server.keep_running
