"""Encrypts texts for their row, and refuses statements that do not say which row a text is for.

A column's type, which sees only the text, makes it a `Waiting`, which no driver can send. Before a statement is sent,
`bind_rows` finds the key of the row among its parameters, where defaults are by then, and encrypts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy.engine import Dialect
from sqlalchemy.schema import Column
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import Compiled, SQLCompiler
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList, ClauseElement, Null
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.types import CHAR, Integer, String, TypeDecorator, TypeEngine, Uuid

from keyrotation_pipeline.encrypted_type.assignments import (
    assignments,
    column_of,
    on_conflict,
    parameter_name,
    parameter_of_row,
)
from keyrotation_pipeline.encrypted_type.column import EncryptedType
from keyrotation_pipeline.encrypted_type.expressions import clause_of, encrypted
from keyrotation_pipeline.encrypted_type.failures import refusal
from keyrotation_pipeline.encrypted_type.rows import Waiting, key_column
from keyrotation_pipeline.errors import InvalidBindingError


def key_text(value: object, type_: TypeEngine[Any], dialect: Dialect) -> str:
    """Returns the text of a row's key as PostgreSQL writes it.

    Args:
        value: as the driver gets it.
        type_: of the key's column.

    Raises:
        InvalidBindingError: it is none of a whole number, a UUID, and a text.
    """
    pads = isinstance(type_.impl_instance if isinstance(type_, TypeDecorator) else type_, CHAR)
    found = type_.dialect_impl(dialect)
    while isinstance(found, TypeDecorator):
        found = found.impl_instance
    try:
        if isinstance(value, UUID):
            return str(value)
        if isinstance(found, Integer) and not isinstance(value, bool | float):
            whole = int(value)  # type: ignore[call-overload]
            if isinstance(value, str) or whole == value:  # PostgreSQL would round 1.5
                return str(whole)
        if isinstance(value, str) and isinstance(found, Uuid):
            return str(UUID(value)) if found.native_uuid and dialect.supports_native_uuid else value
        # PostgreSQL drops spaces at the end where it cuts a text.
        is_text = isinstance(value, str) and isinstance(found, String) and not pads
        text = str.__str__(value) if is_text else ""  # of a member of an Enum, too, what the driver sends
        if text.encode() and not text.endswith(" "):
            return text
    except (ValueError, TypeError):
        pass
    raise refusal(
        f"a {type(value).__name__} in a column of type {found!r} binds no values; use whole numbers, UUIDs, or "
        "texts that do not end in a space",
        InvalidBindingError,
    )


@dataclass(frozen=True, slots=True)
class _Key:
    """Where a statement has the keys of its rows.

    Args:
        column: of the keys.
        names: of the parameters, by number of the row; a statement of one row has the number 0.
    """

    column: Column[Any]
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class _Rows:
    """The keys of a statement by the names of their columns; of an INSERT of several rows the row of each parameter."""

    keys: Mapping[str, _Key]
    row_of: Mapping[str, int] | None = None


_rows: WeakKeyDictionary[Compiled, _Rows] = WeakKeyDictionary()


def may_wait(compiled: SQLCompiler) -> bool:
    """Returns whether a parameter of a statement has a type that may wait for the key of its row."""
    types = (encrypted(parameter.type, compiled.dialect) for parameter in compiled.bind_names)
    return any(each is not None and each.row is not None for each in types)


def bind_rows(compiled: SQLCompiler, parameters: Any, context: Any) -> Any:  # noqa: ANN401
    """Returns the parameters of a statement, with each text that waited encrypted for its row.

    Args:
        parameters: as the driver will get them: those of one row, a list of such, or those of several rows in one.
        context: SQLAlchemy's, which has what they were made of.

    Raises:
        InvalidBindingError: the statement does not say which row a text is for.
    """
    sent = parameters if isinstance(parameters, list) else [parameters]
    if not any(isinstance(each, Waiting) for row in sent for each in _values(row)):
        return parameters
    # A long list of parameters is sent in parts, and bound with the first.
    if any(isinstance(each, Waiting) and not each.is_bound for row in sent for each in _values(row)):
        _bind_all(compiled, context)
    bound = [_encrypted(row) for row in sent]
    return bound if isinstance(parameters, list) else bound[0]


def _values(row: Any) -> Any:  # noqa: ANN401
    return row.values() if isinstance(row, Mapping) else row


def _encrypted(row: Any) -> Any:  # noqa: ANN401
    if isinstance(row, Mapping):
        return {name: each.stored if isinstance(each, Waiting) else each for name, each in row.items()}
    return tuple(each.stored if isinstance(each, Waiting) else each for each in row)


def _bind_all(compiled: SQLCompiler, context: Any) -> None:  # noqa: ANN401
    rows = _rows.get(compiled)
    if rows is None:
        rows = _rows[compiled] = _rows_of(compiled)
    # SQLAlchemy has no public names for what is sent, nor for what converts it.
    processors: Mapping[str, Any] = compiled._bind_processors  # noqa: SLF001
    for raw, sent in zip(context.compiled_parameters, context.parameters, strict=True):
        names: Sequence[Any] = list(sent) if isinstance(sent, Mapping) else compiled.positiontup or ()
        for at, waiting in enumerate(_values(sent)):
            key = rows.keys.get(waiting.name) if isinstance(waiting, Waiting) else None
            row = 0 if rows.row_of is None else rows.row_of.get(names[at] if at < len(names) else "", -1)
            name = None if key is None else key.names.get(row)
            if key is None or raw.get(name) is None:
                continue
            processor = processors.get(str(name))
            value = processor(raw[name]) if processor else raw[name]
            waiting.bound_to(key_text(value, key.column.type, context.dialect))


def _rows_of(compiled: SQLCompiler) -> _Rows:
    state: Any = compiled.compile_state
    statement = None if state is None else state.statement
    inner = () if statement is None else (each for each in iterate(statement) if isinstance(each, Insert | Update))
    if not isinstance(statement, Insert | Update) or any(each is not statement for each in inner):
        return _Rows({})
    table: Any = statement.table
    names = {found.row for each in table.c if (found := encrypted(each.type, compiled.dialect)) and found.row}
    columns = [key_column(table, name) for name in sorted(names)]
    if isinstance(statement, Update):
        given = {each: _in_condition(compiled, statement, each) for each in columns}
        return _Rows({each.name: _Key(each, {0: name}) for each, name in given.items() if name is not None})
    if statement.select is not None:
        return _Rows({})
    if state._has_multi_parameters:  # noqa: SLF001
        count = len(state._multi_parameters)  # noqa: SLF001
        return _Rows(
            {
                each.name: _Key(each, {row: parameter_of_row(compiled, each, row) for row in range(count)})
                for each in columns
            },
            {parameter_of_row(compiled, each, row): row for each in table.c for row in range(count)},
        )
    return _Rows({each.name: _Key(each, {0: name}) for each in columns if (name := _in_values(compiled, state, each))})


def _in_values(compiled: SQLCompiler, state: Any, column: Column[Any]) -> str | None:  # noqa: ANN401
    for key, value in (state._dict_parameters or {}).items():  # noqa: SLF001
        if column_of(column.table, key) is column:
            if isinstance(value, BindParameter):
                return parameter_name(compiled, value)
            return None if _is_computed(value) else column.key
    return column.key


def _in_condition(compiled: SQLCompiler, update: Update, column: Column[Any]) -> str | None:
    """The parameter that a column is equal to in every row that an UPDATE changes."""
    waiting: list[Any] = list(update._where_criteria)  # noqa: SLF001
    while waiting:
        each = waiting.pop()
        if isinstance(each, BooleanClauseList) and each.operator is operators.and_:
            waiting += each.clauses
        elif isinstance(each, BinaryExpression) and each.operator is operators.eq:
            for one, other in ((each.left, each.right), (each.right, each.left)):
                if isinstance(other, BindParameter) and getattr(one, "proxy_set", None) == {column}:
                    return parameter_name(compiled, other)
    return None


def misplaced(compiled: SQLCompiler) -> list[tuple[EncryptedType, str]]:
    """Returns what a statement would do to values that are bound to their row, and the types of their columns.

    It changes the key of rows; or stores a value of another row, as it is stored or under a key that is not the row's.
    """
    state: Any = compiled.compile_state
    if state is None or not isinstance(state.statement, Insert | Update):
        return []
    table: Any = state.statement.table
    types = {each: encrypted(each.type, compiled.dialect) for each in table.c}
    bound = {column: type_ for column, type_ in types.items() if type_ is not None and type_.row is not None}
    if not bound:
        return []
    is_update = isinstance(state.statement, Update)
    replaced = [] if is_update else list(on_conflict(state.statement))
    given = list(assignments(state))
    given = given[: len(given) - len(replaced)]
    keys = {type_.row: type_ for type_ in bound.values()}
    found: list[tuple[EncryptedType, str]] = []
    set_keys = [key for key, _, _ in (given if is_update else replaced)]
    for column in {column_of(table, key) for key in [*set_keys, *((compiled.column_keys or ()) if is_update else ())]}:
        if column is not None and column.name in keys:
            what = f"would change {column}, by which values of its row are bound to it; insert a new row instead"
            found.append((keys[column.name], what))
    for key, value, _ in given:
        column = column_of(table, key)
        if column in bound and _is_computed(value):
            found.append(
                (bound[column], f"would store in {column} what is bound to another row; read it, and write it")
            )
    target = _conflicting(state.statement)
    for key, value, _ in replaced:
        column = column_of(table, key)
        if column in bound and (
            target != [bound[column].row] or not (_is_excluded(value, column) or not _is_computed(value))
        ):
            row = bound[column].row
            what = (
                f"would replace {column} in a row that it does not find by {row}; write index_elements=[{row!r}] and "
            )
            found.append((bound[column], f"{what}excluded.{column.name}, or read the row first"))
    return found


def _conflicting(statement: Any) -> list[str] | None:  # noqa: ANN401
    """The columns by which an INSERT … ON CONFLICT finds the row that is there."""
    clause = getattr(statement, "_post_values_clause", None)
    elements = getattr(clause, "inferred_target_elements", None)
    return None if elements is None else [str(getattr(each, "name", each)) for each in elements]


def _is_excluded(value: Any, column: Column[Any]) -> bool:  # noqa: ANN401
    table = getattr(value, "table", None)
    return getattr(table, "name", "") == "excluded" and getattr(value, "name", "") == column.name


def _is_computed(value: Any) -> bool:  # noqa: ANN401
    value = clause_of(value)
    return isinstance(value, ClauseElement) and not isinstance(value, BindParameter | Null)
