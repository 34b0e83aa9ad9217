"""Creates and upgrades the schema of a home by Alembic, in one transaction."""

from typing import Any

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from psycopg.rows import dict_row
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from keyrotation_pipeline.adapters.own_schema import DEFAULT, schema_in, written
from keyrotation_pipeline.adapters.postgres.ledger import transactions
from keyrotation_pipeline.adapters.postgres.ledger.schema import require_known
from keyrotation_pipeline.adapters.postgres.server.connection import READ_ONLY, Connection, connect, display_name
from keyrotation_pipeline.errors import DatabaseUnavailableError, PreflightError

_VERSIONS = f"{DEFAULT}.alembic_version"
# As Alembic would make it.
_CREATE_VERSIONS = f"""
CREATE TABLE {_VERSIONS} (version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))
"""
_HOLDS_SOMETHING = f"""
SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('{DEFAULT}'))
    OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('{DEFAULT}'))
"""  # noqa: S608  text of our own
# Another migration has made schema or table since we looked.
_MADE_SINCE = (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateSchema, psycopg.errors.DuplicateTable)
_ATTEMPTS = 3
# The session's lock_timeout is for the application's tables; another migration may take longer.
PATIENCE = "60s"
_LOCATION = "keyrotation_pipeline.adapters.postgres.ledger:migrations"


def migrate(url: str) -> None:
    """Creates the schema of the home if it is missing and upgrades it to this package's version; idempotent.

    Concurrent migrations wait for each other. The role needs no more than ``CREATE`` on the database.

    Args:
        url: libpq connection string or URL, as `connect` takes it.

    Raises:
        PreflightError: the role may not create the schema, the database is read-only, or the schema is of a version
            that this one does not continue, or of something else; nothing was changed.
        DatabaseUnavailableError: no server answers, or the connection was lost.
    """

    def creator() -> Connection:
        connection = connect(url)
        connection.autocommit = False
        return connection

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=creator, poolclass=NullPool)
    schema = schema_in(url)

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def with_own_schema(*call: Any) -> tuple[str, Any]:  # noqa: ANN401
        _, _, statement, parameters, *_ = call
        return written(statement, schema), parameters

    try:
        with engine.begin() as connection:
            _upgrade(connection, display_name(url), schema)
    except sqlalchemy.exc.DBAPIError as error:
        raise _refusal(url, error.orig) from None


def _upgrade(connection: sqlalchemy.Connection, name: str, schema: str) -> None:
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}'")
    _lock(connection, name, schema)
    for revision in connection.exec_driver_sql("SELECT version_num FROM keyrotation.alembic_version").scalars():
        require_known(name, schema, revision)
    config = _config()
    config.attributes["connection"] = connection
    config.attributes["schema"] = schema
    command.upgrade(config, "head")


def _lock(connection: sqlalchemy.Connection, name: str, schema: str) -> None:
    """Makes schema and version table if they are missing, and keeps other migrations out until the transaction ends."""
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            with connection.begin_nested():
                # Not IF NOT EXISTS: that requires the right to create them even if they exist.
                if connection.exec_driver_sql("SELECT to_regnamespace('keyrotation')").scalar() is None:
                    connection.exec_driver_sql(f'CREATE SCHEMA "{schema}"')
                if connection.exec_driver_sql(f"SELECT to_regclass('{_VERSIONS}')").scalar() is None:
                    _require_empty(connection, name, schema)
                    connection.exec_driver_sql(_CREATE_VERSIONS)
                connection.exec_driver_sql(f"LOCK TABLE {_VERSIONS} IN EXCLUSIVE MODE")
        except sqlalchemy.exc.DBAPIError as error:
            if not attempts_left or not isinstance(error.orig, _MADE_SINCE):
                raise
        else:
            return


def _require_empty(connection: sqlalchemy.Connection, name: str, schema: str) -> None:
    if schema != DEFAULT and connection.exec_driver_sql(_HOLDS_SOMETHING).scalar():
        raise PreflightError(
            f"the schema {schema} of {name} holds something else, and was left as it is; give another name in "
            "[database] schema"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", _LOCATION)
    return config


def _refusal(url: str, cause: BaseException | None) -> PreflightError | DatabaseUnavailableError:
    name, schema = display_name(url), schema_in(url)
    match cause:
        case psycopg.errors.InsufficientPrivilege():
            return PreflightError(
                f"the database role may not create or change the schema {schema} in {name}; "
                "as the database's owner, GRANT CREATE ON DATABASE … TO that role"
            )
        case psycopg.errors.ReadOnlySqlTransaction():
            return PreflightError(f"{name} {READ_ONLY}")
        case psycopg.errors.LockNotAvailable():
            return DatabaseUnavailableError(f"{_holder(url)} is migrating {name}; run this again when it has finished")
        case _:
            return DatabaseUnavailableError(
                f"the schema {schema} of {name} could not be created ({type(cause).__name__}); see the server's log"
            )


def _holder(url: str) -> str:
    with connect(url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        table = written(_VERSIONS, schema_in(url))
        return transactions.described(cursor.execute(transactions.TABLE_HOLDER, {"table": table}).fetchall())
