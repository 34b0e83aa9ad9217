"""Refuses statements after which a row would not be found by its own text: its search index would be another text's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from sqlalchemy.engine import Dialect
from sqlalchemy.schema import Column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import BindParameter, Cast, ClauseElement, ColumnClause, Grouping, Label, Null, TypeCoerce
from sqlalchemy.sql.selectable import TableClause
from sqlalchemy.types import TypeDecorator

from keyrotation_pipeline.encrypted_type.assignments import (
    column_of,
    default_of,
    on_conflict,
    parameter_name,
    parameter_of_row,
    selected,
)
from keyrotation_pipeline.encrypted_type.column import EncryptedType
from keyrotation_pipeline.encrypted_type.expressions import clause_of, encrypted, name_of
from keyrotation_pipeline.encrypted_type.failures import refusal
from keyrotation_pipeline.encrypted_type.rows import stands_for
from keyrotation_pipeline.encrypted_type.search_index import SearchIndex, indexes_of, names_indexed
from keyrotation_pipeline.fieldcrypto.search_index import IndexForm


@dataclass(frozen=True, slots=True)
class _Given:
    """A value of a statement: that of a parameter, or a constant."""

    parameter: str | None = None
    constant: Any = None

    def of(self, parameters: Mapping[str, Any]) -> Any:  # noqa: ANN401
        return self.constant if self.parameter is None else parameters.get(self.parameter)


@dataclass(frozen=True, slots=True)
class IndexedText:
    """Where a statement has the text of a row and one of its search indexes, which are to be the same text.

    Args:
        index: the column of the search index.
    """

    index: Any
    text: _Given
    indexed: _Given


@dataclass(frozen=True, slots=True)
class _Row:
    """What a statement stores in one row, or in each of several.

    Args:
        is_new: what it does not store is NULL; else it stays.
    """

    values: Mapping[Column[Any], Any]
    is_new: bool


def indexed_texts(compiled: SQLCompiler) -> list[IndexedText]:
    """Returns where a statement has texts and their indexes; those that only its parameters give are to be compared.

    Raises:
        EncryptedExpressionError: it stores a text without its index, an index without its text or of another row's, or
            an expression as an index.
    """
    state: Any = compiled.compile_state
    statement = None if state is None else state.statement
    if not isinstance(statement, Insert | Update):
        return []
    table: Any = statement.table
    names = names_indexed(table)
    return [
        found
        for row in (_rows(compiled, state) if names else ())
        for name in names
        for found in _indexed(row, table, name, compiled)
    ]


_compared: WeakSet[Any] = WeakSet()


def require_same(found: list[IndexedText], context: Any) -> None:  # noqa: ANN401
    """Refuses a statement whose parameters give a text and the index of another one.

    Args:
        context: SQLAlchemy's, which has the parameters of all rows as they were given.

    Raises:
        EncryptedExpressionError: names the columns.
    """
    if not found or context in _compared:  # many rows are sent in parts, and compared with the first
        return
    for parameters in context.compiled_parameters:
        for each in found:
            text, indexed = each.text.of(parameters), each.indexed.of(parameters)
            if text != indexed and not _is_same(each.index.type, text, indexed):
                raise refusal(
                    f"{name_of(each.index)} is a search index of {each.index.type.of}, and the statement gives "
                    "them different texts, so searches would miss the row; give both the same text"
                )
    _compared.add(context)


def _is_same(index: Any, text: object, indexed: object) -> bool:  # noqa: ANN401
    if not isinstance(text, str) or not isinstance(indexed, str):
        return False
    normalised = IndexForm("", index.normalise).normalised
    return normalised(text) == normalised(indexed)


def _rows(compiled: SQLCompiler, state: Any) -> Iterator[_Row]:  # noqa: ANN401
    """Yields what a statement stores: by each of its VALUES, by each SELECT, where there is a row already."""
    statement = state.statement
    # SQLAlchemy has no public names for these; see `assignments`.
    if isinstance(statement, Insert) and statement.select is not None:
        for values in selected(statement):
            yield _Row(_completed(compiled, state, values, None), is_new=True)
    elif state._multi_parameters:  # noqa: SLF001
        for number, values in enumerate(state._multi_parameters):  # noqa: SLF001
            yield _Row(_completed(compiled, state, values, number), is_new=True)
    else:
        values = state._dict_parameters or {}  # noqa: SLF001
        yield _Row(_completed(compiled, state, values, None), is_new=not state.isupdate)
    if isinstance(statement, Insert):
        yield _Row({column_of(statement.table, key): value for key, value, _ in on_conflict(statement)}, is_new=False)


def _completed(compiled: SQLCompiler, state: Any, values: Mapping[Any, Any], number: int | None) -> dict[Any, Any]:  # noqa: ANN401
    """Returns values by their columns; texts and what is given or filled in by SQLAlchemy as their parameters."""
    table, keys = state.statement.table, compiled.column_keys or ()
    found = {column_of(table, key): clause_of(value) for key, value in values.items()}
    for column in table.c:
        name = column.key if number is None else parameter_of_row(compiled, column, number)
        default = default_of(column, state)
        if column in found:
            if not isinstance(found[column], ClauseElement):
                found[column] = _Given(name)
        elif column.key in keys and number is None:
            found[column] = _Given(name)
        elif default is not None:
            found[column] = default.arg if default.is_clause_element else _Given(name)
    return found


def _indexed(row: _Row, table: Any, name: str, compiled: SQLCompiler) -> Iterator[IndexedText]:  # noqa: ANN401
    """Yields a text with each of its indexes, if the row has any of them."""
    text = next((each for each in table.c if each.name == name), None)
    indexes: list[Any] = indexes_of(table, name)
    given = [each for each in indexes if each in row.values]
    missing = [each.name for each in indexes if each not in row.values]
    for index in given:
        _refuse_computed(index, row.values[index], of_same_row=None if row.is_new else table)
    if text in row.values and missing:
        raise refusal(
            f"{table.name}.{name} has a search index, and the statement does not set {' and '.join(missing)}; "
            "give these columns the same text, as values of the statement"
        )
    if given and text not in row.values and not row.is_new:
        raise refusal(
            f"{table.name}.{given[0].name} is a search index of {name}, and the statement does not set {name}; give "
            "the text and its search indexes the same text"
        )
    for index in given:
        yield from _pair(row, text, index, compiled)


def _pair(row: _Row, text: Any, index: Any, compiled: SQLCompiler) -> Iterator[IndexedText]:  # noqa: ANN401
    one, other = (_value(row.values.get(each), compiled) for each in (text, index))
    if isinstance(one, _Given) and isinstance(other, _Given):
        if one != other and _is_sent_as_given(text, compiled.dialect):
            yield IndexedText(index, one, other)
    elif not _is_of_same_row(one, other, index.type, compiled.dialect):
        raise refusal(
            f"{name_of(index)} is a search index of {index.type.of}, and the statement takes them from different "
            "places; give both the same text, or the columns of one row"
        )


def _value(value: Any, compiled: SQLCompiler) -> Any:  # noqa: ANN401
    """Returns what a statement gives, or the column that it takes a value from; None: anything else."""
    while isinstance(value, Label | Grouping | TypeCoerce | Cast):
        value = value.clause if isinstance(value, TypeCoerce | Cast) else value.element
    if isinstance(value, BindParameter):
        name = parameter_name(compiled, value)
        return None if name is None else _Given(name)
    if value is None or isinstance(value, Null):
        return _Given()
    if isinstance(value, _Given | ColumnClause):
        return value
    return None if isinstance(value, ClauseElement) else _Given(constant=value)


def _is_sent_as_given(text: Any, dialect: Dialect) -> bool:  # noqa: ANN401
    """Returns whether the text that is encrypted is the one that was given, unchanged by a decorator of its type."""
    type_ = None if text is None else text.type.dialect_impl(dialect)
    return isinstance(type_, EncryptedType) or not isinstance(type_, TypeDecorator)


def _is_of_same_row(text: Any, index: Any, wanted: SearchIndex, dialect: Dialect) -> bool:  # noqa: ANN401
    """Returns whether two columns are a text and its index, of the same row."""
    if not isinstance(text, ColumnClause) or not isinstance(index, ColumnClause):
        return False
    type_ = encrypted(text.type, dialect)
    return type_ is not None and type_.binding == wanted.binding and _are_next_to_each_other(text, index)


def _are_next_to_each_other(one: Any, other: Any) -> bool:  # noqa: ANN401
    source, others = one.table, other.table
    if source is None or others is None:
        return False
    if hash(source) != hash(others):  # SQLAlchemy's annotated forms have the same; EXCLUDED is another each time
        return getattr(source, "name", None) == getattr(others, "name", None) == "excluded"
    if isinstance(source, TableClause):
        return True
    pairs = list(zip(stands_for(one), stands_for(other), strict=False))
    return bool(pairs) and all(
        isinstance(each, ColumnClause) and isinstance(its, ColumnClause) and _are_next_to_each_other(each, its)
        for each, its in pairs
    )


def _refuse_computed(column: Any, value: Any, *, of_same_row: Any) -> None:  # noqa: ANN401
    """Refuses to set a search index to anything but a text, or the same index of another row.

    Args:
        of_same_row: the table whose columns are those of the row that is written.
    """
    if not isinstance(value, ClauseElement) or isinstance(value, BindParameter | Null):
        return
    wanted, found = column.type, value.type if isinstance(value, ColumnClause) else None
    same = isinstance(found, SearchIndex) and (found.odd, found.binding) == (wanted.odd, wanted.binding)
    if same and (of_same_row is None or getattr(value, "table", None) is not of_same_row):
        return
    raise refusal(
        f"{name_of(column)} is a search index, and takes no SQL expression or other column, which would be "
        "another text's; give it the text"
    )


def refuse_inner(found: list[IndexedText]) -> None:
    """Refuses a statement within another one whose texts and indexes would have to be compared.

    Raises:
        EncryptedExpressionError: names the column.
    """
    for each in found:
        raise refusal(
            f"{name_of(each.index)} is a search index and cannot be given by a statement within another one; execute "
            "that statement on its own"
        )
