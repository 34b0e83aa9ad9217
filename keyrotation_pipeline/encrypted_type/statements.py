"""Checks every statement before it is sent, once for each form that SQLAlchemy caches."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.sql.compiler import Compiled, SQLCompiler
from sqlalchemy.sql.dml import Insert, Update

from keyrotation_pipeline.encrypted_type.assignments import copied_between_labels, refuse_assigning, refuse_sharing
from keyrotation_pipeline.encrypted_type.column import EncryptedType
from keyrotation_pipeline.encrypted_type.expressions import refuse_computing
from keyrotation_pipeline.encrypted_type.failures import refusal
from keyrotation_pipeline.encrypted_type.index_writes import (
    IndexedText,
    indexed_texts,
    refuse_inner,
    require_same,
)
from keyrotation_pipeline.encrypted_type.row_writes import bind_rows, may_wait, misplaced


@dataclass(frozen=True, slots=True)
class _Checked:
    """What is looked at whenever a statement that passed is sent again, since the key ring changes.

    Args:
        copying: the types of columns that it fills with stored values of columns that are bound otherwise.
        misplacing: how it would separate values from their rows, in words, with the types of these columns.
        may_wait: whether the type of a parameter may wait for the key of its row.
        indexed: where it has texts and their search indexes, which its parameters give.
    """

    copying: list[EncryptedType]
    misplacing: list[tuple[EncryptedType, str]]
    may_wait: bool
    indexed: list[IndexedText]


_checked: WeakKeyDictionary[Compiled, _Checked] = WeakKeyDictionary()


# SQLAlchemy asks a column's type how to send a *value*, but not what to do with a SQL expression. This event fires for
# Core, ORM and asyncio alike, on every engine, when a statement is compiled and not yet sent.
@event.listens_for(Engine, "before_cursor_execute", retval=True)
def check(
    connection: object,  # noqa: ARG001
    cursor: Any,  # noqa: ANN401
    statement: str,
    parameters: Any,  # noqa: ANN401
    context: Any,  # noqa: ANN401
    many: bool,  # noqa: ARG001, FBT001
) -> tuple[str, Any]:
    """Refuses a statement that computes with or into an encrypted column; encrypts texts that waited for their row.

    Hand-written SQL cannot be checked: ``text()``, ``exec_driver_sql`` and columns that are declared as plain text.

    Raises:
        EncryptedExpressionError: names the column, and says what to write instead.
    """
    compiled = context.compiled if context is not None else None
    if compiled is None or not isinstance(compiled, SQLCompiler):
        return statement, parameters
    try:
        found = _checked.get(compiled) or _check_compiled(compiled)
        _refuse_copying(found.copying)
        _refuse_misplacing(found.misplacing)
        require_same(found.indexed, context)
        if found.may_wait:
            parameters = bind_rows(compiled, parameters, context)
    except BaseException:
        cursor.close()
        raise
    _checked[compiled] = found
    return statement, parameters


def _refuse_copying(types: list[EncryptedType]) -> None:
    for each in types:
        if each.holds_second_generation():
            raise refusal(
                f"the statement stores in the column bound as {each.binding} what is encrypted for another, where "
                "it could never be read; read the value, and write it"
            )


def _refuse_misplacing(found: list[tuple[EncryptedType, str]]) -> None:
    for type_, what in found:
        if type_.binds_rows():
            raise refusal(f"the statement {what}")


def _check_compiled(compiled: SQLCompiler) -> _Checked:
    state: Any = compiled.compile_state
    # After the ORM has resolved entities and attributes to tables and columns.
    statement = compiled.statement if state is None else state.statement
    if isinstance(statement, Insert | Update):
        refuse_assigning(compiled)
    for inner in refuse_computing(statement, compiled.dialect):
        if inner is not statement:
            within: Any = inner.compile(dialect=compiled.dialect)
            refuse_assigning(within)
            refuse_inner(indexed_texts(within))
    refuse_sharing(compiled)
    return _Checked(copied_between_labels(compiled), misplaced(compiled), may_wait(compiled), indexed_texts(compiled))
