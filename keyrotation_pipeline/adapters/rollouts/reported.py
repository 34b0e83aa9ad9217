"""Application instances that report themselves in the database: which key versions they read, and which they write."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import cast

import psycopg

from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.instances import Instance
from keyrotation_pipeline.ports.clock import Clock, attempts

Connection = psycopg.Connection[tuple[object, ...]]
POLL_SECONDS = 0.2

_REPORT = """
INSERT INTO keyrotation.application_instances (instance, reads, writes, reported_at)
VALUES (%s, %s, %s, pg_catalog.clock_timestamp())
ON CONFLICT (instance) DO UPDATE
SET reads = excluded.reads, writes = excluded.writes, reported_at = excluded.reported_at
"""

# By the server's clock on both sides, so that no other clock can make an instance look alive or gone.
_ALIVE = """
SELECT instance, reads, writes, reported_at FROM keyrotation.application_instances
WHERE reported_at > clock_timestamp() - make_interval(secs => %s) ORDER BY instance
"""


def report_instance(connection: Connection, name: str, ring: KeyRing) -> None:
    """Say which versions an application instance reads and writes; call it after each reload, and every few seconds.

    Args:
        connection: in autocommit mode, with the right to write keyrotation.application_instances.
        name: tells instances apart, the pod's name say.
        ring: what the instance encrypts and decrypts with from now on.
    """
    connection.execute(_REPORT, (name, [str(version) for version in ring.versions], str(ring.primary)))


def withdraw_instance(connection: Connection, name: str) -> None:
    """Say that an instance has ended, so that nobody waits for it."""
    connection.execute("DELETE FROM keyrotation.application_instances WHERE instance = %s", (name,))


class ReportedInstances:
    """`Rollout` over what instances report.

    Args:
        ttl_seconds: an instance that was not heard of for as long is gone.
        timeout_seconds: how long `wait_for` waits.
    """

    def __init__(self, connection: Connection, ttl_seconds: float, timeout_seconds: float, clock: Clock) -> None:
        self._connection = connection
        self._ttl_seconds = ttl_seconds
        self._timeout_seconds = timeout_seconds
        self._clock = clock

    def instances(self) -> tuple[Instance, ...]:
        """See `Rollout.instances`."""
        rows = self._connection.execute(_ALIVE, (self._ttl_seconds,)).fetchall()
        return tuple(_instance(row) for row in rows)

    def wait_for(
        self, description: str, settled: Callable[[Sequence[Instance]], Sequence[str]]
    ) -> tuple[Instance, ...]:
        """See `Rollout.wait_for`."""
        for _ in attempts(self._clock, pause_seconds=POLL_SECONDS, patience_seconds=self._timeout_seconds):
            lagging = settled(instances := self.instances())
            if not lagging:
                return instances
        raise BlockedError(
            f"{', '.join(lagging)}: not seen to {description} within {self._timeout_seconds:g} seconds; "
            "reload or restart what lags, then run it again"
        )


def _instance(row: tuple[object, ...]) -> Instance:
    name, reads, writes, reported_at = row
    return Instance(
        name=str(name),
        reads=tuple(KeyVersion.parse(version) for version in cast("list[str]", reads)),
        writes=KeyVersion.parse(str(writes)),
        reported_at=cast("datetime", reported_at),
    )
