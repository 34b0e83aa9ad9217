"""A page holds names and counts alone, whatever a database calls its columns; and two scans are compared by place."""

import datetime as dt
import json
import random
from dataclasses import replace

import pytest

from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.comparison import NotAScanError, compared, earlier_scan
from keyrotation_pipeline.scan.page import page_of
from keyrotation_pipeline.scan.report import Finding, NotLookedAt, Place, ScanReport
from keyrotation_pipeline_tests.unit.scan.applications import PLACES
from keyrotation_pipeline_tests.unit.scan.test_applications import shown_part

AT = dt.datetime(2026, 12, 1, 22, 30, tzinfo=dt.UTC)
COLUMN = "<script>alert(1)</script>\u202e"


def scanned() -> tuple[ScanReport, list[str | bytes]]:
    """Every place of the applications, in tables of their own."""
    found: list[Finding] = []
    values: list[str | bytes] = []
    for application in PLACES:
        rng = random.Random(application.place)
        made = [application.value(rng) for _ in range(8)]
        table = f"public.{application.place.partition(':')[0].replace(' ', '_')}"
        place = Place(table, COLUMN, application.path, elements=False, type=application.kind)
        found += classify_table({place: made})
        values += made
    left_out = (NotLookedAt("public.<b>", "a view"),)
    return ScanReport("shop@db", tuple(found), left_out, 70, 70, 560, 0), values


REPORT, VALUES = scanned()
PRINTED = json.dumps({"schema": 1, **REPORT.as_json()})


def test_a_page_shows_every_place_and_no_value_and_runs_nothing() -> None:
    page = page_of(REPORT, AT, compared(REPORT, earlier_scan(PRINTED)))
    assert len(REPORT.findings) > 60
    assert page.count("<tr class=") == len(REPORT.findings)
    assert all(finding.format in page for finding in REPORT.findings)
    assert not any(shown_part(value, page) for value in VALUES)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in page
    assert "public.&lt;b&gt;: a view" in page
    assert "2026-12-01 22:30" in page


def test_one_table_has_no_plural() -> None:
    assert ": 1 value in 1 column of 1 table, 0 of" in page_of(ScanReport("shop@db", (), (), 1, 1, 1, 0), AT, None)


def test_what_is_new_and_gone_is_told_by_place_and_format() -> None:
    one, *others = REPORT.findings
    fewer = replace(REPORT, findings=tuple(others))
    assert compared(REPORT, earlier_scan(json.dumps({"schema": 1, **fewer.as_json()}))).new == (one,)
    gone = compared(fewer, earlier_scan(PRINTED))
    assert (gone.new, len(gone.gone), gone.fails) == ((), 1, False)
    assert compared(REPORT, earlier_scan(PRINTED)).new == ()
    assert page_of(fewer, AT, gone).count("<li>nothing</li>") == 1


@pytest.mark.parametrize(("tier", "fails"), [("certain", True), ("likely", True), ("possible", False)])
def test_only_what_is_certain_or_likely_fails(tier: str, fails: bool) -> None:
    one = replace(REPORT.findings[0], tier=tier)  # type: ignore[arg-type]
    alone = replace(REPORT, findings=(one,))
    assert compared(alone, earlier_scan('{"schema": 1, "database": "shop@db", "places": []}')).fails is fails


def test_an_unmarked_place_that_is_taken_for_another_class_is_not_new() -> None:
    one = next(finding for finding in REPORT.findings if finding.format == "unknown-aead")
    earlier = replace(REPORT, findings=(replace(one, format="unknown-cbc"),))
    found = compared(replace(REPORT, findings=(one,)), earlier_scan(json.dumps({"schema": 1, **earlier.as_json()})))
    assert (found.new, found.gone) == ((), ())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 100_000, '{"schema": 2}', '{"schema": 1, "database": "x"}',
     '{"schema": 1, "database": "x", "places": [1]}',
     '{"schema": 1, "database": "x", "places": [{"table": "hunter2"}]}',
     '{"schema": 1, "database": "x", "places": [{"table": "a", "column": "b", "format": "c", "path": [1]}]}'],
)  # fmt: skip
def test_what_is_no_scan_is_refused_without_its_content(text: str) -> None:
    with pytest.raises(NotAScanError) as raised:
        earlier_scan(text)
    assert "hunter2" not in str(raised.value)
