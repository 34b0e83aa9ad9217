"""Vacuuming beside a walk, so that the space of replaced rows is used again and the table hardly grows.

A vacuum runs in a thread with a connection of its own while rows are rewritten, and only one at a time: the walk waits
for the last one before it starts the next, or it would outrun them.
"""

from collections.abc import Callable
from contextlib import closing, suppress
from threading import Thread

import psycopg
from psycopg import sql

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

# TRUNCATE would take an exclusive lock, and on standbys cancel readers.
_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE off) {}"

# Between two rests a vacuum does the work of two changed pages: others wait for a core no longer than that.
_COST_LIMIT = 40


def may_vacuum(connection: Connection, relation: Relation) -> bool:
    """Whether our role may vacuum a relation."""
    return connection.execute(_MAY_VACUUM, (relation.oid,)).fetchone() == (True,)


class Vacuum:
    """Vacuums one relation every sixteenth of its pages: two of these may be unvacuumed at a time.

    Args:
        connect: opens the connection of each vacuum.
        connection: asks whether the role may vacuum at all.
    """

    def __init__(
        self, connect: Callable[[], Connection], connection: Connection, relation: Relation, limits: Limits
    ) -> None:
        self._connect = connect
        self._relation = relation
        self._delay_ms = limits.vacuum_delay_ms
        self._smallest = limits.vacuum_pages
        self._each = max(limits.vacuum_pages, relation.pages // 16)
        self._walked = self._vacuumed = 0
        self._running: Thread | None = None
        self.allowed = may_vacuum(connection, relation)

    @property
    def wanted(self) -> bool:
        """Whether the relation is large enough to be vacuumed."""
        return self._relation.pages >= self._smallest

    def walked(self, pages: int) -> bool:
        """Take note of pages walked since the last call; True if a vacuum was started."""
        self._walked += pages
        if self._walked - self._vacuumed < self._each:
            return False
        self._start()
        return True

    def finish(self) -> None:
        """Vacuum what is left, if it is much, and wait."""
        if self._walked - self._vacuumed >= max(self._smallest, self._each // 2):
            self._start()
        self._wait()

    def _start(self) -> None:
        self._vacuumed = self._walked
        if not (self.allowed and self.wanted):
            return
        self._wait()
        self._running = Thread(target=self._run, name="keyrotation vacuum", daemon=True)
        self._running.start()

    def _wait(self) -> None:
        if self._running is not None:
            self._running.join()
            self._running = None

    def _run(self) -> None:
        # Bloat is not worth a failed walk: what a vacuum lacks, a full disk say, the walk will meet and say.
        with suppress(psycopg.Error, KeyRotationError), closing(self._connect()) as connection:
            delay = sql.SQL("SET vacuum_cost_delay = {}; SET vacuum_cost_limit = {}")
            connection.execute(delay.format(sql.Literal(self._delay_ms), sql.Literal(_COST_LIMIT)))
            connection.execute(sql.SQL(_VACUUM).format(self._relation.identifier))
