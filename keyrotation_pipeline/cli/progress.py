"""Progress of long steps: bars with the time that is left on a terminal, plain lines elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

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

from keyrotation_pipeline.cli.output import console, note
from keyrotation_pipeline.model.progress import Progress, Report

PLAIN_SECONDS = 5.0


@contextmanager
def reporting(*, quiet: bool = False) -> Iterator[Report]:
    """What a step reports to while it runs."""
    if quiet:
        yield lambda _progress: None
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield _OnTerminal(bars)
    else:
        yield _OnLines()


def _bars() -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        # Lines of the result appear above the bars on a terminal; into a pipe they go untouched.
        redirect_stdout=sys.stdout.isatty(),
    )


class _OnTerminal:
    """One bar a subject; the bars of a finished step make room for the next one's."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._step = ""
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.step != self._step:
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._step, self._tasks = str(progress.step), {}
        total = progress.total or None
        if progress.subject not in self._tasks:
            self._tasks[progress.subject] = self._bars.add_task(_title(progress), total=total, state="")
        self._bars.update(self._tasks[progress.subject], completed=progress.done, total=total, state=progress.note)


class _OnLines:
    """A line when a subject begins, when what it says changes, and then every few seconds."""

    def __init__(self) -> None:
        self._last: tuple[str, str] | None = None
        self._written_at = 0.0

    def __call__(self, progress: Progress) -> None:
        this = (_title(progress), progress.note)
        if this == self._last and time.monotonic() - self._written_at < PLAIN_SECONDS:
            return
        self._last, self._written_at = this, time.monotonic()
        amount = f"{progress.done:,} of {progress.total:,} {progress.unit}" if progress.total else progress.note
        remark = f" ({progress.note})" if progress.total and progress.note else ""
        note(f"  {_title(progress)}: {amount or 'under way'}{remark}")


def _title(progress: Progress) -> str:
    return f"{progress.step} {progress.subject}"
