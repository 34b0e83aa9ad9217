"""The page ranges of a shard, their stored progress, and the ranges that a sweep visits."""

from dataclasses import dataclass, field
from time import monotonic
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory import places
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import sql_of
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.scans import FROM_THE_HEAP
from keyrotation_pipeline.adapters.postgres.inventory.search_indexes import any_to_be_opened
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.tables import EncryptedTable, Shard

# The first process plans every slice of every shard of a relation: the relation grows while it is rewritten, so slices
# planned later would leave gaps.
_PLAN = own("""
INSERT INTO keyrotation.shard_walks
    (request, table_name, shard, slice, relation, filenode, first_page, next_page, end_page, updated_at)
SELECT %(request)s, %(table)s, place / %(slices)s, place %% %(slices)s, %(relation)s,
       pg_relation_filenode(%(oid)s::oid::regclass),
       pages * place / %(of)s, pages * place / %(of)s, pages * (place + 1) / %(of)s, clock_timestamp()
FROM generate_series(0, %(of)s - 1) AS place,
     (SELECT pg_relation_size(%(oid)s::oid::regclass) / current_setting('block_size')::int AS pages) AS size
ORDER BY place
ON CONFLICT (request, table_name, shard, slice, relation) DO NOTHING
""")

# After VACUUM FULL or CLUSTER all pages hold other rows: the slice starts again, and its counts stay.
_PLAN_AGAIN = own("""
UPDATE keyrotation.shard_walks AS stored
SET filenode = pg_relation_filenode(%(oid)s::oid::regclass), first_page = pages * %(place)s / %(of)s,
    next_page = pages * %(place)s / %(of)s, end_page = pages * (%(place)s + 1) / %(of)s, updated_at = clock_timestamp()
FROM (SELECT pg_relation_size(%(oid)s::oid::regclass) / current_setting('block_size')::int AS pages) AS size
WHERE (stored.request, stored.table_name, stored.shard, stored.slice, stored.relation)
      = (%(request)s, %(table)s, %(shard)s, %(slice)s, %(relation)s)
  AND stored.filenode IS DISTINCT FROM pg_relation_filenode(%(oid)s::oid::regclass)
""")

_LOAD = own("""
SELECT filenode, first_page, next_page, end_page, rows, "values", skipped, quarantined, seconds
FROM keyrotation.shard_walks
WHERE (request, table_name, shard, slice, relation) = (%(request)s, %(table)s, %(shard)s, %(slice)s, %(relation)s)
""")

_SAVE = own("""
UPDATE keyrotation.shard_walks
SET next_page = %s, rows = %s, "values" = %s, skipped = %s, quarantined = %s, seconds = %s,
    updated_at = clock_timestamp()
WHERE (request, table_name, shard, slice, relation) = (%s, %s, %s, %s, %s) AND filenode = %s
""")

_SLICES = own("""
SELECT count(DISTINCT slice) FROM keyrotation.shard_walks WHERE (request, table_name, shard) = (%s, %s, %s)
""")

_LAST_SHARD = own("SELECT max(shard) FROM keyrotation.shard_walks WHERE (request, table_name) = (%s, %s)")

_DONE = own("""
SELECT relation, sum(next_page - first_page)::bigint, sum(end_page - first_page)::bigint, sum(rows)::bigint
FROM keyrotation.shard_walks WHERE (request, table_name, shard) = (%s, %s, %s) GROUP BY relation
""")


@dataclass
class PageRange:
    """Pages of one relation from `first` to before `end`, of which those before `next` are done; and the results."""

    filenode: int
    first: int
    next: int
    end: int
    done: Rewritten = field(default_factory=Rewritten)
    started: float = field(default_factory=monotonic)

    def so_far(self) -> Rewritten:
        """Returns what was done, including the time of this process."""
        return self.done + Rewritten(seconds=monotonic() - self.started)


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a shard; one worker at a time re-encrypts it."""

    shard: Shard
    index: int = 0
    of: int = 1


class StoredPageRanges:
    """The page ranges of one slice, one per relation, read and stored through the housekeeping connection."""

    def __init__(self, connection: Connection, request: str, part: Slice) -> None:
        self._connection = connection
        shard = part.shard
        self._names = {
            "request": request,
            "table": str(shard.table.name),
            "shard": shard.index,
            "slice": part.index,
            "slices": part.of,
            "place": shard.index * part.of + part.index,
            "of": shard.of * part.of,
        }

    def ranges(self, relation: Relation) -> list[PageRange]:
        """Returns the one range of a relation, as `open` does."""
        return [self.open(relation)]

    def open(self, relation: Relation) -> PageRange:
        """Returns the range where it stopped; from the start if the relation was rewritten as a whole since."""
        require_there(self._connection, relation)
        names = {**self._names, "oid": relation.oid, "relation": relation.label}
        self._connection.execute(_PLAN, names)
        self._connection.execute(_PLAN_AGAIN, names)
        filenode, first, following, end, *counts = self._connection.execute(_LOAD, names).fetchall()[0]
        return PageRange(filenode, first, following, end, Rewritten(*counts))  # type: ignore[arg-type]

    def renewed(self, relation: Relation, pages: PageRange) -> PageRange:
        """Returns the range, or a new one if the relation was rewritten as a whole meanwhile."""
        self.save(relation, pages)
        again = self.open(relation)
        again.done, again.started = pages.done, pages.started
        return again

    def save(self, relation: Relation, pages: PageRange) -> None:
        """Stores the progress of a range, in one short statement."""
        done, names = pages.so_far(), self._names
        self._connection.execute(
            _SAVE,
            (
                pages.next, done.rows, done.values, done.skipped, done.quarantined, done.seconds,
                names["request"], names["table"], names["shard"], names["slice"], relation.label, pages.filenode,
            ),
        )  # fmt: skip


def slices_of(connection: Connection, request: str, shard: Shard, wanted: int) -> list[Slice]:
    """Returns the slices of a shard as planned, whatever the number of workers was then; else as many as `wanted`."""
    (planned,) = connection.execute(_SLICES, (request, str(shard.table.name), shard.index)).fetchall()[0]
    count = int(str(planned)) or wanted
    return [Slice(shard, index, count) for index in range(count)]


def last_shard(connection: Connection, request: str, table: EncryptedTable) -> int | None:
    """Returns the last planned shard of a table; 0: the first one is all of it; None: none was planned yet."""
    (found,) = connection.execute(_LAST_SHARD, (request, str(table.name))).fetchall()[0]
    return None if found is None else int(str(found))


@dataclass(frozen=True, slots=True)
class RelationProgress:
    """The progress of all slices of a shard in one relation, as last stored."""

    done_pages: int
    total_pages: int
    rows: int


def progress_by_relation(connection: Connection, request: str, shard: Shard) -> dict[str, RelationProgress]:
    """Returns the progress of a shard by the label of each relation that was begun."""
    rows: list[Any] = connection.execute(_DONE, (request, str(shard.table.name), shard.index)).fetchall()
    return {label: RelationProgress(*counts) for label, *counts in rows}


def require_there(connection: Connection, relation: Relation) -> None:
    """Refuses a relation that no longer exists.

    Raises:
        BlockedError: it was dropped.
    """
    there = connection.execute("SELECT pg_relation_filenode(%s::oid) IS NOT NULL", (relation.oid,)).fetchone()
    if there != (True,):
        raise BlockedError(
            f"table {relation.label} was dropped, or dropped and recreated, while it was re-encrypted; "
            "run `keyrotation rotate` again, it starts over with the present table"
        )


# At most so many parts per relation, of at least so many pages: starting a range takes several queries.
_MOST_PARTS = 4096
_LEAST_PAGES = 64

_FILE = """
SELECT pg_relation_filenode(oid), pg_relation_size(oid) / current_setting('block_size')::int
FROM (SELECT %s::oid::regclass AS oid) AS relation
"""

# The engine's connections disable sequential scans, which are wanted here.
_SETTINGS = f"{FROM_THE_HEAP}; SET LOCAL enable_seqscan = on"
_PARTS = """
SELECT DISTINCT (ctid::text::point)[0]::bigint / {pages} FROM ONLY {relation} WHERE {wanted} ORDER BY 1
"""


class SweptPageRanges:
    """The page ranges of one sweep, which are not stored: sweeps are short, and start over.

    Args:
        connection: one of the engine's, in autocommit mode.
        value_format: of the values.
        target: finds rows that hold a value under another version, or one of another format.
        by_opening: leave it to the codec where that costs less than in SQL: then a row found may be under `target`.
    """

    def __init__(
        self, connection: Connection, value_format: ValueFormat, target: KeyVersion, *, by_opening: bool
    ) -> None:
        self._connection = connection
        expressions = sql_of(value_format)
        self._wanted = expressions.to_be_opened if by_opening else expressions.to_be_rewritten
        self._target = target
        self._renewed: dict[int, int] = {}

    def ranges(self, relation: Relation) -> list[PageRange]:
        """Returns the parts of a relation that hold something to rewrite; adjacent ones as one range.

        Raises:
            BlockedError: the relation was dropped.
            psycopg.Error: others have locked it.
        """
        filenode, total = self._file(relation)
        pages = max(_LEAST_PAGES, total // _MOST_PARTS)
        found: list[PageRange] = []
        for part in self._parts(relation, pages):
            if found and found[-1].end == part * pages:
                found[-1].end += pages
            else:
                found.append(PageRange(filenode, part * pages, part * pages, (part + 1) * pages))
        return found

    def renewed(self, relation: Relation, pages: PageRange) -> PageRange:
        """Returns all of a relation rewritten as a whole, once for all its ranges; a finished range as it is."""
        if pages.next >= pages.end:
            require_there(self._connection, relation)
            return pages
        filenode, total = self._file(relation)
        end = 0 if self._renewed.get(relation.oid) == filenode else total
        self._renewed[relation.oid] = filenode
        return PageRange(filenode, 0, 0, end, pages.done, pages.started)

    def save(self, relation: Relation, pages: PageRange) -> None:
        """Stores nothing."""

    def _file(self, relation: Relation) -> tuple[int, int]:
        require_there(self._connection, relation)
        return cast("tuple[int, int]", self._connection.execute(_FILE, (relation.oid,)).fetchall()[0])

    def _parts(self, relation: Relation, pages: int) -> list[int]:
        wanted = sql.SQL(" OR ").join(
            [
                *(places.is_to_be_rewritten(column, self._target, self._wanted) for column in relation.columns),
                *([any_to_be_opened(relation, target=self._target)] if relation.indexes else []),
            ]
        )
        query = sql.SQL(_PARTS).format(pages=sql.Literal(pages), relation=relation.identifier, wanted=wanted)
        with self._connection.transaction(force_rollback=True):
            self._connection.execute(_SETTINGS.encode())
            return [int(str(part)) for (part,) in self._connection.execute(query).fetchall()]
