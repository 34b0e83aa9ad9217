"""Composes the engine's SQL for one relation.

Why the write looks like this (each point was measured, none is optional):

- Nothing is locked between read and write, so the write compares. `ctid` and `xmin` name the row version that was
  read: if another transaction has changed any column, they no longer match. NULL values need no special care.
- The file node proves that `ctid` still means the same row. After a `VACUUM FULL` or `CLUSTER` another row may be
  there, with the same `xmin` if the same transaction loaded it, and decryption could not notice.
- `tableoid`: if two tables have swapped their names meanwhile, the statement finds the other one by its name. If one
  transaction loaded both, as a restore does, position and `xmin` are the same there.
- The column numbers: a name may belong to another column by now, and renaming changes no row. The read compares them
  too, since names may be swapped before it and back after it.
- `SKIP LOCKED`: a row locked by others is left to a later sweep; we never wait for a row while holding one.
- `…_at_once`, for emergencies: no row is locked beforehand, so the write waits for a row that others have locked. Then
  READ COMMITTED compares the new version, whose `xmin` is another. `lock_timeout` is set after the table's lock was
  taken, and applies to each row; it needs one scan of the positions and a hash join (`PLANNED_AT_ONCE`).
- `ONLY`: a child of an inheritance tree has rows with the same `ctid`.
- NULL in a value array leaves the column unchanged. The cast has no length, not even a domain's, so a value that is too
  long for its column is an error and is never cut. Only if every value of a batch is new, the columns are assigned
  directly, and the server's own row count is enough: counting and timing them in SQL costs as much as writing one more
  row.
- `SELECT unnest(…), unnest(…)` produces rows as they are needed; `FROM unnest(…)` would store them first.
- `prune`: a scan of the pages that hold the rows, before any row is written, in which the server removes versions that
  were replaced before (`hot_order`). Its count is never negative, which the planner does not know.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import places
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import sql_of
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import in_full, not_in_full_under
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, IndexedColumn, Relation
from keyrotation_pipeline.adapters.postgres.inventory.row_key import RowKey
from keyrotation_pipeline.adapters.postgres.inventory.search_indexes import any_to_be_opened
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.search_index import is_odd

# Reads what may have to be rewritten, and the codec decides: it opens a token in a tenth of the time that SQL takes for
# its MAC. Rows of which it rewrites nothing are not written.
# Returns one row (filenode, bytes, NULL, …) if there is nothing to rewrite, or if the pages hold more than `limit`
# bytes. Without large values in TOAST, pages hold no more than their own size, and nothing is summed.
_READ_PAGES = """
WITH range AS MATERIALIZED (
    SELECT pg_relation_filenode({oid}) AS filenode,
           CASE WHEN {toast_bytes} = 0 THEN 0 ELSE (
               SELECT coalesce(sum({bytes}), 0)::bigint FROM ONLY {table} AS t WHERE {pages}
           ) END AS bytes
)
SELECT range.filenode, range.bytes, t.ctid, {version}, {texts}
FROM range LEFT JOIN ONLY {table} AS t ON {pages} AND ({opened}) AND range.bytes <= %(limit)s::bigint
"""

_TOAST_BYTES = """
(SELECT coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0) FROM pg_class WHERE oid = {oid})
"""

_LIST_ROWS = """
SELECT pg_relation_filenode({oid}), ({bytes})::bigint, t.ctid, {key} FROM ONLY {table} AS t
WHERE {pages} AND ({wanted})
"""

_READ_ROWS = """
SELECT pg_relation_filenode({oid}), 0::bigint, t.ctid, {version}, {texts}
FROM ONLY {table} AS t WHERE t.ctid = ANY (%(positions)b) AND ({wanted})
"""

_READ_ROW = """
SELECT pg_relation_filenode({oid}), 0::bigint, t.ctid, {version}, {texts}
FROM (SELECT unnest(%(keys)b::text[])) AS new (key) JOIN ONLY {table} AS t ON {same_key} WHERE {wanted}
"""

_UPDATE = """
UPDATE ONLY {table} AS t SET {set}
FROM (
    SELECT new.*
    FROM (
        SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, {unnested}
    ) AS new
    JOIN ONLY {table} AS held ON held.ctid = new.position
    WHERE held.xmin = new.version AND held.tableoid = {oid} AND {as_read} {prune}
    FOR {strength} OF held SKIP LOCKED
) AS new
WHERE t.ctid = new.position
"""

_UPDATE_AT_ONCE = """
UPDATE ONLY {table} AS t SET {set}
FROM (
    SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, {unnested}
) AS new
WHERE t.ctid = ANY (%(positions)b::tid[]) AND t.ctid = new.position AND t.xmin = new.version
    AND t.tableoid = {oid} AND {as_read} AND (SELECT set_config('lock_timeout', {patience}, true)) IS NOT NULL {prune}
"""

# A write at once waits so long for each row.
ROW_PATIENCE_SECONDS = 0.01
# Set while it is planned, and reset afterwards: other statements need nested loops.
PLANNED_AT_ONCE = b"SET enable_nestloop = off; SET enable_mergejoin = off"
PLANNED_AS_USUAL = b"RESET enable_nestloop; RESET enable_mergejoin"

# If the server looks for deadlocks as early as that, the session that gives way may be the application's.
_MAY_WAIT = """
SELECT extract(epoch FROM current_setting('deadlock_timeout')::interval) >= 10 * %s::float8
   AND NOT EXISTS (SELECT FROM pg_db_role_setting, unnest(setconfig) AS one WHERE one LIKE 'deadlock_timeout=%%')
"""


def may_wait(connection: Connection) -> bool:
    """Returns whether writes at once may wait for rows without an application's session being cancelled for it."""
    try:
        return connection.execute(_MAY_WAIT, (ROW_PATIENCE_SECONDS,)).fetchone() == (True,)
    except psycopg.errors.InsufficientPrivilege:  # somebody has revoked the right to see settings of roles
        return False


_WRITTEN = "WITH written AS ("
_COUNTED = """
RETURNING {changed} AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
FROM written
"""

_PRUNE = """
AND (
    SELECT count(*) FROM ONLY {table} AS looked
    WHERE looked.ctid >= %(prune_first)s::tid AND looked.ctid < %(prune_end)s::tid
) >= 0
"""

_COUNT_VALUES = "SELECT {held} FROM ONLY {table} AS t WHERE {pages}"

# A row that others write all the time has moved by the time we get its lock. The server then checks the new version:
# the same key and the same ciphertexts (each has a random nonce) mean the same values, wherever the row is now.
_WRITE_ROW = """
WITH written AS (
    UPDATE ONLY {table} AS t SET {assignments}
    FROM unnest(%(keys)b::text[], {arrays}, {old_arrays}) AS new (key, {values}, {olds})
    WHERE {same_key} AND {same_values}
    RETURNING {changed} AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint FROM written
"""

# Returns keys of rows for the quarantine under the guards of the write: the next sweep gets a row that has changed.
_NAME_ROWS = """
SELECT t.ctid, {key}
FROM unnest(%(positions)b::tid[], %(versions)b::xid[]) AS read (position, version)
JOIN ONLY {table} AS t ON t.ctid = read.position
WHERE t.xmin = read.version AND t.tableoid = {oid} AND {as_read}
"""

_SAME_FILE = "pg_relation_filenode({oid}) = %(filenode)s::oid"
# Every column still has its name. A query on pg_attribute would be as reliable, but costs as much as writing three
# rows; this one comes from the server's cache.
_SAME_COLUMN = "pg_describe_object('pg_class'::regclass, {oid}, {number}) = {description}"
_COLUMNS = """
SELECT attnum, pg_describe_object('pg_class'::regclass, attrelid, attnum)
FROM pg_attribute WHERE attrelid = %s AND attname = ANY (%s)
"""

# Never write rows read under a swapped table or column name, even after the swap is undone. No row has this `xmin`, so
# such a row is skipped.
_VERSION = "CASE WHEN t.tableoid = {oid} AND (SELECT {same_columns}) THEN t.xmin ELSE '0'::xid END"

# If a written column is in a unique index, our UPDATE changes a key of the row and needs the stronger lock. Taking the
# weaker lock first and the stronger one later would deadlock with the application.
_IN_UNIQUE_INDEX = """
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = %s AND i.indisunique AND a.attname = ANY (%s)
)
"""


@dataclass(frozen=True, slots=True)
class Statements:
    """Rendered SQL.

    Args:
        read_pages: rows of the pages from `first` to before `end` that may have to be rewritten, if they have at most
            `limit` bytes.
        list_rows: positions, sizes and keys of those of them that have to be rewritten, as far as SQL can tell.
        read_rows: rows at `positions`.
        read_row: the row with a key, wherever it is now.
        write: the guarded write; takes positions, versions, filenode and one array of new values per column. In HOT
            order also the pages from `prune_first` to before `prune_end`. Returns how many rows and values it wrote,
            and its seconds.
        write_whole: the same for batches without a NULL among the new values; returns no rows, values and seconds.
        write_at_once: as `write`, without locking first: waits up to `ROW_PATIENCE_SECONDS` for each row.
        write_whole_at_once: as `write_whole`, likewise.
        write_row: writes one row by its key if its values are still those that were read, and waits up to
            `lock_timeout` for its lock; takes arrays of one element: the key, the new and the old values.
        name_rows: positions and keys of rows, under the guards of the write.
        count_values: how many values that are not NULL the pages from `first` to before `end` hold.
    """

    read_pages: bytes
    list_rows: bytes
    read_rows: bytes
    read_row: bytes
    write: bytes
    write_whole: bytes
    write_at_once: bytes
    write_whole_at_once: bytes
    write_row: bytes
    name_rows: bytes
    count_values: bytes


def statements(
    connection: Connection,
    relation: Relation,
    key: RowKey,
    value_format: ValueFormat,
    target: KeyVersion | None,
    *,
    hot_order: bool = False,
) -> Statements:
    """Composes the statements of one relation.

    Args:
        key: how the rows of the relation are named.
        value_format: of the values.
        target: selects rows that hold a value under another version, or one of another format, or that lack a search
            index. None: every row.
        hot_order: whether to prune the pages of the rows before writing them.
    """
    columns = [_Stored(connection, column) for column in relation.columns]
    values = [sql.Identifier(f"value_{number}") for number in range(len(columns))]
    olds = [sql.Identifier(f"old_{number}") for number in range(len(columns))]
    unique = connection.execute(_IN_UNIQUE_INDEX, (relation.oid, relation.written_columns)).fetchone() == (True,)
    indexes = [sql.Identifier(f"index_{number}") for number in range(len(relation.indexes))]
    new = [
        *((column.parameter(f"value_{n}"), values[n]) for n, column in enumerate(columns)),
        *((sql.SQL(f"%(index_{n})b::text[]"), index) for n, index in enumerate(indexes)),
    ]
    unindexed = _sql(any_to_be_opened(relation, "t", target=target).as_string(connection)) if indexes else None
    parts = {
        "oid": sql.SQL("{}::oid::regclass").format(sql.Literal(relation.oid)),
        "table": _quoted(relation.schema, relation.name),
        "bytes": sql.SQL(" + ").join(sql.SQL("coalesce(octet_length({}), 0)::bigint").format(c.read) for c in columns),
        "pages": sql.SQL("t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid"),
        "wanted": _any(columns, target, sql_of(value_format).to_be_rewritten, unindexed),
        "opened": _any(columns, target, sql_of(value_format).to_be_opened, unindexed),
        "texts": sql.SQL(", ").join([*(column.read for column in columns), *_index_texts(relation)]),
        "held": _sql(sql.SQL(" + ").join(map(places.number_held, relation.columns)).as_string(connection)),
        "toast_bytes": sql.SQL(_TOAST_BYTES).format(oid=sql.Literal(relation.oid)),
        "assignments": assignments(connection, relation, target, whole=False),
        "arrays": sql.SQL(", ").join(parameter for parameter, _ in new),
        "unnested": sql.SQL(", ").join(sql.SQL("unnest({}) AS {}").format(*each) for each in new),
        "values": sql.SQL(", ").join(name for _, name in new),
        # num_nonnulls() accepts at most a hundred arguments.
        "changed": sql.SQL(" + ").join(sql.SQL("(new.{} IS NOT NULL)::int").format(value) for value in values),
        "olds": sql.SQL(", ").join(olds),
        "old_arrays": sql.SQL(", ").join(c.parameter(f"old_{number}") for number, c in enumerate(columns)),
        "same_values": sql.SQL(" AND ").join(
            sql.SQL("{} IS NOT DISTINCT FROM new.{}").format(column.compared, old)
            for column, old in zip(columns, olds, strict=True)
        ),
        "key": _sql(key.of("t").as_string(connection)),
        "same_key": _sql(key.matches("t", sql.SQL("new.key")).as_string(connection)),
        "strength": sql.SQL("UPDATE" if unique else "NO KEY UPDATE"),
    }

    whole = assignments(connection, relation, target, whole=True)
    parts["patience"] = sql.Literal(f"{ROW_PATIENCE_SECONDS * 1000:g}ms")
    parts["same_columns"] = _same_columns(connection, relation, parts["oid"])
    parts["as_read"] = sql.SQL(" AND ").join([sql.SQL(_SAME_FILE).format(**parts), parts["same_columns"]])
    parts["version"] = sql.SQL(_VERSION).format(**parts)
    parts["prune"] = sql.SQL(_PRUNE).format(**parts) if hot_order else sql.SQL("")

    def render(template: str, **others: sql.Composable) -> bytes:
        return sql.SQL(template).format(**parts, **others).as_bytes(connection)

    return Statements(
        read_pages=render(_READ_PAGES),
        list_rows=render(_LIST_ROWS),
        read_rows=render(_READ_ROWS),
        read_row=render(_READ_ROW),
        write=render(_WRITTEN + _UPDATE + _COUNTED, set=parts["assignments"]),
        write_whole=render(_UPDATE, set=whole),
        write_at_once=render(_WRITTEN + _UPDATE_AT_ONCE + _COUNTED, set=parts["assignments"]),
        write_whole_at_once=render(_UPDATE_AT_ONCE, set=whole),
        write_row=render(_WRITE_ROW),
        name_rows=render(_NAME_ROWS),
        count_values=render(_COUNT_VALUES),
    )


def _same_columns(connection: Connection, relation: Relation, oid: sql.Composable) -> sql.Composable:
    names = [*relation.read_columns, *relation.index_columns]
    columns: list[Any] = connection.execute(_COLUMNS, (relation.oid, names)).fetchall()
    same = [
        sql.SQL(_SAME_COLUMN).format(
            oid=oid, number=sql.Literal(number), description=_sql(sql.Literal(description).as_string(connection))
        )
        for number, description in columns
    ]
    return sql.SQL(" AND ").join([sql.SQL("true"), *same])


class _Stored:
    """A place of the row `t` in statements with parameters."""

    def __init__(self, connection: Connection, column: Column) -> None:
        self._column = column
        self.read = _sql(places.read(column, "t").as_string(connection))
        self._text = _sql(places.read_as_text(column, "t").as_string(connection))
        self._elements = _sql(places.each_value(column, "t").as_string(connection))
        self._connection = connection

    def is_to_be_rewritten(
        self, target: KeyVersion, condition: Callable[[sql.Composable, KeyVersion], sql.Composed]
    ) -> sql.Composable:
        """Whether a value or element is to be rewritten, as `places.is_to_be_rewritten` has it."""
        if self._column.place.source:
            text = places.text(self._column, "t")
            wanted = in_full(text, [target]) if self._column.place.given_back else not_in_full_under(text, target)
            return _sql(wanted.as_string(self._connection))
        if not self._column.place.elements:
            return condition(self._text, target)
        each = condition(sql.SQL("each.text"), target)
        return sql.SQL("EXISTS (SELECT FROM {} WHERE {})").format(self._elements, each)

    @property
    def compared(self) -> sql.Composable:
        """The value for a comparison to the letter."""
        return self.read if self._column.is_binary else sql.SQL('{} COLLATE "C"').format(self.read)

    def parameter(self, name: str) -> sql.Composable:
        """An array of values by the name of a parameter."""
        return sql.SQL(f"%({name})b::{'bytea' if self._column.is_binary else 'text'}[]")


def _index_texts(relation: Relation) -> list[sql.Composable]:
    """Both columns of each search index, as they are read behind the values."""
    columns = (column for index in relation.indexes for column in index.columns)
    return [sql.SQL("t.{}::text").format(_quoted(column.name)) for column in columns]


def assignments(connection: Connection, relation: Relation, target: KeyVersion | None, *, whole: bool) -> sql.Composed:
    """Sets each stored column once, however many places are in it; `whole`: no new value is NULL.

    Of a search index the column for `target` is set, and the other one stays: searches and unique constraints need it
    until every row has an index under `target`.
    """
    parts = [_index_assignment(number, index, target) for number, index in enumerate(relation.indexes) if target]
    for in_column in places.by_column(relation.columns):
        (number, column), base = in_column[0], places.stored(in_column[0][1], "t")
        new = sql.SQL(f'new."value_{number}"')
        if column.place.path:
            values = [(each, sql.SQL(f'new."value_{at}"')) for at, each in in_column]
            document = _sql(places.with_values(base, values).as_string(connection))
            parts.append(sql.SQL("{} = {}").format(_quoted(column.name), document))
            continue
        for each, part in places.written(column, new):
            name, value = _quoted(each.name), sql.SQL("{}::{}").format(part, _sql(each.uncut_sql))
            if whole:
                parts.append(sql.SQL("{} = {}").format(name, value))
            else:
                kept = sql.SQL("{} = CASE WHEN {} IS NULL THEN t.{} ELSE {} END")
                parts.append(kept.format(name, new, name, value))
    return sql.SQL(", ").join(parts)


def _index_assignment(number: int, index: IndexedColumn, target: KeyVersion) -> sql.Composed:
    column = index.odd if is_odd(target) else index.even
    return sql.SQL("{} = coalesce({}::{}, t.{})").format(
        _quoted(column.name), sql.SQL(f'new."index_{number}"'), _sql(column.uncut_sql), _quoted(column.name)
    )


def _any(
    columns: Sequence[_Stored],
    target: KeyVersion | None,
    condition: Callable[[sql.Composable, KeyVersion], sql.Composed],
    unindexed: sql.Composable | None,
) -> sql.Composed:
    if target is None:
        return sql.SQL(" OR ").join([sql.SQL("true")] * len(columns))
    wanted = [column.is_to_be_rewritten(target, condition) for column in columns]
    return sql.SQL(" OR ").join([*wanted, *([] if unindexed is None else [unindexed])])


def _quoted(*names: str) -> sql.Composable:
    return _sql(sql.Identifier(*names).as_string(None))


def _sql(text: str) -> sql.Composable:
    # A percent sign in a name would be parsed as a placeholder.
    return sql.SQL(text.replace("%", "%%"))


def position(page: int) -> str:
    """Returns the start of a page as a `tid` parameter."""
    return f"({page},0)"
