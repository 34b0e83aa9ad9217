"""The compliance report as a page: every value is in it, escaped; it is well formed and loads nothing."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError

from keyrotation_pipeline.audit.chain import read_anchor
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.incidents import KeyReadsBy, RecordReads
from keyrotation_pipeline.reporting.compliance import ComplianceReport, Parameters, Period
from keyrotation_pipeline.reporting.rendering import render_html
from keyrotation_pipeline.reporting.sections import (
    AccessSummary,
    AgeDeclared,
    Approval,
    AuditVerified,
    BackupTaken,
    DataRead,
    Decided,
    EveryValueRead,
    FinishedStep,
    IncidentReported,
    KeyLife,
    LaterFinding,
    NoticeDue,
    OfficerOnRoster,
    Policy,
    RecoveryTested,
    Span,
    StageOfResponse,
    TableCounted,
    TimeStamped,
    UndeclaredSearched,
)
from keyrotation_pipeline.templates import render
from keyrotation_pipeline_tests.fakes import START

HOSTILE = "</td><script>alert(\"1\")</script> & 'x'"
DAY = timedelta(days=1)
RETIREMENT = {
    "replicas": [{"name": "a", "lsn": 1}, {"name": "c", "since": None}],
    "not_seen": ["x", "y"],
    "old_values": 1200,
    "fenced": ["v1"],
    "nothing": [],
    "counts": {"clients": 3, "whole": True, "never": None},
}
REPORT = ComplianceReport(
    generated_at=START + 10 * DAY,
    parameters=Parameters(),
    database="clinic@localhost",
    audit=AuditVerified(7, "ab" * 32),
    since=START,
    audit_ends_at=START + 9 * DAY,
    policy=Policy(2, (OfficerOnRoster("Ada", "AB" * 20),), ("CD" * 20,), START + 365 * DAY, "12 months after v1"),
    keys=(
        KeyLife("v1", "archived", "ef" * 32, "imported", START, (AgeDeclared(START - 90 * DAY, "ops", START),),
                (Span(START - 90 * DAY, START + 3 * DAY),)),
        KeyLife("v2", "active", "cd" * 32, "generated", START + DAY, (), (Span(START + 3 * DAY, None),)),
        KeyLife("v3", "pre-activation", "aa" * 32, "generated", START + 2 * DAY, (), ()),
    ),
    data=DataRead(
        (TableCounted("clients", ("first_name",), 3000, {"v1": 0, "v2": 2999}, 1, 2, START + DAY),), ("large",),
        EveryValueRead(START + DAY, "the proof of R-1", ("clients",), 2999, 0),
        UndeclaredSearched(START + DAY, ("scratch.copy: 4 value(s)",), ("other databases",)),
    ),
    requests=(
        Decided("R-1", "rotation", "emergency", "v1", "v2", "it leaked", "INC-1", "ops", START, START, START + DAY,
                "finished", 2, (Approval("Ada", "AB" * 20, START), Approval("Ben", "CD" * 20, START)),
                (FinishedStep("rows", START + DAY),), 4321, START + DAY, RETIREMENT, "not read again: clients",
                (LaterFinding(6, START + 2 * DAY, "a count found 3 value(s) under v1", gone=True),)),
        Decided("R-2", "destruction", "planned", "v1", "v1", "no more", None, "ops", START, None, None, "open", 2, (),
                (), None),
    ),
    backups=(
        BackupTaken(START, "backup-1.json", START, {"v1": "ef" * 32, "v2": "cd" * 32}, True, ("here", "s3"),
                    ("CD" * 20,), (), None, ("v1",), "backup-1-2.json"),
        BackupTaken(START, None, None, {}, False, (), (), ("s3 is down",), None, ("v1",)),
    ),
    recovery_tests=(
        RecoveryTested(START, "s3", None, 30.0, 1060, 90.5, None),
        RecoveryTested(START, "here", "it is damaged"),
    ),
    incidents=(
        IncidentReported("INC-1", "key exposed", "open", "in a log", ("v1",), START, None, None, "R-1",
                         (StageOfResponse("assessed", START + DAY, None),),
                         (NoticeDue("individuals", (START + 60 * DAY).date(), "164.404"),), ("no", "no risk"),
                         ("3 of 4 differ",)),
    ),
    timestamps=(
        TimeStamped(5, "ab" * 32, START, START + DAY, "tsa.example", ("ee" * 32,), None),
        TimeStamped(6, "cd" * 32, START, START + DAY, "tsa.example", ("ee" * 32,), "not trusted"),
    ),
    access=AccessSummary(
        START, START + DAY, (KeyReadsBy("role/app", "10.0.0.1", 1234, 1, START, START + DAY),),
        (RecordReads("Client", "read", "Eve", "10.0.0.2", 3456, START, START),)
    ),
)  # fmt: skip


# Left out of the page, or cut.
NOT_SHOWN = {
    (KeyLife, "fingerprint"),
    (Approval, "fingerprint"),
    (TimeStamped, "head"),
    (TimeStamped, "certificates"),
    (BackupTaken, "keys"),
    (BackupTaken, "made_from"),
    (RecordReads, "event_type"),
}


def hostile(value: object) -> object:
    """The same with the hostile text behind every text, names of fields left out."""
    match value:
        case str():
            return f"{value}{HOSTILE}"
        case tuple() | list():
            return type(value)(map(hostile, value))
        case dict():
            return {hostile(name): hostile(each) for name, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: hostile(getattr(value, each.name)) for each in fields(value)})
    return value


class Page(HTMLParser):
    """What a browser makes of a page; fails at an element that is closed out of order."""

    EMPTY = frozenset({"meta", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.tags.add(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))


def page(report: ComplianceReport) -> str:
    return render_html(report).decode()


def texts_of(value: object) -> Iterator[str]:
    """Every text of a report that its page has to show."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from texts_of(each)
    elif isinstance(value, dict):
        yield from texts_of([*value.keys(), *value.values()])
    elif is_dataclass(value):
        for each in fields(value):
            if (type(value), each.name) not in NOT_SHOWN:
                yield from texts_of(getattr(value, each.name))


@pytest.mark.parametrize("report", [pytest.param(hostile(REPORT), id="hostile"), pytest.param(REPORT, id="plain")])
def test_every_text_of_the_report_is_on_the_page_as_text(report: ComplianceReport) -> None:
    html = page(report)
    shown = Page(html)
    assert shown.open == []
    assert "script" not in shown.tags
    words = "".join(shown.texts)
    assert [each for each in texts_of(report) if each.replace("_", " ") not in words.replace("_", " ")] == []
    assert all(remote not in html for remote in ("src=", "href=", "url(", "@import"))


def test_the_page_is_an_anchor_and_draws_when_each_key_encrypted() -> None:
    html = page(REPORT)
    assert read_anchor(html) == AuditHead(7, "ab" * 32)
    assert (html.count("<svg"), html.count("<rect")) == (1, 2)
    assert page(replace(REPORT, keys=REPORT.keys[2:])).count("<svg") == 0, "nothing has encrypted"


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        pytest.param(replace(REPORT, timestamps=()), "This audit has no time stamps.", id="no time stamps"),
        pytest.param(replace(REPORT, backups=()), "None: made.", id="a table without rows"),
        pytest.param(replace(REPORT, access=AccessSummary(START, START, None, ())), "cloudtrail_bucket is not set",
                     id="no log of key reads"),
        pytest.param(replace(REPORT, access=AccessSummary(START, START, (), None)), "audit_events_table is not set",
                     id="no log of records"),
        pytest.param(replace(REPORT, policy=replace(REPORT.policy, next_rotation_due=None)), "no key is active",
                     id="no key"),
        pytest.param(replace(REPORT, parameters=Parameters(Period(START, None))), "up to the newest event; made on",
                     id="period"),
        pytest.param(REPORT, f"with events from {START:%Y-%m-%d %H:%M} UTC to", id="the whole audit"),
        pytest.param(REPORT, "NOT satisfied", id="an objective that is not met"),
        pytest.param(REPORT, "of 26 are satisfied", id="objectives"),
        pytest.param(REPORT, "as ops declared on", id="a declared age"),
        pytest.param(REPORT, "a count found 3 value(s) under v1 (event 6), which is gone by now", id="found later"),
        pytest.param(REPORT, "not read again: clients", id="not read again"),
        pytest.param(REPORT, "0 under v1, 2,999 under v2", id="counts"),
        pytest.param(REPORT, "Never counted: large.", id="a table without a count"),
        pytest.param(replace(REPORT, data=DataRead((), (), None, None)), "run `keyrotation inventory`",
                     id="never read"),
        pytest.param(replace(REPORT, incidents=()), "None is on record.", id="no incident"),
        pytest.param(REPORT, "2 OpenPGP signatures of different officers", id="quorum"),
        pytest.param(REPORT, "v1; backup-1-2.json replaces its dump", id="replaced dump"),
        pytest.param(REPORT, "INC-1: it leaked", id="reason of an emergency"),
        pytest.param(REPORT, "4,321", id="rows re-encrypted"),
        pytest.param(REPORT, "30 (1,060)", id="objective and measured"),
        pytest.param(REPORT, "90 (–)", id="no objective"),
        pytest.param(REPORT, "failed: it is damaged", id="failed recovery test"),
    ],
)  # fmt: skip
def test_what_stands_on_the_page(report: ComplianceReport, sentence: str) -> None:
    assert [text for text in Page(page(report)).texts if sentence in text] != []


def test_lists_and_objects_of_the_evidence_are_tables_and_no_json() -> None:
    html = page(REPORT)
    assert '<td data-of="name">a</td><td data-of="lsn">1</td>' in html
    assert "<ul><li>x</li><li>y</li></ul>" in html
    assert '<td data-of="What" class="short">never</td>' in html
    assert [word for word in (">1,200<", ">v1<", ">none<", ">–<", ">yes<") if word not in html] == []


def test_moments_and_short_words_are_not_broken_in_a_cell() -> None:
    html = page(REPORT)
    assert f'<td data-of="Made" class="short">{START:%Y-%m-%d %H:%M} UTC</td>' in html
    assert '<td data-of="Officer" class="short">Ada</td>' in html
    assert f'<td data-of="Certificate">{"AB" * 20}</td>' in html


def test_a_name_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("incident_section.html.j2", section={"heading": "Summary"})


def test_the_bar_of_a_key_of_unknown_age_says_so() -> None:
    unknown = replace(REPORT.keys[0], declared=(), cryptoperiods=(Span(None, START + 3 * DAY),))
    html = page(replace(REPORT, keys=(unknown, *REPORT.keys[1:])))
    drawn = html.partition("<svg")[2].partition("</svg>")[0]
    assert drawn.count("since: unknown") == drawn.count("stroke-dasharray") == 1
    assert f"unknown to {START + 3 * DAY:%Y-%m-%d %H:%M} UTC" in html
    assert "unknown" not in page(REPORT).partition("<svg")[2].partition("</svg>")[0]
