"""Vacuums while rows are rewritten, so that the space of replaced rows is reused and the table hardly grows.

A vacuum runs in a thread with its own connection while rows are rewritten. Only one runs at a time: the engine waits
for it before it starts the next one, or it would outrun the vacuums.
"""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from threading import Thread

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.batch import fits_hot_order
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import KeyRotationError

_MAY_VACUUM = """
SELECT pg_has_role(c.relowner, 'USAGE')
    OR (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
    OR CASE WHEN current_setting('server_version_num')::int >= 170000
            THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END
FROM pg_class c WHERE c.oid = %s
"""

# TRUNCATE would take an exclusive lock, and would cancel readers on standbys.
_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE off) {}"

# A vacuum rests after every two changed pages, so others never wait longer than that for a core.
_COST_LIMIT = 40

# PostgreSQL 17 stores dead row ids in a tenth of the memory, or less.
_COMPACT_FROM = 170_000
_DEAD_ROW_BYTES = 6
_LARGEST_MEMORY_BYTES = 256 * 2**20

# The dead rows of two sixteenths of the pages, the most that may await a vacuum. Without statistics, as many as fit.
_DEAD_ROWS = """
SELECT CASE WHEN reltuples > 0 THEN reltuples / 8 ELSE %s / 8.0 * 60 END::bigint FROM pg_class WHERE oid = %s
"""
_MORE_MEMORY = """
SELECT set_config('maintenance_work_mem', (%(bytes)s / 1024) || 'kB', false)
WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < %(bytes)s
"""


def remembers_six_bytes_a_row(connection: Connection) -> bool:
    """Returns whether the server's vacuums need so much memory that it may not suffice for all dead rows at once."""
    return connection.info.server_version < _COMPACT_FROM


def dead_rows_bytes(connection: Connection, relation: Relation) -> int:
    """Estimates the most that a vacuum during the re-encryption has to remember, by the server's statistics."""
    ((rows,),) = connection.execute(_DEAD_ROWS, (relation.pages, relation.oid)).fetchall()
    return int(str(rows)) * _DEAD_ROW_BYTES


def in_hot_order(connection: Connection, relations: Sequence[Relation]) -> frozenset[int]:
    """Returns which relations are rewritten in HOT order, without vacuums: where it fits, or our role may not vacuum.

    Call this once, before any row is written: afterwards a page holds fewer rows.
    """

    def asked(relation: Relation) -> bool:
        may_vacuum = connection.execute(_MAY_VACUUM, (relation.oid,)).fetchone() == (True,)
        return not may_vacuum or fits_hot_order(connection, relation)

    return frozenset(relation.oid for relation in relations if asked(relation))


class Vacuum:
    """Vacuums one relation after each sixteenth of its pages; at most two sixteenths may await a vacuum.

    Args:
        connect: opens the connection of each vacuum.
        wanted: whether to vacuum the relation at all.
    """

    def __init__(self, connect: Callable[[], Connection], relation: Relation, limits: Limits, *, wanted: bool) -> None:
        self._connect = connect
        self._relation = relation
        self._delay_ms = limits.vacuum_delay_ms
        self._smallest = limits.vacuum_pages
        self._each = max(limits.vacuum_pages, relation.pages // 16)
        self._rewritten = self._vacuumed = 0
        self._running: Thread | None = None
        self._wanted = wanted and relation.pages >= limits.vacuum_pages

    def rewritten(self, pages: int) -> None:
        """Counts pages that were rewritten since the last call; none if a VACUUM FULL has set the progress back."""
        self._rewritten += max(0, pages)
        if self._rewritten - self._vacuumed >= self._each:
            self._start()

    def finish(self) -> None:
        """Vacuums the rest if there is much of it, and waits."""
        if self._rewritten - self._vacuumed >= max(self._smallest, self._each // 2):
            self._start()
        self._wait()

    def _start(self) -> None:
        self._vacuumed = self._rewritten
        if not self._wanted:
            return
        self._wait()
        self._running = Thread(target=self._run, name="keyrotation vacuum", daemon=True)
        self._running.start()

    def _wait(self) -> None:
        if self._running is not None:
            self._running.join()
            self._running = None

    def _run(self) -> None:
        # A growing table is no reason to fail. If the disk is full, for example, the next write fails too and says so.
        with suppress(psycopg.Error, KeyRotationError), closing(self._connect()) as connection:
            delay = sql.SQL("SET vacuum_cost_delay = {}; SET vacuum_cost_limit = {}")
            connection.execute(delay.format(sql.Literal(self._delay_ms), sql.Literal(_COST_LIMIT)))
            if remembers_six_bytes_a_row(connection):
                need = min(dead_rows_bytes(connection, self._relation), _LARGEST_MEMORY_BYTES)
                connection.execute(_MORE_MEMORY, {"bytes": need})
            connection.execute(sql.SQL(_VACUUM).format(self._relation.identifier))
