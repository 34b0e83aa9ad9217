"""Encrypted places of applications get a line, with the right name or class, and no value is shown."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.report import Finding, Place
from keyrotation_pipeline_tests import vectors
from keyrotation_pipeline_tests.unit.scan.applications import BYTEA, JSONB, PLACES, Application
from keyrotation_pipeline_tests.unit.scan.further_applications import OTHERS, TABLES, Table

REAL = json.loads((Path(vectors.__file__).parent / "recognised_values.json").read_text(encoding="utf-8"))


def scan(application: Application, rows: int = 40) -> tuple[list[str | bytes], tuple[Finding, ...]]:
    rng = random.Random(application.place)
    column = application.place.rpartition(".")[2]
    values = [application.value(rng) for _ in range(rows)]
    place = Place("public.t", column, application.path, elements=False, type=application.kind)
    return values, classify_table({place: values})


def shown_part(value: str | bytes, shown: str) -> bool:
    """Returns whether 12 characters of a value's own bytes stand in a text; what all values share is no part."""
    text = value if isinstance(value, str) else value.hex()
    middle = text[len(text) // 2 : len(text) // 2 + 12]
    return middle in shown


@pytest.mark.parametrize("application", PLACES, ids=lambda application: application.place)
def test_a_place_is_named_and_no_value_is_shown(application: Application) -> None:
    values, found = scan(application)
    assert [finding.format in application.named for finding in found] == [True]
    assert (found[0].share, len(PLACES) >= 60) == (1.0, True)
    assert not any(shown_part(value, f"{found!r}{found[0].next}{found[0].notes}") for value in values)


def scan_of(table: Table, rows: int = 40) -> Finding | None:
    rng = random.Random(table.place)
    cells = [table.row(rng) for _ in range(rows)]
    places = {}
    for name, value in cells[0].items():
        kind = table.kind if name == table.column else BYTEA if isinstance(value, bytes) else "text"
        column, path = ("doc", (name,)) if table.in_document else (name, None)
        place = Place("public.t", column, path, elements=False, type=JSONB if table.in_document else kind)
        places[place] = [row[name] for row in cells]
    found = {finding.place: finding for finding in classify_table(places)}
    return next((found.get(place) for place in places if table.column in {place.column, *(place.path or ())}), None)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.place)
def test_a_place_of_a_further_application_is_named(table: Table) -> None:
    found = scan_of(table)
    assert (found is None or found.format in table.named, found is None) == (True, not table.named)


def test_other_columns_of_further_applications_are_neither_certain_nor_likely() -> None:
    found = {}
    for name, row in OTHERS.items():
        rng = random.Random(name)
        values = [row(rng) for _ in range(60)]
        kind = BYTEA if isinstance(values[0], bytes) else "text"
        column = name.rpartition(": ")[2] if name.rpartition(": ")[2].isidentifier() else "data"
        findings = classify_table({Place("public.t", column, None, elements=False, type=kind): values})
        found[name] = findings[0].tier if findings else None
    assert {name: tier for name, tier in found.items() if tier not in (None, "possible")} == {}
    assert sum(tier == "possible" for tier in found.values()) <= 3, found


@pytest.mark.parametrize("entry", REAL, ids=lambda entry: entry["made_by"])
def test_values_that_their_libraries_made_are_certain(entry: dict[str, Any]) -> None:
    binary = entry["encoding"] == "hex"
    values = [bytes.fromhex(value) if binary else value for value in entry["values"]]
    place = Place("public.t", "data", None, elements=False, type=BYTEA if binary else "text")
    (found,) = classify_table({place: values})
    assert (found.format, found.tier, found.share) == (entry["format"], "certain", 1.0)
    assert sorted(found.key_ids) == sorted(entry["key_ids"])
