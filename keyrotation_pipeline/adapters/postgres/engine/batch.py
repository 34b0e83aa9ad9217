"""Holds one batch: rows as read and their new values; and the context of its relation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import (
    Row,
    TextArray,
    TidArray,
    XidArray,
    pass_bytes_through,
)
from keyrotation_pipeline.adapters.postgres.engine.statements import Statements
from keyrotation_pipeline.adapters.postgres.inventory import quarantine
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.row_key import RowKey
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.batch import Failure, Held, Rewriter, Value
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.native import native_codec
from keyrotation_pipeline.model.tables import EncryptedTable

# The indexes of position, version and first value in a row as read.
_POSITION, _VERSION, _FIRST = 2, 3, 4
_PASSED = ((_POSITION, TidArray.element_oid), (_VERSION, XidArray.element_oid))


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as one statement read them.

    Args:
        filenode: the relation's, read in that same statement.
        size_bytes: size of all values in the pages that were read. If it exceeds the limit, there are no rows.
        rows: each with filenode, size, `ctid`, `xmin`, and the value of each declared column.
    """

    filenode: int | None
    size_bytes: int
    rows: Sequence[tuple[Any, ...]]

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]]) -> "Batch":
        """Makes a batch of the rows that `read_pages` or `read_rows` returned."""
        if not rows:
            return cls(None, 0, ())
        filenode, size_bytes, position, *_ = rows[0]
        return cls(filenode, size_bytes, () if position is None else rows)

    @property
    def positions(self) -> list[bytes]:
        """The `ctid` of each row."""
        return [row[_POSITION] for row in self.rows]

    @property
    def versions(self) -> list[bytes]:
        """The `xmin` of each row."""
        return [row[_VERSION] for row in self.rows]

    @property
    def columns(self) -> list[tuple[Value, ...]]:
        """The values of each declared column."""
        return list(zip(*self.rows, strict=True))[_FIRST:]


@dataclass(frozen=True, slots=True)
class NewValues:
    """The result of encrypting a batch.

    Args:
        parameters: parameters of the write.
        rows: how many rows they name.
        whole: whether every value is new, none NULL.
    """

    parameters: dict[str, Any]
    rows: int
    failures: list[Failure]
    whole: bool


class Codec:
    """Re-encrypts and checks batches: natively if all values are good, else in Python.

    Args:
        ring: holds `target` and every version to read.
        native: whether to use the native codec, where it was built.
    """

    def __init__(self, ring: KeyRing, target: KeyVersion, *, native: bool = True) -> None:
        self._python = Rewriter(ring, target)
        self._native = native_codec(ring, target) if native else None

    def rewrite(self, batch: Batch) -> NewValues:
        """Re-encrypts a batch; rows without a new value, because of failures, are left out of the parameters."""
        if self._native and batch.rows:
            columns = len(batch.rows[0]) - _FIRST
            if packed := self._native.rewrite(batch.rows, _FIRST, columns, _PASSED):
                positions, versions, *values = packed.arrays
                parameters: dict[str, Any] = {f"value_{n}": TextArray.of_packed(each) for n, each in enumerate(values)}
                parameters["positions"], parameters["versions"] = (
                    TidArray.of_packed(positions),
                    XidArray.of_packed(versions),
                )
                whole = packed.changed == len(batch.rows) * columns
                return NewValues(parameters | {"filenode": batch.filenode}, len(batch.rows), [], whole)
        return self._by_python(batch)

    def check(self, batch: Batch) -> tuple[list[Held], list[Failure]]:
        """Decrypts every value: returns what each column holds, and which values do not decrypt."""
        if not batch.rows:
            return [], []
        if self._native:
            held = self._native.check(batch.rows, _FIRST, len(batch.rows[0]) - _FIRST)
            if held is not None:
                return held, []
        return self._python.check(batch.columns)

    def _by_python(self, batch: Batch) -> NewValues:
        rewritten = self._python.rewrite(batch.columns)
        positions, versions, columns = batch.positions, batch.versions, rewritten.columns
        if rewritten.failures:
            kept = [row for row, values in enumerate(zip(*columns, strict=True)) if any(values)]
            positions, versions = [positions[row] for row in kept], [versions[row] for row in kept]
            columns = [[column[row] for row in kept] for column in columns]
        parameters: dict[str, Any] = {f"value_{number}": TextArray(values) for number, values in enumerate(columns)}
        parameters |= {"positions": TidArray(positions), "versions": XidArray(versions), "filenode": batch.filenode}
        whole = all(None not in values for values in columns)
        return NewValues(parameters, len(positions), rewritten.failures, whole)


# enable_seqscan: for a large batch the planner would read the whole table instead of single rows by their TID.
# plan_cache_mode: planning each statement again costs as much as a small batch. default_transaction_isolation: the
# guards of the write need READ COMMITTED, whatever the database's default is. jit: a plan with disabled nodes looks so
# expensive that it would be compiled. synchronous_commit: a server crash loses only the end of the WAL, so it never
# loses rows whose progress, which is written later, survives; and the record that a shard is done is committed
# synchronously. Meanwhile no commit of others has to wait until ours has reached the disk.
_SETTINGS = (
    "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; SET jit = off; "
    "SET default_transaction_isolation = 'read committed'; SET synchronous_commit = off"
)


def open_connection(connect: Callable[[], Connection]) -> Connection:
    """Opens a connection that reads and writes rows as bytes."""
    connection = connect()
    connection.execute(_SETTINGS)
    pass_bytes_through(connection)
    return connection


@dataclass(frozen=True)
class RewriteContext:
    """The relation that is re-encrypted, and everything that this needs.

    Args:
        connection: reads and writes rows.
        housekeeping: a second connection, for the quarantine.
        hot_order: whether the statements were composed for it.
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
        """Runs a statement and returns its rows."""
        return self.connection.cursor(binary=True).execute(statement, parameters, prepare=True).fetchall()

    def positions(self, key: RowKey, named: str) -> list[bytes]:
        """Returns where the row with a key is now, if it still exists."""
        held = key.matches("held", sql.Literal(named))
        query = sql.SQL("SELECT ctid FROM ONLY {} AS held WHERE {}").format(self.relation.identifier, held)
        found: list[Any] = self.connection.cursor(binary=True).execute(query).fetchall()
        return [position for (position,) in found]

    def quarantine(self, batch: Batch, failures: list[Failure], reader: Connection) -> int:
        """Records values that do not decrypt, and returns how many.

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
