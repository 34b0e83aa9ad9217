"""Prepares Dagster's services, which `up` serves, with the servers that they need."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keyrotation_pipeline.adapters.dagster_services import DagsterServices, UiAccess, sole_services
from keyrotation_pipeline.adapters.home_files import FileHeartbeats
from keyrotation_pipeline.adapters.postgres.server.connection import display_name
from keyrotation_pipeline.adapters.postgres.server.embedded import DAGSTER_DATABASE, EmbeddedServer
from keyrotation_pipeline.assembly.home import EMBEDDED, create_home, database_url
from keyrotation_pipeline.monitoring.scheduler_health import CONDUCTOR
from keyrotation_pipeline.settings import Settings, home_of
from keyrotation_pipeline.settings.loading import (
    CONSOLE_VARIABLE,
    bare_environment,
    child_environment,
    dagster_storage_url,
)

__all__ = ["DagsterServices", "UiAccess", "dagster_services"]


@contextmanager
def dagster_services(
    path: Path, declared: Settings | None, access: UiAccess
) -> Iterator[tuple[DagsterServices, str | None]]:
    """Yields the services, not yet started, with their servers and the name of the database; stops them at the end.

    Args:
        path: of the configuration, whether it exists or not.
        declared: None if there is no configuration yet.

    Raises:
        HomeError: the home cannot be created or is served already, or the embedded server cannot run.
    """
    home = home_of(path)
    create_home(home)
    with ExitStack() as stack:
        stack.enter_context(sole_services(home, access))  # before anything that the end of this would remove
        storage, keep_storage = _storage(stack, home)
        variables = {"KEYROTATION_HOME": str(home), "DAGSTER_PG_URL": storage, CONSOLE_VARIABLE: "/"}
        if declared is not None:
            url = stack.enter_context(database_url(declared))  # an embedded server must run as long as the runs do
            variables["KEYROTATION_CONFIG"] = str(path)
        bare = bare_environment(None if declared is None else path, variables)
        ours = child_environment(None if declared is None else declared.key_variable, **variables)
        services = DagsterServices(home / "dagster", path.parent, access, ours, bare, keep_storage)
        stack.callback(FileHeartbeats(home / "heartbeats").forget, CONDUCTOR)  # after they have stopped
        stack.callback(services.stop)
        yield services, None if declared is None else display_name(url)


def _storage(stack: ExitStack, home: Path) -> tuple[str, Callable[[], None]]:
    """Returns the SQLAlchemy URL of Dagster's storage, and a function that restarts its server if needed.

    The default is the database `dagster` on the home's server; dagster-postgres uses psycopg2.
    """
    if (url := dagster_storage_url()) is not None:
        return url, lambda: None
    server = stack.enter_context(EmbeddedServer(home / EMBEDDED))
    return server.url(DAGSTER_DATABASE).replace("postgresql://", "postgresql+psycopg2://", 1), server.keep_running
