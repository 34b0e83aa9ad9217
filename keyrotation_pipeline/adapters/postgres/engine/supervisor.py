"""The engine's periodic work, about once a second: saves progress, checks for pauses, throttles, vacuums.

It also waits for tables that others have locked, up to a limit, and reports each wait. All of this uses its own
connection. Whatever is in flight on the other one ends and commits independently.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from time import monotonic
from typing import TypeVar

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.engine.batch_size import BatchSize
from keyrotation_pipeline.adapters.postgres.engine.limits import (
    CommitTimes,
    Limits,
    newest_of,
    pace_override,
    reason_to_pause,
)
from keyrotation_pipeline.adapters.postgres.engine.processor_waits import ProcessorWaits
from keyrotation_pipeline.adapters.postgres.engine.ranges import PageRange
from keyrotation_pipeline.adapters.postgres.engine.server_errors import WORTH_ANOTHER_TRY
from keyrotation_pipeline.adapters.postgres.engine.vacuum import Vacuum
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import end_wait, note_wait
from keyrotation_pipeline.adapters.postgres.retirement.replicas import write_down
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.audit.event_signatures import VouchedEvents
from keyrotation_pipeline.errors import BlockedError, PausedError
from keyrotation_pipeline.model.pending import GOING_SLOWER, paused_sentence
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten
from keyrotation_pipeline.model.request_events import StatusChanged
from keyrotation_pipeline.model.requests import RequestStatus, RotationType, Step
from keyrotation_pipeline.ports.clock import attempts

_TYPE = own("SELECT type FROM keyrotation.rotations WHERE id = %s")

TICK_SECONDS = 1.0
# More often than that, since the process that assigns slices vacuums by this progress.
SAVE_SECONDS = 0.25
CLOCK = SystemClock()


def limits_for(connection: Connection, request: str, limits: Limits) -> Limits:
    """Returns the limits as given; for an emergency rotation, those of emergency mode."""
    row = connection.execute(_TYPE, (request,)).fetchone()
    return limits.in_an_emergency() if row == (RotationType.EMERGENCY.value,) else limits


def require_running(connection: Connection, request: str, vouched: VouchedEvents | None) -> None:
    """Stops if the rotation was paused or cancelled.

    Args:
        vouched: says which events count; None: all.

    Raises:
        BlockedError: it was.
    """
    moved = newest_of(connection, request, StatusChanged, vouched)
    if moved is not None and moved.after is RequestStatus.PAUSED:
        raise PausedError(paused_sentence(request))
    if moved is not None and moved.after is RequestStatus.CANCELLED:
        raise BlockedError(f"rotation {request} was cancelled; open the next one with `keyrotation request`")


@dataclass
class Supervisor:
    """Supervises the re-encryption of one shard, slice or sweep.

    Args:
        connection: in autocommit mode, used only here.
        ledger: likewise, to where requests are paused and paced; possibly the same.
        connect: opens the connections of the vacuums.
        request: the rotation whose pausing or cancelling stops this.
        subject: what is re-encrypted, for progress reports.
        report: called about once a second.
        stop_requested: set by another thread to start nothing more. Checked after each batch and during waits.
        waits: of the server's process that writes rows; None: nobody asks.
    """

    connection: Connection
    ledger: Connection
    connect: Callable[[], Connection] = field(repr=False)  # it may hold a password
    request: str
    limits: Limits
    batch_size: BatchSize
    subject: str
    report: Report
    stop_requested: Event = field(default_factory=Event)
    waits: ProcessorWaits | None = None
    total_pages: int = 0
    _earlier_pages: int = 0
    _pages: PageRange | None = None
    _ticked: float = field(default_factory=CLOCK.monotonic)
    _saved: float = field(default_factory=CLOCK.monotonic)
    _seen_page: int = 0
    _vacuums: dict[int, Vacuum] = field(default_factory=dict)
    _waiting_for: str = ""

    def __post_init__(self) -> None:
        self._configured = self.limits
        self._commits = CommitTimes(self.limits.slow_commit_seconds)

    def begin(self, relation: Relation, pages: PageRange, *, hot_order: bool) -> None:
        """Begins the next relation, or the next slice of one."""
        self._pages = pages
        self._seen_page = pages.next
        if relation.oid not in self._vacuums:
            self._vacuums[relation.oid] = Vacuum(self.connect, relation, self.limits, wanted=not hot_order)
        self._pause(relation)

    def finish(self, pages: PageRange) -> None:
        """Ends a relation or slice that is done."""
        self._pages = pages
        self._continue()
        self._report_progress()
        self._earlier_pages += pages.end - pages.first
        self._pages = None

    def close(self) -> None:
        """Finishes the vacuums; everything is re-encrypted."""
        for vacuum in self._vacuums.values():
            vacuum.finish()

    def after_batch(self, relation: Relation, pages: PageRange, rows: int, save: Callable[[], None]) -> None:
        """Rests, applies the cap on rows, and does what is due meanwhile."""
        self._pages = pages
        pause = self.batch_size.seconds_to_wait(rows)
        limits = self.batch_size.limits
        while pause > 0 and self.batch_size.limits is limits:
            # In steps, so that a pause, a cancellation or another pace does not wait for a slow cap. Not `attempts`:
            # the duration is known in advance, and what is due meanwhile does not extend it.
            CLOCK.sleep(min(pause, SAVE_SECONDS))
            pause -= SAVE_SECONDS
            self._tick(relation, save)
        self._tick(relation, save)
        self._vacuums[relation.oid].rewritten(pages.next - self._seen_page)
        self._seen_page = pages.next
        self.batch_size.resume()

    def wait_a_second(self, note: str) -> None:
        """Waits for others, and reports the reason."""
        self._wait_for(note)
        self._stop_if_requested()
        CLOCK.sleep(TICK_SECONDS)
        self._require_running()

    def _tick(self, relation: Relation, save: Callable[[], None]) -> None:
        self._stop_if_requested()
        now = CLOCK.monotonic()
        if now - self._saved >= SAVE_SECONDS:
            save()
            self._saved = now
        if now - self._ticked < TICK_SECONDS:
            return
        self._pause(relation)
        self._report_progress()
        self._ticked = CLOCK.monotonic()

    def _pause(self, relation: Relation) -> None:
        """Waits as long as there is a reason to, checking for a pause or cancellation all the while."""
        write_down(self.connection)  # so that a standby that drops out later is noticed at the retirement
        for _ in attempts(CLOCK, pause_seconds=TICK_SECONDS):
            self._require_running()
            self.limits = pace_override(self.ledger, self.request, self._configured)
            self.batch_size.renew(self.limits)
            reason = reason_to_pause(self.connection, self.request, relation, self.limits)
            if not reason:
                self._slow_down()
                return
            self._wait_for(f"pausing: {reason}")

    def _require_running(self) -> None:
        self._stop_if_requested()
        require_running(self.ledger, self.request, self.limits.vouched)

    def _stop_if_requested(self) -> None:
        if self.stop_requested.is_set():
            raise BlockedError(
                "the re-encryption was interrupted; run `keyrotation rotate` again, it continues from here"
            )

    def _slow_down(self) -> None:
        """Rests longer while commits take longer than before, ours and the application's, and reports why.

        Reports, too, that rests are longer since the work before them waits for a processor.
        """
        self._commits.measure(self.connection, self.request)
        self.batch_size.slowdown = self._commits.slowdown
        if reason := self._commits.reason or self._reason_of_rests():
            self._wait_for(f"{GOING_SLOWER}: {reason}")
        else:
            self._continue()

    def _reason_of_rests(self) -> str:
        # A rest is as much longer as the work before it, which includes that work's own waits.
        if self.waits is None or self.batch_size.limits.duty_cycle >= 1:
            return ""
        self.waits.measure()
        return self.waits.reason

    def _wait_for(self, note: str) -> None:
        """Reports why nothing, or little, is rewritten now, and records it for `status`."""
        self._report_progress(note)
        if note != self._waiting_for:
            note_wait(self.ledger, self.request, self.subject, note)
            self._waiting_for = note

    def _continue(self) -> None:
        if self._waiting_for:
            end_wait(self.ledger, self.request, self.subject)
            self._waiting_for = ""

    def _report_progress(self, note: str = "") -> None:
        done = self._earlier_pages + (self._pages.next - self._pages.first if self._pages else 0)
        note = note or self._waiting_for or (_speed(self._pages.so_far()) if self._pages else "")
        self.report(Progress(Step.ROWS, self.subject, done, self.total_pages, "pages", note))


def _speed(done: Rewritten) -> str:
    return f"{done.rows:,} rows, {done.rows / max(done.seconds, 0.001):,.0f} a second"


T = TypeVar("T")


@dataclass
class LockRetry:
    """Retries an action that failed because of a lock. Every success resets the limit.

    Args:
        connection: rolled back after a failure.
        table: its name in messages.
        supervisor: has the limit, and reports the reason while it waits.
    """

    connection: Connection
    table: str
    supervisor: Supervisor
    _since: float | None = None

    def succeeded(self) -> None:
        """Records that some action has succeeded."""
        self._since = None

    def attempt(self, action: Callable[[], T]) -> T:
        """Repeats an action until it succeeds.

        Raises:
            BlockedError: no action has succeeded for longer than the limit.
        """
        # Not `attempts`: the limit counts from the last success of any action.
        while True:
            try:
                return action()
            except WORTH_ANOTHER_TRY:
                self.connection.rollback()
            self._since = self._since or monotonic()
            if monotonic() - self._since > self.supervisor.limits.lock_retry_seconds:
                raise BlockedError(
                    f"{self.table} is locked by another session, such as VACUUM FULL or ALTER TABLE; "
                    "when that has ended, run `keyrotation rotate` again, it continues from here"
                )
            self.supervisor.wait_a_second(f"waiting: {self.table} is locked by another session")
