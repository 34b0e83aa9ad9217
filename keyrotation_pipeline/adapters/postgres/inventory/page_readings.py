"""Records when pages were read, in `keyrotation.page_readings`: decrypted in encrypted tables, searched elsewhere.

A span of pages is recorded before it is read, with the time since which something in it may be unread. After it was
read it gets the time at which that began, if its relation is still the same file. Spans are read one at a time, each
under its own short snapshot, with a rest after each. A row that the application moves from pages ahead to pages that
are done is read in a later round, at its new place.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.tables import EncryptedTable

CLOCK = SystemClock()

# Stands for a declared table's name; no table has this name.
ELSEWHERE = ""
_NO_END = 2**62
ALL_PAGES = (0, _NO_END)

# Identifies the file of a relation: on this server, since a restored one may use the same numbers; and which of its
# columns are read, so that all of it is unread when those change. A foreign table has no file.
_FILE = """(SELECT system_identifier FROM pg_control_system())
    || '/' || coalesce(pg_relation_filenode(%(oid)s::oid)::text, 'foreign') || %(scope)s"""

# A span has up to 16 MiB with its TOAST, for a short snapshot; but at least 64 pages, or its record costs more.
_SIZE = f"""
SELECT pages, bytes, {_FILE} AS file,
       least(2048, greatest(64, pages * 16777216 / greatest(bytes, 1))) AS step
FROM (SELECT oid,
             CASE relkind WHEN 'f' THEN 1
                  ELSE pg_relation_size(oid) / current_setting('block_size')::int END AS pages,
             CASE relkind WHEN 'f' THEN 67108864
                  ELSE pg_relation_size(oid) + coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0) END AS bytes
      FROM pg_class WHERE oid = %(oid)s::oid) AS measured
"""  # noqa: S608  text of our own

# After VACUUM FULL, CLUSTER or TRUNCATE a row may be on any page. Then all pages are unread since the oldest time of
# the previous file. Pages that a relation has grown by are newer than the last recorded ones.
_PLAN = own(f"""
WITH size AS ({_SIZE}),
was AS (
    DELETE FROM keyrotation.page_readings AS old USING size
    WHERE old.table_name = %(table)s AND old.relation = %(relation)s
      AND (old.file <> size.file OR old.first_page >= size.pages)
    RETURNING old.file <> size.file AS replaced, coalesce(read_at, since) AS at
),
kept AS (
    SELECT old.* FROM keyrotation.page_readings AS old, size
    WHERE old.table_name = %(table)s AND old.relation = %(relation)s AND old.file = size.file
      AND old.first_page < size.pages
)
INSERT INTO keyrotation.page_readings (table_name, relation, file, first_page, end_page, since)
SELECT %(table)s, %(relation)s, size.file, first, first + size.step,
       coalesce((SELECT min(at) FROM was WHERE replaced),
                (SELECT coalesce(read_at, since) FROM kept ORDER BY first_page DESC LIMIT 1), clock_timestamp())
FROM size, generate_series(coalesce((SELECT max(end_page) FROM kept), 0), size.pages - 1, size.step) AS first
ON CONFLICT (table_name, relation, first_page) DO NOTHING
""")  # noqa: S608  text of our own

# Outside declared tables, whatever was added to a relation while it was one span is unread together with that span: a
# table created with one row on Monday and filled on Tuesday counts as new on Tuesday.
_GROWN = own(f"""
WITH size AS ({_SIZE})
UPDATE keyrotation.page_readings AS old
SET end_page = CASE WHEN pages > end_page THEN step ELSE pages END,
    since = read_at, read_at = CASE WHEN pages > end_page THEN NULL ELSE read_at END
FROM size
WHERE table_name = %(table)s AND relation = %(relation)s AND old.file = size.file
  AND first_page = 0 AND read_at IS NOT NULL AND pages <> end_page AND pages > 0 AND NOT EXISTS (
      SELECT FROM keyrotation.page_readings AS next
      WHERE next.table_name = %(table)s AND next.relation = %(relation)s AND next.first_page > 0)
""")  # noqa: S608  text of our own

_LOAD = own(f"""
WITH size AS ({_SIZE})
SELECT first_page, end_page, least(end_page, pages) - first_page,
       (least(end_page, pages) - first_page) * bytes / pages, coalesce(read_at, since), read_at IS NOT NULL, found
FROM keyrotation.page_readings AS span, size
WHERE table_name = %(table)s AND relation = %(relation)s AND span.file = size.file AND first_page < pages
ORDER BY first_page
""")  # noqa: S608  text of our own

_OF_OTHERS = own("DELETE FROM keyrotation.page_readings WHERE table_name = %s AND relation <> ALL (%s::text[])")

# Not if it is another file now: then it is unknown what was read.
_RECORD = own(f"""
UPDATE keyrotation.page_readings SET read_at = %(began_at)s, found = %(found)s,
    end_page = CASE WHEN table_name = '{ELSEWHERE}' AND first_page = 0
                    THEN greatest(1, least(end_page, %(there)s)) ELSE end_page END
WHERE table_name = %(table)s AND relation = %(relation)s AND file = %(file)s AND file = {_FILE}
  AND first_page >= %(first)s AND end_page <= %(end)s
  AND (read_at IS NULL OR read_at < %(began_at)s)
""")  # noqa: S608  text of our own

_OLDEST = own("""
SELECT table_name, min(coalesce(read_at, since)) FROM keyrotation.page_readings
WHERE table_name = ANY (%s) GROUP BY table_name
""")


class Readable(Protocol):
    """A relation whose pages are read."""

    @property
    def oid(self) -> int:
        """Its oid in the catalog."""

    @property
    def label(self) -> str:
        """The name in messages."""

    @property
    def recorded_as(self) -> str:
        """The name under which it is recorded, unique among relations."""

    @property
    def scope(self) -> str:
        """A text that changes with what is read of it."""

    @property
    def has_pages(self) -> bool:
        """Whether parts of it can be read alone."""


_Relation = TypeVar("_Relation", bound=Readable)


def spans(connection: Connection, tables: Sequence[EncryptedTable]) -> Iterator[PageSpan]:
    """Records new spans, and yields every span of these tables as it is now."""
    for table in tables:
        yield from spans_of(connection, str(table.name), heaps(connection, table))


def spans_of(connection: Connection, table: str, relations: Sequence[Readable]) -> Iterator[PageSpan]:
    """Records and yields the spans of these relations, which are all that is read for `table`."""
    forget_others(connection, table, relations)
    for relation in relations:
        plan(connection, table, relation)
        rows: list[Any] = connection.execute(_LOAD, _names(table, relation)).fetchall()
        for first, end, pages, size, since, read, found in rows:
            yield PageSpan(table or relation.label, relation.recorded_as, first, end, pages, size, since, read, found)


def forget_others(connection: Connection, table: str, relations: Sequence[Readable]) -> None:
    """Deletes what is recorded for `table` of other relations, such as dropped ones."""
    connection.execute(_OF_OTHERS, (table, [relation.recorded_as for relation in relations]))


def plan(connection: Connection, table: str, relation: Readable) -> None:
    """Records the spans of one relation that are not known yet."""
    if table == ELSEWHERE:
        connection.execute(_GROWN, _names(table, relation))
    connection.execute(_PLAN, _names(table, relation))


def pages_of(connection: Connection, relation: Readable) -> int:
    """Returns how many pages it has now."""
    size = f"SELECT pages FROM ({_SIZE}) AS size"  # noqa: S608  text of our own
    (row,) = connection.execute(size.encode(), {"oid": relation.oid, "scope": relation.scope}).fetchall()
    return int(str(row[0]))


def read_spans(
    connection: Connection,
    table: str,
    relations: Sequence[_Relation],
    wanted: Sequence[PageSpan],
    read: Callable[[_Relation, tuple[int, int]], Mapping[str, int]],
    should_continue: Callable[[], bool],
    duty_cycle: float,
) -> int:
    """Reads these spans one after the other and records each; returns the number of pages.

    Args:
        table: the table for which they are read, or `ELSEWHERE`.
        read: reads pages of a relation (the first, and the first one after them); returns unwanted findings.
        should_continue: called before each span: whether it may still be read now.
        duty_cycle: the share of time in which the database is kept busy.
    """
    known, pages, whole = {relation.recorded_as: relation for relation in relations}, 0, set[str]()
    for span in wanted:
        relation = known.get(span.relation)
        if relation is None or span.relation in whole:
            continue
        if not should_continue():
            break
        began = CLOCK.monotonic()
        of_it = (span.first_page, span.end_page) if relation.has_pages else ALL_PAGES
        file, began_at = file_and_time(connection, relation)
        found = read(relation, of_it)
        record(connection, table, relation, file, of_it, began_at, found, span.first_page + span.pages)
        if not relation.has_pages:
            whole.add(span.relation)
        pages += span.pages
        CLOCK.sleep((CLOCK.monotonic() - began) * (1 / duty_cycle - 1))
    return pages


@contextmanager
def whole(connection: Connection, table: str, relation: Readable) -> Iterator[None]:
    """Records that all of a relation was read, if the body of this context succeeds."""
    plan(connection, table, relation)
    file, began_at = file_and_time(connection, relation)
    yield
    record(connection, table, relation, file, ALL_PAGES, began_at)


def file_and_time(connection: Connection, relation: Readable) -> tuple[str, datetime]:
    """Returns what `record` needs from before the first page is read."""
    names = {"oid": relation.oid, "scope": relation.scope}
    (row,) = connection.execute(f"SELECT {_FILE}, clock_timestamp()".encode(), names).fetchall()
    return cast("tuple[str, datetime]", row)


def record(
    connection: Connection,
    table: str,
    relation: Readable,
    file: str,
    pages: tuple[int, int],
    began_at: datetime,
    found: Mapping[str, int] = MappingProxyType({}),
    there: int = _NO_END,
) -> None:
    """Records that pages were read.

    Args:
        file: the relation's file before its first page was read.
        pages: the first, and the first one after them; spans only partly inside do not count.
        began_at: when their snapshot was taken.
        found: unwanted findings, by column.
        there: the relation's number of pages when that began, at most up to the spans read.
    """
    read = {"file": file, "first": pages[0], "end": pages[1], "began_at": began_at, "found": json.dumps(dict(found))}
    connection.execute(_RECORD, _names(table, relation) | read | {"there": there})


def oldest(connection: Connection, tables: Sequence[str]) -> Mapping[str, datetime]:
    """Returns the time since which something may be unread for each table, by the stored records; fast."""
    rows = connection.execute(_OLDEST, (list(tables),)).fetchall()
    return cast("dict[str, datetime]", dict(rows))  # type: ignore[arg-type]


def _names(table: str, relation: Readable) -> dict[str, Any]:
    return {"table": table, "relation": relation.recorded_as, "oid": relation.oid, "scope": relation.scope}
