"""What makes a restored database the same one: how it is created, and which roles its objects name."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DatabaseDefinition:
    """How a database was created, and what its objects need of the server around it; nothing in it is secret.

    Args:
        encoding: PostgreSQL's name, ``UTF8``.
        provider: of the locale: ``libc``, ``icu`` or ``builtin``.
        collate, ctype: libc's names, which every database has.
        locale: of ICU or built in; None with libc.
        icu_rules: additional rules of ICU.
        collation_version: as the provider named it when the database was created, or last refreshed.
        collations: by name, versions of other collations that its objects use.
        roles: all that own something in it, or that privileges, policies or settings name.
        superusers: those of them that were superusers.
    """

    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str | None = None
    icu_rules: str | None = None
    collation_version: str | None = None
    collations: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    superusers: tuple[str, ...] = ()
