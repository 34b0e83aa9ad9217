"""Names the schema that a home keeps its records in, and writes SQL on it.

A database may have several homes, one for each key, each with a schema of its own (`[database] schema`). The name comes
with the connection string, as the setting `keyrotation.schema`, so that everything that is given the string (workers,
restored copies) works on the same records. The server does nothing with that setting.

Statements name the default schema, and are written with the one of the connection that executes them. The search path
is not used for this: it would be one more place where PostgreSQL looks functions and operators up.
"""

import re
from contextlib import suppress

import psycopg
from psycopg import sql
from psycopg.abc import AdaptContext
from psycopg.conninfo import conninfo_to_dict, make_conninfo

DEFAULT = "keyrotation"
# Names of constraints and triggers begin with it, and PostgreSQL's names have at most 63 bytes.
NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_OPTION = f"-c {DEFAULT}.schema="
_IN_OPTIONS = re.compile(rf"(?:^|\s)-c\s*{DEFAULT}\.schema=({NAME.pattern})(?=\s|$)")
# In order: before a dot (but for names of settings), as a text of its own, and in the name of a fence.
_QUALIFIER = re.compile(rf"\b{DEFAULT}\.(?!engine\b|lock_timeout\b)")
_TEXT = re.compile(rf"'{DEFAULT}'")
_FENCE = re.compile(rf"\b{DEFAULT}(?=_retired_key)")
_CREATED_MEANWHILE = psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject


def with_schema(url: str, schema: str, variable: str = "") -> str:
    """Returns a connection string whose connections use this schema; unchanged if they do already.

    Args:
        variable: the value of ``PGOPTIONS``, which libpq takes where a connection string has no options.
    """
    given = str(conninfo_to_dict(url).get("options") or "")
    is_named = _named_in(given) == schema if given else _named_in(variable) == schema == DEFAULT
    return url if is_named else make_conninfo(url, options=f"{given or variable} {_OPTION}{schema}".strip())


def schema_in(url: str) -> str:
    """Returns the schema that a connection string names."""
    return _named_in(str(conninfo_to_dict(url).get("options") or ""))


def schema_of(connection: "psycopg.Connection[tuple[object, ...]]") -> str:
    """Returns the schema of a connection."""
    return _named_in(connection.info.options)


def written(statement: str, schema: str) -> str:
    """Returns a statement of ours with this schema in place of the default one; it holds nothing that others chose."""
    if schema == DEFAULT:
        return statement
    qualified = _QUALIFIER.sub(f'"{schema}".', statement)
    return _FENCE.sub(schema, _TEXT.sub(f"'{schema}'", qualified))


class own(sql.SQL):  # noqa: N801  reads as a mark on the text
    """SQL that names our own objects: `sql.SQL` written with the schema of the connection that executes it.

    What `format` puts into it is not changed: only the text of the program itself is.
    """

    def as_bytes(self, context: AdaptContext | None = None) -> bytes:
        """Returns the SQL for the connection of the context."""
        connection = None if context is None else context.connection
        text = super().as_bytes(context)
        if connection is None or not (options := connection.info.options):
            return text
        return written(text.decode(), _named_in(options)).encode()

    def as_string(self, context: AdaptContext | None = None) -> str:
        """Returns the SQL for the connection of the context."""
        return self.as_bytes(context).decode()

    def format(self, *args: object, **kwargs: object) -> sql.Composed:
        """Returns the template filled in, as `sql.SQL.format` does."""
        given = {id(each) for each in (*args, *kwargs.values())}
        parts = super().format(*args, **kwargs)
        return sql.Composed([each if id(each) in given else own(each.as_string(None)) for each in parts])


def create_unless_there(connection: "psycopg.Connection[tuple[object, ...]]", there: own, create: own) -> None:
    """Creates a table of ours unless it exists.

    Args:
        there: a query that returns whether it exists.
        create: the statement, with IF NOT EXISTS.
    """
    if connection.execute(there).fetchone() != (True,):
        # Another process may create it, or its type, at the same moment, which IF NOT EXISTS does not always see.
        with suppress(*_CREATED_MEANWHILE), connection.transaction():
            connection.execute(create)


def _named_in(options: str) -> str:
    found = _IN_OPTIONS.findall(options)
    return str(found[-1]) if found else DEFAULT
