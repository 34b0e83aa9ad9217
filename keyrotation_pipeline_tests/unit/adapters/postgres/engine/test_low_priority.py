"""One worker in this process: others go first, and it ends soon after its caller was interrupted."""

import os
import sys
import threading

import pytest

from keyrotation_pipeline.adapters.postgres.engine.worker import NICENESS, at_low_priority
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten
from keyrotation_pipeline.model.requests import Step

PROGRESS = Progress(Step.ROWS, "cases", 1, 2, "pages", "")


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a thread a priority of its own")
def test_the_work_goes_last_and_its_caller_stays_as_it_is() -> None:
    before, seen, reported = priority(), [], []

    def work(report: Report, _: threading.Event) -> Rewritten:
        seen.append(priority())
        report(PROGRESS)
        return Rewritten(rows=3)

    assert at_low_priority(work, lambda progress: reported.append((progress, threading.current_thread()))).rows == 3
    assert seen == [min(19, before + NICENESS)]
    assert priority() == before
    assert reported == [(PROGRESS, threading.current_thread())]


def test_what_the_work_raises_is_raised_by_the_caller() -> None:
    def work(_: Report, __: threading.Event) -> Rewritten:
        raise BlockedError("paused")

    with pytest.raises(BlockedError, match="paused"):
        at_low_priority(work, lambda _: None)


def test_it_ends_when_its_caller_was_interrupted() -> None:
    ended = threading.Event()

    def work(report: Report, stop_requested: threading.Event) -> Rewritten:
        report(PROGRESS)
        stop_requested.wait()
        ended.set()
        return Rewritten()

    def interrupted(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        at_low_priority(work, interrupted)
    assert ended.is_set()
