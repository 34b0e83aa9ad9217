"""Finds statements in which the database computes the value to store in an encrypted column."""

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from sqlalchemy.engine import Dialect
from sqlalchemy.schema import DefaultClause
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import (
    BindParameter,
    Cast,
    ClauseElement,
    ColumnClause,
    ColumnElement,
    Grouping,
    Label,
    Null,
    TypeCoerce,
)
from sqlalchemy.sql.selectable import (
    CompoundSelect,
    ScalarSelect,
    Select,
    SelectStatementGrouping,
    TableClause,
    TextualSelect,
)
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.types import NullType

from keyrotation_pipeline.encrypted_type.column import EncryptedType
from keyrotation_pipeline.encrypted_type.expressions import clause_of, encrypted, name_of
from keyrotation_pipeline.encrypted_type.failures import refusal
from keyrotation_pipeline.encrypted_type.search_index import SearchIndex

# Column or its name, value, and whether an untyped parameter takes the type of the column.
Assignment = tuple[Any, Any, bool]
_Binding = tuple[str | None, str | None, int | None]


def refuse_assigning(compiled: SQLCompiler) -> None:
    """Refuses a compiled INSERT or UPDATE that stores the result of an expression in an encrypted column.

    Strings, parameters, NULL and columns under the same key ring pass.

    Raises:
        EncryptedExpressionError: names the column.
    """
    state: Any = compiled.compile_state
    table, dialect = state.statement.table, compiled.dialect
    assigned = list(assignments(state))
    for key, value, takes_type in assigned:
        column = column_of(table, key)
        wanted = None if column is None else encrypted(column.type, dialect)
        if wanted is not None and not _storable(value, wanted, dialect, takes_type=takes_type):
            _refuse(column)
    replaced = [key for key, _, _ in on_conflict(state.statement)] if isinstance(state.statement, Insert) else []
    # A row that is inserted gets nothing of what is set where there is one already.
    inserted = [key for key, _, _ in assigned[: len(assigned) - len(replaced)]]
    given = {*(compiled.column_keys or ()), *(getattr(key, "key", key) for key in inserted)}
    for column in table.c:
        if column.key not in given and _is_filled_in(column, state) and encrypted(column.type, dialect):
            _refuse(column)


def refuse_sharing(compiled: SQLCompiler) -> None:
    """Refuses one parameter in two places that would store it differently: SQLAlchemy would send one value to both.

    Raises:
        EncryptedExpressionError: names the parameter.
    """
    first: dict[str, object] = {}
    for parameter, name in compiled.bind_names.items():
        type_ = parameter.type
        found: object = _ring(encrypted(type_, compiled.dialect))
        if isinstance(type_, SearchIndex):
            found = (type_.key_ring, type_.binding, type_.odd, type_.normalise, type_.size_bytes)
        if first.setdefault(name, found) != found:
            raise refusal(
                f"parameter {name} is encrypted or indexed, and used for another column, too; give each column a "
                "parameter of its own, or its value"
            )


def copied_between_labels(compiled: SQLCompiler) -> list[EncryptedType]:
    """Returns the types of columns that a statement fills with the stored value of a column that is bound otherwise.

    In the second generation such a value would open nowhere. A parameter that two columns share is such a value, too.
    """
    state: Any = compiled.compile_state
    found: list[EncryptedType] = []
    if state is not None and isinstance(state.statement, Insert | Update):
        for key, value, _ in assignments(state):
            column = column_of(state.statement.table, key)
            wanted = None if column is None else encrypted(column.type, compiled.dialect)
            if wanted is not None and _bindings_in(value, compiled.dialect) - {_binding(wanted)}:
                found.append(wanted)
    bindings: dict[str, _Binding] = {}
    for parameter, name in compiled.bind_names.items():
        type_ = encrypted(parameter.type, compiled.dialect)
        if type_ is not None and bindings.setdefault(name, _binding(type_)) != _binding(type_):
            found.append(type_)
    return found


def _bindings_in(value: Any, dialect: Dialect) -> set[_Binding]:  # noqa: ANN401
    value = clause_of(value)
    if not isinstance(value, ClauseElement):
        return set()
    if isinstance(value, Label | Grouping):
        return _bindings_in(value.element, dialect)
    if isinstance(value, ScalarSelect):  # stores what it selects, whatever its conditions read
        selects = [each for each in _simple_selects(value.element) if isinstance(each, Select)]
        return {
            found for each in selects for column in each.selected_columns for found in _bindings_in(column, dialect)
        }
    columns = (each for each in iterate(value) if isinstance(each, ColumnClause | BindParameter))
    types = (encrypted(column.type, dialect) for column in columns)
    return {_binding(each) for each in types if each is not None}


def _binding(type_: EncryptedType) -> _Binding:
    """What values are bound to in the second generation: the label, and the row's key from a version on."""
    return type_.binding, type_.row, type_.row_from


def assignments(state: Any) -> Iterator[Assignment]:  # noqa: ANN401
    """Yields what a compiled INSERT or UPDATE stores, that of ON CONFLICT at the end."""
    # SQLAlchemy has no public name for the values after the ORM has resolved attributes to columns. A release without
    # these names fails here, before anything is sent.
    for number, row in enumerate(state._multi_parameters or [state._dict_parameters or {}]):  # noqa: SLF001
        yield from ((key, value, number == 0) for key, value in row.items())
    if isinstance(state.statement, Insert):
        yield from ((key, value, False) for row in selected(state.statement) for key, value in row.items())
        yield from on_conflict(state.statement)


def selected(insert: Any) -> Iterator[Mapping[Any, Any]]:  # noqa: ANN401
    """Yields what INSERT … SELECT stores, by columns or their names; of a UNION, for each of its SELECTs."""
    names = insert._select_names or ()  # noqa: SLF001
    for select in _simple_selects(insert.select) if names else ():
        columns = list(select.selected_columns) if isinstance(select, Select) else []
        # Hand-written SQL, or columns that cannot be told apart: what is stored is unknown.
        values = columns if len(columns) == len(names) else [select] * len(names)
        yield dict(zip(names, values, strict=True))


def on_conflict(insert: Any) -> Iterator[Assignment]:  # noqa: ANN401
    """Yields those of INSERT … ON CONFLICT DO UPDATE (PostgreSQL, SQLite) or ON DUPLICATE KEY UPDATE (MySQL)."""
    clause = insert._post_values_clause  # noqa: SLF001
    pairs = getattr(clause, "update_values_to_set", None) or getattr(clause, "update", None) or ()
    for key, value in pairs.items() if isinstance(pairs, Mapping) else pairs:
        # SQLAlchemy renders an unknown key with a warning, and its value without a type.
        known = key in insert.table.c if isinstance(key, str) else insert.table.c.contains_column(key)
        yield key, value if known else clause, True


def _simple_selects(select: object) -> Iterator[object]:
    """Yields the SELECTs of a UNION."""
    if isinstance(select, CompoundSelect):
        for each in select.selects:
            yield from _simple_selects(each)
    else:
        yield from _simple_selects(select.element) if isinstance(select, SelectStatementGrouping) else (select,)


def column_of(table: Any, key: Any) -> Any:  # noqa: ANN401
    """Returns the column of an assignment; None for an unknown one."""
    if isinstance(key, str):
        return table.c.get(key, next((column for column in table.c if column.name == key), None))
    return clause_of(key)


def parameter_name(compiled: SQLCompiler, parameter: BindParameter[Any]) -> str | None:
    """Returns the name by which a statement's parameter is given; None: it is not in the compiled statement."""
    # A parameter without a type is copied, with that of its column, and keeps its key.
    known = compiled.binds.get(parameter.key)
    return None if known is None else compiled.bind_names.get(known)


def parameter_of_row(compiled: SQLCompiler, column: Any, row: int) -> str:  # noqa: ANN401
    """Returns the parameter of a column in one of several VALUES; the default of the first has the column's name."""
    name = f"{column.key}_m{row}"
    return name if row or name in compiled.binds else str(column.key)


def _is_filled_in(column: Any, state: Any) -> bool:  # noqa: ANN401
    """Returns whether the database computes the value of a column that a statement leaves out."""
    if not state.isupdate and isinstance(getattr(column, "server_default", None), DefaultClause):
        return True
    default = default_of(column, state)
    return default is not None and default.is_clause_element


def default_of(column: Any, state: Any) -> Any:  # noqa: ANN401
    """Returns what SQLAlchemy fills a column with that a statement leaves out."""
    return getattr(column, "onupdate" if state.isupdate else "default", None)


def _storable(value: Any, wanted: EncryptedType, dialect: Dialect, *, takes_type: bool = False) -> bool:  # noqa: ANN401
    """Returns whether what the database stores for `value` is encrypted under the ring of `wanted`."""
    value = clause_of(value)
    if not isinstance(value, ClauseElement) or isinstance(value, Null):
        return True  # a Python value gets the type of the column
    if isinstance(value, ScalarSelect):
        return all(_all_storable(select, wanted, dialect) for select in _simple_selects(value.element))
    if isinstance(value, Label | Grouping):
        return _storable(value.element, wanted, dialect)
    if not isinstance(value, ColumnElement) or _ring(encrypted(value.type, dialect)) != _ring(wanted):
        return isinstance(value, BindParameter) and takes_type and isinstance(value.type, NullType)
    if isinstance(value, TypeCoerce | Cast):
        return _storable(value.clause, wanted, dialect)
    return isinstance(value, BindParameter) or (isinstance(value, ColumnClause) and _has_origin(value, wanted, dialect))


def _all_storable(select: object, wanted: EncryptedType, dialect: Dialect) -> bool:
    return isinstance(select, Select) and all(_storable(each, wanted, dialect) for each in select.selected_columns)


def _has_origin(column: ColumnClause[Any], wanted: EncryptedType, dialect: Dialect) -> bool:
    """Returns whether a column belongs to a table, or to a subquery that selects such a column."""
    if isinstance(column.table, TableClause):
        return not column.is_literal
    if column.table is None or any(isinstance(part, TextualSelect) for part in iterate(column.table)):
        return False
    return all(base is not column and _storable(base, wanted, dialect) for base in column.base_columns)


def _ring(found: EncryptedType | None) -> object:
    return None if found is None else (found.key_ring, found.legacy, found.encrypted_from)


def _refuse(column: Any) -> NoReturn:  # noqa: ANN401
    raise refusal(
        f"{name_of(column)} is encrypted, and takes no SQL expression or column of another type; compute the "
        "value in Python"
    )
