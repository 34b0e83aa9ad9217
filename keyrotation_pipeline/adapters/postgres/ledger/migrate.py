"""Creates and upgrades the schema `keyrotation` by Alembic, in one transaction."""

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from psycopg.rows import dict_row
from sqlalchemy.pool import NullPool

from keyrotation_pipeline.adapters.postgres.ledger import session_locks
from keyrotation_pipeline.adapters.postgres.ledger.schema import require_known
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect, display_name
from keyrotation_pipeline.errors import DatabaseUnavailableError, PreflightError

_VERSIONS = "keyrotation.alembic_version"
# As Alembic would make it.
_CREATE_VERSIONS = f"""
CREATE TABLE {_VERSIONS} (version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))
"""
# Another migration has made schema or table since we looked.
_MADE_SINCE = (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateSchema, psycopg.errors.DuplicateTable)
_ATTEMPTS = 3
# The session's lock_timeout is for the application's tables; another migration may take longer.
PATIENCE = "60s"
_LOCATION = "keyrotation_pipeline.adapters.postgres.ledger:migrations"


def migrate(url: str) -> None:
    """Creates the schema `keyrotation` if it is missing and upgrades it to this package's version; idempotent.

    Concurrent migrations wait for each other. The role needs no more than ``CREATE`` on the database.

    Args:
        url: libpq connection string or URL, as `connect` takes it.

    Raises:
        PreflightError: the role may not create the schema, the database is read-only, or the schema is of a version
            that this one does not continue; nothing was changed.
        DatabaseUnavailableError: no server answers, or the connection was lost.
    """

    def creator() -> Connection:
        connection = connect(url)
        connection.autocommit = False
        return connection

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=creator, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            _upgrade(connection, display_name(url))
    except sqlalchemy.exc.DBAPIError as error:
        raise _refusal(url, error.orig) from None


def _upgrade(connection: sqlalchemy.Connection, name: str) -> None:
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}'")
    _lock(connection)
    for revision in connection.exec_driver_sql("SELECT version_num FROM keyrotation.alembic_version").scalars():
        require_known(name, revision)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _lock(connection: sqlalchemy.Connection) -> None:
    """Makes schema and version table if they are missing, and keeps other migrations out until the transaction ends."""
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            with connection.begin_nested():
                # Not IF NOT EXISTS: that requires the right to create them even if they exist.
                if connection.exec_driver_sql("SELECT to_regnamespace('keyrotation')").scalar() is None:
                    connection.exec_driver_sql("CREATE SCHEMA keyrotation")
                if connection.exec_driver_sql(f"SELECT to_regclass('{_VERSIONS}')").scalar() is None:
                    connection.exec_driver_sql(_CREATE_VERSIONS)
                connection.exec_driver_sql(f"LOCK TABLE {_VERSIONS} IN EXCLUSIVE MODE")
        except sqlalchemy.exc.DBAPIError as error:
            if not attempts_left or not isinstance(error.orig, _MADE_SINCE):
                raise
        else:
            return


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
            return DatabaseUnavailableError(f"{_holder(url)} is migrating {name}; run this again when it has finished")
        case _:
            return DatabaseUnavailableError(
                f"the schema keyrotation of {name} could not be created ({type(cause).__name__}); see the server's log"
            )


def _holder(url: str) -> str:
    with connect(url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        return session_locks.described(cursor.execute(session_locks.TABLE_HOLDER, {"table": _VERSIONS}).fetchall())
