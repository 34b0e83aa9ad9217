"""Bounds the time of a whole call: a socket times out at each read, and a server may send a byte now and then."""

import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def within(seconds: float, work: Callable[[], _Result], late: Exception) -> _Result:
    """Returns what the work returns, or raises what it raises; abandons it where it takes longer, and raises `late`.

    Abandoned work goes on, may even succeed, and ends with the process.
    """
    done: list[_Result] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # noqa: BLE001  raised again below
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="within a deadline")
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise late
    return done[0]
