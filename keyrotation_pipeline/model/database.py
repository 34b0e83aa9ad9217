"""Which database it is, and what the pre-flight says of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """The database that is talked to.

    Args:
        name: ``name@host``, without a password. The host is information: after a failover it is another.
        system_identifier: of the cluster.
        superuser: the role that we act as, if it is a superuser, as officers should know before they sign.
    """

    name: str
    system_identifier: str
    superuser: str | None = None

    def __str__(self) -> str:
        return f"{self.name}, system identifier {self.system_identifier}"

    def signed(self) -> str:
        """As the text for signing says it: by what stays the same however the database is reached."""
        power = "" if self.superuser is None else f", as superuser {self.superuser}, so that code in it has all power"
        return f"{self.name.rpartition('@')[0]}, system identifier {self.system_identifier}{power}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What the pre-flight found: `fatal` ones stop the rotation, the others warn. One sentence that says what to do.

    Args:
        check: by which it was found, named by the truth wanted.
    """

    sentence: str
    fatal: bool
    check: str = "database_is_ready"


@dataclass(frozen=True, slots=True)
class CheckNames:
    """What a pre-flight looks at: of the server, and of each declared table that can be read."""

    server: tuple[str, ...]
    tables: tuple[str, ...]


DISK_IS_LARGE_ENOUGH = "disk_is_large_enough"
TABLES_ARE_READABLE = "tables_are_readable"
