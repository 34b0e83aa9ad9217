"""One worker in this process: a thread that lets others on its machine go first, and that ends when its caller does."""

import os
import queue
import sys
import threading
from collections.abc import Callable

from keyrotation_pipeline.model.progress import Progress, Report, Rewritten

# Processes that serve users on the same machine go first.
NICENESS = 10
# A server that does not answer must not keep us; what it has not committed stays as it was.
_STOP_SECONDS = 5.0


def at_low_priority(work: Callable[[Report, threading.Event], Rewritten], report: Report) -> Rewritten:
    """Do `work` in a thread of low priority; the caller's own thread keeps its priority.

    Args:
        work: is given what it has to report to, about once a second, and an event that tells it to stop: that is set
            when the caller was interrupted.
        report: called in the caller's thread.
    """
    said: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
    told_to_stop = threading.Event()
    outcome: list[Rewritten | BaseException] = []

    def run() -> None:
        try:
            _lower()
            outcome.append(work(said.put, told_to_stop))
        except BaseException as error:  # noqa: BLE001  raised again by the caller
            outcome.append(error)
        said.put(None)

    thread = threading.Thread(target=run, name="keyrotation worker", daemon=True)
    thread.start()
    try:
        while (progress := said.get()) is not None:
            report(progress)
    finally:
        told_to_stop.set()
        thread.join(_STOP_SECONDS)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _lower() -> None:
    # Linux gives each thread a priority of its own. Elsewhere it would be that of the process, for good.
    if sys.platform == "linux":
        this = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, this, min(19, os.getpriority(os.PRIO_PROCESS, this) + NICENESS))
