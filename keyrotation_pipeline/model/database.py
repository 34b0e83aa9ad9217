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
    """What the pre-flight found: `fatal` ones stop the rotation, the others warn. One sentence that says what to do."""

    sentence: str
    fatal: bool
