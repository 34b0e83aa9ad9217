"""What the engine holds while it works on one relation: its connections, statements, cipher and limits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.arrays import TidArray, XidArray, pass_bytes_through
from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, Codec
from keyrotation_pipeline.adapters.postgres.engine.exchange import Row
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.statements import Statements
from keyrotation_pipeline.adapters.postgres.inventory import quarantine
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.row_key import RowKey
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.batch import Failure
from keyrotation_pipeline.model.tables import EncryptedTable

# enable_seqscan: for a large batch the planner would read the whole table instead of single rows by their TID.
# plan_cache_mode: planning each statement anew costs as much as a small batch. default_transaction_isolation: the
# guards of the write need READ COMMITTED, whatever the database's default is. jit: a plan with disabled nodes looks so
# expensive that it would be compiled. synchronous_commit: a crash of the server loses the end of the WAL. So it never
# loses rows and keeps their progress, which is written later; and the record that a shard is done is committed
# synchronously. Until then no commit of others has to wait until ours has reached the disk.
_SETTINGS = (
    "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; SET jit = off; "
    "SET default_transaction_isolation = 'read committed'; SET synchronous_commit = off"
)


def open_connection(connect: Callable[[], Connection]) -> Connection:
    """Open a connection that reads and writes rows as bytes."""
    connection = connect()
    connection.execute(_SETTINGS)
    pass_bytes_through(connection)
    return connection


@dataclass(frozen=True)
class RewriteContext:
    """The relation that is re-encrypted, and everything that this takes.

    Args:
        connection: for rows.
        housekeeping: a second connection, for the quarantine.
        hot_order: whether the statements were made for it.
    """

    connection: Connection
    housekeeping: Connection
    table: EncryptedTable
    relation: Relation
    statements: Statements
    codec: Codec
    limits: Limits
    hot_order: bool = False

    def run(self, statement: bytes, parameters: dict[str, Any]) -> list[Row]:
        """Run a statement and return its rows."""
        return self.connection.cursor(binary=True).execute(statement, parameters, prepare=True).fetchall()

    def positions(self, key: RowKey, named: str) -> list[bytes]:
        """Where the row with a key is now, if it is still there."""
        held = key.matches("held", sql.Literal(named))
        query = sql.SQL("SELECT ctid FROM ONLY {} AS held WHERE {}").format(self.relation.identifier, held)
        found: list[Any] = self.connection.cursor(binary=True).execute(query).fetchall()
        return [position for (position,) in found]

    def quarantine(self, batch: Batch, failures: list[Failure], reader: Connection) -> int:
        """Record values that do not decrypt, and return their number.

        Args:
            reader: the connection that reads the keys of the rows. A row that has changed meanwhile is not recorded.
        """
        rows = sorted({failure.row for failure in failures})
        positions, versions = batch.positions, batch.versions
        named = reader.cursor(binary=True).execute(
            self.statements.name_rows,
            {
                "positions": TidArray(positions[row] for row in rows),
                "versions": XidArray(versions[row] for row in rows),
                "filenode": batch.filenode,
            },
        )
        keys: dict[Any, Any] = dict(cast("list[Any]", named.fetchall()))
        found = [
            (keys[position].decode(reader.info.encoding), self.relation.columns[failure.column].name, failure.defect)
            for failure in failures
            if (position := positions[failure.row]) in keys
        ]
        quarantine.add(self.housekeeping, self.table, self.relation, found)
        return len(found)
