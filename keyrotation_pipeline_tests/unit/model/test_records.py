"""Records as JSON and back: every kind of fact, and what none of them accepts."""

# ruff: noqa: ANN401  annotations, and JSON

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from enum import StrEnum
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyrotation_pipeline.audit.events import RECORDS
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.fieldcrypto.grammar import MAX_VERSION_NUMBER, KeyVersion
from keyrotation_pipeline.model.records import Alias, Between, as_json, read

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
DAYS = datetime(2, 1, 1), datetime(9998, 1, 1)  # noqa: DTZ001  hypothesis adds the offset
LEAVES: Mapping[Any, st.SearchStrategy[Any]] = {
    str: st.text(),
    int: st.integers(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    date: st.dates(),
    datetime: st.datetimes(*DAYS, timezones=st.just(UTC) | st.just(timezone(timedelta(hours=9)))),
    KeyVersion: st.integers(1, MAX_VERSION_NUMBER).map(KeyVersion),
    Any: PLAIN,
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in LEAVES:
        return LEAVES[hint]
    if origin is Annotated:
        limits = [each for each in arguments[1:] if isinstance(each, Between)]
        return st.integers(limits[0].least, limits[0].greatest) if limits else values(arguments[0])
    if origin in {tuple, Mapping}:
        inner = values(arguments[origin is Mapping])
        return st.lists(inner, max_size=2).map(tuple) if origin is tuple else st.dictionaries(st.text(), inner)
    if origin is not None:
        return st.one_of(*(st.none() if each is types.NoneType else values(each) for each in arguments))
    return records(hint) if is_dataclass(hint) else st.sampled_from(list(hint))


def records(record: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(record, include_extras=True)
    return st.builds(record, **{each.name: values(hints[each.name]) for each in fields(record)})


@pytest.mark.parametrize("kind", RECORDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_kind_of_fact_is_read_back_as_it_was(kind: str, data: st.DataObject) -> None:
    fact = data.draw(records(RECORDS[kind]))
    stored = json.loads(json.dumps(fact.as_json(), allow_nan=False))
    again = read(RECORDS[kind], stored)
    assert again == fact
    assert again.as_json() == stored


def wrong(stored: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Where a value stands, and values of every other JSON type for it."""
    every = [None, True, 7, 0.5, "\0", [], {}, [1], {"\0": 1}]
    yield from ((path, each) for each in every if type(each) is not type(stored))
    if isinstance(stored, dict | list):
        for name, inner in stored.items() if isinstance(stored, dict) else enumerate(stored):
            yield from wrong(inner, (*path, name))


def put(stored: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = stored.copy()
    copy[path[0]] = put(stored[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("kind", RECORDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_value_of_another_type_is_refused_or_means_what_it_says(kind: str, data: st.DataObject) -> None:
    """Nothing is converted: what is accepted is written again as it was, but for a number that may have a fraction."""
    stored = json.loads(json.dumps(data.draw(records(RECORDS[kind])).as_json()))
    path, value = data.draw(st.sampled_from(list(wrong(stored))))
    changed = put(stored, path, value)
    try:
        again = read(RECORDS[kind], changed).as_json()
    except AuditError:
        return
    assert {name: each for name, each in again.items() if name in changed} == changed


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    at: datetime


@dataclass(frozen=True, slots=True)
class Every:
    text: str = ""
    number: int = 0
    share: float = 0.0
    sure: bool = False
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    day: date = date(2026, 1, 1)
    colour: Colour = Colour.RED
    version: Annotated[KeyVersion, Alias("from")] = KeyVersion(1)  # noqa: RUF009  frozen
    several: tuple[Inner, ...] = ()
    named: Mapping[str, int] = field(default_factory=dict)
    count: Annotated[int, Between(0, 9)] | None = None


def test_a_field_that_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(AuditError, match=r"^a record of the kind Inner has no valid at$"):
        read(Inner, {})
    with pytest.raises(AuditError, match=r"^a record of the kind Inner has no valid facts$"):
        read(Inner, [])
    with pytest.raises(AuditError, match=r"^a record of the kind Every has no valid several\.1\.at$"):
        read(Every, {"several": [{"at": "2026-01-01T00:00:00+00:00"}, {"at": None}]})
    with pytest.raises(AuditError, match=r"^a record of the kind Every has no valid from$"):
        read(Every, {"from": "v01"})


@pytest.mark.parametrize(
    "facts",
    [
        {"text": 1}, {"text": None}, {"text": ["x"]},
        {"number": True}, {"number": "1"}, {"number": 1.0}, {"number": None},
        {"share": "0.5"}, {"share": True}, {"share": float("nan")}, {"share": float("inf")}, {"share": 10**400},
        {"sure": 1}, {"sure": "true"}, {"sure": None},
        {"at": "2026-01-01T00:00:00"}, {"at": 0}, {"at": "0001-01-01T00:00:00+23:59"}, {"at": "now"}, {"at": None},
        {"day": "2026-01-01T00:00:00"}, {"day": 20260101}, {"day": "2026-02-30"}, {"day": "20260101"},
        {"colour": "RED"}, {"colour": 0}, {"colour": []}, {"colour": None},
        {"from": "v01"}, {"from": 1}, {"from": "V1"}, {"from": None}, {"from": {"number": 1}},
        {"several": {}}, {"several": "x"}, {"several": [1]}, {"several": None},
        {"named": []}, {"named": {"a": "1"}}, {"named": {1: 1}},
        {"count": -1}, {"count": 10}, {"count": "1"}, {"count": False},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_is_converted(facts: dict[str, Any]) -> None:
    with pytest.raises(AuditError):
        read(Every, facts)


def test_a_whole_number_is_a_number_and_unknown_fields_are_ignored() -> None:
    found = read(Every, {"share": 1, "count": 9, "later": [1]})
    assert (found.share, type(found.share), found.count) == (1.0, float, 9)
    assert as_json(found)["from"] == "v1"


def test_a_type_that_json_does_not_have_is_an_error_of_ours() -> None:
    @dataclass(frozen=True, slots=True)
    class Wrong:
        secret: bytes

    with pytest.raises(TypeError):
        read(Wrong, {"secret": "x"})
    with pytest.raises(TypeError, match="secret is of type bytes"):
        as_json(Wrong(b"x"))
