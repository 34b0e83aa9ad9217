"""Withdraws the instances of a process when it ends, and has the child of a fork report itself.

A process ends as usual, and `atexit` runs; or by SIGTERM, as containers are ended, whose default action runs nothing. A
handler of the application's own is left alone, whenever it was installed: the application may read and write for as
long as it takes to finish its work, and must not be withdrawn before it ends.
"""

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.fork_guard import ForkGuard

STOP_SECONDS = 5.0


class Instance(Protocol):
    """What reports itself from a thread of its own."""

    def start(self) -> None:
        """Starts reporting; in the child of a fork, starts afresh under a new name."""

    def end(self) -> None:
        """Has the thread withdraw this instance, and end."""

    def wait(self, seconds: float) -> None:
        """Waits until the thread has ended, so long at most."""


_running: set[Instance] = set()
_is_terminated = False  # by a signal that nobody else handles


def started(instance: Instance) -> None:
    """Has an instance withdrawn when the process ends."""
    _running.add(instance)
    _take_sigterm()


def stop(instances: Iterable[Instance]) -> None:
    """Withdraws instances; a database that does not answer delays this by `STOP_SECONDS` at most, for all of them."""
    ending = list(instances)
    for each in ending:
        each.end()
    until = time.monotonic() + STOP_SECONDS
    for each in ending:
        each.wait(max(0.0, until - time.monotonic()))
        _running.discard(each)  # not before: `atexit` waits for what a signal has begun
    if not _running:
        _leave_sigterm()


def _at_exit() -> None:
    stop(_running)
    if _is_terminated:  # and the main thread ended meanwhile
        _end_by_signal()


def _take_sigterm() -> None:
    """Handles SIGTERM where it has its default action, and this is the main thread; no other thread can."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with suppress(ValueError):  # of a subinterpreter
            signal.signal(signal.SIGTERM, _terminated)


def _leave_sigterm() -> None:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    """Has this process withdraw its instances, and then end by the signal as it would have; a second one ends it now.

    It waits for nothing here: the main thread may hold any lock, which the thread that reports needs.
    """
    global _is_terminated  # noqa: PLW0603  no lock
    _is_terminated = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(RuntimeError):  # Python is ending already, and `atexit` does the same
        threading.Thread(target=_withdraw_and_end, name="keyrotation-attestation-end", daemon=True).start()


def _withdraw_and_end() -> None:
    try:
        stop(_running)
    finally:
        _end_by_signal()


def _end_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    # The first process of a container is not ended by a default action.
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        os._exit(128 + signal.SIGTERM)


# Held by the thread that reports, with the locks of key ring and SQLAlchemy. Made after that of libraries, which a
# report needs, so that a fork takes it first.
reporting = ForkGuard()


def _start_in_child() -> None:
    global _is_terminated  # noqa: PLW0603  as it is in a new process
    _is_terminated = False
    for instance in list(_running):
        instance.start()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_start_in_child)
