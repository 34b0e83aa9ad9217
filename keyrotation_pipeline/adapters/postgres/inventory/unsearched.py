"""Which places of this database the search does not read, or reads only as they are stored."""

from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.tables import NEVER_SEARCHED, Unsearched

# Types are taken apart, so that a domain over bytea, or an array of it, is not missed. Declared columns are text.
_COLUMNS = """
WITH RECURSIVE holding(oid, base) AS (
    SELECT oid, typname::text FROM pg_type WHERE oid IN ('bytea'::regtype, 'bit'::regtype, 'varbit'::regtype)
    UNION
    SELECT contains.outside, holding.base FROM holding JOIN (
        SELECT oid AS outside, typbasetype AS inside FROM pg_type WHERE typtype = 'd'
        UNION ALL SELECT oid, typelem FROM pg_type WHERE typcategory = 'A' AND typelem <> 0
        UNION ALL SELECT c.reltype, a.atttypid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                  WHERE c.reltype <> 0 AND a.attnum > 0 AND NOT a.attisdropped
    ) AS contains ON contains.inside = holding.oid
)
SELECT DISTINCT h.base = 'bytea',
       CASE WHEN n.nspname = 'public' THEN '' ELSE n.nspname || '.' END || c.relname || '.' || a.attname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN holding h ON h.oid = a.atttypid
WHERE c.relkind IN ('r', 'm', 'f', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND c.oid >= 16384
  AND n.nspname <> 'keyrotation' AND n.nspname !~ '^pg_'
ORDER BY 2
"""

_SERVERS = "SELECT DISTINCT s.srvname::text FROM pg_foreign_table t JOIN pg_foreign_server s ON s.oid = t.ftserver"
_DATABASES = "SELECT datname::text FROM pg_database WHERE datname <> current_database() AND NOT datistemplate"
_LARGE_OBJECTS = "SELECT EXISTS (SELECT FROM pg_largeobject_metadata)"


def unsearched(connection: Connection) -> tuple[Unsearched, ...]:
    """What there is of such places here, by the catalogue alone, and what no search can read anywhere.

    Raises:
        PreflightError, BlockedError, DatabaseUnavailableError: the catalogue cannot be read.
    """
    with heap_scan(connection, "the catalogue"):
        columns = connection.execute(_COLUMNS).fetchall()
        servers = _names(connection.execute(_SERVERS).fetchall())
        databases = _names(connection.execute(_DATABASES).fetchall())
        objects = connection.execute(_LARGE_OBJECTS).fetchone() == (True,)
    binary = [str(name) for is_binary, name in columns if is_binary]
    if objects:
        binary.append("large objects")
    bits = tuple(str(name) for is_binary, name in columns if not is_binary)
    found = (
        Unsearched("what is compressed or encrypted in binary columns", tuple(binary)),
        Unsearched("bit strings", bits),
        Unsearched("what foreign servers hold besides their foreign tables", servers),
        Unsearched("other databases of the server", databases, fleeting=True),
    )
    return (*(each for each in found if each.names), *NEVER_SEARCHED)


def _names(rows: list[tuple[object, ...]]) -> tuple[str, ...]:
    return tuple(sorted(str(name) for (name,) in rows))
