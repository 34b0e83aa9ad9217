"""Facts: what the audit and the records of steps may hold. Plain JSON, so that nobody can hand in a key by mistake."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, InstanceOf, PlainSerializer, TypeAdapter, ValidationError

from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion


def _version(value: object) -> object:
    return KeyVersion.parse(value) if isinstance(value, str) else value


Record = TypeVar("Record")
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
# A key version that JSON names ``v2``.
Version = Annotated[InstanceOf[KeyVersion], BeforeValidator(_version), PlainSerializer(str)]


def as_json(record: object) -> dict[str, Any]:
    """A dataclass as plain JSON; a field's alias is its name there.

    Raises:
        TypeError: as `json_safe`.
    """
    return json_safe(_adapter(type(record)).dump_python(record, by_alias=True))


def read(record: type[Record], facts: object) -> Record:
    """What `as_json` made.

    Raises:
        AuditError: the facts are not those of such a record; names the first field that is not.
    """
    try:
        found: Record = _adapter(record).validate_python(facts)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "facts"
        raise AuditError(f"a record of the kind {record.__name__} has no valid {where}") from None
    return found


def _adapter(record: type[Any]) -> TypeAdapter[Any]:
    if record not in _ADAPTERS:
        _ADAPTERS[record] = TypeAdapter(record)
    return _ADAPTERS[record]


def json_safe(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Copy facts as plain JSON values: versions become ``v2``, instants ISO 8601 in UTC, tuples lists.

    Raises:
        TypeError: anything else, bytes and key material above all; names where, never what.
    """
    return {_name(name): _safe(value, str(name)) for name, value in facts.items()}


def instant(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with seconds, as JSON has times."""
    return at.astimezone(UTC).isoformat(timespec="seconds") if at else None


def names(versions: Iterable[KeyVersion]) -> list[str]:
    """Key versions as JSON names them."""
    return [str(version) for version in versions]


def _safe(value: object, where: str) -> object:
    # A StrEnum, or another subclass, becomes the plain text or number that it is.
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
    raise TypeError(f"the fact {where} is of type {type(value).__name__}, which is not plain JSON")


def _name(name: object) -> str:
    if not isinstance(name, str | KeyVersion):
        raise TypeError(f"a fact is named by a {type(name).__name__}, not by a text")
    return str(name)
