"""A worker process: walks slices of a shard as they are given out, with its own connections and key ring.

Standard input: a pickled `Job`, then a line with the number of each slice. When it ends, so does the worker, at once:
that is how workers notice that their parent has died. Standard output: a line of JSON for each thing to say.
"""

import json
import os
import pickle
import queue
import signal
import sys
import threading
from typing import BinaryIO

from keyrotation_pipeline.adapters.postgres.engine.job import Job
from keyrotation_pipeline.adapters.postgres.engine.traversal import rewrite_slices
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.progress import Progress

# Who serves users on the same machine goes first.
_NICENESS = 10


def main() -> None:
    """Work until there is nothing more to do."""
    os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent, which then ends us
    orders: queue.Queue[int] = queue.Queue()
    job: Job = pickle.load(sys.stdin.buffer)  # noqa: S301  our parent's pipe
    threading.Thread(target=_listen, args=(sys.stdin.buffer, orders), daemon=True).start()
    try:
        _work(job, orders)
    except KeyRotationError as error:
        _say(refusal=[type(error).__name__, str(error)])
    except Exception as error:  # noqa: BLE001  whatever it is, its text may hold content and goes nowhere
        _say(refusal=["KeyRotationError", f"a worker process failed ({type(error).__name__}); report this"])


def _listen(stream: BinaryIO, orders: "queue.Queue[int]") -> None:
    for line in stream:
        orders.put(int(line))
    os._exit(0)


def _work(job: Job, orders: "queue.Queue[int]") -> None:
    ring = job.ring()

    def tell(progress: Progress) -> None:
        _say(note=progress.note)

    while True:
        part = job.slices[orders.get()]
        done = rewrite_slices(job.connect, job.request, [part], ring, job.target, tell, job.limits)
        _say(finished=part.index, result=[done.rows, done.values, done.skipped, done.quarantined, done.seconds])


def _say(**content: object) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
