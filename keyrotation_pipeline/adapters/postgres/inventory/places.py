"""Expresses in SQL how the values of a place are read, searched and written: of a column, a JSON path, an array.

The engine, the counts, the fences and the search for undeclared values all take these expressions, so what one of them
calls a value is a value for all.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import (
    has_head,
    in_full,
    in_full_under,
    not_in_full_under,
    unencrypted,
)
from keyrotation_pipeline.adapters.postgres.inventory.mac_sql import filled
from keyrotation_pipeline.adapters.postgres.inventory.relations import BYTEA, Column
from keyrotation_pipeline.fieldcrypto.binding import AFTER, UNKNOWN
from keyrotation_pipeline.fieldcrypto.codecs.value_format import BETWEEN
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

Condition = Callable[[sql.Composable], sql.Composable]

# The elements of an array, whatever its dimensions.
_ELEMENTS = 'unnest({array}) AS element (value), LATERAL (SELECT element.value::text COLLATE "C") AS each (text)'
_EACH = sql.SQL("each.text")
# How an application encodes text. A database without an encoding has the application's bytes as they are.
_APPLICATIONS = "CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END"
# Characters that array_out() quotes.
_QUOTED = frozenset('"\\{}, \t\n\r\v\f')


def stored(column: Column, row: str = "") -> sql.Composable:
    """Returns the column that a place is in; `row`: an alias of ours for the row, where it needs one."""
    return sql.SQL(f"{row}.{{}}" if row else "{}").format(sql.Identifier(column.name))


def text(column: Column, row: str = "") -> sql.Composed:
    """Returns the value of a place as text under "C", NULL where there is none; of an array the whole as text.

    Bytes other than ASCII become escapes, so that only the bytes of a value are its text. With a nonce in a column of
    its own it is one text, and associated data stands before it: as the format's codec takes it.
    """
    return sql.SQL('({} COLLATE "C")').format(read_as_text(column, row))


def read_as_text(column: Column, row: str = "") -> sql.Composed:
    """Returns the same without a collation."""
    found = stored_text(column, stored(column, row))
    if column.iv is not None:
        parts = [_side(each, row) for each in column.stored]
        found = sql.SQL("CASE WHEN {} THEN '' ELSE {} || {} || coalesce({}, '') END").format(
            _is_empty(column, row), parts[0], sql.Literal(BETWEEN), parts[1]
        )
    if column.bound:
        found = sql.SQL("CASE WHEN {} THEN '' ELSE {} || {} END").format(
            _is_empty(column, row), _associated_data(column.bound, row), found
        )
    return _where_encrypted(column, found, row)


def _where_encrypted(column: Column, value: sql.Composed, row: str) -> sql.Composed:
    """Returns NULL for a text that its row calls unencrypted, unless it is a value all the same.

    So whoever changes what the row says hides no value, neither from a count nor from the engine.
    """
    if column.when is None:
        return value
    text_of = sql.SQL('({} COLLATE "C")').format(stored_text(column, stored(column, row)))
    return sql.SQL("(CASE WHEN {} OR ({}) THEN {} END)").format(
        stored(column.when, row), filled(column.shape, text_of), value
    )


def stored_text(column: Column, base: sql.Composable) -> sql.Composed:
    """Returns what is in the column of a place alone as text, whatever its row says of it."""
    if column.place.path:
        return sql.SQL("({} #>> {})").format(base, path(column))
    if column.is_binary:
        return sql.SQL("encode({}, 'escape')").format(base)
    return sql.SQL("{}::text").format(base)


def read(column: Column, row: str = "") -> sql.Composed:
    """Returns the value as the engine takes it: bytes as bytes, all else as text.

    The key of its row stands before it, where it may be bound to that; behind it the parts that are in other columns.
    """
    if not column.is_binary:
        found = _with_parts(column, read_as_text(column, row), row)
        if column.row_key is None:
            return found
        return sql.SQL("CASE WHEN {} THEN '' ELSE {} || {} END").format(
            _is_empty(column, row), _associated_data((column.row_key,), row), found
        )
    found = _with_parts(column, sql.SQL("{}::bytea").format(stored(column, row)), row)
    if pieces := column.bound or ((column.row_key,) if column.row_key else ()):
        found = sql.SQL("CASE WHEN {} THEN '' ELSE convert_to({}, 'UTF8') || {} END").format(
            _is_empty(column, row), _associated_data(pieces, row), found
        )
    return _where_encrypted(column, found, row)


def _with_parts(column: Column, found: sql.Composed, row: str) -> sql.Composed:
    """Returns a value of another library with its parts in other columns as text; any other as it is."""
    if not column.beside:
        return found
    parts = sql.SQL(" || ").join(
        sql.SQL("{} || coalesce({}, '')").format(sql.Literal(BETWEEN), _part(each, row)) for each in column.beside
    )
    return sql.SQL("CASE WHEN {} OR {} THEN {} ELSE {} || {} END").format(
        _is_empty(column, row), has_head(text(column, row)), found, found,
        sql.SQL("convert_to({}, 'UTF8')").format(parts) if column.is_binary else parts,
    )  # fmt: skip


def _part(column: Column, row: str) -> sql.Composed:
    """A part of another library's value as text: bytes in hex, however the session writes them."""
    text = "'\\x' || encode({}, 'hex')" if column.type_oid == BYTEA else "{}::text"
    return sql.SQL(text).format(stored(column, row))


def value(column: Column) -> sql.Composed:
    """Returns the value for a codec: bytes as bytes, all else as text under "C"; see `as_bytes`."""
    return read(column) if column.is_binary else sql.SQL('({} COLLATE "C")').format(read(column))


def as_bytes(value: str | bytes | None) -> bytes | None:
    """Returns what the driver returns of `value` as a codec takes it."""
    return value.encode() if isinstance(value, str) else value


def unencrypted_rest(column: Column) -> sql.Composed:
    """Returns what a column holds in addition to values, where its rows say which texts are values."""
    return sql.SQL("CASE WHEN {} IS NULL THEN {} END").format(text(column), stored(column))


def written(column: Column, new: sql.Composable) -> list[tuple[Column, sql.Composable]]:
    """Returns the columns that a new value is stored in, but for documents, each with what it becomes."""
    if column.iv is None:
        return [(column, new)]
    parts = [sql.SQL("split_part({}, {}, {})").format(new, sql.Literal(BETWEEN), sql.Literal(at)) for at in (1, 2)]
    return [
        (each, sql.SQL("decode({}, 'hex')").format(part) if each.type_oid == BYTEA else part)
        for each, part in zip(column.stored, parts, strict=True)
    ]


def _side(column: Column, row: str) -> sql.Composable:
    """A value without its nonce, or a nonce, as text: bytes in hex."""
    text = "encode({}, 'hex')" if column.type_oid == BYTEA else "{}::text"
    return sql.SQL(text).format(stored(column, row))


def _is_empty(column: Column, row: str) -> sql.Composable:
    """Whether a place holds an empty text, which is never bound to anything; NULL without any."""
    base = stored(column, row)
    return sql.SQL("octet_length({}) = 0").format(stored_text(column, base) if column.place.path else base)


def _associated_data(bound: Sequence[str | Column], row: str) -> sql.Composed:
    """What a value is authenticated with, as `binding.joined` writes it before the value."""
    pieces = [
        sql.Literal(each) if isinstance(each, str) else sql.SQL("{}::text").format(stored(each, row)) for each in bound
    ]
    return sql.SQL("coalesce(encode(convert_to({}, {}), 'hex'), {}) || {}").format(
        sql.SQL(" || ").join(pieces), sql.SQL(_APPLICATIONS), sql.Literal(UNKNOWN), sql.Literal(AFTER)
    )


def path(column: Column) -> sql.Composable:
    """Returns a place's path."""
    return sql.SQL(_printed_path(column))


def printed_text(column: Column, name: str) -> str:
    """Returns the value of a place as text, exactly as PostgreSQL 14 to 18 print that expression.

    Args:
        name: the column, as they print it.
    """
    if column.place.path:
        return f"({printed(column, name)} #>> {_printed_path(column)})"
    if column.is_binary:
        return f"encode({printed(column, name)}, 'escape'::text)"
    return name if column.type_sql == "text" else f"({name})::text"


def printed(column: Column, name: str) -> str:
    """Returns a column as the server prints it as an operand: one of a domain with a cast."""
    return name if column.type_sql == column.uncut_sql else f"({name})::{column.uncut_sql}"


def _printed_path(column: Column) -> str:
    keys = ",".join(map(_array_item, column.place.path)).replace("'", "''")
    return f"'{{{keys}}}'::text[]"


def any_value(column: Column, condition: Condition) -> sql.Composable:
    """Returns whether a condition on a value's text holds; of an array, for any of its elements."""
    if not column.place.elements:
        return condition(text(column))
    elements = sql.SQL(_ELEMENTS).format(array=stored(column))
    return sql.SQL("EXISTS (SELECT FROM {} WHERE {})").format(elements, condition(_EACH))


def is_to_be_rewritten(
    column: Column, target: KeyVersion, condition: Callable[[sql.Composable, KeyVersion], sql.Composable]
) -> sql.Composable:
    """Returns whether a value meets the condition of its format; of a column of plaintext, whether it is not encrypted.

    A text may begin like a value under the target. Of a column that is to be plaintext again it is whether it is a
    value, under whatever version.
    """
    if column.place.given_back:
        return in_full(text(column), [target])
    if column.place.source:
        return not_in_full_under(text(column), target)
    return any_value(column, lambda value: condition(value, target))


def is_under(
    column: Column,
    versions: Sequence[KeyVersion],
    condition: Callable[[sql.Composable, Sequence[KeyVersion]], sql.Composable],
) -> sql.Composable:
    """Returns whether a value meets the condition of its format; of a column of plaintext, only a value in full.

    In a column that is to be plaintext again every value counts, under whatever version.
    """
    if column.place.given_back:
        return in_full(text(column), versions[-2:])
    if column.place.source:
        return in_full_under(text(column), versions)
    return any_value(column, lambda value: condition(value, versions))


def is_plaintext(column: Column) -> sql.Composable:
    """Returns whether a column whose plaintext is to be encrypted holds some: neither empty nor a value in full."""
    return unencrypted(text(column))


def number(column: Column, condition: Condition) -> sql.Composed:
    """Returns an aggregate: the number of values whose text meets a condition."""
    if not column.place.elements:
        return sql.SQL("count(*) FILTER (WHERE {})").format(condition(text(column)))
    elements = sql.SQL(_ELEMENTS).format(array=stored(column))
    return sql.SQL("coalesce(sum((SELECT count(*) FROM {} WHERE {})), 0)::bigint").format(elements, condition(_EACH))


def number_held(column: Column) -> sql.Composed:
    """Returns an aggregate: the number of values, empty ones too, that are not NULL; of a column it reads none."""
    if column.place.elements:
        return number(column, sql.SQL("{} IS NOT NULL").format)
    is_plain = not (column.place.path or column.when)
    return sql.SQL("count({})").format(stored(column) if is_plain else text(column))


def each_value(column: Column, row: str = "") -> sql.Composed:
    """Returns an item of a FROM list: a row of one column, the value's text, for each value."""
    if not column.place.elements:
        return sql.SQL("(SELECT {}) AS each (text)").format(text(column, row))
    return sql.SQL(_ELEMENTS).format(array=stored(column, row))


def by_column(columns: Sequence[Column]) -> list[list[tuple[int, Column]]]:
    """Returns the places of each stored column, with their numbers in the declaration."""
    order = {column.name: number for number, column in reversed(list(enumerate(columns)))}
    listed = sorted(enumerate(columns), key=lambda each: order[each[1].name])
    return [list(same) for _, same in groupby(listed, key=lambda each: each[1].name)]


def with_values(base: sql.Composable, values: Sequence[tuple[Column, sql.Composable]]) -> sql.Composed:
    """Returns a document with new values at the paths of some places in it; NULL leaves a path as it is.

    A path that the document does not have is not made.
    """
    document = sql.SQL("{}").format(base)
    for place, value in values:
        document = sql.SQL("jsonb_set_lax({}, {}, to_jsonb({}::text), false, 'return_target')").format(
            document, path(place), value
        )
    return document


def without_values(columns: Sequence[Column]) -> sql.Composed:
    """Returns a document with null at the paths of some places in it."""
    whole = stored(columns[0])
    document = sql.SQL("CASE WHEN jsonb_typeof({0}) IN ('object', 'array') THEN {0} END").format(whole)
    for place in columns:
        # A document may have an array where the path has a key, which jsonb_set() refuses. An empty path sets nothing.
        document = sql.SQL(
            "jsonb_set({document}, CASE WHEN {whole} #> {path} IS NULL THEN '{{}}' ELSE {path} END, 'null', false)"
        ).format(document=document, whole=whole, path=path(place))
    return sql.SQL("coalesce({}, {})").format(document, whole)


def _array_item(key: str) -> str:
    if key and key.upper() != "NULL" and set(key).isdisjoint(_QUOTED):
        return key
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
