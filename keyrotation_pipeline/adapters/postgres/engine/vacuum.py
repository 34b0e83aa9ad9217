"""Vacuuming while rows are rewritten, so that the space of replaced rows is used again and the table hardly grows.

A vacuum runs in a thread with its own connection while rows are rewritten. Only one runs at a time: the engine waits
for it before it starts the next one, or it would outrun the vacuums.
"""

from collections.abc import Callable
from contextlib import closing, suppress
from threading import Thread

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.hot_order import fits_hot_order
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

# Between two rests a vacuum does the work of two changed pages, so others do not wait for a core longer than that.
_COST_LIMIT = 40


def in_hot_order(connection: Connection, relation: Relation) -> bool:
    """Whether a relation is rewritten in HOT order, without vacuums: where it fits, or our role may not vacuum."""
    may_vacuum = connection.execute(_MAY_VACUUM, (relation.oid,)).fetchone() == (True,)
    return not may_vacuum or fits_hot_order(connection, relation)


class Vacuum:
    """Vacuums one relation after each sixteenth of its pages; up to two sixteenths may wait for their vacuum.

    Args:
        connect: opens the connection of each vacuum.
        connection: asks whether the relation is to be vacuumed at all.
    """

    def __init__(
        self, connect: Callable[[], Connection], connection: Connection, relation: Relation, limits: Limits
    ) -> None:
        self._connect = connect
        self._relation = relation
        self._delay_ms = limits.vacuum_delay_ms
        self._smallest = limits.vacuum_pages
        self._each = max(limits.vacuum_pages, relation.pages // 16)
        self._rewritten = self._vacuumed = 0
        self._running: Thread | None = None
        self._wanted = relation.pages >= limits.vacuum_pages and not in_hot_order(connection, relation)

    def rewritten(self, pages: int) -> bool:
        """Note pages that were rewritten since the last call; return True if a vacuum was started."""
        self._rewritten += pages
        if self._rewritten - self._vacuumed < self._each:
            return False
        self._start()
        return True

    def finish(self) -> None:
        """Vacuum the rest if there is much of it, and wait."""
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
        # A table that grows is no reason to fail. If the disk is full, say, the next write fails too and tells so.
        with suppress(psycopg.Error, KeyRotationError), closing(self._connect()) as connection:
            delay = sql.SQL("SET vacuum_cost_delay = {}; SET vacuum_cost_limit = {}")
            connection.execute(delay.format(sql.Literal(self._delay_ms), sql.Literal(_COST_LIMIT)))
            connection.execute(sql.SQL(_VACUUM).format(self._relation.identifier))
