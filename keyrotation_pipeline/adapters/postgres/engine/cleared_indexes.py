"""Clears search indexes under keys that no application has any more: no keys are needed for that."""

from collections.abc import Callable
from contextlib import closing

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.batch import open_connection
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.lock_retry import LockRetry
from keyrotation_pipeline.adapters.postgres.engine.server_errors import without_content
from keyrotation_pipeline.adapters.postgres.engine.supervisor import CLOCK
from keyrotation_pipeline.adapters.postgres.inventory.counts import unindexed_rows
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heaps
from keyrotation_pipeline.adapters.postgres.inventory.search_indexes import any_unindexed
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, StaleWriterError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.search_index import INDEX_PATTERN
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import EncryptedTable

# A quarter of a megabyte of rows is written within milliseconds.
_PAGES = 32
_SWEEPS = 20
_PAUSE_SECONDS = 0.5
_PAGE_COUNT = "SELECT pg_relation_size(%s::oid::regclass) / current_setting('block_size')::int"

# Each index that is not under the version that stays, in rows where every value has an index under its own version.
# Rows that others hold are left to the next sweep, so that we never wait for one; what is written meanwhile is under no
# other version.
_CLEAR = """
WITH held AS (
    SELECT ctid FROM ONLY {table}
    WHERE ctid >= {first}::tid AND ctid < {end}::tid AND ({old}) AND ({unindexed}) IS NOT TRUE
    FOR UPDATE SKIP LOCKED
)
UPDATE ONLY {table} AS t SET {cleared} FROM held WHERE t.ctid = held.ctid
"""
_LEFT = "SELECT count(*) FROM ONLY {table} WHERE {old}"


@without_content
def clear_indexes(
    connect: Callable[[], Connection], table: EncryptedTable, target: KeyVersion, report: Report, limits: Limits
) -> int:
    """Sets every search index that is not under `target` to NULL; returns the number of rows.

    It may stop at any line and run again: it finds what is left.

    Raises:
        BlockedError: rows stay locked by others.
        StaleWriterError: rows were written without an index under the key of their value; they keep the old one.
        PreflightError, DatabaseUnavailableError: the table cannot be written.
    """
    rows = 0
    with closing(open_connection(connect)) as connection:
        relations = heaps(connection, table)
        retry = LockRetry(connection, str(table.name), limits.lock_retry_seconds, lambda _: CLOCK.sleep(1))
        for _ in range(_SWEEPS):
            for relation in relations:
                rows += _clear(connection, relation, target, report, retry, limits)
            left = sum(retry.attempt(lambda each=each: _left(connection, each, target)) for each in relations)  # type: ignore[misc]
            if not left:
                return rows
            CLOCK.sleep(_PAUSE_SECONDS)
        if unindexed := unindexed_rows(connection, table):
            raise StaleWriterError(
                f"table {table.name}: {unindexed} row(s) hold a value without a search index under its key, so their "
                "old index stays; find what writes them, have it save them again, then run this step again"
            )
    raise BlockedError(
        f"table {table.name}: {left} row(s) with search indexes under a retired key stay locked by others; wait until "
        "their transactions end, then run this step again"
    )


def _clear(
    connection: Connection, relation: Relation, target: KeyVersion, report: Report, retry: LockRetry, limits: Limits
) -> int:
    parts = {
        "table": relation.identifier,
        "old": _old(relation, target),
        "unindexed": any_unindexed(relation),
        "cleared": sql.SQL(", ").join(
            sql.SQL("{column} = CASE WHEN {old} THEN NULL ELSE t.{column} END").format(
                column=sql.Identifier(name), old=_is_old(name, target, "t")
            )
            for name in _columns(relation)
        ),
    }
    ((pages,),) = connection.execute(_PAGE_COUNT, (relation.oid,)).fetchall()
    rows, total = 0, int(str(pages))
    for first in range(0, total, _PAGES):
        end = min(first + _PAGES, total)
        query = sql.SQL(_CLEAR).format(first=sql.Literal(f"({first},0)"), end=sql.Literal(f"({end},0)"), **parts)
        began = CLOCK.monotonic()
        rows += retry.attempt(lambda query=query: connection.execute(query).rowcount)  # type: ignore[misc]
        retry.succeeded()
        report(Progress(Step.ARCHIVED_KEY, f"{relation.label} search indexes", end, total, "pages"))
        if limits.duty_cycle < 1:
            CLOCK.sleep((CLOCK.monotonic() - began) * (1 / limits.duty_cycle - 1))
    return rows


def _left(connection: Connection, relation: Relation, target: KeyVersion) -> int:
    query = sql.SQL(_LEFT).format(table=relation.identifier, old=_old(relation, target))
    ((left,),) = connection.execute(query).fetchall()
    return int(str(left))


def _columns(relation: Relation) -> list[str]:
    return [column.name for index in relation.indexes for column in index.columns]


def _old(relation: Relation, target: KeyVersion) -> sql.Composed:
    return sql.SQL(" OR ").join(_is_old(name, target) for name in _columns(relation))


def _is_old(name: str, target: KeyVersion, *alias: str) -> sql.Composed:
    # Nothing but an index is cleared, whatever column was declared.
    return sql.SQL('(left({0}::text, {1}) COLLATE "C" <> {2} AND {0}::text COLLATE "C" ~ {3})').format(
        sql.Identifier(*alias, name),
        sql.Literal(len(target.prefix)),
        sql.Literal(target.prefix),
        sql.Literal(f"^{INDEX_PATTERN}$"),
    )
