"""Creates and upgrades the schema `keyrotation` by Alembic, in one transaction."""

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.pool import NullPool

from keyrotation_pipeline.adapters.postgres.ledger.transactions import lock_key
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect, display_name
from keyrotation_pipeline.errors import DatabaseUnavailableError, PreflightError

_LOCATION = "keyrotation_pipeline.adapters.postgres.ledger:migrations"


def migrate(url: str) -> None:
    """Creates the schema `keyrotation` if it is missing and upgrades it to this package's version; idempotent.

    An advisory lock serialises concurrent migrations. The role needs no more than ``CREATE`` on the database.

    Args:
        url: libpq connection string or URL, as `connect` takes it.

    Raises:
        PreflightError: the role may not create the schema, the database is read-only, or the schema is newer.
        DatabaseUnavailableError: no server answers, or the connection was lost.
    """

    def creator() -> Connection:
        connection = connect(url)
        connection.autocommit = False
        return connection

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=creator, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            _upgrade(connection)
    except sqlalchemy.exc.DBAPIError as error:
        raise _refusal(url, error.orig) from None
    except CommandError:
        raise PreflightError(
            f"the schema keyrotation of {display_name(url)} was made by a newer keyrotation-pipeline; install that one"
        ) from None


def _upgrade(connection: sqlalchemy.Connection) -> None:
    # The session's lock_timeout is for the application's tables; another migration may take longer.
    connection.exec_driver_sql("SET LOCAL lock_timeout = '60s'")
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (lock_key("migrate"),))
    # Not CREATE SCHEMA IF NOT EXISTS: that requires the right to create one even if it exists.
    if connection.exec_driver_sql("SELECT to_regnamespace('keyrotation')").scalar() is None:
        connection.exec_driver_sql("CREATE SCHEMA keyrotation")
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", _LOCATION)
    return config


def _refusal(url: str, cause: BaseException | None) -> PreflightError | DatabaseUnavailableError:
    name = display_name(url)
    match cause:
        case psycopg.errors.InsufficientPrivilege():
            return PreflightError(
                f"the database role may not create or change the schema keyrotation in {name}; "
                "as the database's owner, GRANT CREATE ON DATABASE … TO that role"
            )
        case psycopg.errors.ReadOnlySqlTransaction():
            return PreflightError(
                f"{name} is read-only, perhaps a standby; give the primary's address as [database] url"
            )
        case psycopg.errors.LockNotAvailable():
            return DatabaseUnavailableError(f"another process is migrating {name}; run this again when it has finished")
        case _:
            return DatabaseUnavailableError(
                f"the schema keyrotation of {name} could not be created ({type(cause).__name__}); see the server's log"
            )
