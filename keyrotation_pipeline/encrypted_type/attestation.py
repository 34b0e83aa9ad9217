"""Reports which key versions each application instance uses, so that a rotation can wait for it; takes one line.

    engine = create_engine(URL)
    keys = EnvironmentKeyRing()
    attest(engine, keys)

A rotation waits until every instance that reports can read a new key, before any other instance writes under it. If
no instance of a fleet reports, an officer has to confirm the rollout. A report holds the versions that are read, the
one that is written, whether that one was named as the primary, how often and when last a value of an older version was
decrypted, and how many could not be decrypted; never a key, never content.
"""

import asyncio
import atexit
import json
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Engine, TextClause, text

from keyrotation_pipeline.encrypted_type.column import failed_reads_of, old_reads_of
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine  # needs greenlet, which an application without it does not have

__all__ = ["Attestation", "attest"]

EVERY_SECONDS = 15.0
STOP_SECONDS = 5.0
LOG = logging.getLogger(__name__)
_Send = Callable[[TextClause, Mapping[str, str]], None]

# One statement, so that it goes through any pooler. Counts of an earlier process of this name stay visible.
_REPORT = text("""
INSERT INTO keyrotation.application_instances AS known
    (instance, reads, writes, names_primary, decrypted, failed, reported_at)
VALUES (:instance, string_to_array(CAST(:reads AS text), ','), :writes, CAST(CAST(:names_primary AS text) AS boolean),
        CAST(CAST(:decrypted AS text) AS jsonb), CAST(CAST(:failed AS text) AS jsonb), clock_timestamp())
ON CONFLICT (instance) DO UPDATE
SET reads = excluded.reads, writes = excluded.writes, names_primary = excluded.names_primary,
    decrypted = known.decrypted || excluded.decrypted, failed = known.failed || excluded.failed,
    reported_at = excluded.reported_at
""")
_WITHDRAW = text("DELETE FROM keyrotation.application_instances WHERE instance = :instance")


def attest(
    engine: "Engine | AsyncEngine",
    key_ring: KeyRing | Callable[[], KeyRing],
    *,
    instance: str | None = None,
    every_seconds: float = EVERY_SECONDS,
    reload: bool = True,
) -> "Attestation":
    """Starts reporting this process, on a thread and a connection of its own, until the process ends.

    Call it once per process; after a fork the child reports itself too.

    Args:
        engine: of the application; its role needs USAGE on the schema `keyrotation` and SELECT, INSERT, UPDATE and
            DELETE on `keyrotation.application_instances`.
        key_ring: the same object that `EncryptedType` was given.
        instance: a readable name, such as the pod's; default: the host's. Process id and a random part are added.
        every_seconds: between two reports; well below `[rollout] instance_ttl_seconds`.
        reload: read the key ring again before each report, if it can (`EnvironmentKeyRing`, `MountedKeyRing`), so that
            new keys need no restart. If that fails, the previous ring stays in use.
    """
    attestation = Attestation(engine, key_ring, instance or socket.gethostname(), every_seconds, reload=reload)
    attestation.start()
    return attestation


class Attestation:
    """Sends the reports of one process; made by `attest`."""

    def __init__(
        self,
        engine: "Engine | AsyncEngine",
        key_ring: KeyRing | Callable[[], KeyRing],
        label: str,
        every_seconds: float,
        *,
        reload: bool,
    ) -> None:
        self._of_application = engine
        self._key_ring = key_ring
        self._label = label
        self._every_seconds = every_seconds
        self._reload: Callable[[], KeyRing] | None = getattr(key_ring, "reload", None) if reload else None
        self._failing = ""
        self.instance = ""

    def start(self) -> None:
        """Starts reporting; in the child of a fork, starts afresh under a new name."""
        # Two processes of one name would hide each other: one that lags could pass for one that does not.
        self.instance = f"{self._label}/{os.getpid()}-{os.urandom(3).hex()}"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keyrotation-attestation", daemon=True)
        self._thread.start()
        _running.add(self)

    def stop(self) -> None:
        """Stops reporting, and withdraws this instance; called automatically when the process ends."""
        _running.discard(self)
        self._stopped.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        with _connected(self._of_application) as send:
            while True:
                with _reporting:
                    self._attempt(lambda: send(_REPORT, self._report_parameters()))
                if self._stopped.wait(self._every_seconds):
                    break
            self._attempt(lambda: send(_WITHDRAW, {"instance": self.instance}))

    def _report_parameters(self) -> dict[str, str]:
        ring = self._current_ring()
        reads = {
            str(each.version): {"values": each.values, "last_at": _instant(each.last_at)}
            for each in old_reads_of(self._key_ring).by_version()
        }
        failures = {
            each.version: {
                "values": each.values,
                "last_at": _instant(each.last_at),
                "minutes": {_instant(minute): values for minute, values in each.by_minute.items()},
            }
            for each in failed_reads_of(self._key_ring).by_version()
        }
        return {
            "instance": self.instance,
            "reads": ",".join(map(str, ring.versions)),
            "writes": str(ring.primary),
            "names_primary": str(ring.names_primary).lower(),
            "decrypted": json.dumps(reads),
            "failed": json.dumps(failures),
        }

    def _current_ring(self) -> KeyRing:
        if isinstance(self._key_ring, KeyRing):
            return self._key_ring
        if self._reload is not None:
            try:
                return self._reload()
            except KeyRotationError as error:
                LOG.warning("the key ring stays as it was: %s", error)
        return self._key_ring()

    def _attempt(self, action: Callable[[], None]) -> None:
        """Runs an action, and logs when it begins to fail and when it works again; never stops the application."""
        try:
            action()
            failing = ""
        except Exception as error:  # noqa: BLE001  each driver has errors of its own
            failing = type(error).__name__
        if failing and failing != self._failing:
            LOG.warning("instance %s cannot report its key versions (%s), so rotations wait", self.instance, failing)
        elif self._failing and not failing:
            LOG.info("instance %s reports its key versions again", self.instance)
        self._failing = failing


@contextmanager
def _connected(engine: "Engine | AsyncEngine") -> Iterator[_Send]:
    """Yields a sender on the engine's database that shares no connection with the application or a parent process."""
    if isinstance(engine, Engine):
        own = _separate_engine(engine)

        def send(statement: TextClause, parameters: Mapping[str, str]) -> None:
            with own.begin() as connection:
                connection.execute(statement, parameters)

        yield send
        own.dispose()
        return

    asynchronous = type(engine)(_separate_engine(engine.sync_engine))

    async def sent(statement: TextClause, parameters: Mapping[str, str]) -> None:
        async with asynchronous.begin() as connection:
            await connection.execute(statement, parameters)

    # An event loop of this thread: the application's may be busy or not running yet.
    with asyncio.Runner() as runner:
        yield lambda statement, parameters: runner.run(sent(statement, parameters))
        runner.run(asynchronous.dispose())


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _separate_engine(engine: Engine) -> Engine:
    return Engine(engine.pool.recreate(), engine.dialect, engine.url, hide_parameters=True)


_running: weakref.WeakSet[Attestation] = weakref.WeakSet()

# Held by the thread that reports, and by one that forks: locks that the reporting thread holds at the moment of a fork
# (of the key ring, of SQLAlchemy) would never be released in the child. A database that does not answer delays a fork
# by at most this many seconds.
_reporting = threading.RLock()
_FORK_PATIENCE_SECONDS = 5.0
_forking = threading.local()


def _stop_all() -> None:
    for attestation in list(_running):
        attestation.stop()


def _before_fork() -> None:
    _forking.held = _reporting.acquire(timeout=_FORK_PATIENCE_SECONDS)


def _after_fork() -> None:
    if _forking.held:
        _reporting.release()


def _start_in_child() -> None:
    global _reporting  # noqa: PLW0603  in the child nobody else would release it
    _reporting = threading.RLock()
    for attestation in list(_running):
        attestation.start()


atexit.register(_stop_all)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_start_in_child)
