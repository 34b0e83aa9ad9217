"""The full decrypt: every value of a table is decrypted once, and nothing of it is kept."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from keyrotation_pipeline.adapters.postgres.engine.arrays import TidArray
from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, Codec
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.rewrite_context import RewriteContext, open_connection
from keyrotation_pipeline.adapters.postgres.engine.rows import by_size, listed
from keyrotation_pipeline.adapters.postgres.engine.server_errors import without_content
from keyrotation_pipeline.adapters.postgres.engine.statements import position, statements
from keyrotation_pipeline.adapters.postgres.inventory import quarantine
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heaps
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.columns import EncryptedTable
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.request import Step

# 64 pages are half a megabyte of rows, so the cost of a statement does not matter.
_PAGES = 64

# One snapshot per relation, so that a row that moves meanwhile is neither missed nor seen twice.
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_PAGE_COUNT = "SELECT pg_relation_size(%s::oid::regclass) / current_setting('block_size')::int"


@without_content
def decrypt_all(
    connect: Callable[[], Connection], table: EncryptedTable, ring: KeyRing, report: Report
) -> DecryptedCount:
    """Decrypt every value of a table, keeping nothing.

    Values that do not decrypt go to the quarantine. Earlier entries of the table that were not found again leave it.

    Raises:
        PreflightError, BlockedError, DatabaseUnavailableError: the table cannot be read to its end.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(closing(open_connection(connect)))
        housekeeping = stack.enter_context(closing(open_connection(connect)))
        started = str(housekeeping.execute("SELECT clock_timestamp()::text").fetchall()[0][0])
        codec = Codec(ring, ring.primary)
        rows = values = failures = 0
        for relation in heaps(housekeeping, table):
            sql = statements(housekeeping, relation, row_key(housekeeping, relation), None)
            context = RewriteContext(connection, housekeeping, table, relation, sql, codec, Limits())
            for batch in _batches(context, table, relation, report):
                count, failed = codec.check(batch)
                if failed:
                    context.quarantine(batch, failed, connection)
                rows, values, failures = rows + len(batch.rows), values + count, failures + len(failed)
        quarantine.forget(housekeeping, table, started)
        return DecryptedCount(str(table.name), rows, values, failures)


def _batches(context: RewriteContext, table: EncryptedTable, relation: Relation, report: Report) -> Iterator[Batch]:
    context.connection.execute(_SNAPSHOT)
    (pages,) = context.connection.execute(_PAGE_COUNT, (relation.oid,)).fetchall()[0]
    total = int(str(pages))
    for first in range(0, total, _PAGES):
        yield from _read(context, first, min(first + _PAGES, total))
        report(
            Progress(Step.ZERO_OLD_ROWS_PROOF, f"{table.name} decrypted", min(first + _PAGES, total), total, "pages")
        )
    context.connection.execute("COMMIT")


def _read(context: RewriteContext, first: int, end: int) -> Iterator[Batch]:
    limit = context.limits.batch_bytes
    span = {"first": position(first), "end": position(end), "limit": limit}
    batch = Batch.of(context.run(context.statements.read_pages, span))
    if batch.size_bytes <= limit:
        yield batch
        return
    for positions in by_size(listed(context, first, end), limit):
        yield Batch.of(context.run(context.statements.read_rows, {"positions": TidArray(positions)}))
