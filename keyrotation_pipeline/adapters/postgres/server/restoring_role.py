"""The role without power that restores a dump: its SQL runs as this role alone, in a database closed to all others.

It exists, with privileges on the database, as long as a copy is unfinished: by this the next restore recognises what a
killed one has left.
"""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.adapters.postgres.server.database_definition import create_database
from keyrotation_pipeline.adapters.postgres.server.restore_plan import RestorePlan
from keyrotation_pipeline.errors import DatabaseExistsError, IncompleteRestoreError, PreflightError
from keyrotation_pipeline.model.backups import DatabaseDefinition

_PREFIX = "keyrotation_restore_"
_DIGITS = 12
_PASSWORD_BYTES = 24
_POWERS = "SELECT rolsuper, rolcreatedb AND rolcreaterole FROM pg_roles WHERE rolname = current_user"
# It owns the database for a moment, then has privileges on it that nobody gives a role of this name otherwise.
_UNFINISHED = """
SELECT 1 FROM pg_database d JOIN pg_roles r ON r.rolname = %s
WHERE d.datname = %s AND (d.datdba = r.oid OR EXISTS (SELECT FROM aclexplode(d.datacl) a WHERE a.grantee = r.oid))
"""
_OWNER_OF_PUBLIC = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'public'"
_SUPERUSERS = "SELECT rolname FROM pg_roles WHERE rolsuper"
# From 16 on, a role that may act as another one has the option SET; before, every member may.
_FIRST_WITH_OPTIONS = 160_000
_ACTS_AS = "SELECT rolname FROM pg_roles WHERE pg_has_role(rolname, {})"


@dataclass(frozen=True, slots=True)
class RestoringRole:
    """The role that restores the dump into `database`.

    Args:
        password: known to nobody but this process.
    """

    database: str
    name: str
    password: str

    @classmethod
    def of(cls, database: str) -> "RestoringRole":
        """Returns the role of a database that is to be created, with a new password."""
        digest = hashlib.sha256(database.encode()).hexdigest()[:_DIGITS]
        return cls(database, f"{_PREFIX}{digest}", secrets.token_urlsafe(_PASSWORD_BYTES))

    def url(self, admin: str) -> str:
        """Returns the URL by which it logs in to its database, on the server that `admin` names."""
        return make_conninfo(admin, dbname=self.database, user=self.name, password=self.password)


def is_superuser(connection: Connection) -> bool:
    """Returns whether the connection's role is one."""
    return bool(connection.execute(_POWERS).fetchall()[0][0])


def require_power(connection: Connection, definition: DatabaseDefinition) -> None:
    """Refuses a role that could not create the roles and the database, before anything is created.

    Raises:
        PreflightError: says what to grant.
        IncompleteRestoreError: what belongs to a role without power would belong to a superuser here.
    """
    ((powerful, enough),) = connection.execute(_POWERS).fetchall()
    if not powerful and not enough:
        raise PreflightError(
            f"the role may not create databases and roles on the server of {display_name(connection.info.dsn)}; as a "
            "superuser, ALTER ROLE … CREATEDB CREATEROLE, or give another URL"
        )
    here = {str(name) for (name,) in connection.execute(_SUPERUSERS)}
    if raised := sorted(here.intersection(definition.roles) - set(definition.superusers)):
        raise IncompleteRestoreError(
            f"the role {', '.join(raised)} is a superuser here but was none in the dumped database; restore where the "
            "superuser has another name"
        )


def create_for(
    connection: Connection, role: RestoringRole, definition: DatabaseDefinition, attributes: LiteralString = ""
) -> tuple[str, ...]:
    """Creates the roles that a dump names and that are missing, the restoring role, and its database, closed to others.

    What an unfinished restore into the same database left is dropped first.

    Args:
        attributes: additional ones of the restoring role.

    Returns:
        The roles that were created, apart from the restoring role.

    Raises:
        DatabaseExistsError: there is such a database, and it is no unfinished copy.
        PreflightError: the role may not create databases or roles.
        IncompleteRestoreError: as `create_database`.
    """
    drop(connection, role)
    created = _create_roles(connection, definition.roles)
    try:
        _create_restorer(connection, role, attributes)
        create_database(connection, role.database, role.name, definition)
    except psycopg.errors.DuplicateDatabase:
        drop_roles(connection, (role.name, *created))
        raise DatabaseExistsError(f"there is a database {role.database} already; name another with --into") from None
    except psycopg.errors.InsufficientPrivilege:
        drop_roles(connection, (role.name, *created))
        raise PreflightError(
            f"the role may not create a database next to {display_name(connection.info.dsn)}; as a superuser, "
            "ALTER ROLE … CREATEDB CREATEROLE"
        ) from None
    except BaseException:
        drop(connection, role)
        drop_roles(connection, created)
        raise
    return created


def _create_restorer(connection: Connection, role: RestoringRole, attributes: LiteralString) -> None:
    # The server's log never sees the password, only what verifies it.
    verifier = connection.pgconn.encrypt_password(role.password.encode(), role.name.encode(), b"scram-sha-256")
    create = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER {} PASSWORD {}")
    name = sql.Identifier(role.name)
    connection.execute(create.format(name, sql.SQL(attributes), sql.Literal(verifier.decode())))
    if not is_superuser(connection):
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(name))


def _create_roles(connection: Connection, roles: Iterable[str]) -> tuple[str, ...]:
    there = {str(name) for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
    missing = tuple(each for each in roles if each not in there and not each.startswith("pg_"))
    for each in missing:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(each)))
    return missing


def is_unfinished(connection: Connection, role: RestoringRole) -> bool:
    """Returns whether there is a database of the role, which a restore has left that was killed."""
    return bool(connection.execute(_UNFINISHED, (role.name, role.database)).fetchall())


def drop(connection: Connection, role: RestoringRole) -> bool:
    """Drops an unfinished copy with its restoring role; returns whether there was one."""
    unfinished = is_unfinished(connection, role)
    if unfinished:
        # FORCE ends what still runs there.
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(role.database)))
    drop_roles(connection, (role.name,))
    return unfinished


def drop_roles(connection: Connection, roles: Iterable[str]) -> None:
    """Drops roles that own nothing and have no rights."""
    for each in roles:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(each)))


def drop_privileged(connection: Connection, role: RestoringRole) -> None:
    """Drops the restoring role, which owns nothing any more, with the privileges that it may have given itself."""
    name = sql.Identifier(role.name)
    connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
    connection.execute(sql.SQL("DROP ROLE {}").format(name))


def borrow(connection: Connection, roles: Iterable[str]) -> tuple[str, ...]:
    """Makes the connection's role a member of those that it may grant to itself; returns which, to give them back."""
    option = "'SET'" if connection.info.server_version >= _FIRST_WITH_OPTIONS else "'MEMBER'"
    acts_as = {str(name) for (name,) in connection.execute(_ACTS_AS.format(option).encode())}
    borrowed = []
    for each in roles:
        if each not in acts_as:
            try:
                connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(each)))
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidGrantOperation):
                continue
            borrowed.append(each)
    return tuple(borrowed)


def give_back(connection: Connection, borrowed: Iterable[str]) -> None:
    """Ends memberships that `borrow` has made."""
    for each in borrowed:
        connection.execute(sql.SQL("REVOKE {} FROM CURRENT_USER").format(sql.Identifier(each)))


def prepare(connection: Connection, wanted: RestorePlan, role: RestoringRole) -> str:
    """Prepares the empty database: the schema public for the restoring role; extensions, if we are a superuser.

    Returns:
        The owner of the schema public, for `give_back_public`.
    """
    ((owner,),) = connection.execute(_OWNER_OF_PUBLIC).fetchall()
    connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(role.name)))
    for schema in sorted(wanted.schemas):
        statement = sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}")
        connection.execute(statement.format(sql.Identifier(schema), sql.Identifier(role.name)))
    for each in wanted.extensions:
        statement = sql.SQL("CREATE EXTENSION IF NOT EXISTS {} SCHEMA {} CASCADE")
        connection.execute(statement.format(sql.Identifier(each.name), sql.Identifier(each.schema)))
    return str(owner)


def give_back_public(connection: Connection, owner: str) -> None:
    """Gives the schema public, unless SQL of the dump has dropped it, the owner that it has in every new database."""
    if connection.execute(_OWNER_OF_PUBLIC).fetchall():
        connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(owner)))
