"""Records as plain JSON, and back: dataclasses whose annotations say exactly what is accepted.

Only what `as_json` writes is read again: no number for a text, no text for a number, no moment without an offset. It
needs nothing but Python's standard library, since a pack's `verify.py` reads records by this very code.
"""

import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from keyrotation_pipeline.errors import AuditError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

Record = TypeVar("Record")
Decoder = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Alias:
    """The name of a field in JSON, where it is a word of Python's."""

    name: str


@dataclass(frozen=True, slots=True)
class Between:
    """The least and the greatest number that a field takes."""

    least: int
    greatest: int


class _UnlessEmpty:
    """Marks a field that is left out of the JSON while it is empty, as it was before there was such a field."""


UNLESS_EMPTY = _UnlessEmpty()


class _InvalidError(Exception):
    """A value that its annotation does not accept; `where` leads to it from the outermost record."""

    def __init__(self, *where: str) -> None:
        super().__init__()
        self.where = where


def read(record: type[Record], facts: object) -> Record:
    """Read a record back from `as_json`; fields that it does not have are ignored.

    Raises:
        AuditError: the facts are not those of such a record; names the first wrong field.
    """
    try:
        found: Record = _decoder(record)(facts)
    except _InvalidError as error:
        where = ".".join(error.where) or "facts"
        raise AuditError(f"a record of the kind {record.__name__} has no valid {where}") from None
    return found


def as_json(record: object) -> dict[str, Any]:
    """A dataclass as plain JSON, with fields under their aliases.

    Raises:
        TypeError: as `json_safe`.
    """
    return {alias: _safe(value, name) for name, alias, value in _written(record)}


def _written(record: object) -> Iterator[tuple[str, str, object]]:
    """Each field that is in the JSON: its name, its name there, and its value."""
    for name, alias in _names(type(record)):
        value = getattr(record, name)
        if value or name not in _LEFT_OUT[type(record)]:
            yield name, alias, value


def json_safe(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Copy facts as plain JSON values: versions become ``v2``, instants ISO 8601 in UTC, tuples lists.

    Raises:
        TypeError: any other type, especially bytes and key material; names where, never what.
    """
    return {_name(name): _safe(value, str(name)) for name, value in facts.items()}


def _safe(value: object, where: str) -> object:
    # A StrEnum, or another subclass, becomes plain text or a number.
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | KeyVersion):
        return str(value)
    if isinstance(value, int):
        return int(value)
    return _safe_other(value, where)


def _safe_other(value: object, where: str) -> object:
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {_name(name): _safe(each, f"{where}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(each, f"{where}[]") for each in value]
    if is_dataclass(value):
        return {alias: _safe(each, f"{where}.{name}") for name, alias, each in _written(value)}
    raise TypeError(f"the fact {where} is of type {type(value).__name__}, which is not plain JSON")


def _name(name: object) -> str:
    if not isinstance(name, str | KeyVersion):
        raise TypeError(f"a fact is named by a {type(name).__name__}, not by a text")
    return str(name)


_NAMES: dict[type[Any], Sequence[tuple[str, str]]] = {}
_LEFT_OUT: dict[type[Any], frozenset[str]] = {}
_DECODERS: dict[Any, Decoder] = {}


def _names(record: type[Any]) -> Sequence[tuple[str, str]]:
    """Each field's name, and its name in JSON."""
    if record not in _NAMES:
        hints = get_type_hints(record, include_extras=True)
        _LEFT_OUT[record] = frozenset(name for name, hint in hints.items() if UNLESS_EMPTY in get_args(hint)[1:])
        _NAMES[record] = [(each.name, _alias(hints[each.name]) or each.name) for each in fields(record)]
    return _NAMES[record]


def _alias(hint: Any) -> str | None:  # noqa: ANN401  an annotation
    return next((each.name for each in get_args(hint)[1:] if isinstance(each, Alias)), None)


def _decoder(hint: Any) -> Decoder:  # noqa: ANN401  an annotation
    """What reads a value of this annotation; made once.

    Raises:
        TypeError: an annotation that no record may have.
    """
    if hint not in _DECODERS:
        _DECODERS[hint] = _made(hint)
    return _DECODERS[hint]


def _made(hint: Any) -> Decoder:  # noqa: ANN401  an annotation
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and origin is None:
        return _plain(hint)
    if origin is Annotated:
        return _annotated(_decoder(arguments[0]), [each for each in arguments[1:] if isinstance(each, Between)])
    if origin in {types.UnionType, Union} and type(None) in arguments:
        (other,) = (each for each in arguments if each is not type(None))
        return _optional(_decoder(other))
    if origin is tuple and arguments[1:] == (...,):
        return _several(_decoder(arguments[0]))
    if origin is Mapping and arguments[0] is str:
        return _named(_decoder(arguments[1]))
    raise TypeError(f"a record has a field of type {hint}, which cannot be read from JSON")


def _plain(hint: type[Any]) -> Decoder:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if is_dataclass(hint):
        return _record(hint)
    if issubclass(hint, StrEnum):
        return {str(each): each for each in hint}.__getitem__
    raise TypeError(f"a record has a field of type {hint.__name__}, which cannot be read from JSON")


def _refuse() -> Any:  # noqa: ANN401  nothing is returned
    raise _InvalidError


def _exactly(wanted: type[Any]) -> Decoder:
    return lambda value: value if type(value) is wanted else _refuse()


def _number(value: float) -> float:
    return float(value) if type(value) in {int, float} and math.isfinite(value) else _refuse()


def _instant(value: str) -> datetime:
    at = datetime.fromisoformat(value)
    return at.astimezone(UTC) if at.tzinfo is not None else _refuse()


def _day(value: str) -> date:
    found = date.fromisoformat(value)
    return found if found.isoformat() == value else _refuse()


_PLAIN: Mapping[Any, Decoder] = {
    **{each: _exactly(each) for each in (str, bool, int)},
    float: _number,
    datetime: _instant,
    date: _day,
    KeyVersion: KeyVersion.parse,
    Any: lambda value: value,
}


def _annotated(decode: Decoder, limits: Sequence[Between]) -> Decoder:
    if not limits:
        return decode
    (limit,) = limits

    def within(value: Any) -> Any:  # noqa: ANN401  a number
        found = decode(value)
        return found if limit.least <= found <= limit.greatest else _refuse()

    return within


def _optional(decode: Decoder) -> Decoder:
    return lambda value: None if value is None else decode(value)


def _several(decode: Decoder) -> Decoder:
    def each(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _InvalidError
        return tuple([_at(str(number), decode, one) for number, one in enumerate(value)])

    return each


def _named(decode: Decoder) -> Decoder:
    def each(value: object) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise _InvalidError
        return {name: _at(name, decode, one) for name, one in value.items()}

    return each


def _record(record: type[Any]) -> Decoder:
    hints = get_type_hints(record, include_extras=True)
    required = {each.name for each in fields(record) if each.default is MISSING and each.default_factory is MISSING}
    wanted = [(name, alias, _decoder(hints[name]), name in required) for name, alias in _names(record)]

    def decode(value: object) -> Any:  # noqa: ANN401  a record
        if not isinstance(value, dict):
            raise _InvalidError
        content = {}
        for name, alias, decode_field, is_required in wanted:
            if alias in value:
                content[name] = _at(alias, decode_field, value[alias])
            elif is_required:
                raise _InvalidError(alias)
        return record(**content)

    return decode


def _at(where: str, decode: Decoder, value: object) -> Any:  # noqa: ANN401  of the type of the annotation
    try:
        return decode(value)
    except _InvalidError as error:
        raise _InvalidError(where, *error.where) from None
    except (ValueError, TypeError, KeyError, OverflowError, InvalidKeyError):
        # Not a moment, not a name of the enumeration, not a version.
        raise _InvalidError(where) from None
