"""What a user reads of an expected failure."""

import sys
from typing import Any

from keyrotation_pipeline.errors import KeyRotationError

_INSUFFICIENT_PRIVILEGE = "42501"
# What psycopg raises without a SQLSTATE, thus without the server, where a statement does not fit its parameters.
_BEFORE_ANYTHING_WAS_SENT = frozenset({"ProgrammingError", "DataError", "NotSupportedError"})


def message_of(error: Exception) -> str | None:
    """One sentence that says what to do; None: it is a defect, not an expected failure."""
    if isinstance(error, KeyRotationError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}; fix that, then run this again"
    return _of_database(error) if isinstance(error, _database_errors()) else None


def _database_errors() -> Any:  # noqa: ANN401  psycopg.Error, which has a `sqlstate`, or no class at all
    """Psycopg's errors, if the command has imported it."""
    psycopg = sys.modules.get("psycopg")
    return psycopg.Error if psycopg is not None else ()


def _of_database(error: Any) -> str:  # noqa: ANN401  as above
    if error.sqlstate == _INSUFFICIENT_PRIVILEGE:
        # Its first line names a schema, a table or a function, but nothing from a row.
        return (
            f"the database role lacks a right ({error.diag.message_primary}); grant it as "
            "deploy/sql/pipeline-role.sql does, and reset a `role` that ALTER DATABASE or ALTER ROLE has set"
        )
    # Its text, and a traceback that shows it, could contain row data.
    name = type(error).__name__
    if error.sqlstate is not None:
        return (
            f"the database refused or ended a statement ({name}, SQLSTATE {error.sqlstate}); see its log, then run "
            "this again"
        )
    if name in _BEFORE_ANYTHING_WAS_SENT:
        return (
            f"something could not be sent to the database ({name}), which is a defect of this program; report it "
            "with the command that you typed and `keyrotation --version`"
        )
    return f"the connection to the database was lost ({name}); check that the server runs, then run this again"
