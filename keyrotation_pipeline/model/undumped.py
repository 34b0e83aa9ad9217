"""What belongs to a database and is in no dump of it: roles are the server's, and pg_dump leaves some things out.

Names only: the manifest that holds it is signed and not encrypted.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class RoleAttribute(StrEnum):
    """An attribute that a new role does not have, as SQL names it."""

    SUPERUSER = "SUPERUSER"
    LOGIN = "LOGIN"
    CREATEDB = "CREATEDB"
    CREATEROLE = "CREATEROLE"
    BYPASSRLS = "BYPASSRLS"
    REPLICATION = "REPLICATION"
    NOINHERIT = "NOINHERIT"


@dataclass(frozen=True, slots=True)
class DatabaseRole:
    """A role of a server.

    Args:
        connection_limit: -1: none.
        valid_until: of its password, in ISO 8601; None: without end.
    """

    name: str
    attributes: tuple[RoleAttribute, ...] = ()
    connection_limit: int = -1
    valid_until: str | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """That a role is a member of another one.

    Args:
        admin: the member may let others in.
        inherits, sets: it has the rights of `role`, and may act as it; before PostgreSQL 16 by its attribute INHERIT,
            and always.
    """

    role: str
    member: str
    admin: bool = False
    inherits: bool = True
    sets: bool = True


@dataclass(frozen=True, slots=True)
class Roles:
    """Roles of a server, and who is a member of which."""

    roles: tuple[DatabaseRole, ...]
    memberships: tuple[Membership, ...] = ()


@dataclass(frozen=True, slots=True)
class Undumped:
    """What a database has at its server beside what its dump holds.

    Args:
        roles: those that the dump names, all that are members of them, directly or not, and all that these are in.
        lost: a phrase for each thing in the database that the dump does not restore.
        of_server: a phrase for each thing of the server, which one that was not lost still has.
        extension_owners: by extension.
    """

    roles: Roles
    lost: tuple[str, ...] = ()
    of_server: tuple[str, ...] = ()
    extension_owners: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoleSQL:
    """How roles get what they had on another server.

    Args:
        statements: for a superuser to execute; none makes a role as powerful as one.
        apart: a phrase for each thing that they leave to people to decide.
        logins: the roles, quoted, that can log in again, but have no password yet.
    """

    statements: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    logins: tuple[str, ...] = ()
