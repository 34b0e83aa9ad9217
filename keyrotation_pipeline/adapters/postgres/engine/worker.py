"""A worker: re-encrypts the slices of its job, as a separate process or in a background thread."""

import json
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.ranges import Slice
from keyrotation_pipeline.adapters.postgres.engine.server_errors import ROTATE_AGAIN, without_content
from keyrotation_pipeline.adapters.postgres.engine.traversal import traversing
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.process import harden_process
from keyrotation_pipeline.errors import KeyRotationError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten
from keyrotation_pipeline.ports.keys import KeyStore


@dataclass(frozen=True, slots=True)
class Job:
    """The slices of one shard, and everything needed to re-encrypt any of them.

    Args:
        keys: the key store, pickled without keys.
        fingerprints: of the keys that the worker must find there, by version; the keys themselves are not stored.
        in_hot_order: the relations to rewrite in HOT order.
    """

    connect: Callable[[], Connection] = field(repr=False)  # it holds the password
    keys: KeyStore
    request: str
    slices: Sequence[Slice]
    fingerprints: Mapping[str, str]
    target: KeyVersion
    limits: Limits
    in_hot_order: frozenset[int] = frozenset()

    def ring(self) -> KeyRing:
        """Reads the key ring from the key store.

        Raises:
            KeyStoreError: the key store holds other keys than when the job was made.
        """
        ring = self.keys.read().ring()
        if fingerprints(ring) != self.fingerprints:
            raise KeyStoreError(
                "the keys in the key store have changed while rows were re-encrypted; check what `keyrotation status` "
                "says of them, then run `keyrotation rotate` again"
            )
        return ring


def fingerprints(ring: KeyRing) -> dict[str, str]:
    """Returns the fingerprints of all keys, by version."""
    keys = {version: ring.material(version) for version in ring.versions} | dict(ring.sources.values())
    return {str(version): key.fingerprint for version, key in keys.items()}


# Lower than processes that serve users on the same machine.
NICENESS = 10
# Do not wait longer for a server that does not answer; what it has not committed is unchanged.
_STOP_SECONDS = 5.0


def at_low_priority(work: Callable[[Report, threading.Event], Rewritten], report: Report) -> Rewritten:
    """Runs `work` in a thread of low priority; the caller's own thread keeps its priority.

    Args:
        work: gets a function to report to, about once a second, and an event that asks it to stop, which is set when
            the caller was interrupted.
        report: called in the caller's thread.
    """
    said: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
    stop_requested = threading.Event()
    outcome: list[Rewritten | BaseException] = []

    def run() -> None:
        try:
            _lower()
            outcome.append(work(said.put, stop_requested))
        except BaseException as error:  # noqa: BLE001  raised again by the caller
            outcome.append(error)
        said.put(None)

    thread = threading.Thread(target=run, name="keyrotation worker", daemon=True)
    thread.start()
    try:
        while (progress := said.get()) is not None:
            report(progress)
    finally:
        stop_requested.set()
        thread.join(_STOP_SECONDS)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _lower() -> None:
    # On Linux each thread has its own priority. Elsewhere this would lower the whole process for good.
    if sys.platform == "linux":
        this = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, this, min(19, os.getpriority(os.PRIO_PROCESS, this) + NICENESS))


STOP = b"stop\n"


def main() -> None:
    """Works until asked to stop, or until standard input ends."""
    harden_process()
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and then ends this process
    slices: queue.Queue[int | None] = queue.Queue()
    stop_requested = threading.Event()
    job: Job = pickle.load(sys.stdin.buffer)  # noqa: S301  our parent's pipe
    threading.Thread(target=_receive, args=(sys.stdin.buffer, slices, stop_requested), daemon=True).start()
    try:
        _work(job, slices, stop_requested)
    except KeyRotationError as error:
        _send(refusal=[type(error).__name__, str(error)])
    except Exception as error:  # noqa: BLE001  its text may hold content, so only its type is reported
        _send(refusal=["KeyRotationError", f"a worker process failed ({type(error).__name__}); report this"])
    os._exit(0)  # a normal exit would wait a second for the reading thread, then abort


def _receive(stream: BinaryIO, slices: "queue.Queue[int | None]", stop_requested: threading.Event) -> None:
    for line in stream:
        if line == STOP:
            stop_requested.set()
            slices.put(None)
        else:
            slices.put(int(line))
    os._exit(0)


@without_content(ROTATE_AGAIN)
def _work(job: Job, slices: "queue.Queue[int | None]", stop_requested: threading.Event) -> None:
    def report(progress: Progress) -> None:
        _send(note=progress.note)

    shard = job.slices[0].shard
    with traversing(
        job.connect, job.request, shard, job.ring(), job.target, report, job.limits, stop_requested, job.in_hot_order
    ) as walk:
        while (index := slices.get()) is not None:
            part = job.slices[index]
            done = walk([part])
            _send(finished=part.index, result=[done.rows, done.values, done.skipped, done.quarantined, done.seconds])


def _send(**content: object) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
