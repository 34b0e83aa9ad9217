"""What the engine does beside its rows: keep progress, obey and yield once a second, vacuum now and then.

All of it on a connection of its own, while the other one holds nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.connection import Connection
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.pace import Pace
from keyrotation_pipeline.adapters.postgres.engine.progress import Walk
from keyrotation_pipeline.adapters.postgres.relations import Relation
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.rotation import Step
from keyrotation_pipeline.ports import Progress, Report, Rewritten

_STATUS = "SELECT status FROM keyrotation.rotations WHERE id = %s"

# replay_lag stands still while a standby replays nothing, and is NULL to roles without pg_monitor.
_LAG = """
SELECT coalesce(nullif(application_name, ''), 'a standby'), extract(epoch FROM replay_lag)::float8
FROM pg_stat_replication WHERE state = 'streaming' AND replay_lag > make_interval(secs => %s)
ORDER BY replay_lag DESC LIMIT 1
"""

_MAY_VACUUM = """
SELECT pg_has_role(c.relowner, 'USAGE')
    OR (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
    OR CASE WHEN current_setting('server_version_num')::int >= 170000
            THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END
FROM pg_class c WHERE c.oid = %s
"""

_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE off) {}"

_TICK_SECONDS = 1.0


@dataclass
class Watch:
    """Accompanies the walks of one shard or sweep.

    Args:
        connection: in autocommit, for this only.
        request: the rotation whose pausing or cancelling is obeyed.
        subject: what is walked, for progress.
        report: told about once a second.
    """

    connection: Connection
    request: str
    limits: Limits
    pace: Pace
    subject: str
    report: Report
    total_pages: int = 0
    _earlier_pages: int = 0
    _walk: Walk | None = None
    _ticked: float = field(default_factory=time.monotonic)
    _vacuumed_at_page: int = 0
    _may_vacuum: bool = False

    def begin(self, relation: Relation, walk: Walk) -> None:
        """Turn to the next relation."""
        self._walk = walk
        self._vacuumed_at_page = walk.next
        self._may_vacuum = self.connection.execute(_MAY_VACUUM, (relation.oid,)).fetchone() == (True,)
        if not self._may_vacuum and relation.pages >= self.limits.vacuum_pages:
            self._tell(f"{relation.label} is left to autovacuum, as the role may not vacuum it")
        self.obey()

    def finish(self, walk: Walk) -> None:
        """Leave a relation that is done."""
        self._walk = walk
        self._tell()
        self._earlier_pages += walk.end - walk.first
        self._walk = None

    def after_batch(self, relation: Relation, walk: Walk, rows: int, save: Callable[[], None]) -> None:
        """Hold to the cap on rows, and do what is due beside them."""
        self._walk = walk
        pause = self.pace.seconds_to_wait(rows)
        while pause > 0:
            # In steps, so that a pause or a cancellation does not wait for a slow cap.
            time.sleep(min(pause, _TICK_SECONDS))
            pause -= _TICK_SECONDS
            self._tick(save)
        self._tick(save)
        self._vacuum(relation, walk)

    def obey(self) -> None:
        """Stop if the rotation was paused or cancelled.

        Raises:
            BlockedError: it was.
        """
        row = self.connection.execute(_STATUS, (self.request,)).fetchone()
        if row == ("paused",):
            raise BlockedError(f"rotation {self.request} was paused; go on with `keyrotation resume {self.request}`")
        if row == ("cancelled",):
            raise BlockedError(f"rotation {self.request} was cancelled; open the next one with `keyrotation request`")

    def wait_a_second(self, note: str) -> None:
        """Wait for something outside, saying what it is."""
        self._tell(note)
        time.sleep(_TICK_SECONDS)
        self.obey()

    def _tick(self, save: Callable[[], None]) -> None:
        if time.monotonic() - self._ticked < _TICK_SECONDS:
            return
        save()
        self.obey()
        self._yield_to_standbys()
        self._tell()
        self._ticked = time.monotonic()

    def _yield_to_standbys(self) -> None:
        limit = self.limits.max_replica_lag_seconds
        while limit > 0 and (row := self.connection.execute(_LAG, (limit,)).fetchone()):
            self.wait_a_second(f"pausing: {row[0]} replays {row[1]:.0f} s late, more than {limit:g} s")

    def _vacuum(self, relation: Relation, walk: Walk) -> None:
        # Every tenth of the relation: the space of replaced rows is used again, and the table hardly grows.
        if walk.next - self._vacuumed_at_page >= max(self.limits.vacuum_pages, relation.pages // 10):
            self._vacuumed_at_page = walk.next
            if self._may_vacuum:
                self.connection.execute(sql.SQL(_VACUUM).format(relation.identifier))

    def _tell(self, note: str = "") -> None:
        pages = self._walk.next - self._walk.first if self._walk else 0
        note = note or (_speed(self._walk.so_far()) if self._walk else "")
        self.report(Progress(Step.ROWS, self.subject, self._earlier_pages + pages, self.total_pages, "pages", note))


def _speed(done: Rewritten) -> str:
    return f"{done.rows:,} rows, {done.rows / max(done.seconds, 0.001):,.0f} a second"
