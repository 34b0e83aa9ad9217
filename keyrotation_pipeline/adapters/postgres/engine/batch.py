"""One batch: rows as read, their new values, the context of their relation, and the order of writes.

The order lets new row versions find room in the page of the old ones. Rows are read once, a stretch of pages at a time,
and written in six passes by their line pointers: each pass takes a sixth of the rows of every page. From the second
pass on, the write first scans its pages, which makes the server prune what the previous pass replaced (`prune` in
`statements`). The new versions then fit into their own pages: no table extension and, as no index covers a written
column, no index entries either (PostgreSQL's heap-only tuples, HOT). Only the first sixth goes to other pages, so the
table grows by a sixth and needs no vacuum during the rewrite.

With five passes a table grew to 1.23 times its size; eight passes were no better than six.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.search_indexes import IndexTexts, SearchIndexes
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import (
    ByteaArray,
    Row,
    TextArray,
    TidArray,
    XidArray,
    pass_bytes_through,
)
from keyrotation_pipeline.adapters.postgres.engine.statements import Statements
from keyrotation_pipeline.adapters.postgres.inventory import quarantine
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, Relation
from keyrotation_pipeline.adapters.postgres.inventory.row_key import RowKey
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.arrays import check_elements, reencrypt_elements
from keyrotation_pipeline.fieldcrypto.batch import Failure, Held, Value, ValueReencryptor
from keyrotation_pipeline.fieldcrypto.codecs.format import column_reencryptors, format_of
from keyrotation_pipeline.fieldcrypto.codecs.source import Source
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.plaintext_columns import OldFormWriter, PlaintextReencryptor
from keyrotation_pipeline.fieldcrypto.source_keys import source_in
from keyrotation_pipeline.model.tables import EncryptedTable, Place

# The indexes of position (four bytes for the page, two for the line pointer), version and first value in a row as read.
_POSITION, _VERSION, _FIRST = 2, 3, 4
_PASSED = ((_POSITION, TidArray.element_oid), (_VERSION, XidArray.element_oid))


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as one statement read them.

    Args:
        filenode: the relation's, read in that same statement.
        size_bytes: size of all values in the pages that were read. If it exceeds the limit, there are no rows.
        rows: each with filenode, size, `ctid`, `xmin`, and the value of each declared place.
        places: what they are read from; (): columns of text.
        indexes: how many search indexes there are; both columns of each are at the end of a row.
    """

    filenode: int | None
    size_bytes: int
    rows: Sequence[tuple[Any, ...]]
    places: Sequence[Column] = ()
    indexes: int = 0

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]], places: Sequence[Column] = (), indexes: int = 0) -> "Batch":
        """Makes a batch of the rows that `read_pages` or `read_rows` returned."""
        if not rows:
            return cls(None, 0, ())
        filenode, size_bytes, position, *_ = rows[0]
        return cls(filenode, size_bytes, () if position is None else rows, places, indexes)

    def array(self, number: int) -> type[TextArray] | type[ByteaArray]:
        """The kind of array in which the values of a place are passed."""
        return ByteaArray if self.places and self.places[number].is_binary else TextArray

    @property
    def arrays(self) -> frozenset[int]:
        """The numbers of the places whose values are arrays of values."""
        return frozenset(number for number, column in enumerate(self.places) if column.place.elements)

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
        """The values of each declared place."""
        values = list(zip(*self.rows, strict=True))[_FIRST:]
        return values[: len(values) - 2 * self.indexes]

    @property
    def index_texts(self) -> IndexTexts:
        """The texts in both columns of each search index."""
        texts = [[row[at] for row in self.rows] for at in range(-2 * self.indexes, 0)]
        return list(zip(texts[::2], texts[1::2], strict=True))


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


def _begun(table: EncryptedTable) -> list[tuple[int, str]]:
    return [(number, name) for number, name in enumerate(table.columns) if name in table.begun]


def _source(place: Place, ring: KeyRing) -> Source | None:
    return None if place.form is None else source_in(ring, place.form, place.source_key)


class Codec:
    """Re-encrypts and checks batches: natively if all values are good, else in Python.

    Args:
        table: whose values they are: their format, and what they are bound to.
        ring: holds `target` and every version to read.
        native: whether to use the native codec, where it was built.
    """

    def __init__(self, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, native: bool = True) -> None:
        code = format_of(table.format)
        begun = {number: _source(table.place(name), ring) for number, name in _begun(table)}
        self._python: ValueReencryptor
        if begun:
            made = OldFormWriter if table.gives_back else PlaintextReencryptor
            self._python = taking_in = made(ring, target, table.labels, begun)
            can_be_native = taking_in.takes_only_plaintext
        else:
            self._python, can_be_native = code.reencryptor(ring, target, table.labels), True
        self._indexes = SearchIndexes(table, code, ring, target) if table.indexes else None
        self._native = code.native_codec(ring, target, table.labels) if native else None
        indexes = self._indexes.compiled if self._indexes else ()
        natively = self._native if can_be_native else None
        self._encrypts_natively = bool(natively and indexes is not None and natively.index(indexes))
        self._plaintext = frozenset(begun)
        # Only arrays are rewritten a column at a time, and only in Python.
        self._columns = column_reencryptors(code, ring, target, table.labels) if _has_arrays(table) else ()

    def encrypt(self, batch: Batch) -> NewValues:
        """Re-encrypts a batch; rows without a new value are left out of the parameters."""
        natively = self._native if self._encrypts_natively and batch.rows else None
        if natively is None or (self._indexes and not self._indexes.may_replace(batch.index_texts)):
            return self._by_python(batch)
        columns = len(batch.rows[0]) - _FIRST - 2 * batch.indexes
        packed = natively.reencrypt(batch.rows, _FIRST, columns, _PASSED, batch.arrays, self._plaintext)
        if packed is None:
            return self._by_python(batch)
        positions, versions, *values = packed.arrays
        parameters: dict[str, Any] = {f"value_{n}": batch.array(n).of_packed(each) for n, each in enumerate(values)}
        if self._indexes:
            indexes = self._indexes.completed(batch.rows, _FIRST, packed.indexes)
            parameters |= {f"index_{n}": TextArray(each) for n, each in enumerate(indexes)}
        parameters["positions"], parameters["versions"] = TidArray.of_packed(positions), XidArray.of_packed(versions)
        whole = packed.changed == packed.rows * columns
        return NewValues(parameters | {"filenode": batch.filenode}, packed.rows, [], whole)

    def check(self, batch: Batch) -> tuple[list[Held], list[Failure]]:
        """Decrypts every value: returns what each column holds, and which values do not decrypt."""
        if not batch.rows:
            return [], []
        if self._native:
            columns = len(batch.rows[0]) - _FIRST - 2 * batch.indexes
            held = self._native.check(batch.rows, _FIRST, columns, batch.arrays)
            if held is not None:
                return held, []
        if batch.arrays:
            return check_elements(self._columns, batch.columns, batch.arrays)
        return self._python.check(batch.columns)

    def missed(self, batch: Batch) -> list[tuple[int, int, bool]]:
        """Returns row and column of each value that searches miss, and whether it has no index; else it is wrong."""
        return list(self._indexes.missed(batch.columns, batch.index_texts)) if self._indexes and batch.rows else []

    def _by_python(self, batch: Batch) -> NewValues:
        if batch.arrays:
            rewritten = reencrypt_elements(self._columns, batch.columns, batch.arrays)
        else:
            rewritten = self._python.reencrypt(batch.columns)
        positions, versions, columns = batch.positions, batch.versions, rewritten.columns
        values = len(columns)
        if self._indexes and batch.rows:
            columns = columns + self._indexes.missing(batch.columns, batch.index_texts, columns, rewritten.texts)
        kept = [row for row, new in enumerate(zip(*columns, strict=True)) if any(each is not None for each in new)]
        if len(kept) < len(positions):
            positions, versions = [positions[row] for row in kept], [versions[row] for row in kept]
            columns = [[column[row] for row in kept] for column in columns]
        parameters: dict[str, Any] = {f"value_{n}": batch.array(n)(new) for n, new in enumerate(columns[:values])}
        parameters |= {f"index_{n}": TextArray(new) for n, new in enumerate(columns[values:])}
        parameters |= {"positions": TidArray(positions), "versions": XidArray(versions), "filenode": batch.filenode}
        whole = all(None not in new for new in columns)
        return NewValues(parameters, len(positions), rewritten.failures, whole)


def _has_arrays(table: EncryptedTable) -> bool:
    return any(place.elements for place in table.places)


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
class TraversalContext:
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
        keys = self.keys_of(batch, {failure.row for failure in failures}, reader)
        found = [
            (keys[failure.row], self.named(failure), failure.defect) for failure in failures if failure.row in keys
        ]
        quarantine.add(self.housekeeping, self.table, self.relation, found)
        return len(found)

    def keys_of(self, batch: Batch, rows: Collection[int], reader: Connection) -> dict[int, str]:
        """Returns the keys of some rows of a batch, by their numbers; a row that has changed meanwhile is left out."""
        positions, versions = batch.positions, batch.versions
        named = reader.cursor(binary=True).execute(
            self.statements.name_rows,
            {
                "positions": TidArray(positions[row] for row in sorted(rows)),
                "versions": XidArray(versions[row] for row in sorted(rows)),
                "filenode": batch.filenode,
            },
        )
        keys: dict[Any, Any] = dict(cast("list[Any]", named.fetchall()))
        return {
            row: keys[positions[row]].decode(reader.info.encoding) for row in sorted(rows) if positions[row] in keys
        }

    def batch(self, rows: Sequence[tuple[Any, ...]]) -> Batch:
        """Makes a batch of rows of the relation."""
        return Batch.of(rows, self.relation.columns, len(self.relation.indexes))

    def named(self, failure: Failure) -> str:
        """Returns the name of the place of a value that was left unchanged; of an element its own name."""
        place = self.relation.columns[failure.column].place
        return place.element(failure.element) if failure.element else place.name


PASSES = 6

# A page should hold two rows per pass: a pass with one row more than the previous one has no room for it.
_ROWS_PER_PAGE = 2 * PASSES
_SAMPLE_PAGES = 32

# Expressions and predicates are found by their dependencies; one that names the whole row has a variable without a
# number. Large values are in TOAST, where nothing is pruned.
_HOT = """
SELECT NOT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = ANY (%(columns)s)
    WHERE i.indrelid = %(oid)s AND (
        a.attnum = ANY (i.indkey)
        OR EXISTS (
            SELECT FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
              AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum
        )
        OR concat(i.indexprs::text, i.indpred::text) LIKE '%%:varattno 0 %%'
    )
) AND coalesce((
    SELECT pg_relation_size(nullif(c.reltoastrelid, 0)) = 0 FROM pg_class c WHERE c.oid = %(oid)s
), true)
"""


def fits_hot_order(connection: Connection, relation: Relation) -> bool:
    """Returns whether the new versions of rows can stay in the pages of the old ones, so that no vacuum is needed."""
    if connection.execute(_HOT, {"oid": relation.oid, "columns": relation.written_columns}).fetchone() != (True,):
        return False
    pages = min(_SAMPLE_PAGES, relation.pages)
    count = b"SELECT count(*) FROM ONLY %b WHERE ctid < '(%d,0)'" % (relation.identifier.as_bytes(connection), pages)
    (rows,) = connection.execute(count).fetchall()[0]
    return int(str(rows)) >= pages * _ROWS_PER_PAGE


def passes(rows: Sequence[Row]) -> list[list[Row]]:
    """Divides the rows of a stretch into passes, each in page order; omits empty passes."""
    parts: list[list[Row]] = [[] for _ in range(PASSES)]
    for row in rows:
        parts[row[_POSITION][5] % PASSES].append(row)
    return [part for part in parts if part]


def page_of(row: Row) -> int:
    """Returns the page that a row is in."""
    return int.from_bytes(row[_POSITION][:4], "big")
