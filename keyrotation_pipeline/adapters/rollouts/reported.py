"""Reads instances that report themselves in the database: which key versions they read, and which they write."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import psycopg

from keyrotation_pipeline.errors import BlockedError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.reads import NO_VERSION
from keyrotation_pipeline.model.fleet import Decrypted, Failed, Instance, RolloutMode, RolloutTarget
from keyrotation_pipeline.model.tables import Problem
from keyrotation_pipeline.ports.clock import Clock, attempts
from keyrotation_pipeline.ports.rollout import Lacking, ProgressCallback

Connection = psycopg.Connection[tuple[object, ...]]
POLL_SECONDS = 0.2
# An instance that reported within a day and has not withdrawn may still be running.
KNOWN_SECONDS = 24 * 3600
FORGOTTEN_SECONDS = 30 * KNOWN_SECONDS

# Both times are the server's, so no other clock can make an instance look alive, silent or gone.
_REPORTED = """
SELECT instance, reads, writes, reported_at, reported_at <= clock_timestamp() - make_interval(secs => %(ttl)s),
       decrypted, failed, names_primary
FROM keyrotation.application_instances
WHERE reported_at > clock_timestamp() - make_interval(secs => %(known)s) ORDER BY instance
"""

_FORGET = """
DELETE FROM keyrotation.application_instances WHERE reported_at < clock_timestamp() - make_interval(secs => %s)
"""


class ReportedInstances:
    """`Rollout` over what instances report; applications get the keys by themselves.

    Args:
        mode: how a rollout is observed.
        ttl_seconds: an instance that has not reported for so long is silent.
        timeout_seconds: how long `roll_out` waits for instances; it does not wait for an officer.
    """

    def __init__(
        self, connection: Connection, mode: RolloutMode, ttl_seconds: float, timeout_seconds: float, clock: Clock
    ) -> None:
        self._connection = connection
        self._mode = mode
        self._ttl_seconds = ttl_seconds
        self._patience_seconds = 0.0 if mode is RolloutMode.CONFIRM else timeout_seconds
        self._clock = clock

    @property
    def mode(self) -> RolloutMode:
        """See `Rollout.mode`."""
        return self._mode

    @property
    def workloads(self) -> tuple[str, ...]:
        """See `Rollout.workloads`: something else starts the applications."""
        return ()

    def preflight(self, _target: KeyVersion) -> tuple[Problem, ...]:
        """See `Rollout.preflight`."""
        return ()

    def waiting(self) -> Mapping[str, str]:
        """See `Rollout.waiting`."""
        return {}

    def forget(self) -> None:
        """Deletes instances that have not reported for a month."""
        self._connection.execute(_FORGET, (FORGOTTEN_SECONDS,))

    def instances(self) -> tuple[Instance, ...]:
        """See `Rollout.instances`; one that has not reported for a day is gone, unless it reports again."""
        rows = self._connection.execute(_REPORTED, {"ttl": self._ttl_seconds, "known": KNOWN_SECONDS}).fetchall()
        return tuple(_instance(*row) for row in rows)

    def roll_out(self, goal: RolloutTarget, lacking: Lacking, report: ProgressCallback) -> tuple[Instance, ...]:
        """See `Rollout.roll_out`."""
        self.forget()
        for _ in attempts(self._clock, pause_seconds=POLL_SECONDS, patience_seconds=self._patience_seconds):
            instances = self.instances()
            sentence = lacking(instances)
            there = sum(goal.met_by(instance) for instance in instances if not instance.silent)
            report(there, len(instances), sentence or "")
            if sentence is None:
                return instances
        raise BlockedError(sentence)


def _instance(
    name: object,
    reads: object,
    writes: object,
    reported_at: object,
    silent: object,
    decrypted: object,
    failed: object,
    names_primary: object,
) -> Instance:
    return Instance(
        name=str(name),
        reads=tuple(KeyVersion.parse(version) for version in cast("list[str]", reads)),
        writes=KeyVersion.parse(str(writes)),
        reported_at=cast("datetime", reported_at),
        silent=bool(silent),
        decrypted=tuple(_decrypted(cast("Mapping[str, Any]", decrypted))),
        failed=tuple(_failed(cast("Mapping[str, Any]", failed))),
        names_primary=bool(names_primary),
    )


def _decrypted(counts: Mapping[str, Any]) -> Iterator[Decrypted]:
    for version, count in sorted(counts.items()):
        # Written by an application: ignores whatever is malformed.
        with suppress(InvalidKeyError, KeyError, TypeError, ValueError):
            last_at = datetime.fromisoformat(count["last_at"])
            yield Decrypted(KeyVersion.parse(version), int(count["values"]), last_at.astimezone(UTC))


def _failed(counts: Mapping[str, Any]) -> Iterator[Failed]:
    for version, count in sorted(counts.items()):
        with suppress(InvalidKeyError, AttributeError, KeyError, TypeError, ValueError):
            named = version if version == NO_VERSION else str(KeyVersion.parse(version))
            minutes = {datetime.fromisoformat(at).astimezone(UTC): int(many) for at, many in count["minutes"].items()}
            last_at = datetime.fromisoformat(count["last_at"]).astimezone(UTC)
            yield Failed(named, int(count["values"]), last_at, minutes)
