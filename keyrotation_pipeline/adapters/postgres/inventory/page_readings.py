"""Which pages were read when, in `keyrotation.page_readings`: decrypted in encrypted tables, searched elsewhere.

A span of pages is written down before it is read, with the time since when something in it may be unread. After it was
read it gets the time at which that began, if its relation is still the same file. Spans are read one at a time, each
under a short snapshot of its own, with a rest after each. A row that the application moves from pages ahead to pages
that are done is read in a later round, where it is then.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.tables import EncryptedTable

CLOCK = SystemClock()

# In the place of a declared table's name; no table is called so.
ELSEWHERE = ""
_NO_END = 2**62
ALL_PAGES = (0, _NO_END)

# The file by which a relation is known: of this very server, since a restored one may use the same numbers; and what of
# it is looked at, so that all of it is unread where that has changed. A foreign table has no file.
_FILE = """(SELECT system_identifier FROM pg_control_system())
    || '/' || coalesce(pg_relation_filenode(%(oid)s::oid)::text, 'foreign') || %(look)s"""

# A span holds up to 16 MiB with its TOAST, so that its snapshot is short; but 64 pages, or its record costs more.
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

# After VACUUM FULL, CLUSTER or TRUNCATE a row may be on any page. All of them are unread then, since the oldest time of
# the file before. Pages that a relation has grown by came after the last ones were written down.
_PLAN = f"""
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
"""  # noqa: S608  text of our own

# Of what is searched elsewhere, what came to a relation while all of it was one span is unread with that span: a table
# that was made with one row on Monday, and filled on Tuesday, is new on Tuesday, too.
_GROWN = f"""
WITH size AS ({_SIZE})
UPDATE keyrotation.page_readings AS old
SET end_page = CASE WHEN pages > end_page THEN step ELSE pages END,
    since = read_at, read_at = CASE WHEN pages > end_page THEN NULL ELSE read_at END
FROM size
WHERE table_name = %(table)s AND relation = %(relation)s AND old.file = size.file
  AND first_page = 0 AND read_at IS NOT NULL AND pages <> end_page AND pages > 0 AND NOT EXISTS (
      SELECT FROM keyrotation.page_readings AS next
      WHERE next.table_name = %(table)s AND next.relation = %(relation)s AND next.first_page > 0)
"""  # noqa: S608  text of our own

_LOAD = f"""
WITH size AS ({_SIZE})
SELECT first_page, end_page, least(end_page, pages) - first_page,
       (least(end_page, pages) - first_page) * bytes / pages, coalesce(read_at, since), read_at IS NOT NULL, found
FROM keyrotation.page_readings AS span, size
WHERE table_name = %(table)s AND relation = %(relation)s AND span.file = size.file AND first_page < pages
ORDER BY first_page
"""  # noqa: S608  text of our own

_OF_OTHERS = "DELETE FROM keyrotation.page_readings WHERE table_name = %s AND relation <> ALL (%s::text[])"

# Not if it is another file now: then nobody knows what was read.
_RECORD = f"""
UPDATE keyrotation.page_readings SET read_at = %(began_at)s, found = %(found)s,
    end_page = CASE WHEN table_name = '{ELSEWHERE}' AND first_page = 0
                    THEN greatest(1, least(end_page, %(there)s)) ELSE end_page END
WHERE table_name = %(table)s AND relation = %(relation)s AND file = %(file)s AND file = {_FILE}
  AND first_page >= %(first)s AND end_page <= %(end)s
  AND (read_at IS NULL OR read_at < %(began_at)s)
"""  # noqa: S608  text of our own

_OLDEST = """
SELECT table_name, min(coalesce(read_at, since)) FROM keyrotation.page_readings
WHERE table_name = ANY (%s) GROUP BY table_name
"""


class Readable(Protocol):
    """A relation whose pages are read."""

    @property
    def oid(self) -> int:
        """Its number in the catalogue."""

    @property
    def label(self) -> str:
        """As messages name it."""

    @property
    def noted_as(self) -> str:
        """What no other relation is noted as."""

    @property
    def look(self) -> str:
        """A text that changes with what is looked at."""

    @property
    def has_pages(self) -> bool:
        """Whether some of it can be read without the rest."""


_Relation = TypeVar("_Relation", bound=Readable)


def spans(connection: Connection, tables: Sequence[EncryptedTable]) -> Iterator[PageSpan]:
    """Write down what is new, and give every span of these tables as it is now."""
    for table in tables:
        yield from spans_of(connection, str(table.name), heaps(connection, table))


def spans_of(connection: Connection, table: str, relations: Sequence[Readable]) -> Iterator[PageSpan]:
    """The same of these relations, which are all that is read for `table`."""
    forget_others(connection, table, relations)
    for relation in relations:
        plan(connection, table, relation)
        rows: list[Any] = connection.execute(_LOAD, _names(table, relation)).fetchall()
        for first, end, pages, size, since, read, found in rows:
            yield PageSpan(table or relation.label, relation.noted_as, first, end, pages, size, since, read, found)


def forget_others(connection: Connection, table: str, relations: Sequence[Readable]) -> None:
    """Nothing stays noted for `table` of any other relation, as one that was dropped."""
    connection.execute(_OF_OTHERS, (table, [relation.noted_as for relation in relations]))


def plan(connection: Connection, table: str, relation: Readable) -> None:
    """Write down the spans of one relation that are not known yet."""
    if table == ELSEWHERE:
        connection.execute(_GROWN, _names(table, relation))
    connection.execute(_PLAN, _names(table, relation))


def pages_of(connection: Connection, relation: Readable) -> int:
    """How many pages it has now."""
    size = f"SELECT pages FROM ({_SIZE}) AS size"  # noqa: S608  text of our own
    (row,) = connection.execute(size.encode(), {"oid": relation.oid, "look": relation.look}).fetchall()
    return int(str(row[0]))


def read_spans(
    connection: Connection,
    table: str,
    relations: Sequence[_Relation],
    wanted: Sequence[PageSpan],
    read: Callable[[_Relation, tuple[int, int]], Mapping[str, int]],
    go_on: Callable[[], bool],
    duty_cycle: float,
) -> int:
    """Read these spans one after the other and write down each; returns the number of pages.

    Args:
        table: for which they are read, or `ELSEWHERE`.
        read: reads pages of a relation, the first and the first one after them; returns what should not be there.
        go_on: asked before each span, whether it may still be read now.
        duty_cycle: the share of the time in which the database is kept busy.
    """
    known, pages, whole = {relation.noted_as: relation for relation in relations}, 0, set[str]()
    for span in wanted:
        relation = known.get(span.relation)
        if relation is None or span.relation in whole:
            continue
        if not go_on():
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
    """Write down that all of a relation was read, if what is done within this context succeeds."""
    plan(connection, table, relation)
    file, began_at = file_and_time(connection, relation)
    yield
    record(connection, table, relation, file, ALL_PAGES, began_at)


def file_and_time(connection: Connection, relation: Readable) -> tuple[str, datetime]:
    """What `record` has to be given, from before the first page is read."""
    names = {"oid": relation.oid, "look": relation.look}
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
    """Write down that pages were read.

    Args:
        file: of the relation before its first page was read.
        pages: the first, and the first one after them; spans that are only partly among them do not count.
        began_at: when the snapshot was taken by which they were read.
        found: what should not be there, by column.
        there: the first page that the relation did not have when that began, as far as the spans read go.
    """
    read = {"file": file, "first": pages[0], "end": pages[1], "began_at": began_at, "found": json.dumps(dict(found))}
    connection.execute(_RECORD, _names(table, relation) | read | {"there": there})


def oldest(connection: Connection, tables: Sequence[str]) -> Mapping[str, datetime]:
    """Since when something that is read for each table may be unread, by what was last written down; quick."""
    rows = connection.execute(_OLDEST, (list(tables),)).fetchall()
    return cast("dict[str, datetime]", dict(rows))  # type: ignore[arg-type]


def _names(table: str, relation: Readable) -> dict[str, Any]:
    return {"table": table, "relation": relation.noted_as, "oid": relation.oid, "look": relation.look}
