"""Reports of application instances as they came from outside: parsed one by one, and counted as far as proven."""

import hmac
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import groupby
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    InstanceOf,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError, from_json

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.possession import proof_of_possession
from keyrotation_pipeline.fieldcrypto.reads import NO_VERSION
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY
from keyrotation_pipeline.model.fleet import Decrypted, Failed, Instance, Pod

TABLE = "instance_reports"
# Between reading the time of the database and storing a report that names it; a clock that is set may go back a little.
STORED_WITHIN, CLOCK_STEP = timedelta(minutes=1), timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One stored report.

    Args:
        report: JSON, as the instance wrote it.
        proofs: ``v1=<64 hex digits> v2=<…>``, by the keys that it names; see `fieldcrypto.possession`. A key is named
            by its version or, where the application gets no versions, by its fingerprint.
        reported_at: aware, when the database stored it.
        silent: it is so old that the instance may have ended since.
        table: where it is stored, with its schema.
    """

    id: int
    instance: str
    report: str
    proofs: str
    reported_at: datetime
    silent: bool
    table: str


@dataclass(frozen=True, slots=True)
class Reported:
    """What all stored reports say.

    Args:
        instances: in the order of their names; not those that signed off.
        departed: instances that signed off with proof, and the id of their last row.
        disproved: whether a proof is missing or wrong, or a key unknown, as if the keys were read too early.
    """

    instances: tuple[Instance, ...]
    departed: Mapping[str, int]
    disproved: bool


def read_reports(
    rows: Iterable[ReportRow], keys: Mapping[KeyVersion, KeyMaterial], canary: KeyMaterial | None = None
) -> Reported:
    """Reads every report; a wrong one is a problem of the instance that it names, and of no other.

    Args:
        rows: those of one instance together.
        keys: every key of the key store, live or archived.
        canary: what shows that an instance opens sealed keys; None: there is none.
    """
    instances, departed, disproved = [], dict[str, int](), False
    for name, found in groupby(rows, key=lambda each: each.instance):
        judged = [_judged(each, keys) for each in found]
        disproved |= any(each.unproven or each.names_unknown_key for each in judged)
        last = max((each for each in judged if each.counts), key=lambda each: each.at, default=None)
        if last is not None and last.content is not None and last.content.sign_off:
            departed[name] = max(each.row.id for each in judged)
        else:
            instance = _instance(name, last or judged[-1], judged)
            opens = last is not None and canary is not None and _opens(last.row, canary)
            instances.append(replace(instance, opens_sealed=opens))
    return Reported(tuple(instances), departed, disproved)


def _utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:  # at either end of the calendar
        raise ValueError(at.year) from None


def _version(name: object, info: ValidationInfo) -> KeyVersion:
    known: Mapping[str, KeyVersion] = info.context or {}
    try:
        return known.get(str(name)) or KeyVersion.parse(str(name))
    except InvalidKeyError:
        if re.fullmatch(r"[0-9a-f]{64}", str(name)):
            raise PydanticCustomError(_UNKNOWN_KEY, "a fingerprint") from None
        raise ValueError from None


def _version_or_none(name: str, info: ValidationInfo) -> str:
    return name if name == NO_VERSION else str(_version(name, info))


def _without_canary(names: object) -> object:
    return [each for each in names if each != CANARY] if isinstance(names, list) else names


_UNKNOWN_KEY: Final = "unknown_key"
_Version = Annotated[InstanceOf[KeyVersion], BeforeValidator(_version)]
_UtcTime = Annotated[AwareDatetime, AfterValidator(_utc)]
_Number = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass(frozen=True, slots=True)
class _Count:
    values: _Number
    last_at: _UtcTime
    minutes: Mapping[_UtcTime, _Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Content:
    """The JSON of a report; what else is in it is ignored."""

    nonce: Annotated[str, Field(max_length=100)]
    at: _UtcTime
    reads: Annotated[
        tuple[_Version, ...], BeforeValidator(_without_canary)
    ]  # empty only while the primary is plaintext
    writes: _Version
    names_primary: bool = False
    sign_off: Annotated[bool, Field(alias="farewell")] = False
    pod: Pod | None = None
    decrypted: Mapping[_Version, _Count] = field(default_factory=dict)
    failed: Mapping[Annotated[str, AfterValidator(_version_or_none)], _Count] = field(default_factory=dict)
    encrypts_from: Mapping[str, _Number] = field(default_factory=dict)
    old_forms: Mapping[str, str] = field(default_factory=dict)

    @property
    def versions(self) -> tuple[KeyVersion, ...]:
        return tuple(sorted({*self.reads, self.writes} - {PLAINTEXT}))


@cache
def _adapter() -> TypeAdapter[_Content]:
    return TypeAdapter(_Content)


@dataclass(frozen=True, slots=True)
class _Judged:
    """One row: its content, unless it is malformed, and the versions that are proven or not.

    Args:
        problem: why it does not count, or not for some of its versions.
        names_unknown_key: it names a fingerprint that no known key has.
    """

    row: ReportRow
    content: _Content | None = None
    proven: tuple[KeyVersion, ...] = ()
    unproven: tuple[KeyVersion, ...] = ()
    problem: str | None = None
    names_unknown_key: bool = False

    @property
    def counts(self) -> bool:
        """Whether the sender holds a key, and for a sign-off, all that it names."""
        return bool(self.proven) and not (self.content is not None and self.content.sign_off and self.unproven)

    @property
    def at(self) -> datetime:
        return self.row.reported_at if self.content is None else self.content.at


def _judged(row: ReportRow, keys: Mapping[KeyVersion, KeyMaterial]) -> _Judged:
    try:
        given = from_json(row.report)  # of a bounded depth
    except ValueError:
        return _Judged(row, problem=_about(row, "it is not JSON"))
    try:
        content = _adapter().validate_python(given, context={key.fingerprint: each for each, key in keys.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == _UNKNOWN_KEY:
            return _Judged(
                row, problem=_about(row, "it names a key that is not in the key store"), names_unknown_key=True
            )
        # Only the field: its value may be anything.
        where = next(iter(first["loc"]), None)
        return _Judged(row, problem=_about(row, f"its {where} is malformed" if where else "it is no JSON object"))
    if not content.reads and content.writes != PLAINTEXT:
        return _Judged(row, problem=_about(row, "its reads is malformed"))
    proofs = dict(each.partition("=")[::2] for each in row.proofs.split())
    if not -CLOCK_STEP <= row.reported_at - content.at <= STORED_WITHIN:
        return _Judged(row, problem=_about(row, "it was made at another time than it was stored"))
    proven = tuple(each for each in content.versions if _is_proven(row, each, proofs, keys))
    unproven = tuple(each for each in content.versions if each not in proven)
    lacks = f"it has no valid proof that the instance holds {', '.join(map(str, unproven))}"
    return _Judged(row, content, proven, unproven, _about(row, lacks) if unproven else None)


def _is_proven(
    row: ReportRow, version: KeyVersion, proofs: Mapping[str, str], keys: Mapping[KeyVersion, KeyMaterial]
) -> bool:
    if version not in keys:
        return False
    key = keys[version]
    return any(
        hmac.compare_digest(proofs[name].encode(), proof_of_possession(key, name, row.instance, row.report).encode())
        for name in (str(version), key.fingerprint)
        if name in proofs
    )


def _opens(row: ReportRow, canary: KeyMaterial) -> bool:
    proofs = dict(each.partition("=")[::2] for each in row.proofs.split())
    proof = proof_of_possession(canary, CANARY, row.instance, row.report)
    return hmac.compare_digest(proofs.get(CANARY, "").encode(), proof.encode())


def _about(row: ReportRow, why: str) -> str:
    return f"row {row.id} of {row.table}: {why}"


def _instance(name: str, last: _Judged, judged: Sequence[_Judged]) -> Instance:
    problem = last.problem or next((each.problem for each in reversed(judged) if each.problem), None)
    content = last.content
    if content is None or not last.counts:
        return Instance(
            name, (), None, last.row.reported_at, last.row.silent, names_primary=False,
            unproven=() if content is None else content.versions, problem=problem,
        )  # fmt: skip
    return Instance(
        name=name,
        reads=tuple(sorted(set(content.reads).intersection(last.proven))),
        writes=content.writes if content.writes in {PLAINTEXT, *last.proven} else None,
        reported_at=last.row.reported_at,
        silent=last.row.silent,
        decrypted=tuple(_decrypted(content)),
        failed=tuple(_failed(content)),
        names_primary=content.names_primary,
        unproven=last.unproven,
        nonce=content.nonce,
        pod=content.pod,
        problem=problem,
        encrypts_from=content.encrypts_from,
        old_forms=content.old_forms,
    )


def _decrypted(content: _Content) -> Iterator[Decrypted]:
    for version, count in sorted(content.decrypted.items()):
        yield Decrypted(version, count.values, count.last_at)


def _failed(content: _Content) -> Iterator[Failed]:
    for version, count in sorted(content.failed.items()):
        yield Failed(version, count.values, count.last_at, count.minutes)
