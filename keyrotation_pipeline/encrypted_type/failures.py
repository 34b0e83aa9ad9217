"""Makes our errors pass through SQLAlchemy unchanged, instead of being printed with a statement's parameters."""

from collections.abc import Callable
from functools import cache
from typing import Any

from sqlalchemy.exc import DontWrapMixin

from keyrotation_pipeline.errors import EncryptedExpressionError, KeyRotationError, restored


class _PassedThrough(DontWrapMixin):
    """Prevents SQLAlchemy from wrapping an error together with the statement's parameters."""

    plain: type[KeyRotationError]
    args: tuple[object, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (self.plain, self.args, self.__dict__)


@cache
def _passed_through(kind: type[KeyRotationError]) -> type[KeyRotationError]:
    """Returns the same error class in the form that SQLAlchemy passes through (`errors` itself does not import it)."""
    namespace = {
        "plain": kind,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (_PassedThrough, kind), namespace)


def unwrapped(error: KeyRotationError) -> KeyRotationError:
    """Converts an error to one that SQLAlchemy raises unchanged."""
    kind = _passed_through(type(error))  # type: ignore[arg-type]  # mypy takes a class for unhashable
    return restored(kind, error.args, error.__dict__)


def refusal(text: str, kind: Callable[[str], KeyRotationError] = EncryptedExpressionError) -> KeyRotationError:
    """Returns an error of a statement that SQLAlchemy raises unchanged."""
    return unwrapped(kind(text))
