"""Gives what was restored its owners, privileges, settings and row security, as in the dump.

Of the dump's SQL only statements of a fixed form are executed here, none of which evaluates an expression or calls a
function, each alone (the extended protocol takes no second one). What our role may not do is left to a superuser.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.server.archive import key_of, shown
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.dump_text import (
    Part,
    Statement,
    for_database,
    part_of,
    setting_of,
    shape_of,
    statements,
    unquoted,
)
from keyrotation_pipeline.adapters.postgres.server.restoring_role import RestoringRole, is_superuser

_ROW_SECURITY = re.compile(r"ALTER TABLE [^;]+ ENABLE ROW LEVEL SECURITY ;")
_COMMENT_ON_EXTENSION = re.compile(r"COMMENT ON EXTENSION \S+ IS '' ;")
# Whoever may set the others is somebody with power: in a database with such a setting, they act as that.
_ANYBODY_SETS = "SELECT 1 FROM pg_settings WHERE lower(name) = %s AND context = 'user'"
# A sequence of a column has the owner of its table, whose new one may have been refused.
_LINKED = ((), (psycopg.errors.FeatureNotSupported,))
_SYSTEM = frozenset({"pg_catalog", "information_schema", "pg_toast"})
_KIND_WORD = re.compile(r"[A-Z]+")
# Before the others: who owns a schema may own what is in it.
_ORDER = (
    Part.OTHER, Part.OWNER, Part.PRIVILEGE, Part.DEFAULT_PRIVILEGE, Part.DATABASE_SETTING, Part.ROLE_SETTING,
    Part.DATABASE_COMMENT, Part.DATABASE_OPTION,
)  # fmt: skip


@dataclass
class Handover:
    """Executes what a dump says of owners, privileges and settings in the database that was restored from it.

    Args:
        admin: a connection to the restored database, of a role that may act as `role`.
        role: the one that restored it.
        text: the dump's SQL.
        left_out: what `key_of` returns for entries that are left to a superuser.
    """

    admin: Connection
    role: RestoringRole
    text: str = field(repr=False)
    left_out: frozenset[str]
    refused: list[Statement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _without_owner: set[str] = field(default_factory=set)
    _session: LiteralString = "ROLE"
    _chosen: dict[Part, list[Statement]] = field(default_factory=lambda: defaultdict(list))

    def of_objects(self) -> None:
        """Does everything but what decides who owns the database, and who may connect to it."""
        self._session = "SESSION AUTHORIZATION" if is_superuser(self.admin) else "ROLE"
        self._select()
        for part in _ORDER:
            for statement in self._chosen[part]:
                if not _is_about_database(statement):
                    self._execute(part, statement)

    def of_database(self, *, opened: bool) -> str | None:
        """Gives the database its owner and privileges, and what is left to its owner, in the running transaction.

        Args:
            opened: it gets the privileges of the source, too; else only its owner and superusers can connect.

        Returns:
            The owner; None: it cannot be made the owner, so our role is.
        """
        owners = [each for each in self._chosen[Part.OWNER] if _is_about_database(each)]
        owner = self._new_owner(owners[-1]) if owners else None
        to = sql.SQL("CURRENT_USER") if owner is None else sql.Identifier(owner)
        restorer, database = sql.Identifier(self.role.name), sql.Identifier(self.role.database)
        self.admin.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(restorer, to))
        self.admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, to))
        if opened and owner is not None:
            self.admin.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(database))
            for each in self._chosen[Part.PRIVILEGE]:
                if _is_about_database(each):
                    self._execute(Part.PRIVILEGE, each)
        return owner

    def phrases(self) -> tuple[str, ...]:
        """Returns a phrase for each thing that our role may not do."""
        named = (shown(f"{part_of(each).value}: {_name(each)}") for each in self.refused)
        return tuple(dict.fromkeys(named))

    def sql_for_superuser(self) -> str:
        """Returns what our role may not do, as SQL; empty if that is nothing."""
        return "\n".join(
            f"SET SESSION AUTHORIZATION {each.session_role};\n{each.text}\nRESET SESSION AUTHORIZATION;"
            if each.session_role
            else each.text
            for each in self.refused
        )

    def sql_to_open(self) -> str:
        """Returns what gives the database the privileges of the source, as SQL."""
        database = sql.Identifier(self.role.database).as_string(self.admin)
        privileges = [each.text for each in self._chosen[Part.PRIVILEGE] if _is_about_database(each)]
        return "\n".join([f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO PUBLIC;", *privileges])

    def _select(self) -> None:
        """Reads the dump's statements, for the new database; the many others are not kept."""
        for statement in statements(self.text):
            if statement.entry is None or key_of(statement.entry) in self.left_out:
                continue
            part = part_of(statement)
            if part is not Part.OTHER or _is_harmless(statement):
                self._chosen[part].append(for_database(statement, self.role.database))

    def _new_owner(self, statement: Statement) -> str | None:
        owner = unquoted(statement.words[-2].text)
        try:
            with self.admin.transaction():
                self.admin.execute(statement.text.encode(errors="surrogateescape"), binary=True)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject):
            self.refused.append(statement)
            return None
        return owner

    def _execute(self, part: Part, statement: Statement) -> None:
        if not self._may(part, statement):
            self.refused.append(statement)
            return
        try:
            with self.admin.transaction():
                if statement.session_role is not None:
                    role = sql.Identifier(unquoted(statement.session_role))
                    self.admin.execute(sql.SQL("SET {} {}").format(sql.SQL(self._session), role))
                self.admin.execute(statement.text.encode(errors="surrogateescape"), binary=True)
                if statement.session_role is not None:
                    self.admin.execute(sql.SQL("RESET {}").format(sql.SQL(self._session)))
        except (psycopg.errors.InsufficientPrivilege, *_LINKED[part is Part.OWNER]):
            self.refused.append(statement)
            if part is Part.OWNER:
                self._without_owner.add(_target(statement))
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            entry = statement.entry
            name = shown(key_of(entry)) if entry else "a statement"
            self.failures.append(f"{name} ({part.value}: {type(error).__name__})")

    def _may(self, part: Part, statement: Statement) -> bool:
        match part:
            case Part.PRIVILEGE:
                # Privileges that a missing owner would pass on wrongly wait for it; those on the server's own objects
                # could open files.
                words = {unquoted(word.text) for word in statement.words}
                return _target(statement) not in self._without_owner and not words & _SYSTEM
            case Part.DATABASE_SETTING | Part.ROLE_SETTING:
                name = setting_of(statement)
                return bool(self.admin.execute(_ANYBODY_SETS, (name,)).fetchall())
            case _:
                return True


def _is_about_database(statement: Statement) -> bool:
    """Returns whether a statement gives the database itself an owner or privileges."""
    part, words = part_of(statement), [word.text for word in statement.words]
    if part is Part.OWNER:
        return words[1] == "DATABASE"
    return part is Part.PRIVILEGE and words[words.index("ON") + 1] == "DATABASE"


def _is_harmless(statement: Statement) -> bool:
    """Returns whether it is one of the statements of no other part that pg_restore does not execute for us."""
    shape = shape_of(statement.words)
    kind = statement.entry.kind if statement.entry else ""
    if kind == "ROW SECURITY":
        return _ROW_SECURITY.fullmatch(shape) is not None
    return kind == "COMMENT" and _COMMENT_ON_EXTENSION.fullmatch(shape) is not None


def _target(statement: Statement) -> str:
    """Returns the name of the object that a statement gives an owner or privileges, without its kind."""
    words = [word.text for word in statement.words]
    begin, end = (words.index("ON") + 1, -1) if "ON" in words else (1, words.index("OWNER"))
    named = words[begin:end]
    if "ON" in words:
        last = max(place for place, word in enumerate(named) if word in {"TO", "FROM"})
        named = named[:last]
    while len(named) > 1 and _KIND_WORD.fullmatch(named[0]):
        named = named[1:]
    return " ".join(named)


def _name(statement: Statement) -> str:
    entry = statement.entry
    if (setting := setting_of(statement)) is not None:
        role = statement.words[2].text if part_of(statement) is Part.ROLE_SETTING else ""
        return f"{role} {setting}".strip()
    return entry.label if entry else ""
