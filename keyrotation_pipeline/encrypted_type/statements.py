"""Checks every statement before it is sent, once for each form that SQLAlchemy caches."""

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.sql.compiler import Compiled, SQLCompiler
from sqlalchemy.sql.dml import Insert, Update

from keyrotation_pipeline.encrypted_type.assignments import copied_between_labels, refuse_assigning, refuse_sharing
from keyrotation_pipeline.encrypted_type.column import EncryptedType
from keyrotation_pipeline.encrypted_type.expressions import refuse_computing
from keyrotation_pipeline.encrypted_type.failures import unwrapped
from keyrotation_pipeline.encrypted_type.row_writes import bind_rows, may_wait, misplaced
from keyrotation_pipeline.errors import EncryptedExpressionError

_checked: WeakSet[Compiled] = WeakSet()
# Statements that copy stored values between columns that are bound otherwise, and the types of these columns.
_copying: WeakKeyDictionary[Compiled, list[EncryptedType]] = WeakKeyDictionary()
# Statements with a parameter whose type may wait for the key of its row.
_waiting: WeakSet[Compiled] = WeakSet()
# Statements that would separate values from their rows, in words, and the types of these columns.
_misplacing: WeakKeyDictionary[Compiled, list[tuple[EncryptedType, str]]] = WeakKeyDictionary()


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
        if compiled not in _checked:
            _check_compiled(compiled)
            if copying := copied_between_labels(compiled):
                _copying[compiled] = copying
            if may_wait(compiled):
                _waiting.add(compiled)
            if misplacing := misplaced(compiled):
                _misplacing[compiled] = misplacing
        if compiled in _copying:
            _refuse_copying(_copying[compiled])  # each time: the key ring changes
        if compiled in _misplacing:
            _refuse_misplacing(_misplacing[compiled])
        if compiled in _waiting:
            parameters = bind_rows(compiled, parameters, context)
    except BaseException:
        cursor.close()
        raise
    _checked.add(compiled)
    return statement, parameters


def _refuse_copying(types: list[EncryptedType]) -> None:
    for each in types:
        if each.holds_second_generation():
            raise unwrapped(
                EncryptedExpressionError(
                    f"the statement stores in the column bound as {each.binding} what is encrypted for another column, "
                    "where it could never be read; read the value, and write it"
                )
            )


def _refuse_misplacing(found: list[tuple[EncryptedType, str]]) -> None:
    for type_, what in found:
        if type_.binds_rows():
            raise unwrapped(EncryptedExpressionError(f"the statement {what}"))


def _check_compiled(compiled: SQLCompiler) -> None:
    state: Any = compiled.compile_state
    # After the ORM has resolved entities and attributes to tables and columns.
    statement = compiled.statement if state is None else state.statement
    if isinstance(statement, Insert | Update):
        refuse_assigning(compiled)
    for inner in refuse_computing(statement, compiled.dialect):
        if inner is not statement:
            refuse_assigning(inner.compile(dialect=compiled.dialect))
    refuse_sharing(compiled)
