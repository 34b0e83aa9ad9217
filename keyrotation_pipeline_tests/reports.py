"""Reports of instances, as an application in any language stores them, and as somebody forges them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import psycopg

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.possession import proof_of_possession
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline_tests.fakes import FakeKeyStore

Connection = psycopg.Connection[Any]
INSERT = "INSERT INTO keyrotation.instance_reports (instance, report, proofs) VALUES (%s, %s, %s)"


def store_of(ring: KeyRing) -> FakeKeyStore:
    """A key store with the keys of a ring."""
    return FakeKeyStore(keys_of(ring, ring.versions), ring.primary)


def reported_by(
    connection: Connection, ring: KeyRing, mode: RolloutMode = RolloutMode.ATTEST, ttl_seconds: float = 60
) -> ReportedInstances:
    """What reads the reports, with the keys of a ring in the store."""
    return ReportedInstances(connection, store_of(ring), mode, ttl_seconds, 0, SystemClock())


def asked(connection: Connection) -> tuple[str, str]:
    """The nonce and the time that a report must name."""
    [row] = connection.execute("SELECT nonce, at FROM keyrotation.report_nonce").fetchall()
    return cast("tuple[str, str]", row)


def content(
    connection: Connection, reads: Iterable[KeyVersion], writes: KeyVersion, **parts: object
) -> dict[str, object]:
    """What a report holds; `parts` replace or add to it."""
    nonce, at = asked(connection)
    return {"nonce": nonce, "at": at, "reads": list(map(str, reads)), "writes": str(writes), **parts}


def proofs(instance: str, report: str, keys: Mapping[KeyVersion, KeyMaterial]) -> str:
    """The proofs that whoever holds these keys can give."""
    return " ".join(f"{each}={proof_of_possession(key, each, instance, report)}" for each, key in keys.items())


def keys_of(ring: KeyRing, versions: Sequence[KeyVersion]) -> dict[KeyVersion, KeyMaterial]:
    """The keys of some versions of a ring."""
    return {version: ring.material(version) for version in versions}


def report(
    connection: Connection,
    ring: KeyRing,
    instance: str,
    reads: Sequence[KeyVersion],
    writes: KeyVersion,
    **parts: Any,  # noqa: ANN401
) -> None:
    """One honest report."""
    text = json.dumps({"names_primary": True, **content(connection, reads, writes), **parts})
    held = keys_of(ring, sorted({*reads, writes}))
    connection.execute(INSERT, (instance, text, proofs(instance, text, held)))


def report_before(
    connection: Connection,
    ring: KeyRing,
    instance: str,
    seconds: int,
    reads: Sequence[KeyVersion],
    writes: KeyVersion,
    **parts: Any,  # noqa: ANN401
) -> None:
    """Make an honest report the last one of an instance, from so many seconds ago; as the owner of the table."""
    connection.execute("DELETE FROM keyrotation.instance_reports WHERE instance = %s", (instance,))
    [(at,)] = connection.execute("SELECT clock_timestamp() - make_interval(secs => %s)", (seconds,)).fetchall()
    report(connection, ring, instance, reads, writes, at=at.isoformat(), **parts)
    connection.execute("UPDATE keyrotation.instance_reports SET reported_at = %s WHERE instance = %s", (at, instance))
