"""Reads the application's own audit: the source procedure's query over its table `audit_events`, and writes of rows."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from keyrotation_pipeline.adapters.postgres.inventory.foreign_code import require_own_planning
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.incidents import RecordReads
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline.model.visible_text import visible

_COLUMNS = ("event_type", "resource_type", "user_id", "ip_address", "created_at", "action")
# Refuses whatever runs its owner's code when it is read: a view, a foreign table, row security, a custom type.
_SAFE = """
    WITH RECURSIVE tree AS (
        SELECT %(table)s::regclass::oid AS oid
        UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree t ON i.inhparent = t.oid
    )
    SELECT bool_and(c.relkind IN ('r', 'p') AND NOT c.relrowsecurity) AS is_plain,
           (SELECT array_agg(a.attname::text) FROM pg_catalog.pg_attribute a
            JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
            WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped
              AND y.typnamespace = 'pg_catalog'::regnamespace) AS columns,
           array_agg(c.oid::bigint) AS oids
    FROM tree JOIN pg_catalog.pg_class c USING (oid)
"""
# The beginning of a text, such that no query fails on it: in encodings other than these, some bytes are no text.
_READABLE: LiteralString = """
    CASE WHEN getdatabaseencoding() IN ('UTF8', 'LATIN1') THEN left({column}::text, 200)
    ELSE regexp_replace(left({column}::text, 200), '[^\\x01-\\x7f]', '?', 'g') END
"""
_READS: LiteralString = """
    SELECT coalesce({resource_type}, '') AS resource_type, coalesce({event_type}, '') AS event_type,
           coalesce({user_id}, 'unknown') AS who, coalesce({ip_address}, 'unknown') AS address,
           count(*) AS reads, min(created_at)::timestamptz AS first_at, max(created_at)::timestamptz AS last_at
    FROM {table}
    WHERE created_at >= %(since)s AND created_at <= %(until)s AND action::text = 'READ'
    GROUP BY 1, 2, 3, 4 ORDER BY reads, first_at LIMIT 1000
"""
_ROW = "resource_id"
_WRITES: LiteralString = """
    SELECT resource_id::text AS resource, count(*) AS writes, max(created_at)::timestamptz AS last_at,
           (array_agg(concat_ws(' ', {action}, {resource_type}, 'by', coalesce({user_id}, 'unknown'), 'from',
                                coalesce({ip_address}, 'unknown')) ORDER BY created_at DESC))[1] AS last
    FROM {table}
    WHERE created_at >= %(since)s AND action::text IS DISTINCT FROM 'READ'
      AND resource_id::text = ANY (%(rows)s::text[])
    GROUP BY 1
"""
_TEXTS = {
    name: sql.SQL(_READABLE).format(column=sql.Identifier(name))
    for name in ("resource_type", "event_type", "user_id", "ip_address", "action")
}


class AuditEvents:
    """`ApplicationAudit` over a table with the source procedure's columns.

    Args:
        connection: a separate one, in autocommit mode.
    """

    def __init__(self, connection: Connection, table: TableName) -> None:
        self._connection = connection
        self._table = table

    @property
    def name(self) -> str:
        """See `ApplicationAudit.name`."""
        return str(self._table)

    def reads(self, since: datetime, until: datetime) -> tuple[RecordReads, ...]:
        """See `ApplicationAudit.reads`; the rarest first, a thousand at most. Times without a zone are UTC."""
        with self._query() as (name, _), self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(sql.SQL(_READS).format(table=name, **_TEXTS), {"since": since, "until": until})
            return tuple(map(_reads, cursor.fetchall()))

    def names_rows(self) -> bool:
        """See `ApplicationAudit.names_rows`: by a column `resource_id`, which the procedure's query does not show."""
        with self._query() as (_, columns):
            return _ROW in columns

    def writes(self, rows: Collection[str], since: datetime) -> Mapping[str, str]:
        """See `ApplicationAudit.writes`: whatever is not a read."""
        with self._query() as (name, columns), self._connection.cursor(row_factory=dict_row) as cursor:
            if _ROW not in columns:
                raise IncidentError(
                    f"the table {self._table} has no column {_ROW} of a built-in type; name its rows so"
                )
            cursor.execute(sql.SQL(_WRITES).format(table=name, **_TEXTS), {"rows": list(rows), "since": since})
            return {each["resource"]: _written(each) for each in cursor.fetchall()}

    @contextmanager
    def _query(self) -> Iterator[tuple[sql.Identifier, Collection[str]]]:
        """Yields the table's name and its columns of built-in types, in a transaction that only reads."""
        name = sql.Identifier(self._table.schema, self._table.table)
        try:
            with self._connection.transaction():
                self._connection.execute("SET TRANSACTION READ ONLY")
                self._connection.execute("SET LOCAL statement_timeout = '60s'")
                self._connection.execute("SET LOCAL timezone = 'UTC'")
                # Otherwise the planner evaluates the constraints of children.
                self._connection.execute("SET LOCAL constraint_exclusion = off")
                yield name, self._require_safe(name)
        except psycopg.Error as error:
            raise IncidentError(
                f"the table {self._table} of [incidents] audit_events_table cannot be queried (SQLSTATE "
                f"{error.sqlstate or 'none'}); check that it exists, and that the role may read it"
            ) from None

    def _require_safe(self, name: sql.Identifier) -> Collection[str]:
        found = self._connection.execute(_SAFE, {"table": name.as_string(self._connection)}).fetchone()
        is_plain, columns, oids = found if found is not None else (False, None, None)
        known: list[str] = columns or []  # type: ignore[assignment]
        if missing := [each for each in _COLUMNS if each not in known]:
            raise IncidentError(
                f"the table {self._table} has no column {missing[0]} of a built-in type; name one with the columns "
                f"{', '.join(_COLUMNS)}"
            )
        if not is_plain:
            raise IncidentError(
                f"{self._table} is a view, or has foreign partitions or row security, so that reading it could run "
                "code of its owner; name an ordinary table"
            )
        require_own_planning(self._connection, *cast("list[int]", oids))
        return known


def _reads(row: Mapping[str, Any]) -> RecordReads:
    texts = {name: visible(row[name]) for name in ("resource_type", "event_type", "who", "address")}
    # The text of a single inet address includes its mask.
    texts["address"] = texts["address"].removesuffix("/32").removesuffix("/128")
    return RecordReads(**{**row, **texts})


def _written(row: Mapping[str, Any]) -> str:
    return f"{counted(row['writes'], 'write')}, the last {row['last_at']:%Y-%m-%d %H:%M:%S} UTC: {visible(row['last'])}"
