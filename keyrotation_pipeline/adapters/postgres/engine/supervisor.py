"""What the engine does beside its rows, about once a second: keep progress, obey, yield to others, see to vacuums.

All of it on a connection of its own, while the other one holds nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.engine.batch_size import Pace
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.progress import Walk
from keyrotation_pipeline.adapters.postgres.engine.throttle import reason_to_pause
from keyrotation_pipeline.adapters.postgres.engine.vacuum import Vacuum
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten
from keyrotation_pipeline.model.request import RotationType, Step

_STATUS = "SELECT status FROM keyrotation.rotations WHERE id = %s"
_TYPE = "SELECT type FROM keyrotation.rotations WHERE id = %s"

TICK_SECONDS = 1.0
# More often, as the process that gives out slices vacuums by what is done.
SAVE_SECONDS = 0.25
CLOCK = SystemClock()


def limits_for(connection: Connection, request: str, limits: Limits) -> Limits:
    """The limits as they are, or in an emergency rotation those of emergency mode."""
    row = connection.execute(_TYPE, (request,)).fetchone()
    return limits.in_an_emergency() if row == (RotationType.EMERGENCY.value,) else limits


def obey(connection: Connection, request: str) -> None:
    """Stop if the rotation was paused or cancelled.

    Raises:
        BlockedError: it was.
    """
    row = connection.execute(_STATUS, (request,)).fetchone()
    if row == ("paused",):
        raise BlockedError(f"rotation {request} was paused; go on with `keyrotation resume {request}`")
    if row == ("cancelled",):
        raise BlockedError(f"rotation {request} was cancelled; open the next one with `keyrotation request`")


@dataclass
class Watch:
    """Accompanies the walks of one shard, slice or sweep.

    Args:
        connection: in autocommit, for this only.
        connect: opens those of the vacuums.
        request: the rotation whose pausing or cancelling is obeyed.
        subject: what is walked, for progress.
        report: told about once a second.
    """

    connection: Connection
    connect: Callable[[], Connection]
    request: str
    limits: Limits
    pace: Pace
    subject: str
    report: Report
    total_pages: int = 0
    _earlier_pages: int = 0
    _walk: Walk | None = None
    _ticked: float = field(default_factory=CLOCK.monotonic)
    _saved: float = field(default_factory=CLOCK.monotonic)
    _seen_page: int = 0
    _vacuums: dict[int, Vacuum] = field(default_factory=dict)

    def begin(self, relation: Relation, walk: Walk) -> None:
        """Turn to the next relation, or the next slice of one."""
        self._walk = walk
        self._seen_page = walk.next
        if relation.oid not in self._vacuums:
            vacuum = Vacuum(self.connect, self.connection, relation, self.limits)
            self._vacuums[relation.oid] = vacuum
            if vacuum.wanted and not vacuum.allowed:
                self._tell(f"{relation.label} is rewritten in strides, as the role may not vacuum it")
        obey(self.connection, self.request)
        self._pause_while_there_is_a_reason(relation)

    def finish(self, walk: Walk) -> None:
        """Leave a relation or slice that is done."""
        self._walk = walk
        self._tell()
        self._earlier_pages += walk.end - walk.first
        self._walk = None

    def close(self) -> None:
        """Every walk is done."""
        for vacuum in self._vacuums.values():
            vacuum.finish()

    def after_batch(self, relation: Relation, walk: Walk, rows: int, save: Callable[[], None]) -> None:
        """Rest, hold to the cap on rows, and do what is due beside them."""
        self._walk = walk
        pause = self.pace.seconds_to_wait(rows)
        while pause > 0:
            # In steps, so that a pause or a cancellation does not wait for a slow cap.
            CLOCK.sleep(min(pause, TICK_SECONDS))
            pause -= TICK_SECONDS
            self._tick(relation, save)
        self._tick(relation, save)
        self._vacuums[relation.oid].walked(max(0, walk.next - self._seen_page))
        self._seen_page = walk.next
        self.pace.resume()

    def wait_a_second(self, note: str) -> None:
        """Wait for something outside, saying what it is."""
        self._tell(note)
        CLOCK.sleep(TICK_SECONDS)
        obey(self.connection, self.request)

    def _tick(self, relation: Relation, save: Callable[[], None]) -> None:
        now = CLOCK.monotonic()
        if now - self._saved >= SAVE_SECONDS:
            save()
            self._saved = now
        if now - self._ticked < TICK_SECONDS:
            return
        obey(self.connection, self.request)
        self._pause_while_there_is_a_reason(relation)
        self._tell()
        self._ticked = CLOCK.monotonic()

    def _pause_while_there_is_a_reason(self, relation: Relation) -> None:
        while reason := reason_to_pause(self.connection, self.request, relation, self.limits):
            self.wait_a_second(f"pausing: {reason}")

    def _tell(self, note: str = "") -> None:
        pages = self._walk.next - self._walk.first if self._walk else 0
        note = note or (_speed(self._walk.so_far()) if self._walk else "")
        self.report(Progress(Step.ROWS, self.subject, self._earlier_pages + pages, self.total_pages, "pages", note))


def _speed(done: Rewritten) -> str:
    return f"{done.rows:,} rows, {done.rows / max(done.seconds, 0.001):,.0f} a second"
