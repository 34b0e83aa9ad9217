"""Our errors in the form that SQLAlchemy hands through, instead of printing them with a statement's parameters."""

from functools import cache
from typing import Any

from sqlalchemy.exc import DontWrapMixin

from keyrotation_pipeline.errors import KeyRotationError, restored


class _HandedThrough(DontWrapMixin):
    """Keeps SQLAlchemy from wrapping an error together with the statement's parameters."""

    plain: type[KeyRotationError]
    args: tuple[object, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (self.plain, self.args, self.__dict__)


@cache
def _handed_through(kind: type[KeyRotationError]) -> type[KeyRotationError]:
    """The same class of error, in the form that SQLAlchemy hands through (`errors` itself knows no SQLAlchemy)."""
    namespace = {
        "plain": kind,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (_HandedThrough, kind), namespace)


def unwrapped(error: KeyRotationError) -> KeyRotationError:
    """The same error, which SQLAlchemy raises as it is."""
    kind = _handed_through(type(error))  # type: ignore[arg-type]  # mypy takes a class for unhashable
    return restored(kind, error.args, error.__dict__)
