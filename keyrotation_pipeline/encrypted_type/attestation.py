"""Reports which key versions each application instance uses, so that a rotation can wait for it; takes one line.

    engine = create_engine(URL)
    keys = EnvironmentKeyRing()
    attest(engine, keys)

A rotation waits until every instance that reports can read a new key, before any other instance writes under it. If
no instance of a fleet reports, an officer has to confirm the rollout. A report holds the versions that are read, the
one that is written, whether that one was named as the primary, how often and when last a value of an older version was
decrypted, and how many could not be decrypted; never a key, never content. With it go proofs that this process holds
the keys of these versions (`fieldcrypto.possession`): without one a version does not count.
"""

import asyncio
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import Engine, TextClause, text

from keyrotation_pipeline.encrypted_type import process_end
from keyrotation_pipeline.encrypted_type.column import encrypted_from_of, failed_reads_of, old_forms_of, old_reads_of
from keyrotation_pipeline.encrypted_type.environment import pod_of_process
from keyrotation_pipeline.errors import InvalidKeyError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.possession import proof_of_possession
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine  # needs greenlet, which an application without it does not have

__all__ = ["Attestation", "attest"]

EVERY_SECONDS = 15.0
LABEL_CHARS = 200
LOG = logging.getLogger(__name__)
_Report = Callable[[str, str], Mapping[str, str]]
_Send = Callable[[_Report], None]

SCHEMA = "keyrotation"


@dataclass(frozen=True, slots=True)
class Statements:
    """What asks for the newest request and the database's own time, which a report must name, and what reports."""

    asked: TextClause
    report: TextClause

    @classmethod
    def of(cls, schema: str) -> "Statements":
        """Returns them on the schema of a home.

        Raises:
            ValueError: it cannot be one.
        """
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", schema):
            raise ValueError(f"{schema!r} is not the schema of a home; give what `[database] schema` has there")
        return cls(
            text(f'SELECT nonce, at FROM "{schema}".report_nonce'),  # noqa: S608  checked above
            text(
                f'INSERT INTO "{schema}".instance_reports (instance, report, proofs) '  # noqa: S608  checked above
                "VALUES (:instance, :report, :proofs)"
            ),
        )


def attest(
    engine: "Engine | AsyncEngine",
    key_ring: KeyRing | Callable[[], KeyRing],
    *,
    instance: str | None = None,
    every_seconds: float = EVERY_SECONDS,
    reload: bool = True,
    schema: str = SCHEMA,
    encrypts_from: Mapping[str, int] | None = None,
) -> "Attestation":
    """Starts reporting this process, on a thread and a connection of its own, until the process ends.

    Call it once per process, in the main thread; after a fork the child reports itself too. A process that ends as
    usual, or by a SIGTERM that nobody handles, withdraws itself first; where it ends in another way, call `stop`.

    Args:
        engine: of the application; its role needs USAGE on the schema of the home, SELECT on its view `report_nonce`
            and INSERT on the columns instance, report and proofs of its table `instance_reports`.
        key_ring: the same object that `EncryptedType` was given.
        instance: a readable name in ASCII; default: the host's. Process id and a random part are added. In Kubernetes
            the variables POD_NAMESPACE and POD_UID, from the downward API, say in addition which Pod it is.
        every_seconds: between two reports; well below `[rollout] instance_ttl_seconds`.
        reload: read the key ring again before each report, if it can (`EnvironmentKeyRing`, `MountedKeyRing`), so that
            new keys need no restart. If that fails, the previous ring stays in use.
        schema: as `[database] schema` of the home has it, where that is not the default.
        encrypts_from: the `encrypted_from` of columns that hold plaintext so far and that this process does not use
            through `EncryptedType`, by ``table.column``.

    Raises:
        ValueError: it cannot be a schema of a home.
    """
    label = instance or socket.gethostname()
    attestation = Attestation(
        engine, key_ring, label, every_seconds, reload=reload, schema=schema, encrypts_from=encrypts_from
    )
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
        schema: str,
        encrypts_from: Mapping[str, int] | None = None,
    ) -> None:
        self._statements = Statements.of(schema)
        self._of_application = engine
        self._key_ring = key_ring
        self._encrypts_from = dict(encrypts_from or {})
        self._label = "".join(each if "!" <= each <= "~" else "?" for each in label[:LABEL_CHARS])
        self._every_seconds = every_seconds
        self._reload: Callable[[], KeyRing] | None = getattr(key_ring, "reload", None) if reload else None
        self._ring: KeyRing | None = None  # of the last report
        self._failing = self._unopened = ""
        self.instance = ""

    def start(self) -> None:
        """Starts reporting; in the child of a fork, starts afresh under a new name."""
        # Two processes of one name would hide each other: one that lags could pass for one that does not.
        self.instance = f"{self._label}/{os.getpid()}-{os.urandom(3).hex()}"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keyrotation-attestation", daemon=True)
        self._thread.start()
        process_end.started(self)

    def stop(self) -> None:
        """Stops reporting, and withdraws this instance; called automatically when the process ends as usual."""
        process_end.stop([self])

    def end(self) -> None:
        """Has the thread withdraw this instance, and end."""
        self._stopped.set()

    def wait(self, seconds: float) -> None:
        """Waits until the thread has ended, so long at most."""
        self._thread.join(seconds)

    def _run(self) -> None:
        with _connected(self._of_application, self._statements) as send:
            while True:
                with process_end.reporting:
                    self._attempt(lambda: self._send(send))
                if self._stopped.wait(self._every_seconds):
                    break
            self._attempt(lambda: self._send(send, sign_off=True))

    def _send(self, send: _Send, *, sign_off: bool = False) -> None:
        send(lambda nonce, at: self._report(nonce, at, sign_off=sign_off))

    def _report(self, nonce: str, at: str, *, sign_off: bool) -> Mapping[str, str]:
        # After the nonce was asked for, so that the report says nothing from before what the nonce names.
        ring = self._ring = self._current_ring() if not sign_off or self._ring is None else self._ring
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
        content = {
            "nonce": nonce,
            "at": at,
            "reads": list(map(str, ring.versions)),
            "writes": str(ring.primary),
            "names_primary": ring.names_primary,
            "farewell": sign_off,
            "pod": pod_of_process(),
            "decrypted": reads,
            "failed": failures,
            "encrypts_from": {**self._encrypts_from, **encrypted_from_of(self._key_ring)},
            "old_forms": old_forms_of(self._key_ring),
        }
        report = json.dumps(content)
        proofs = (f"{version}={self._proof(ring.material(version), version, report)}" for version in ring.versions)
        key = None if sign_off else self._canary_of(ring)
        canary = () if key is None else (f"{CANARY}={self._proof(key, CANARY, report)}",)
        return {"instance": self.instance, "report": report, "proofs": " ".join((*proofs, *canary))}

    def _canary_of(self, ring: KeyRing) -> KeyMaterial | None:
        """Returns the canary; None: there is none, or it cannot be opened, which is logged when that changes."""
        try:
            canary, failure = ring.canary(), ""
        except InvalidKeyError as error:  # the keys themselves are not sealed yet
            canary, failure = None, str(error)
        if failure and failure != self._unopened:
            LOG.warning("keys that are sealed later could not be opened here: %s", failure)
        self._unopened = failure
        return canary

    def _proof(self, key: KeyMaterial, name: KeyVersion | str, report: str) -> str:
        return proof_of_possession(key, name, self.instance, report)

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
            said = "instance %s cannot report its key versions (%s), so rotations wait%s"
            LOG.warning(said, self.instance, failing, _ADVICE.get(failing, ""))
        elif self._failing and not failing:
            LOG.info("instance %s reports its key versions again", self.instance)
        self._failing = failing


# What drivers call a refused or missing table.
_ADVICE = {
    "ProgrammingError": "; run `keyrotation init`, then give the application's role the grants of application-role.sql"
}


@contextmanager
def _connected(engine: "Engine | AsyncEngine", statements: Statements) -> Iterator[_Send]:
    """Yields a sender on the engine's database that shares no connection with the application or a parent process."""
    if isinstance(engine, Engine):
        own = _separate_engine(engine)

        def send(report: _Report) -> None:
            with own.connect() as connection:
                asked = connection.execute(statements.asked).one()
                connection.commit()  # reading the key ring may take a while
                connection.execute(statements.report, report(*asked))
                connection.commit()

        yield send
        own.dispose()
        return

    asynchronous = type(engine)(_separate_engine(engine.sync_engine))

    async def sent(report: _Report) -> None:
        async with asynchronous.connect() as connection:
            asked = (await connection.execute(statements.asked)).one()
            await connection.commit()
            await connection.execute(statements.report, report(*asked))
            await connection.commit()

    # An event loop of this thread: the application's may be busy or not running yet.
    with asyncio.Runner() as runner:
        yield lambda report: runner.run(sent(report))
        runner.run(asynchronous.dispose())


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _separate_engine(engine: Engine) -> Engine:
    return Engine(engine.pool.recreate(), engine.dialect, engine.url, hide_parameters=True)
