"""Whether key store, database and configuration still agree that a retired key is dead, at this moment."""

from collections.abc import Iterator

from keyrotation_pipeline.audit.divergence import divergence, warning
from keyrotation_pipeline.audit.retirements import Retirement, live_again
from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.keys import KeyRecord, StoredKeys
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.fences import Fences, fences


def require_not_in_use(pipeline: Pipeline, retired: Retirement) -> None:
    """Refuses to certify the death of a key that applications get, or that a table takes again.

    Raises:
        RequestError: says where.
        KeyStoreError: the key store does not answer.
    """
    stored = pipeline.keys.read()
    gone = retired.fact.taken_from_applications
    records = [each for each in pipeline.ledger.keys() if each.version in gone]
    for found in (_in_store(stored, records), _undecided(pipeline, stored), _unfenced(pipeline, retired)):
        if (message := next(found, None)) is not None:
            raise RequestError(f"the key of rotation {retired.entry.request} gets no certificate: {message}")


def _in_store(stored: StoredKeys, gone: list[KeyRecord]) -> Iterator[str]:
    for record in gone:
        yield from live_again(stored, record)
        if (left := stored.left_behind.get(record.version)) is not None:
            yield left
    if stored.undelivered is not None:
        yield stored.undelivered


def _undecided(pipeline: Pipeline, stored: StoredKeys) -> Iterator[str]:
    if message := warning(divergence(pipeline, stored)):
        yield message


def _unfenced(pipeline: Pipeline, retired: Retirement) -> Iterator[str]:
    """By the retirement's own event: a walk that lifts a fence takes the certificate with it."""
    seen, again = fences(pipeline), "have it refused again with `keyrotation reconcile`"
    for table in retired.fact.tables:
        if (unseen := seen.unseen.get(table)) is not None:
            yield f"what table {table} refuses was not seen: {unseen}"
        if table in seen.undeclared:
            yield f"nobody looks whether table {table} still refuses it; declare the table in keyrotation.toml"
        for version in retired.fact.fenced_against:
            if version not in seen.by_table.get(table, (version,)):
                yield f"table {table} takes values under {version}; find out who lifted its constraint, and {again}"
    if seen.indexes is not None:
        yield from _of_indexes(seen.indexes, retired.fact.fenced_against)


def _of_indexes(indexes: Fences, versions: tuple[KeyVersion, ...]) -> Iterator[str]:
    for table, message in indexes.unseen.items():
        yield f"which search indexes table {table} refuses was not seen: {message}"
    for table, version in indexes.lost:
        if version in versions:
            yield f"table {table} takes search indexes under {version}; run `keyrotation reconcile`"
