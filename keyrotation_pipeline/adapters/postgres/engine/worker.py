"""A worker process: re-encrypts the slices of a shard that it is given, with its own connections and key ring.

Standard input: a pickled `Job`, then one line per slice with its number, or `STOP`: then the worker settles what is
under way, saves progress, and ends. When standard input ends, the worker ends at once; so workers notice that their
parent has died. Standard output: one line of JSON per message.
"""

import json
import os
import pickle
import queue
import signal
import sys
import threading
from typing import BinaryIO

from keyrotation_pipeline.adapters.hardening import harden_process
from keyrotation_pipeline.adapters.postgres.engine.job import Job
from keyrotation_pipeline.adapters.postgres.engine.low_priority import NICENESS
from keyrotation_pipeline.adapters.postgres.engine.server_errors import without_content
from keyrotation_pipeline.adapters.postgres.engine.traversal import rewriting
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.progress import Progress

STOP = b"stop\n"


def main() -> None:
    """Work until told to stop, or until standard input ends."""
    harden_process()
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and then ends us
    slices: queue.Queue[int | None] = queue.Queue()
    told_to_stop = threading.Event()
    job: Job = pickle.load(sys.stdin.buffer)  # noqa: S301  our parent's pipe
    threading.Thread(target=_receive, args=(sys.stdin.buffer, slices, told_to_stop), daemon=True).start()
    try:
        _work(job, slices, told_to_stop)
    except KeyRotationError as error:
        _send(refusal=[type(error).__name__, str(error)])
    except Exception as error:  # noqa: BLE001  its text may hold content, so only its type is told
        _send(refusal=["KeyRotationError", f"a worker process failed ({type(error).__name__}); report this"])
    os._exit(0)  # the interpreter's own end would wait a second for the thread that reads, then abort


def _receive(stream: BinaryIO, slices: "queue.Queue[int | None]", told_to_stop: threading.Event) -> None:
    for line in stream:
        if line == STOP:
            told_to_stop.set()
            slices.put(None)
        else:
            slices.put(int(line))
    os._exit(0)


@without_content
def _work(job: Job, slices: "queue.Queue[int | None]", told_to_stop: threading.Event) -> None:
    def report(progress: Progress) -> None:
        _send(note=progress.note)

    shard = job.slices[0].shard
    with rewriting(
        job.connect, job.request, shard, job.ring(), job.target, report, job.limits, told_to_stop, job.in_hot_order
    ) as go:
        while (index := slices.get()) is not None:
            part = job.slices[index]
            done = go([part])
            _send(finished=part.index, result=[done.rows, done.values, done.skipped, done.quarantined, done.seconds])


def _send(**content: object) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
