"""Looks at every statement before it is sent, once for each form that SQLAlchemy keeps in its cache."""

from typing import Any
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.sql.compiler import Compiled, SQLCompiler
from sqlalchemy.sql.dml import Insert, Update

from keyrotation_pipeline.encrypted_type.assignments import refuse_assigning, refuse_sharing
from keyrotation_pipeline.encrypted_type.expressions import refuse_computing

_looked_at: WeakSet[Compiled] = WeakSet()


# SQLAlchemy asks the type of a column how a *value* is sent, and never what becomes of a SQL expression. This event
# comes for Core, ORM and asyncio alike, on every engine, when a statement is compiled and not yet sent.
@event.listens_for(Engine, "before_cursor_execute")
def look(connection: object, cursor: Any, statement: str, parameters: object, context: Any, many: bool) -> None:  # noqa: ANN401, ARG001, FBT001
    """Refuse a statement that computes with or into an encrypted column.

    Hand-written SQL cannot be looked at: ``text()``, ``exec_driver_sql`` and columns that are declared as plain text.

    Raises:
        EncryptedExpressionError: names the column, and says what to write instead.
    """
    compiled = context.compiled if context is not None else None
    if compiled is None or compiled in _looked_at:
        return
    if isinstance(compiled, SQLCompiler):
        try:
            _look_at(compiled)
        except BaseException:
            cursor.close()
            raise
    _looked_at.add(compiled)


def _look_at(compiled: SQLCompiler) -> None:
    state: Any = compiled.compile_state
    # After the ORM has resolved entities and attributes to tables and columns.
    statement = compiled.statement if state is None else state.statement
    if isinstance(statement, Insert | Update):
        refuse_assigning(compiled)
    for inner in refuse_computing(statement, compiled.dialect):
        if inner is not statement:
            refuse_assigning(inner.compile(dialect=compiled.dialect))
    refuse_sharing(compiled)
