"""Re-encrypts one shard, in this process or in several.

Decides how many processes and which limits it gets; starts the worker processes, assigns them slices, vacuums and
reports progress.
"""

import json
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from keyrotation_pipeline import errors
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, WorkerSettings, opened_ledger
from keyrotation_pipeline.adapters.postgres.engine.ranges import last_shard, progress_by_relation, slices_of
from keyrotation_pipeline.adapters.postgres.engine.server_errors import ROTATE_AGAIN, without_content
from keyrotation_pipeline.adapters.postgres.engine.supervisor import SAVE_SECONDS, TICK_SECONDS, limits_for
from keyrotation_pipeline.adapters.postgres.engine.traversal import traverse
from keyrotation_pipeline.adapters.postgres.engine.vacuum import Vacuum, in_hot_order
from keyrotation_pipeline.adapters.postgres.engine.worker import STOP, Job, at_low_priority, fingerprints
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heaps
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.pending import GOING_SLOWER
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import EncryptedTable, Shard

# Several slices per worker, so that none waits long for the last one.
_SLICES_PER_WORKER = 4


@without_content(ROTATE_AGAIN)
def reencrypt_shard(
    connect: Callable[[], Connection],
    request: str,
    shard: Shard,
    ring: KeyRing,
    target: KeyVersion,
    report: Report,
    limits: Limits,
    settings: WorkerSettings | None = None,
) -> Rewritten:
    """Re-encrypts one shard to `target`, from where it stopped.

    Args:
        connect: opens a connection; picklable if there are workers.
        request: id of the rotation. Progress is stored under it, pausing it pauses this, and its type decides between
            routine and emergency mode.
        settings: how to start worker processes. Without it, or if one worker is enough, this process does all the work.

    Returns:
        What this and earlier runs over the same shard did together.

    Raises:
        BlockedError: the rotation was paused or cancelled, a table stays locked by others, or a worker has died.
        PreflightError: a table cannot be rewritten; names it.
        KeyStoreError: a worker finds keys other than this process has.
        DatabaseUnavailableError: the connection was lost; progress is stored.
    """
    with closing(connect()) as connection:
        with opened_ledger(limits, connection) as ledger:
            limits = limits_for(ledger, request, limits)
        workers = 0 if settings is None else _worth_having(connection, shard, limits)
        slices = slices_of(connection, request, shard, workers * _SLICES_PER_WORKER if workers > 1 else 1)
    workers = min(workers, len(slices))
    if settings is None or workers <= 1:
        return at_low_priority(
            lambda send, stop: traverse(connect, request, slices, ring, target, send, limits, stop),
            report,
        )
    limits = replace(limits, workers=workers)
    job = Job(connect, settings.keys, request, slices, fingerprints(ring), target, limits.of_one_worker())
    return WorkerPool(job, settings, connect, limits, report).work()


def _worth_having(connection: Connection, shard: Shard, limits: Limits) -> int:
    """Returns how many workers a shard is worth; starting a process takes as long as some hundred pages."""
    try:
        pages = _pages(connection, shard.table) // shard.of
    except psycopg.errors.LockNotAvailable:
        return 0  # this process then waits for the lock
    return min(limits.workers, pages // limits.pages_per_worker)


@without_content(ROTATE_AGAIN)
def is_one_shard(connection: Connection, request: str, table: EncryptedTable, limits: Limits) -> bool:
    """Returns whether the first shard of a table is all of it.

    Stored progress decides; before that, the size: for a small table, finding where a second shard starts would take
    longer than its rows.
    """
    if (last := last_shard(connection, request, table)) is not None:
        return last == 0
    try:
        return _pages(connection, table) < limits.pages_per_worker
    except psycopg.errors.LockNotAvailable:
        return False


def _pages(connection: Connection, table: EncryptedTable) -> int:
    return sum(relation.pages for relation in heaps(connection, table))


# A worker notices within a quarter of a second that it has to stop, or when each statement that it has sent has waited
# its second for a lock. One that takes longer is frozen, or its server is.
_SETTLE_SECONDS = 4.0
_END_SECONDS = 5.0
# Each takes 0.8 CPU-seconds to import. Forks of a process that has would spare that, but only from one without threads,
# connections and keys, which is not this one; and of forks of another one nobody here would learn how they ended.
_COMMAND = (sys.executable, "-m", "keyrotation_pipeline.adapters.postgres.engine.worker")


@dataclass(frozen=True, slots=True)
class _Message:
    """A message from a worker; content None: the worker has ended."""

    worker: "_Worker"
    content: Mapping[str, Any] | None


class _Worker:
    def __init__(self, environment: Mapping[str, str] | None, messages: "queue.Queue[_Message]") -> None:
        self._process = subprocess.Popen(  # noqa: S603  arguments of our own
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        threading.Thread(target=self._receive, args=(messages,), daemon=True).start()
        self._briefed = False

    def send_job(self, job: bytes) -> None:
        """Sends it its job; until then it starts up and waits."""
        self._briefed = True
        self._send(job)

    def assign(self, number: int) -> None:
        """Assigns it a slice to re-encrypt."""
        self._send(b"%d\n" % number)

    def stop(self) -> None:
        """Has it finish what is in flight, save its progress and end; one without a job ends at once."""
        if self._briefed:
            self._send(STOP)
        else:
            self.close()

    def close(self) -> None:
        """Has it end at once; uncommitted work is undone, and unsaved progress is not counted."""
        with suppress(OSError):
            self._pipe.close()

    def await_end(self, patience_seconds: float) -> None:
        """Waits until it has ended, and kills it if that takes too long."""
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def exit_reason(self) -> str:
        """How it ended, in words."""
        code = self._process.wait()
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"

    @property
    def _pipe(self) -> Any:  # noqa: ANN401  Popen says IO or None
        return self._process.stdin

    def _send(self, content: bytes) -> None:
        # The pool notices a dead worker when its output ends.
        with suppress(BrokenPipeError):
            self._pipe.write(content)
            self._pipe.flush()

    def _receive(self, messages: "queue.Queue[_Message]") -> None:
        assert self._process.stdout is not None  # noqa: S101  asked for above
        with self._process.stdout as output, suppress(ValueError):
            for line in output:
                messages.put(_Message(self, json.loads(line)))
        messages.put(_Message(self, None))


class WorkerPool:
    """Several workers on one shard.

    Args:
        job: the slices of the shard.
        connect: opens the connections of the pool itself.
        limits: the shard's, with the number of workers.
        report: called once a second.
    """

    def __init__(
        self,
        job: Job,
        settings: WorkerSettings,
        connect: Callable[[], Connection],
        limits: Limits,
        report: Report,
    ) -> None:
        self._job = job
        self._settings = settings
        self._connect = connect
        self._limits = limits
        self._report = report
        self._messages: queue.Queue[_Message] = queue.Queue()
        self._note = ""
        self._reported_at = time.monotonic()

    def work(self) -> Rewritten:
        """Has every slice re-encrypted.

        Raises:
            KeyRotationError: the first worker's error; the others have saved their progress and ended.
            BlockedError: a worker has died.
        """
        workers: list[_Worker] = []
        try:
            for _ in range(self._limits.workers):
                workers.append(_Worker(self._settings.environment, self._messages))  # noqa: PERF401  see finally
            with closing(self._connect()) as connection:
                job = pickle.dumps(self._prepared(connection))  # while they start
                for worker in workers:
                    worker.send_job(job)
                done = self._assign_slices(connection, workers)
        except BaseException:  # also an interruption
            for worker in workers:
                worker.stop()
            _await_end(workers, _SETTLE_SECONDS)
            raise
        finally:
            for worker in workers:
                worker.close()
            _await_end(workers, _END_SECONDS)
        for vacuum, _ in self._vacuums.values():
            vacuum.finish()
        return done

    def _prepared(self, connection: Connection) -> Job:
        self._shard = self._job.slices[0].shard
        self._before = progress_by_relation(connection, self._job.request, self._shard)
        relations = heaps(connection, self._shard.table)
        hot = in_hot_order(connection, relations)
        self._vacuums: dict[str, tuple[Vacuum, int]] = {
            relation.label: (
                Vacuum(self._connect, relation, self._limits, wanted=relation.oid not in hot),
                self._done_pages(relation),
            )
            for relation in relations
        }
        return replace(self._job, in_hot_order=hot)

    def _done_pages(self, relation: Relation) -> int:
        stage = self._before.get(relation.label)
        return stage.done_pages if stage else 0

    def _assign_slices(self, connection: Connection, workers: list[_Worker]) -> Rewritten:
        left = list(range(len(self._job.slices)))
        busy = 0
        for worker in workers:
            worker.assign(left.pop(0))
            busy += 1
        done = Rewritten()
        ticked = time.monotonic()
        while busy:
            with suppress(queue.Empty):
                # Not a sleep but a wait for messages: the next one ends it.
                message = self._messages.get(timeout=SAVE_SECONDS)
                if (finished := self._finished(message)) is not None:
                    done += finished
                    busy -= 1
                    if left:
                        message.worker.assign(left.pop(0))
                        busy += 1
            if time.monotonic() - ticked >= SAVE_SECONDS:
                self._poll(connection)
                ticked = time.monotonic()
        # Each worker counts its own seconds.
        return Rewritten(done.rows, done.values, done.skipped, done.quarantined, done.seconds / len(workers))

    def _finished(self, message: _Message) -> Rewritten | None:
        if message.content is None:
            raise BlockedError(
                f"a worker process ended {message.worker.exit_reason}, and what it had not written is unchanged; "
                "run `keyrotation rotate` again, it continues from here"
            )
        if refusal := message.content.get("refusal"):
            raise _refused(*refusal)
        self._note = str(message.content.get("note", self._note))
        return Rewritten(*message.content["result"]) if "finished" in message.content else None

    def _poll(self, connection: Connection) -> None:
        now = progress_by_relation(connection, self._job.request, self._shard)
        for label, stage in now.items():
            if label in self._vacuums:
                vacuum, seen = self._vacuums[label]
                vacuum.rewritten(stage.done_pages - seen)
                self._vacuums[label] = (vacuum, stage.done_pages)
        done, total = sum(stage.done_pages for stage in now.values()), sum(stage.total_pages for stage in now.values())
        if time.monotonic() - self._reported_at < TICK_SECONDS:
            return
        self._reported_at = time.monotonic()
        # The speed of one worker says little, but its reason to pause is worth reporting.
        rows = sum(stage.rows for stage in now.values())
        note = self._note if self._note.startswith(("pausing", "waiting", GOING_SLOWER)) else f"{rows:,} rows"
        subject = f"{self._shard.table.name} shard {self._shard.key}"
        self._report(Progress(Step.ROWS, subject, done, total, "pages", note))


def _await_end(workers: list[_Worker], patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    for worker in workers:
        worker.await_end(max(0.0, deadline - time.monotonic()))


def _refused(name: str, message: str) -> KeyRotationError:
    kind = getattr(errors, name, KeyRotationError)
    try:
        refusal = kind(message)
    except TypeError:  # an error class that does not take a sentence
        refusal = KeyRotationError(message)
    return refusal if isinstance(refusal, KeyRotationError) else KeyRotationError(message)
