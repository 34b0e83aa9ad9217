"""Progress of long steps: bars with the remaining time on a terminal, plain lines elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import cast

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Column
from rich.text import Text as Line

from keyrotation_pipeline.assembly.host import system_time
from keyrotation_pipeline.cli.output import console, note, printable, seconds, wrapped
from keyrotation_pipeline.model.progress import Progress, Report, about_left
from keyrotation_pipeline.model.requests import Step

PLAIN_SECONDS = 5.0
REPEATED_SECONDS = 300.0  # while nothing changes
ALL_ROWS = "all rows"
STATE_CHARS = 28  # of a note within a bar's line: rows and their rate
SHORTEST_SECONDS = 1.0  # over less time there is no rate


class Overall:
    """Adds up what the shards report; a table is weighted by its last row count.

    Args:
        rows: by table.
        shards: of each table.
        done: subjects that are finished already, as ``clients shard 00``.
        left: the remaining seconds of the whole rotation, as `status` has them; asked every few seconds.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        shards: int,
        done: Collection[str] = (),
        left: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = left
        self._asked_at, self._known = -PLAIN_SECONDS, cast("float | None", None)
        self._weights = {
            f"{table} shard {index:02d}": number / shards for table, number in rows.items() for index in range(shards)
        }
        self._shares = {subject: float(subject in done) for subject in self._weights}
        self._clock = clock
        self._began: tuple[float, float] | None = None

    def see(self, progress: Progress) -> None:
        """Take one report; reports of other steps than shards of rows are ignored."""
        if progress.step is Step.ROWS and progress.subject in self._shares and progress.total:
            if self._began is None:
                self._began = (self._clock(), self.rows)
            self._shares[progress.subject] = min(progress.done / progress.total, 1.0)

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return round(sum(self._weights.values()))

    @property
    def rows(self) -> float:
        """Rows processed so far."""
        return sum(self._weights[subject] * share for subject, share in self._shares.items())

    @property
    def rows_per_second(self) -> float | None:
        """Rate since the first report; None during the first second of work."""
        if self._began is None:
            return None
        at, rows = self._began
        seconds, passed = self._clock() - at, self.rows - rows
        return passed / seconds if seconds >= SHORTEST_SECONDS and passed > 0 else None

    def seconds_left(self) -> float | None:
        """The remaining seconds of the rotation, a few seconds old at most; None: not known."""
        if self._clock() - self._asked_at >= PLAIN_SECONDS:
            self._asked_at, self._known = self._clock(), self._left()
        return self._known

    def __str__(self) -> str:
        """``27,120 of 60,000 rows (45 %), 1,203 a second, about 27 s left``."""
        percent = f" ({100 * self.rows / self.total:.0f} %)" if self.total else ""
        pace, left = self.rows_per_second, self.seconds_left()
        rate = "" if pace is None else f", {pace:,.0f} a second"
        return f"{self.rows:,.0f} of {self.total:,} rows{percent}{rate}{about_left(left)}"


@contextmanager
def reporting(overall: Overall | None = None, *, quiet: bool = False) -> Iterator[Report]:
    """Open the callback that a running step reports its progress to.

    Args:
        overall: the rows of all tables, for a rotation or rollback.
    """
    if quiet:
        yield lambda _progress: None
    elif sys.stderr.isatty():
        with bars_on(console(stderr=True), timed=overall is None) as bars:
            yield OnTerminal(bars, overall)
    else:
        yield OnLines(system_time, overall)


class Screen(Bars):
    """Bars, with lines above and below them that are as long as they need to be."""

    above = ""
    below: Mapping[str, str] = {}

    def get_renderables(self) -> Iterator[RenderableType]:
        """The lines and the bars, from top to bottom."""
        yield from self._lines(self.above)
        yield self.make_tasks_table(self.tasks)
        for subject, wait in self.below.items():
            yield from self._lines(f"{subject}: {wait}")

    def _lines(self, text: str) -> Iterator[RenderableType]:
        # Not wrapped by Rich, which knows nothing of commands.
        yield from (Line(each) for each in (wrapped(text, self.console.width) if text else ()))


def bars_on(where: Console, *, timed: bool) -> Screen:
    """Bars that disappear when they end.

    Args:
        timed: each says how long it will take; a rotation has one estimate for all.
    """
    return Screen(
        TextColumn("{task.description}", table_column=Column(overflow="fold")),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        *([TimeRemainingColumn()] if timed else []),
        console=where,
        transient=True,
        # On a terminal result lines appear above the bars; in a pipe they are unchanged.
        redirect_stdout=sys.stdout.isatty(),
    )


class OnTerminal:
    """One bar for all rows, and one per subject; the bars of a finished step are removed for the next one's.

    The step with the rows, their rate and the rotation's time left stands above them, what is waited for below.
    """

    def __init__(self, bars: Screen, overall: Overall | None = None) -> None:
        self._bars = bars
        self._overall = overall
        self._step = ""
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        """Show one report."""
        step = str(progress.step or "")
        if step != self._step:
            self._bars.refresh()  # also shows the end of a step within a tenth of a second of its last report
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._step, self._tasks = step, {}
            self._bars.above, self._bars.below = step, {}
        if self._overall is not None and progress.step is Step.ROWS:
            self._show(self._overall, progress)
        total = progress.total or None
        subject, state = printable(progress.subject), printable(progress.note)
        if subject not in self._tasks:
            self._tasks[subject] = self._bars.add_task(subject, total=total, state="")
        fits = len(state) <= STATE_CHARS
        others = {name: each for name, each in self._bars.below.items() if name != subject}
        self._bars.below = others if fits else {**others, subject: state}
        self._bars.update(self._tasks[subject], completed=progress.done, total=total, state=state if fits else "")

    def _show(self, overall: Overall, progress: Progress) -> None:
        overall.see(progress)
        if ALL_ROWS not in self._tasks:
            self._tasks[ALL_ROWS] = self._bars.add_task(ALL_ROWS, total=overall.total or None, state="")
        self._bars.above = f"{self._step}: {overall}"
        self._bars.update(self._tasks[ALL_ROWS], completed=overall.rows)


class OnLines:
    """Prints a line with its time, so that a log of a long night stays readable: at most one in five seconds.

    The same line is printed again after five minutes, as a sign of life. Only a wait for somebody is printed at once,
    since no report may follow it.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        overall: Overall | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now, self._overall, self._clock = now, overall, clock
        self._last_wait = self._written = ""
        self._written_at = -PLAIN_SECONDS

    def __call__(self, progress: Progress) -> None:
        """Write one report, or skip it."""
        whole = ""
        if self._overall is not None and progress.step is Step.ROWS:
            self._overall.see(progress)
            whole = f"{self._overall}; "
        wait = progress.note if progress.note.startswith("waiting") else ""
        new_wait, self._last_wait = wait not in {"", self._last_wait}, wait
        amount = f"{progress.done:,} of {progress.total:,} {progress.unit}" if progress.total else progress.note
        remark = f" ({progress.note})" if progress.total and progress.note else ""
        text = f"{whole}{_title(progress)}: {amount or 'under way'}{remark}"
        least = REPEATED_SECONDS if text == self._written else PLAIN_SECONDS
        if not new_wait and self._clock() - self._written_at < least:
            return
        self._written_at, self._written = self._clock(), text
        note(f"{seconds(self._now())} {text}")


def _title(progress: Progress) -> str:
    return f"{progress.step or ''} {progress.subject}".lstrip()
