"""Progress of long steps: bars with the remaining time on a terminal, plain lines elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
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

from keyrotation_pipeline.assembly.home import system_time
from keyrotation_pipeline.cli.output import console, note, seconds
from keyrotation_pipeline.cli.status import Overall
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.visible_text import visible

PLAIN_SECONDS = 5.0
ALL_ROWS = "all rows"


@contextmanager
def reporting(overall: Overall | None = None, *, quiet: bool = False) -> Iterator[Report]:
    """Open the callback that a running step reports its progress to.

    Args:
        overall: the rows of all tables, for a rotation or rollback.
    """
    if quiet:
        yield lambda _progress: None
    elif sys.stderr.isatty():
        with bars_on(console(stderr=True)) as bars:
            yield OnTerminal(bars, overall)
    else:
        yield OnLines(system_time, overall)


def bars_on(where: Console) -> Bars:
    """Bars that disappear when they end."""
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=where,
        transient=True,
        # On a terminal result lines appear above the bars; in a pipe they are unchanged.
        redirect_stdout=sys.stdout.isatty(),
    )


class OnTerminal:
    """One bar for all rows, and one per subject; the bars of a finished step are removed for the next one's."""

    def __init__(self, bars: Bars, overall: Overall | None = None) -> None:
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
        if self._overall is not None and progress.step is Step.ROWS:
            self._show(self._overall, progress)
        total = progress.total or None
        if progress.subject not in self._tasks:
            self._tasks[progress.subject] = self._bars.add_task(_title(progress), total=total, state="")
        self._bars.update(
            self._tasks[progress.subject], completed=progress.done, total=total, state=visible(progress.note)
        )

    def _show(self, overall: Overall, progress: Progress) -> None:
        overall.see(progress)
        if ALL_ROWS not in self._tasks:
            self._tasks[ALL_ROWS] = self._bars.add_task(ALL_ROWS, total=overall.total or None, state="")
        self._bars.update(self._tasks[ALL_ROWS], completed=overall.rows, state=str(overall))


class OnLines:
    """Prints a line with its time, at most one in five seconds, so that a log of a long night stays readable.

    Only a wait for somebody is printed at once, since no report may follow it.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        overall: Overall | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now, self._overall, self._clock = now, overall, clock
        self._last_wait = ""
        self._written_at = -PLAIN_SECONDS

    def __call__(self, progress: Progress) -> None:
        """Write one report, or skip it."""
        whole = ""
        if self._overall is not None and progress.step is Step.ROWS:
            self._overall.see(progress)
            whole = f"{self._overall}; "
        wait = progress.note if progress.note.startswith("waiting") else ""
        new_wait, self._last_wait = wait not in {"", self._last_wait}, wait
        if not new_wait and self._clock() - self._written_at < PLAIN_SECONDS:
            return
        self._written_at = self._clock()
        amount = f"{progress.done:,} of {progress.total:,} {progress.unit}" if progress.total else progress.note
        remark = f" ({progress.note})" if progress.total and progress.note else ""
        note(f"{seconds(self._now())} {whole}{_title(progress)}: {amount or 'under way'}{remark}")


def _title(progress: Progress) -> str:
    return visible(f"{progress.step or ''} {progress.subject}".lstrip())
