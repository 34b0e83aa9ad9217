"""Checks that a database has the schema of the home; without Alembic, since every command does this."""

import re
from collections.abc import Iterator
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own, schema_of
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.model.audit import AuditHead

# The revisions in migrations/versions, oldest first, each named after the release that brought it. `migrate` upgrades a
# database to the last one.
REVISIONS = ("0.1.0", "0.2.0", "0.2.0_signatures")
# How development versions named theirs.
_DEVELOPMENT = re.compile("[0-9]{4}")

# Tables of ours that are not searched for values: people and applications write text there. Everything else in the
# schema is searched.
OWN_TABLES = (
    "alembic_version", "audit_events", "audit_head", "checked_tables", "incident_flag", "instance_reports",
    "key_rotation_audit", "page_readings", "quarantine", "replicas", "seen_pods", "session_locks", "shard_walks",
    "table_counts", "waits",
)  # fmt: skip


def require_migrated(connection: Connection) -> None:
    """Refuses to work on a database whose schema of this home is missing or of another version.

    Raises:
        PreflightError: says what to do.
    """
    name, schema = display_name(connection.info.dsn), schema_of(connection)
    if (revision := revision_of(connection)) is None:
        raise PreflightError(f"{name} has no schema {schema} yet; run `keyrotation init`")
    if revision != REVISIONS[-1]:
        raise PreflightError(f"the schema {schema} of {name} is of {revision}; run `keyrotation init` to upgrade it")


def revision_of(connection: Connection) -> str | None:
    """Returns the revision of the schema of the home; None: there is none yet.

    Raises:
        PreflightError: this version does not continue it.
    """
    if connection.execute(own("SELECT to_regclass('keyrotation.alembic_version')")).fetchone() == (None,):
        return None
    row = connection.execute(own("SELECT version_num FROM keyrotation.alembic_version")).fetchone()
    if row is None:
        return None
    revision = str(row[0])
    require_known(display_name(connection.info.dsn), schema_of(connection), revision)
    return revision


# Schemas with tables of our records. Of our own role alone: planning a query on a table runs code of whoever owns it.
_OTHERS = own("""
SELECT n.nspname::text FROM pg_namespace n
WHERE n.nspname <> 'keyrotation' AND ARRAY['audit_events', 'audit_head', 'table_counts'] <@ ARRAY(
    SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r'
    AND c.relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user))
ORDER BY n.nspname
""")
_COUNTED = """
SELECT to_char(counted_at, 'YYYY-MM-DD'),
       ARRAY(SELECT place #>> '{{}}' FROM jsonb_path_query(counts, '$.columns[*]') AS place)
FROM {} WHERE table_name = %s
"""


def other_schema_of(connection: Connection, head: AuditHead) -> str | None:
    """Returns the schema of another home here whose audit holds this event; None: there is none."""
    holds = sql.SQL("SELECT FROM {} WHERE (seq, hash) = (%s, %s)")
    for schema in _other_schemas(connection):
        events = sql.Identifier(schema, "audit_events")
        if connection.execute(holds.format(events), (head.seq, head.hash)).fetchone() is not None:
            return schema
    return None


def counted_by_others(connection: Connection, table: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yields the schema of each other home of our role that has counted values of a table, on which day, and where."""
    for schema in _other_schemas(connection):
        counts = sql.SQL(_COUNTED).format(sql.Identifier(schema, "table_counts"))
        for day, places in connection.execute(counts, (table,)).fetchall():
            yield schema, str(day), tuple(cast("list[str]", places))


def _other_schemas(connection: Connection) -> list[str]:
    return [str(schema) for (schema,) in connection.execute(_OTHERS).fetchall()]


def require_known(database: str, schema: str, revision: str) -> None:
    """Refuses a revision that this version cannot upgrade from.

    Raises:
        PreflightError: a development version made it, or a newer one.
    """
    if _DEVELOPMENT.fullmatch(revision):
        raise PreflightError(
            f"the schema {schema} of {database} is of a development version before {REVISIONS[0]}, which no "
            "release continues; finish its rotation there, then see `keyrotation docs upgrades`"
        )
    if revision not in REVISIONS:
        raise PreflightError(
            f"the schema {schema} of {database} was made by a newer keyrotation-pipeline ({revision}); install that one"
        )
