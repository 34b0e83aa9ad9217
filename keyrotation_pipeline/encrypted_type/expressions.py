"""Finds where a statement has the database compute with an encrypted column, of which it sees only ciphertext."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from sqlalchemy import inspect
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import (
    BinaryExpression,
    Cast,
    ClauseElement,
    ClauseList,
    ColumnClause,
    ColumnElement,
    Grouping,
    Label,
    Null,
    TypeCoerce,
)
from sqlalchemy.sql.functions import FunctionElement, count
from sqlalchemy.sql.selectable import Exists, Select, TableClause
from sqlalchemy.types import TypeDecorator, TypeEngine

from keyrotation_pipeline.encrypted_type.column import EncryptedType
from keyrotation_pipeline.encrypted_type.failures import refusal

# Transparent wrappers: they stand for the expression inside.
_TRANSPARENT = (Label, Grouping)


def encrypted(type_: TypeEngine[Any], dialect: Dialect) -> EncryptedType | None:
    """Returns the encrypting type behind a column type, also as a variant or inside another decorator."""
    found: TypeEngine[Any] = type_.dialect_impl(dialect)
    while isinstance(found, TypeDecorator):
        if isinstance(found, EncryptedType):
            return found
        found = found.impl_instance
    return None


def name_of(element: ClauseElement) -> str:
    """Returns the name of a column for an error; anything else could hold content and stays unnamed."""
    return str(element) if isinstance(element, ColumnClause) and not element.is_literal else "a value"


def clause_of(value: Any) -> Any:  # noqa: ANN401
    """Returns the expression that a value stands for, as an attribute of a class does; any other value as it is."""
    return (
        value
        if isinstance(value, ClauseElement) or not hasattr(value, "__clause_element__")
        else value.__clause_element__()
    )


def refuse_computing(statement: Any, dialect: Dialect) -> Iterator[Insert | Update]:  # noqa: ANN401
    """Refuses expressions over encrypted columns anywhere in a statement; yields every INSERT and UPDATE in it.

    What makes sense on ciphertext is allowed: selecting, IS NULL, EXISTS, count(), a bare column to group or sort by,
    and a cast, which yields the stored text.

    Raises:
        EncryptedExpressionError: names the column and how it was used.
    """
    waiting: list[tuple[Any, ColumnElement[Any] | None]] = [(statement, None)]
    seen: dict[int, Any] = {}  # keeps the objects alive, since an id may be reused
    while waiting:
        element, owner = waiting.pop()
        if isinstance(element, ColumnElement):
            if owner is not None and not _allows_encrypted(owner, element) and encrypted(element.type, dialect):
                _refuse(owner, element)
        elif id(element) in seen:
            continue
        else:
            seen[id(element)] = element
        if isinstance(element, Insert | Update):
            yield element
        waiting += [(below, _owner_below(element, owner)) for below in element.get_children()]
        waiting += [(other, None) for other in _not_among_children(element)]


def _not_among_children(element: object) -> Iterator[Any]:
    """Yields the subquery that a column is of, an upsert's condition, and what the ORM will select with a class."""
    if isinstance(element, ColumnClause) and not isinstance(element.table, TableClause | None):
        yield element.table
    condition = getattr(getattr(element, "_post_values_clause", None), "update_whereclause", None)
    if condition is not None:
        yield condition  # SQLAlchemy 2.0 does not list it as a child
    if isinstance(element, Select):
        for described in _descriptions(element):
            if described.get("entity") is not None and described["expr"] is described["entity"]:
                attributes = inspect(described["entity"]).mapper.column_attrs
                yield from (each.expression for each in attributes if not isinstance(each.expression, ColumnClause))


def _descriptions(select: Select[Any]) -> Sequence[Mapping[str, Any]]:
    try:
        found: Sequence[Mapping[str, Any]] = select.column_descriptions
    except AttributeError:
        # SQLAlchemy cannot describe the asterisk of `exists().where(…)`, next to which nothing else can be selected.
        return ()
    return found


def _owner_below(element: object, owner: ColumnElement[Any] | None) -> ColumnElement[Any] | None:
    """Returns the expression that has what is directly below `element` as an operand."""
    if isinstance(element, _TRANSPARENT) or (
        isinstance(element, ClauseList) and not isinstance(element, ColumnElement)
    ):
        return owner
    return element if isinstance(element, ColumnElement) else None


def _allows_encrypted(owner: ColumnElement[Any], operand: ColumnElement[Any]) -> bool:
    if isinstance(owner, BinaryExpression) and owner.operator in {operators.is_, operators.is_not}:
        return isinstance(owner.right if operand is owner.left else owner.left, Null)
    return isinstance(owner, Cast | TypeCoerce | Exists | count)


def _refuse(owner: ColumnElement[Any], operand: ColumnElement[Any]) -> NoReturn:
    made = f"{owner.name}()" if isinstance(owner, FunctionElement) else f"a SQL expression ({type(owner).__name__})"
    raise refusal(
        f"{name_of(operand)} is encrypted and cannot be used in {made}; read the column and compute in Python, or "
        "write cast(column, Text) for its ciphertext"
    )
