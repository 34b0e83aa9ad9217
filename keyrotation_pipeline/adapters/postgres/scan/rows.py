"""Reads a sample of a relation's columns: blocks from all over it, and of these so many values and bytes per column.

A relation is asked first how many values its sample has and how large they are, which reads none of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.scan.catalog import Column
from keyrotation_pipeline.adapters.postgres.scan.types import Kind
from keyrotation_pipeline.adapters.postgres.server.connection import Connection

# Blocks of the first sample; of the second, for columns of which the first had hardly a value; and of the third, where
# there was not even a row (many rows were deleted).
_FIRST, _SECOND, _THIRD = 128, 1024, 16384
_FEW_VALUES = 30
# Fewer values are read where they are larger than this on average, but so many at least; and none that is too large.
_BYTES_PER_VALUE, _LEAST_VALUES = 512, 8
# As stored, which is compressed, of everything but plain text and bytes.
_MOST_BYTES, _MOST_STORED_BYTES = 1024 * 1024, 256 * 1024
# PostgreSQL takes at most 1,664 expressions: one for each reader of a column, and three for the sizes in it.
_COLUMNS_AT_ONCE, _READERS_AT_ONCE = 100, 1600

_SIZE = "SELECT pg_relation_size(%(oid)s::oid) / current_setting('block_size')::int"


@dataclass(frozen=True, slots=True)
class Size:
    """How many values a sample has in one column.

    Args:
        values: that are small enough to be read, with so many bytes together.
        too_large: those that are not.
    """

    values: int
    size_bytes: int
    too_large: int


@dataclass(frozen=True, slots=True)
class Cells:
    """What was read of some columns.

    Args:
        values: a list per reader, in the order of columns and readers.
        too_large: columns of which every value is.
        sampled: there is more.
        no_row: there is more, but no row was met.
    """

    columns: Sequence[Column]
    values: Sequence[Sequence[Any]]
    too_large: Sequence[str]
    sampled: bool
    no_row: bool


def read_relation(
    connection: Connection, oid: int, relation: sql.Identifier, columns: Sequence[Column], most_values: int
) -> Iterator[Cells]:
    """Yields the values of a sample, several times where the first sample has few of some columns.

    Args:
        most_values: of each column, about.
    """
    for some in _at_once(columns):
        yield from _read(connection, oid, relation, some, most_values)


def _at_once(columns: Sequence[Column]) -> Iterator[Sequence[Column]]:
    """Divides columns, so that a query takes what is read of them; one with more readers than that is alone."""
    some: list[Column] = []
    for column in columns:
        readers = sum(len(each.readers) for each in (*some, column))
        if some and (len(some) == _COLUMNS_AT_ONCE or readers > _READERS_AT_ONCE):
            yield some
            some = []
        some.append(column)
    yield some


def _read(
    connection: Connection, oid: int, relation: sql.Identifier, columns: Sequence[Column], most_values: int
) -> Iterator[Cells]:
    ((blocks,),) = cast("list[tuple[int]]", connection.execute(_SIZE, {"oid": oid}).fetchall())
    for wanted in (_FIRST, _SECOND, _THIRD):
        scanned = _FromBlocks(connection, relation, blocks, max(wanted, most_values // 8))
        rows, sizes = scanned.sizes(columns)
        too_few = [column for column, size in zip(columns, sizes, strict=True) if size.values < _FEW_VALUES]
        is_last = scanned.everything or (wanted == _SECOND and rows) or wanted == _THIRD
        ready = [
            (column, size)
            for column, size in zip(columns, sizes, strict=True)
            if is_last or (column not in too_few and rows)
        ]
        if ready:
            yield scanned.read(ready, most_values, no_row=not rows)
        columns = too_few
        if is_last or not columns:
            return


@dataclass(frozen=True, slots=True)
class _FromBlocks:
    """Queries on some blocks of a relation, always the same ones; on all blocks where these are few."""

    connection: Connection
    relation: sql.Identifier
    blocks: int
    wanted: int

    @property
    def everything(self) -> bool:
        return self.blocks <= self.wanted

    @property
    def _sample(self) -> sql.Composable:
        if self.everything:
            return sql.SQL("")
        percent = 100 * self.wanted / self.blocks
        return sql.SQL("TABLESAMPLE SYSTEM ({}) REPEATABLE (1)").format(sql.Literal(percent))

    def sizes(self, columns: Sequence[Column]) -> tuple[int, list[Size]]:
        """Returns the number of rows, and how many values there are in each column."""
        form = (
            "count({size}) FILTER (WHERE {size} <= {most}), coalesce(sum({size}) FILTER (WHERE {size} <= {most}), 0), "
            "count({size}) FILTER (WHERE {size} > {most})"
        )
        parts = [sql.SQL(form).format(size=_size(column), most=_most(column)) for column in columns]
        query = sql.SQL("SELECT count(*), {} FROM ONLY {} {}").format(
            sql.SQL(", ").join(parts), self.relation, self._sample
        )
        rows, *numbers = map(int, cast("tuple[Any, ...]", self.connection.execute(query).fetchone()))
        return rows, [Size(*numbers[start : start + 3]) for start in range(0, len(numbers), 3)]

    def read(self, columns: Sequence[tuple[Column, Size]], most_values: int, *, no_row: bool) -> Cells:
        """Reads so many values of each column, chosen at random in these blocks."""
        cells = [cell for column, size in columns for cell in self._cells(column, _share(size, most_values))]
        names = [sql.Identifier(f"c{number}") for number in range(len(cells))]
        query = sql.SQL("SELECT {} FROM (SELECT {} FROM ONLY {} {} OFFSET 0) AS cells WHERE {}").format(
            sql.SQL(", ").join(names),
            sql.SQL(", ").join(map(sql.SQL("{} AS {}").format, cells, names)),
            self.relation,
            self._sample,
            sql.SQL(" OR ").join(map(sql.SQL("{} IS NOT NULL").format, names)),
        )
        with self.connection.cursor(binary=True) as cursor:
            rows = cursor.execute(query).fetchall()
        columnwise = zip(*rows, strict=True) if rows else [()] * len(names)
        return Cells(
            [column for column, _ in columns],
            [[value for value in each if value is not None] for each in columnwise],
            [column.name for column, size in columns if size.too_large and not size.values],
            sampled=not self.everything or any(_share(size, most_values) < 1 for _, size in columns),
            no_row=no_row and not self.everything,
        )

    def _cells(self, column: Column, share: float) -> Iterator[sql.Composed]:
        """Yields an expression per reader; their values need not be of the same rows."""
        unchecked = self.connection.info.parameter_status("server_encoding") == "SQL_ASCII"
        chosen = sql.SQL("AND random() < {}").format(sql.Literal(share)) if share < 1 else sql.SQL("")
        for reader in column.readers:
            yield sql.SQL("CASE WHEN {} <= {} {} THEN {} END").format(
                _size(column), _most(column), chosen, reader.expression(unchecked=unchecked)
            )


def _share(size: Size, most_values: int) -> float:
    if not size.values:
        return 1.0
    affordable = int(most_values * _BYTES_PER_VALUE * size.values / max(size.size_bytes, 1))
    return min(1.0, min(most_values, max(_LEAST_VALUES, affordable)) / size.values)


def _size(column: Column) -> sql.Composed:
    """Returns the expression for a value's size in bytes, which reads none of it."""
    form = "octet_length({})" if _is_plain(column) else "pg_column_size({})"
    return sql.SQL(form).format(sql.Identifier(column.name))


def _most(column: Column) -> sql.Literal:
    """Returns the size of the largest value that is read."""
    return sql.Literal(_MOST_BYTES if _is_plain(column) else _MOST_STORED_BYTES)


def _is_plain(column: Column) -> bool:
    """Whether a column is text or bytea, and a domain over it, of which the size is known however it is stored."""
    (reader, *others) = column.readers
    contained = others or reader.path or reader.sources or reader.extension
    return not contained and reader.kind in {Kind.TEXT, Kind.BYTES}
