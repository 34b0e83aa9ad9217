"""Orders writes so that new row versions find room in the page of the old ones.

Rows are read once, a stretch of pages at a time, and written in six passes by their line pointers: each pass takes a
sixth of the rows of every page. From the second pass on, the write first scans its pages, which makes the server prune
what the previous pass replaced (`prune` in `statements`). The new versions then fit into their own pages: no table
extension and, as no index covers a written column, no index entries either (PostgreSQL's heap-only tuples, HOT). Only
the first sixth goes to other pages, so the table grows by a sixth and needs no vacuum during the rewrite.

With five passes a table grew to 1.23 times its size; eight passes were no better than six.
"""

from collections.abc import Sequence

from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import Row
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.server.connection import Connection

PASSES = 6

# A page should hold two rows per pass: a pass with one row more than the previous one has no room for it.
_ROWS_PER_PAGE = 2 * PASSES
_SAMPLE_PAGES = 32

# The index of `ctid` in a row as read: four bytes for the page and two for the line pointer.
_POSITION = 2

# Expressions and predicates are found by their dependencies; one that names the whole row has a variable without a
# number. Large values are in TOAST, where nothing is pruned.
_HOT = """
SELECT NOT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = ANY (%(columns)s)
    WHERE i.indrelid = %(oid)s AND (
        a.attnum = ANY (i.indkey)
        OR EXISTS (
            SELECT FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
              AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum
        )
        OR concat(i.indexprs::text, i.indpred::text) LIKE '%%:varattno 0 %%'
    )
) AND coalesce((
    SELECT pg_relation_size(nullif(c.reltoastrelid, 0)) = 0 FROM pg_class c WHERE c.oid = %(oid)s
), true)
"""


def fits_hot_order(connection: Connection, relation: Relation) -> bool:
    """Returns whether the new versions of rows can stay in the pages of the old ones, so that no vacuum is needed."""
    names = [column.name for column in relation.columns]
    if connection.execute(_HOT, {"oid": relation.oid, "columns": names}).fetchone() != (True,):
        return False
    pages = min(_SAMPLE_PAGES, relation.pages)
    count = b"SELECT count(*) FROM ONLY %b WHERE ctid < '(%d,0)'" % (relation.identifier.as_bytes(connection), pages)
    (rows,) = connection.execute(count).fetchall()[0]
    return int(str(rows)) >= pages * _ROWS_PER_PAGE


def passes(rows: Sequence[Row]) -> list[list[Row]]:
    """Divides the rows of a stretch into passes, each in page order; omits empty passes."""
    parts: list[list[Row]] = [[] for _ in range(PASSES)]
    for row in rows:
        parts[row[_POSITION][5] % PASSES].append(row)
    return [part for part in parts if part]


def page_of(row: Row) -> int:
    """Returns the page that a row is in."""
    return int.from_bytes(row[_POSITION][:4], "big")
