"""Reads how a database was created, and creates one in the same way."""

from collections.abc import Iterator, Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.roles import NAMED_BY_DATABASE
from keyrotation_pipeline.errors import IncompleteRestoreError
from keyrotation_pipeline.model.backups import DatabaseDefinition

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
# Versions of PostgreSQL name the columns differently, or do not have them.
_DATABASE = """
SELECT to_jsonb(d) || jsonb_build_object('encoding', pg_encoding_to_char(d.encoding))
FROM pg_database d WHERE d.datname = current_database()
"""
# What no object depends on, such as a collation that is only installed, does not matter.
_COLLATIONS = """
SELECT c.collnamespace::regnamespace::text || '.' || c.collname, c.collversion FROM pg_collation c
WHERE c.collversion IS NOT NULL
  AND EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_collation'::regclass AND d.refobjid = c.oid)
ORDER BY 1
"""
_ROLES = f'SELECT r.rolname, r.rolsuper FROM {NAMED_BY_DATABASE} ORDER BY r.rolname COLLATE "C"'  # noqa: S608  of our own
_CLOSED_TO_OTHERS: tuple[LiteralString, ...] = (
    "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
    "ALTER DATABASE {database} OWNER TO CURRENT_USER",
    "GRANT CREATE, CONNECT, TEMPORARY ON DATABASE {database} TO {restorer}",
    "ALTER DATABASE {database} ALLOW_CONNECTIONS true",
)
_FIRST_WITH_PROVIDERS = 150_000


def read_definition(connection: Connection) -> DatabaseDefinition:
    """Returns the definition of the database that a connection leads to."""
    ((found,),) = _rows(connection, _DATABASE)
    roles = _rows(connection, _ROLES)
    return DatabaseDefinition(
        encoding=found["encoding"],
        provider=_PROVIDERS[found.get("datlocprovider", "c")],
        collate=found["datcollate"],
        ctype=found["datctype"],
        locale=found.get("datlocale") or found.get("daticulocale"),
        icu_rules=found.get("daticurules"),
        collation_version=found.get("datcollversion"),
        collations=dict(_rows(connection, _COLLATIONS)),
        roles=tuple(name for name, _ in roles),
        superusers=tuple(name for name, is_superuser in roles if is_superuser),
    )


def create_database(connection: Connection, name: str, restorer: str, wanted: DatabaseDefinition) -> None:
    """Creates an empty database with a definition, into which only `restorer`, its owner and superusers can log in.

    It belongs to `restorer` until it is closed to others, then to the connection's role: whatever SQL `restorer` runs,
    it can let nobody in.

    Raises:
        IncompleteRestoreError: the server does not have the encoding, the locale or its provider; says what to install.
        psycopg.errors.DuplicateDatabase, psycopg.errors.InsufficientPrivilege: as the server says.
    """
    options = sql.SQL(" ").join(
        sql.SQL("{} {}").format(sql.SQL(option), sql.Literal(value))
        for option, value in _options(wanted, connection.info.server_version).items()
    )
    # From template0, since a custom template may already contain what the dump contains.
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} ALLOW_CONNECTIONS false {}")
    database = sql.Identifier(name)
    try:
        connection.execute(create.format(database, sql.Identifier(restorer), options))
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.InsufficientPrivilege):
        raise
    except psycopg.DatabaseError as error:
        if isinstance(error, psycopg.OperationalError):
            raise
        raise IncompleteRestoreError(
            f"this server cannot create a database like the dumped one ({_described(wanted)}): "
            f"{error.diag.message_primary}; install the locale on its host, or restore elsewhere"
        ) from None
    with connection.transaction():
        for statement in _CLOSED_TO_OTHERS:
            connection.execute(sql.SQL(statement).format(database=database, restorer=sql.Identifier(restorer)))


def differing_versions(wanted: DatabaseDefinition, found: DatabaseDefinition) -> Iterator[str]:
    """Yields a phrase for each collation that a restored database has in another version than the dumped one.

    Its indexes are built with the new one, so they are right; what was written down with the old one may not be.
    """
    pairs = {"its default collation": (wanted.collation_version, found.collation_version)}
    pairs |= {name: (version, found.collations.get(name)) for name, version in wanted.collations.items()}
    for name, (before, now) in pairs.items():
        if before is not None and now is not None and before != now:
            yield f"{name} was of version {before} and is of {now}"


def _options(wanted: DatabaseDefinition, server_version: int) -> Mapping[str, str]:
    options = {"ENCODING": wanted.encoding, "LC_COLLATE": wanted.collate, "LC_CTYPE": wanted.ctype}
    if server_version >= _FIRST_WITH_PROVIDERS:
        options["LOCALE_PROVIDER"] = wanted.provider
    if wanted.locale is not None:
        options["ICU_LOCALE" if wanted.provider == "icu" else "BUILTIN_LOCALE"] = wanted.locale
    if wanted.icu_rules is not None:
        options["ICU_RULES"] = wanted.icu_rules
    return options


def _described(wanted: DatabaseDefinition) -> str:
    parts = [wanted.encoding, wanted.provider, wanted.locale or wanted.collate]
    return ", ".join(dict.fromkeys(parts if wanted.locale else [*parts, wanted.ctype]))


def _rows(connection: Connection, query: str) -> list[Any]:
    return connection.execute(query.encode()).fetchall()
