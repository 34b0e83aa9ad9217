"""Converts the server's errors to sentences that hold nothing of a row.

A server message may hold a row: the DETAIL of a violated CHECK is the whole row, with its plaintext columns. So we use
only the SQLSTATE and the names that come with it, and the error itself is neither cause nor context of ours.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import psycopg
from psycopg import errors

from keyrotation_pipeline.adapters.postgres.server.connection import READ_ONLY
from keyrotation_pipeline.errors import BlockedError, DatabaseUnavailableError, KeyRotationError, PreflightError

P = ParamSpec("P")
T = TypeVar("T")

# Another session has locked the table, or the server has resolved a deadlock: a retry may succeed.
WORTH_ANOTHER_TRY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)

# After a step that re-encrypts rows, and after everything else: no rotation needs to be open there.
ROTATE_AGAIN = "run `keyrotation rotate` again, it continues from here"
AGAIN = "run this again"

_MESSAGES: tuple[tuple[tuple[type[psycopg.Error], ...], type[KeyRotationError], str], ...] = (
    (
        (errors.StringDataRightTruncation,),
        PreflightError,
        "a re-encrypted value is too long for its column{where}, and was not written; widen the column",
    ),
    (
        (errors.CheckViolation,),
        PreflightError,
        "a CHECK of the table or of a domain refuses re-encrypted values{where}, which were not written; change it",
    ),
    (
        (errors.InsufficientPrivilege,),
        PreflightError,
        (
            "the database role may not read or update all rows{where}; GRANT SELECT, UPDATE on the table (and "
            "BYPASSRLS to the role, where the table has row-level security)"
        ),
    ),
    (
        (errors.ReadOnlySqlTransaction,),
        PreflightError,
        f"the database {READ_ONLY}",
    ),
    (
        (errors.UndefinedTable, errors.UndefinedColumn),
        PreflightError,
        "a table or column was dropped or renamed meanwhile{where}; correct [[tables]] in keyrotation.toml",
    ),
    (
        (errors.CharacterNotInRepertoire,),
        PreflightError,
        "the key of a row to be named is not valid UTF-8{where}; correct the key",
    ),
    (
        (errors.UniqueViolation,),
        PreflightError,
        "two rows hold one text under two keys{where}, which a unique index refuses; find them, and change one",
    ),
    ((errors.LockNotAvailable,), BlockedError, "the table is locked by another session; wait until that has ended"),
    ((errors.DiskFull,), BlockedError, "the database server's disk is full; make room"),
)


def without_content(again: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes a function raise a `KeyRotationError` instead of psycopg's errors.

    Args:
        again: `ROTATE_AGAIN` or `AGAIN`, the end of each sentence.
    """

    def of(step: Callable[P, T]) -> Callable[P, T]:
        @wraps(step)
        def translated(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return step(*args, **kwargs)
            except psycopg.Error as error:
                refusal = _refusal_of(error, again)
            # Raised outside the handler; inside, the server's error would become its context.
            raise refusal

        return translated

    return of


def _refusal_of(error: psycopg.Error, again: str) -> KeyRotationError:
    if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
        return DatabaseUnavailableError(f"the connection to the database was lost; when it is back, {again}")
    where = _where(error)
    for kinds, refusal, message in _MESSAGES:
        if isinstance(error, kinds):
            return refusal(f"{message.format(where=where)}, then {again}")
    return BlockedError(
        f"the database refused a statement of the engine{where} (SQLSTATE {error.sqlstate}), and nothing of that batch "
        f"was written; see the server's log, then {again}"
    )


def _where(error: psycopg.Error) -> str:
    names = [
        f"{kind} {name}"
        for kind, name in (
            ("table", error.diag.table_name),
            ("column", error.diag.column_name),
            ("constraint", error.diag.constraint_name),
        )
        if name
    ]
    return f" ({', '.join(names)})" if names else ""
