"""Measures how fast rows of this database are re-encrypted: copies, rewrites and rolls back a small sample.

The copy has the table's own indexes. It is in the schema `keyrotation`, inside one transaction that is invisible to
others and never commits. A throw-away key takes the place of the new one.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from time import perf_counter
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, Codec, open_connection
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.server_errors import AGAIN, without_content
from keyrotation_pipeline.adapters.postgres.engine.statements import assignments
from keyrotation_pipeline.adapters.postgres.inventory import places
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heaps
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.environment import Speed
from keyrotation_pipeline.model.tables import EncryptedTable

SAMPLE_ROWS, SAMPLE_BYTES, BATCH_ROWS = 1_000, 8 * 2**20, 50
# Where a search index takes milliseconds: see `blind_index`.
_SLOWLY_INDEXED_ROWS = 50
_SAMPLE = own("keyrotation.speed_sample")

_CREATE = "CREATE TABLE {sample} (LIKE {relation} INCLUDING INDEXES)"
_FILL = """
INSERT INTO {sample} SELECT * FROM ONLY {relation} WHERE ctid = ANY(ARRAY(
    SELECT position FROM (
        SELECT position, sum(size) OVER (ORDER BY position) AS total FROM (
            SELECT ctid AS position, {size} AS size FROM ONLY {relation} LIMIT {rows}
        ) AS first
    ) AS summed WHERE total <= {bytes}
))
"""
_READ = "SELECT 0::oid, 0::bigint, ctid, xmin, {columns} FROM ONLY {sample}"
_WRITE = """
UPDATE ONLY {sample} AS t SET {changes} FROM unnest({arrays}) AS new (position, {names}) WHERE t.ctid = new.position
"""


@without_content(AGAIN)
def measure(
    connect: Callable[[], Connection],
    tables: Sequence[EncryptedTable],
    ring: KeyRing,
    target: KeyVersion,
    limits: Limits,
) -> tuple[Speed, ...]:
    """Measures the speed of each table by a sample of its largest heap, under the limits of one worker.

    Args:
        ring: reads every value, and holds a throw-away key under `target`.

    Raises:
        PreflightError, BlockedError, DatabaseUnavailableError: it cannot be measured now.
    """
    with closing(open_connection(connect)) as connection:
        return tuple(
            _of(connection, table, Codec(table, ring, target, native=limits.native_codec), limits) for table in tables
        )


def _of(connection: Connection, table: EncryptedTable, codec: Codec, limits: Limits) -> Speed:
    relation = max(heaps(connection, table), key=lambda each: each.pages, default=None)
    rows, failed, seconds = (0, 0, 0.0) if relation is None else _measured(connection, relation, codec)
    return Speed(str(table.name), rows, _limited(rows / seconds, limits) if rows else 0.0, failed)


def _limited(rows_per_second: float, limits: Limits) -> float:
    at_duty = rows_per_second * limits.duty_cycle
    return min(at_duty, limits.max_rows_per_second) if limits.max_rows_per_second else at_duty


def _measured(connection: Connection, relation: Relation, codec: Codec) -> tuple[int, int, float]:
    """Returns rows, values that did not decrypt, and seconds."""
    size = sql.SQL(" + ").join(
        sql.SQL("coalesce(octet_length({}), 0)").format(places.text(column)) for column in relation.columns
    )
    slowly = any(not each.index.form.names_versions for each in relation.indexes)
    with connection.transaction(force_rollback=True):
        for statement in (_CREATE, _FILL):
            connection.execute(
                sql.SQL(statement).format(
                    sample=_SAMPLE,
                    relation=relation.identifier,
                    size=size,
                    rows=sql.Literal(_SLOWLY_INDEXED_ROWS if slowly else SAMPLE_ROWS),
                    bytes=SAMPLE_BYTES,
                )
            )
        begun = perf_counter()
        rows, failed = _rewritten(connection, relation, codec)
        return rows, failed, perf_counter() - begun


def _rewritten(connection: Connection, relation: Relation, codec: Codec) -> tuple[int, int]:
    numbers = range(len(relation.columns))
    columns = sql.SQL(", ").join(places.read(column) for column in relation.columns)
    read = connection.cursor(binary=True).execute(sql.SQL(_READ).format(columns=columns, sample=_SAMPLE))
    rows = cast("list[tuple[bytes, ...]]", read.fetchall())
    write = sql.SQL(_WRITE).format(
        sample=_SAMPLE,
        changes=assignments(connection, relation, None, whole=False),
        arrays=sql.SQL(", ").join([sql.SQL("%b")] * (1 + len(numbers))),
        names=sql.SQL(", ").join(sql.Identifier(f"value_{number}") for number in numbers),
    )
    failed = 0
    for first in range(0, len(rows), BATCH_ROWS):
        rewritten = codec.encrypt(Batch.of(rows[first : first + BATCH_ROWS], relation.columns))
        new, failed = rewritten.parameters, failed + len(rewritten.failures)
        connection.execute(write, [new["positions"], *(new[f"value_{number}"] for number in numbers)])
    return len(rows), failed
