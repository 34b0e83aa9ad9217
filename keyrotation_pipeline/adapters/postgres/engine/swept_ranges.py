"""Where a sweep goes: the server says which parts of a relation hold something that is to be rewritten.

After the walk over all pages little is left. To read everything again in our process would cost as much as to count it
several times over; the server looks at prefixes alone, and in parallel. Whatever is written, or moves, after it has
looked is left to the count that follows each sweep.
"""

from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.page_ranges import PageRange, require_there
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import as_text, to_be_rewritten
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.scans import FROM_THE_HEAP
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

# A relation is divided into at most so many parts, of at least so many pages: to begin a range takes several queries.
_MOST_PARTS = 4096
_LEAST_PAGES = 64

_FILE = """
SELECT pg_relation_filenode(oid), pg_relation_size(oid) / current_setting('block_size')::int
FROM (SELECT %s::oid::regclass AS oid) AS relation
"""

# The engine's connections have sequential scans off, which here are wanted.
_SETTINGS = f"{FROM_THE_HEAP}; SET LOCAL enable_seqscan = on"
_PARTS = """
SELECT DISTINCT (ctid::text::point)[0]::bigint / {pages} FROM ONLY {relation} WHERE {wanted} ORDER BY 1
"""


class SweptPageRanges:
    """The page ranges of one sweep, which are not stored: sweeps are short, and begin anew.

    Args:
        connection: one of the engine's, in autocommit mode.
        target: rows are wanted that hold a value under another version, or one outside the grammar.
    """

    def __init__(self, connection: Connection, target: KeyVersion) -> None:
        self._connection = connection
        self._target = target
        self._renewed: dict[int, int] = {}

    def ranges(self, relation: Relation) -> list[PageRange]:
        """The parts of a relation that hold something to rewrite; adjacent ones as one range.

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
        """All of a relation that was rewritten as a whole, but once for all its ranges; a range that is done stays."""
        if pages.next >= pages.end:
            require_there(self._connection, relation)
            return pages
        filenode, total = self._file(relation)
        end = 0 if self._renewed.get(relation.oid) == filenode else total
        self._renewed[relation.oid] = filenode
        return PageRange(filenode, 0, 0, end, pages.done, pages.started)

    def save(self, relation: Relation, pages: PageRange) -> None:
        """Nothing is stored."""

    def _file(self, relation: Relation) -> tuple[int, int]:
        require_there(self._connection, relation)
        return cast("tuple[int, int]", self._connection.execute(_FILE, (relation.oid,)).fetchall()[0])

    def _parts(self, relation: Relation, pages: int) -> list[int]:
        texts = [as_text(column.name) for column in relation.columns]
        wanted = sql.SQL(" OR ").join(to_be_rewritten(text, self._target) for text in texts)
        query = sql.SQL(_PARTS).format(pages=sql.Literal(pages), relation=relation.identifier, wanted=wanted)
        with self._connection.transaction(force_rollback=True):
            self._connection.execute(_SETTINGS.encode())
            return [int(str(part)) for (part,) in self._connection.execute(query).fetchall()]
