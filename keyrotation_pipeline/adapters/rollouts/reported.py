"""Reads instances that report themselves in the database: which key versions they read, and which they write."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import cast

import psycopg

from keyrotation_pipeline.adapters.own_schema import own, schema_of
from keyrotation_pipeline.adapters.rollouts.reports import TABLE, Reported, ReportRow, read_reports
from keyrotation_pipeline.errors import BlockedError, RolloutPendingError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.fleet import Gone, Instance, Pod, RolloutMode, RolloutTarget
from keyrotation_pipeline.ports.clock import Clock, attempts
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.rollout import PendingCheck, ProgressCallback

Connection = psycopg.Connection[tuple[object, ...]]
POLL_SECONDS = 0.2
# A report that no key proves may be proven by a newer one. A store in a cloud is not asked at each poll.
KEYS_READ_EVERY_SECONDS = 10.0
MOST_REPORTS, MOST_BYTES = 30_000, 128 * 2**20

_SIZE = own("SELECT count(*), coalesce(sum(octet_length(report)), 0)::bigint FROM keyrotation.instance_reports")
# Both times are the server's, so no other clock can make an instance look alive, silent or gone.
_REPORTS = own("""
SELECT id, instance, report, proofs, reported_at, reported_at <= clock_timestamp() - make_interval(secs => %s)
FROM keyrotation.instance_reports ORDER BY instance COLLATE "C", id
""")
# All rows of a name or none: an older one that somebody has locked would otherwise outlive the sign-off.
_FORGET = own("""
WITH ended AS (SELECT * FROM unnest(%s::text[], %s::bigint[]) AS given (name, last)),
free AS (
    SELECT id, instance FROM keyrotation.instance_reports JOIN ended ON instance = name AND id <= last
    FOR UPDATE OF instance_reports SKIP LOCKED)
DELETE FROM keyrotation.instance_reports WHERE id IN (
    SELECT id FROM free WHERE (SELECT count(*) FROM free AS others WHERE others.instance = free.instance) = (
        SELECT count(*) FROM keyrotation.instance_reports AS every JOIN ended ON every.instance = name
        WHERE every.instance = free.instance AND every.id <= last))
""")
_LAST_ROWS = own("""
SELECT instance, max(id) FROM keyrotation.instance_reports
JOIN unnest(%s::text[], %s::timestamptz[]) AS gone (name, last) ON instance = name AND reported_at <= last
GROUP BY instance
""")
_SEEN_PODS = own("SELECT namespace, uid FROM keyrotation.seen_pods")
_SEE_PODS = own("""
INSERT INTO keyrotation.seen_pods (namespace, uid) SELECT * FROM unnest(%s::text[], %s::text[]) ON CONFLICT DO NOTHING
""")
_FORGET_PODS = own("""
DELETE FROM keyrotation.seen_pods WHERE (namespace, uid) NOT IN (SELECT * FROM unnest(%s::text[], %s::text[]))
""")


class ReportedInstances:
    """`Rollout` over what instances report; applications get the keys by themselves.

    Args:
        keys: verifies that an instance holds the keys that it names.
        mode: how a rollout is observed.
        ttl_seconds: an instance that has not reported for so long is silent.
        timeout_seconds: how long `roll_out` waits for instances; it does not wait for an officer.
    """

    def __init__(
        self,
        connection: Connection,
        keys: KeyStore,
        mode: RolloutMode,
        ttl_seconds: float,
        timeout_seconds: float,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._mode = mode
        self._ttl_seconds = ttl_seconds
        self._patience_seconds = 0.0 if mode is RolloutMode.CONFIRM else timeout_seconds
        self._clock = clock
        self._known: Mapping[KeyVersion, KeyMaterial] = {}
        self._canary: KeyMaterial | None = None
        self._read_keys_at: float | None = None
        self._last: Reported | None = None

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

    def instances(self) -> tuple[Instance, ...]:
        """See `Rollout.instances`; each as far as it has proven what it reports.

        Raises:
            BlockedError: there are too many reports to read.
        """
        return self._reported().instances

    def forget(self, gone: Collection[Gone] = ()) -> None:
        """See `Rollout.forget`; it costs nothing where nobody signed off in the reports that were read last."""
        reported = self._last or self._reported()
        names, times = [each.name for each in gone], [each.reported_at for each in gone]
        ended = dict(reported.departed)
        if gone:
            rows = cast("list[tuple[str, int]]", self._connection.execute(_LAST_ROWS, (names, times)).fetchall())
            ended |= dict(rows)
        if ended:
            self._connection.execute(_FORGET, (list(ended), list(ended.values())))
            self._connection.execute(_FORGET_PODS, _columns(_pods_of(self._reported().instances)))

    def see_pods(self, present: Collection[Pod]) -> None:
        """Records which of the Pods that are there now have instances that report themselves."""
        if seen := _pods_of(self._reported().instances).intersection(present):
            self._connection.execute(_SEE_PODS, _columns(seen))

    def seen_pods(self) -> frozenset[Pod]:
        """Returns the Pods that were ever there, of instances that are not forgotten."""
        found = self._connection.execute(_SEEN_PODS).fetchall()
        return frozenset(Pod(str(namespace), str(uid)) for namespace, uid in found)

    def roll_out(self, target: RolloutTarget, pending: PendingCheck, report: ProgressCallback) -> tuple[Instance, ...]:
        """See `Rollout.roll_out`."""
        self._read_keys_at = self._last = None  # the new key was stored since
        self.forget()
        for _ in attempts(self._clock, pause_seconds=POLL_SECONDS, patience_seconds=self._patience_seconds):
            instances = self.instances()
            reason = pending(instances)
            there = sum(target.met_by(instance) for instance in instances if not instance.silent)
            report(there, len(instances), reason)
            if reason is None:
                return instances
        raise RolloutPendingError(str(reason))

    def _reported(self) -> Reported:
        rows = self._rows()
        reported = read_reports(rows, self._known, self._canary)
        unopened = any(not each.opens_sealed for each in reported.instances)
        if (reported.disproved or unopened) and self._refresh_keys():
            reported = read_reports(rows, self._known, self._canary)
        self._last = reported
        return reported

    def _rows(self) -> list[ReportRow]:
        table = f"{schema_of(self._connection)}.{TABLE}"
        [(rows, size)] = cast("list[tuple[int, int]]", self._connection.execute(_SIZE).fetchall())
        if rows > MOST_REPORTS or size > MOST_BYTES:
            raise BlockedError(
                f"{table} has {rows:,} rows of {size // 2**20:,} MiB, too many for reports; find who inserts them, "
                f"REVOKE INSERT ON {table}, delete them, and run this again"
            )
        found = self._connection.execute(_REPORTS, (self._ttl_seconds,)).fetchall()
        return [
            ReportRow(cast("int", id_), str(name), str(report), str(proofs), cast("datetime", at), bool(silent), table)
            for id_, name, report, proofs, at, silent in found
        ]

    def _refresh_keys(self) -> bool:
        """Reads the keys again, unless they were read a moment ago."""
        now = self._clock.monotonic()
        if self._read_keys_at is not None and now - self._read_keys_at < KEYS_READ_EVERY_SECONDS:
            return False
        stored = self._keys.read()
        entries = {**stored.archived, **stored.live}
        self._known = {version: key for version, key in entries.items() if isinstance(key, KeyMaterial)}
        self._canary, self._read_keys_at = stored.canary, now
        return True


def _pods_of(instances: Iterable[Instance]) -> frozenset[Pod]:
    return frozenset(each.pod for each in instances if each.pod is not None)


def _columns(pods: Collection[Pod]) -> tuple[list[str], list[str]]:
    return [each.namespace for each in pods], [each.uid for each in pods]
