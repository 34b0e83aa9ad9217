"""Clears search indexes under keys that no application has any more: no keys are needed for that."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.batch import open_connection
from keyrotation_pipeline.adapters.postgres.engine.batch_size import BatchSize
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, opened_ledger
from keyrotation_pipeline.adapters.postgres.engine.ranges import PageRange
from keyrotation_pipeline.adapters.postgres.engine.server_errors import AGAIN, without_content
from keyrotation_pipeline.adapters.postgres.engine.supervisor import CLOCK, LockRetry, Supervisor, limits_for
from keyrotation_pipeline.adapters.postgres.inventory.counts import unindexed_rows
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, IndexedColumn, Relation, heaps, pages_of
from keyrotation_pipeline.adapters.postgres.inventory.search_indexes import any_unindexed
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, StaleWriterError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.search_index import is_odd
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import EncryptedTable

_SWEEPS = 20
_PAUSE_SECONDS = 0.5

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
_LEFT = "SELECT DISTINCT (ctid::text::point)[0]::bigint FROM ONLY {table} WHERE {old} ORDER BY 1"


@without_content(AGAIN)
def clear_indexes(
    connect: Callable[[], Connection],
    request: str,
    table: EncryptedTable,
    target: KeyVersion,
    report: Report,
    limits: Limits,
) -> int:
    """Sets every search index that is not under `target` to NULL; returns the number of rows.

    It may stop at any line and run again: it finds what is left. It rests, pauses and vacuums as the re-encryption, but
    takes one page at a time, or eight where only speed counts, however long a statement takes.

    Args:
        request: id of the rotation; pausing it pauses this.

    Raises:
        BlockedError: the rotation was paused or cancelled, or rows stay locked by others.
        StaleWriterError: rows were written without an index under the key of their value; they keep the old one.
        PreflightError, DatabaseUnavailableError: the table cannot be written.
    """
    rows = 0
    with (
        closing(open_connection(connect)) as connection,
        closing(open_connection(connect)) as housekeeping,
        opened_ledger(limits, housekeeping) as ledger,
    ):
        limits = limits_for(ledger, request, limits)
        supervisor = Supervisor(
            housekeeping,
            ledger,
            connect,
            request,
            limits,
            BatchSize(limits),
            f"{table.name} search indexes",
            lambda progress: report(replace(progress, step=Step.ARCHIVED_KEY)),
        )
        retry = LockRetry(connection, str(table.name), supervisor)
        left = [(relation, _whole(connection, relation)) for relation in heaps(connection, table)]
        for _ in range(_SWEEPS):
            rows += sum(_clear(connection, each, pages, target, supervisor, retry) for each, pages in left)
            left = retry.attempt(lambda: _left(connection, table, target))
            if not left:
                supervisor.close()
                return rows
            CLOCK.sleep(_PAUSE_SECONDS)
        if unindexed := unindexed_rows(connection, table, target):
            raise StaleWriterError(
                f"table {table.name}: {counted(unindexed, 'row')} with a value that has no search index under its "
                "key; have the application save such rows again, then repeat this step"
            )
    raise BlockedError(
        f"table {table.name}: rows with search indexes under a retired key stay locked, on "
        f"{counted(len(left), 'page')}; wait until those transactions end, then run this step again"
    )


def _clear(
    connection: Connection,
    relation: Relation,
    pages: PageRange,
    target: KeyVersion,
    supervisor: Supervisor,
    retry: LockRetry,
) -> int:
    parts = {
        "table": relation.identifier,
        "old": _old(relation, target),
        "unindexed": any_unindexed(relation, target=target),
        "cleared": sql.SQL(", ").join(
            sql.SQL("{column} = CASE WHEN {old} THEN NULL ELSE t.{column} END").format(
                column=sql.Identifier(column.name), old=_is_old(index, column, target, "t")
            )
            for index, column in _columns(relation)
        ),
    }
    supervisor.total_pages += pages.end - pages.first
    supervisor.begin(relation, pages, hot_order=False)
    while pages.next < pages.end:
        end = min(pages.next + supervisor.batch_size.pages, pages.end)
        first, following = sql.Literal(f"({pages.next},0)"), sql.Literal(f"({end},0)")
        query = sql.SQL(_CLEAR).format(first=first, end=following, **parts)
        rows = retry.attempt(lambda query=query: connection.execute(query).rowcount)  # type: ignore[misc]
        retry.succeeded()
        pages.next, pages.done = end, pages.done + Rewritten(rows=rows)
        supervisor.after_batch(relation, pages, rows, lambda: None)
    supervisor.finish(pages)
    return pages.done.rows


def _whole(connection: Connection, relation: Relation) -> PageRange:
    return PageRange(0, 0, 0, pages_of(connection, relation.oid))


def _left(connection: Connection, table: EncryptedTable, target: KeyVersion) -> list[tuple[Relation, PageRange]]:
    """Returns each page that still holds such an index: of rows that were locked, or written meanwhile."""
    found = []
    for relation in heaps(connection, table):
        query = sql.SQL(_LEFT).format(table=relation.identifier, old=_old(relation, target))
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL enable_seqscan = on")
            pages = [int(str(page)) for (page,) in connection.execute(query).fetchall()]
        found += [(relation, PageRange(0, page, page, page + 1)) for page in pages]
    return found


def _old(relation: Relation, target: KeyVersion) -> sql.Composed:
    return sql.SQL(" OR ").join(_is_old(*each, target) for each in _columns(relation))


def _columns(relation: Relation) -> list[tuple[IndexedColumn, Column]]:
    return [(index, column) for index in relation.indexes for column in index.columns]


def _is_old(index: IndexedColumn, column: Column, target: KeyVersion, *alias: str) -> sql.Composed:
    form = index.index.form
    # Nothing but an index is cleared, whatever column was declared.
    parts = [sql.Identifier(*alias, column.name), sql.Literal(f"^{form.pattern}$")]
    if not form.names_versions:
        kept = index.odd if is_odd(target) else index.even
        return sql.SQL('({2} AND {0}::text COLLATE "C" ~ {1})').format(*parts, sql.Literal(column != kept))
    return sql.SQL('(left({0}::text, {2}) COLLATE "C" <> {3} AND {0}::text COLLATE "C" ~ {1})').format(
        *parts, sql.Literal(len(target.prefix)), sql.Literal(target.prefix)
    )
